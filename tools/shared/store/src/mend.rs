//! Artifacts that are not what their name says make room for whole ones.

use std::fs;

use crate::{Digest, Error, Result, Store};

impl Store {
    /// Reads all of an artifact. A copy that is not what its name says is removed, here and in the cache, so that it can
    /// be had anew. Returns whether a whole one is here.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn mend(&self, digest: &Digest) -> Result<bool> {
        for root in std::iter::once(self.root()).chain(self.cache_root()) {
            let path = root.join(digest.to_string());
            if !path.is_file() {
                continue;
            }
            let (found, _) = Digest::of_file(&path).map_err(Error::io("read", &path))?;
            if found == *digest {
                return Ok(self.contains(digest));
            }
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_altered_copy_goes_and_a_whole_one_in_the_cache_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let store = Store::open(&folder.path().join("store")).unwrap().with_cache(&cache).unwrap();
        let digest = store.put_bytes(b"deb").unwrap().sha256;
        let copies = [store.path(&digest), cache.join(digest.to_string())];
        let alter = |path: &std::path::Path| {
            fs::remove_file(path).unwrap();
            crate::files::write_atomic(path, "de", 0o444).unwrap();
        };
        assert!(store.mend(&digest).unwrap());
        alter(&copies[0]);
        assert!(store.mend(&digest).unwrap());
        assert_eq!(store.verify(&digest).unwrap(), 3);
        copies.iter().for_each(|path| alter(path));
        assert!(!store.mend(&digest).unwrap());
        assert_eq!(copies.map(|path| path.exists()), [false, false]);
        assert!(!store.mend(&digest).unwrap());
    }
}
