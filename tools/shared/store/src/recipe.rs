use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Artifact, Digest, Error, Result, Store, files};

/// The artifacts that a recipe gave, by name.
pub type Outputs = BTreeMap<String, Artifact>;

/// All that determines an artifact; its digest is the cache key. The inputs are ordered and printable, so that two keys
/// can be compared line by line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What kind of build this is, like `debian-disk`.
    pub kind: String,
    /// Every input by name; files are named by their digests.
    pub inputs: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    recipe: Recipe,
    outputs: Outputs,
}

impl Recipe {
    /// Returns the cache key: the SHA-256 of the recipe's JSON.
    pub fn digest(&self) -> Digest {
        Digest::of(serde_json::json!({ "kind": self.kind, "inputs": self.inputs }).to_string())
    }
}

impl Store {
    /// Returns what a recipe gave before, or nothing if that is unknown or an output is gone.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Json`] for an entry that can't be read.
    pub fn outputs(&self, recipe: &Recipe) -> Result<Option<Outputs>> {
        let folders = std::iter::once(self.root()).chain(self.cache_root());
        for path in folders.map(|root| entry_path(root, recipe)) {
            let Some(entry) = read_entry(&path)? else { continue };
            if entry.recipe == *recipe && entry.outputs.values().all(|artifact| self.contains(&artifact.sha256)) {
                return Ok(Some(entry.outputs));
            }
        }
        Ok(None)
    }

    /// Remembers what a recipe gave, here and in the cache.
    ///
    /// # Errors
    /// [`Error::Missing`] if an output is not in the store; [`Error::Io`].
    pub fn record(&self, recipe: &Recipe, outputs: &Outputs) -> Result<()> {
        if let Some(gone) = outputs.values().find(|artifact| !self.contains(&artifact.sha256)) {
            return Err(Error::Missing(gone.sha256));
        }
        let entry = Entry { recipe: recipe.clone(), outputs: outputs.clone() };
        for root in std::iter::once(self.root()).chain(self.cache_root()) {
            let path = entry_path(root, recipe);
            let json =
                serde_json::to_vec_pretty(&entry).map_err(|source| Error::Json { path: path.clone(), source })?;
            files::write_atomic(&path, json, 0o644).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }
}

fn entry_path(root: &Path, recipe: &Recipe) -> PathBuf {
    root.parent().unwrap_or(root).join("recipes").join(format!("{}.json", recipe.digest()))
}

fn read_entry(path: &Path) -> Result<Option<Entry>> {
    match fs::read(path) {
        Ok(json) => {
            serde_json::from_slice(&json).map(Some).map_err(|source| Error::Json { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(package: &str) -> Recipe {
        Recipe { kind: "test".into(), inputs: [("package".to_owned(), package.to_owned())].into() }
    }

    #[test]
    fn a_recipe_s_outputs_come_back_until_one_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), None);
        let outputs = Outputs::from([("disk".to_owned(), store.put_bytes(b"disk").unwrap())]);
        store.record(&recipe("a"), &outputs).unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), Some(outputs.clone()));
        assert_eq!(store.outputs(&recipe("b")).unwrap(), None);
        fs::remove_file(store.path(&outputs["disk"].sha256)).unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), None);
        assert!(matches!(store.record(&recipe("a"), &outputs), Err(Error::Missing(_))));
    }

    #[test]
    fn a_second_store_finds_recipe_and_outputs_in_the_shared_cache() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let store = Store::open(&folder.path().join(name).join("store")).unwrap();
            store.with_cache(&folder.path().join("cache/store")).unwrap()
        };
        let first = open("one");
        let outputs = Outputs::from([("disk".to_owned(), first.put_bytes(b"disk").unwrap())]);
        first.record(&recipe("a"), &outputs).unwrap();
        let second = open("two");
        assert_eq!(second.outputs(&recipe("a")).unwrap(), Some(outputs.clone()));
        assert_eq!(second.verify(&outputs["disk"].sha256).unwrap(), 4);
    }
}
