//! Builds an image again and compares.

use crate::container::{ContainerImage, Layer};
use crate::recipe::Kind;
use crate::scratch::Scratch;
use crate::{Builder, Error, Result, listing};

impl Builder<'_> {
    /// Builds an image again, whether or not it is there, and compares with what was there. Bases are not built again:
    /// they are images of their own. Returns the digest of both: the file's, or the container's configuration's.
    ///
    /// # Errors
    /// [`Error::Differs`] with the first file that differs; [`Error::Kind`] for a fetched image, which is not built;
    /// whatever a build fails with.
    pub fn check(&self, name: &str) -> Result<store::Digest> {
        match self.recipe(name)?.kind {
            Kind::Url(_) => Err(Error::Kind { name: name.to_owned(), wanted: "image that is built", found: "url" }),
            Kind::DebianDisk(_) => self.check_disk(name),
            Kind::Container(_) => self.check_container(name),
        }
    }

    fn check_disk(&self, name: &str) -> Result<store::Digest> {
        let first = self.disk(name)?.file;
        let key = self.disk_key(name)?;
        let scratch = Scratch::claim(&self.settings.scratch_dir, name)?;
        let again = self.build_disk(&scratch, name, &key.digest())?;
        if again.disk == first {
            return Ok(first.sha256);
        }
        let store = &self.settings.store;
        let old = store.outputs(&key)?.and_then(|outputs| outputs.get("files").copied());
        let what = match old {
            Some(old) => listing::first_difference(&read(store, &old)?, &read(store, &again.files)?),
            None => None,
        };
        let what = what.unwrap_or_else(|| "the file system's own data, with equal files".to_owned());
        Err(Error::Differs { image: name.to_owned(), first: first.sha256, again: again.disk.sha256, what })
    }

    fn check_container(&self, name: &str) -> Result<store::Digest> {
        let first = self.container(name)?;
        let base = match &self.recipes.container(name)?.base {
            Some(base) => Some(self.container(base)?),
            None => None,
        };
        let scratch = Scratch::claim(&self.settings.scratch_dir, name)?;
        let again = self.build_container(&scratch, name, base.as_ref())?;
        if again == first {
            return Ok(first.config.sha256);
        }
        let what = self.different_layer(&first, &again)?.unwrap_or_else(|| "the configuration".to_owned());
        let (first, again) = (first.config.sha256, again.config.sha256);
        Err(Error::Differs { image: name.to_owned(), first, again, what })
    }

    fn different_layer(&self, first: &ContainerImage, again: &ContainerImage) -> Result<Option<String>> {
        let list = |layer: &Layer| {
            let path = self.settings.store.path(&layer.blob.sha256);
            let reader = self.settings.store.read(&layer.blob.sha256)?;
            listing::of_tar(zstd::Decoder::new(reader).map_err(Error::io("read", &path))?, &path)
        };
        for (one, other) in first.layers.iter().zip(&again.layers) {
            if one.diff_id != other.diff_id {
                return Ok(listing::first_difference(&list(one)?, &list(other)?));
            }
            if one.blob != other.blob {
                return Ok(Some(format!("how layer {} is compressed", one.diff_id)));
            }
        }
        Ok(None)
    }
}

fn read(store: &store::Store, listing: &store::Artifact) -> Result<String> {
    let path = store.path(&listing.sha256);
    std::io::read_to_string(store.read(&listing.sha256)?).map_err(Error::io("read", &path))
}
