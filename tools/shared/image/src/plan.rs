//! What an image is made of: the packages to ask for, and the images below it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::disk::BOOT_PACKAGES;
use crate::lock::{Lock, Request, Set};
use crate::recipe::{ContainerRecipe, DiskRecipe, ImageRecipe, Kind, UrlRecipe, load_folder};
use crate::{Error, Result};

/// The variable that every container has, unless a recipe sets another.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All recipes of a folder.
#[derive(Clone, Debug)]
pub(crate) struct Recipes {
    folder: PathBuf,
    by_name: BTreeMap<String, ImageRecipe>,
}

impl Recipes {
    /// Reads the folder and follows every `base`.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let recipes = Self { folder: folder.to_owned(), by_name: load_folder(folder)? };
        for recipe in recipes.by_name.values() {
            if matches!(recipe.kind, Kind::Container(_)) {
                recipes.chain(&recipe.name)?;
            }
        }
        Ok(recipes)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Result<&ImageRecipe> {
        self.by_name.get(name).ok_or_else(|| Error::NoRecipe {
            name: name.to_owned(),
            folder: self.folder.clone(),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    pub(crate) fn disk(&self, name: &str) -> Result<&DiskRecipe> {
        match &self.get(name)?.kind {
            Kind::DebianDisk(disk) => Ok(disk),
            _ => Err(self.other_kind(name, "debian-disk")),
        }
    }

    pub(crate) fn url(&self, name: &str) -> Result<&UrlRecipe> {
        match &self.get(name)?.kind {
            Kind::Url(url) => Ok(url),
            _ => Err(self.other_kind(name, "url")),
        }
    }

    pub(crate) fn container(&self, name: &str) -> Result<&ContainerRecipe> {
        match &self.get(name)?.kind {
            Kind::Container(container) => Ok(container),
            _ => Err(self.other_kind(name, "container")),
        }
    }

    fn other_kind(&self, name: &str, wanted: &'static str) -> Error {
        let found = self.by_name.get(name).map_or("unknown", ImageRecipe::kind_name);
        Error::Kind { name: name.to_owned(), wanted, found }
    }

    /// Returns a container and the ones it stands on, lowest first.
    pub(crate) fn chain(&self, name: &str) -> Result<Vec<&ContainerRecipe>> {
        let mut chain = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(name.to_owned());
        while let Some(name) = next {
            if !seen.insert(name.clone()) {
                let message = format!("it stands on itself, by way of {name}");
                return Err(Error::Build { image: name, message });
            }
            let container = self.container(&name)?;
            next = container.base.clone();
            chain.push(container);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Returns the variables of a container: the default, those of its bases, its own.
    pub(crate) fn env(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        for container in self.chain(name)? {
            env.extend(container.env.clone());
        }
        Ok(env)
    }

    /// Returns what an image asks of Debian's archive; nothing for a fetched image.
    pub(crate) fn request(&self, name: &str) -> Result<Option<Request>> {
        match &self.get(name)?.kind {
            Kind::Url(_) => Ok(None),
            Kind::DebianDisk(disk) => {
                let boot = BOOT_PACKAGES.iter().map(|package| (*package).to_owned());
                let packages = disk.packages.iter().cloned().chain(boot);
                Ok(Some(Request::new(&disk.suite, &disk.components, packages)))
            }
            Kind::Container(_) => {
                let chain = self.chain(name)?;
                let packages = chain.iter().flat_map(|container| container.packages.iter().cloned());
                let suite = chain[0].suite.as_deref().unwrap_or_default();
                Ok(Some(Request::new(suite, &chain[0].components, packages)))
            }
        }
    }

    /// Returns what the lock pins for an image.
    pub(crate) fn set<'l>(&self, name: &str, lock: &'l Lock, lock_path: &Path) -> Result<&'l Set> {
        let request = self.request(name)?;
        request
            .and_then(|request| lock.sets.get(&request))
            .ok_or_else(|| Error::NotLocked { file: lock_path.to_owned(), image: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes(files: &[(&str, &str)]) -> Result<Recipes> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            store::files::write_atomic(&folder.path().join(format!("{name}.toml")), text, 0o644).unwrap();
        }
        Recipes::load(folder.path())
    }

    #[test]
    fn a_container_asks_for_its_bases_packages_too() {
        let base = "kind = \"container\"\nsuite = \"trixie\"\npackages = [\"b\"]\nenv.A = \"1\"\nenv.B = \"1\"\n";
        let child = "kind = \"container\"\nbase = \"base\"\npackages = [\"a\"]\nenv.B = \"2\"\n";
        let recipes = recipes(&[("base", base), ("child", child)]).unwrap();
        let request = recipes.request("child").unwrap().unwrap();
        assert_eq!((request.suite.as_str(), request.packages), ("trixie", vec!["a".to_owned(), "b".to_owned()]));
        let env = recipes.env("child").unwrap();
        assert_eq!((env["A"].as_str(), env["B"].as_str(), env["PATH"].as_str()), ("1", "2", PATH));
    }

    #[test]
    fn a_base_that_is_missing_circular_or_no_container_is_refused() {
        let on = |base: &str| format!("kind = \"container\"\nbase = \"{base}\"\n");
        let error = recipes(&[("a", &on("b"))]).unwrap_err().to_string();
        assert!(error.starts_with("there is no image 'b'") && error.ends_with("has a"), "{error}");
        let error = recipes(&[("a", &on("b")), ("b", &on("a"))]).unwrap_err().to_string();
        assert!(error.contains("stands on itself"), "{error}");
        let disk = "kind = \"debian-disk\"\nsuite = \"trixie\"\npackages = []\nsize = \"1G\"\n";
        let error = recipes(&[("a", &on("d")), ("d", disk)]).unwrap_err().to_string();
        assert_eq!(error, "image 'd' is no container: its kind is debian-disk");
    }

    #[test]
    fn an_image_that_the_lock_does_not_pin_is_named() {
        let disk = "kind = \"debian-disk\"\nsuite = \"trixie\"\npackages = []\nsize = \"1G\"\n";
        let recipes = recipes(&[("d", disk)]).unwrap();
        let error = recipes.set("d", &Lock::default(), Path::new("pipeline.lock")).unwrap_err().to_string();
        assert!(error.starts_with("pipeline.lock pins no packages for image 'd'"), "{error}");
    }
}
