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
    /// Returns what a recipe gave before, or nothing if that is unknown or an output is gone or has another size: it is
    /// to be made anew then.
    ///
    /// # Errors
    /// [`Error::Io`] for an entry that can't be read.
    pub fn outputs(&self, recipe: &Recipe) -> Result<Option<Outputs>> {
        let folders = std::iter::once(self.root()).chain(self.cache_root());
        for path in folders.map(|root| entry_path(root, recipe)) {
            let Some(entry) = read_entry(&path)? else { continue };
            if entry.recipe == *recipe && entry.outputs.values().all(|artifact| self.has(artifact)) {
                return Ok(Some(entry.outputs));
            }
        }
        Ok(None)
    }

    /// Tells whether an artifact is here with its size; one of another size is removed, and the cache asked for it.
    fn has(&self, artifact: &Artifact) -> bool {
        let whole =
            |store: &Self| store.path(&artifact.sha256).metadata().is_ok_and(|file| file.len() == artifact.size);
        if self.contains(&artifact.sha256) && !whole(self) {
            let _ = fs::remove_file(self.path(&artifact.sha256));
        }
        self.contains(&artifact.sha256) && whole(self)
    }

    /// Returns every recipe entry of the store itself: what was asked for, and what it gave.
    pub(crate) fn entries(&self) -> Result<Vec<(PathBuf, Recipe, Outputs)>> {
        let folder = recipes_folder(self.root());
        let mut all = Vec::new();
        let files = match fs::read_dir(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            Err(error) => return Err(Error::io("list", &folder)(error)),
        };
        for file in files {
            let path = file.map_err(Error::io("list", &folder))?.path();
            if let Some(entry) = read_entry(&path)? {
                all.push((path, entry.recipe, entry.outputs));
            }
        }
        Ok(all)
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

fn recipes_folder(root: &Path) -> PathBuf {
    root.parent().unwrap_or(root).join("recipes")
}

fn entry_path(root: &Path, recipe: &Recipe) -> PathBuf {
    recipes_folder(root).join(format!("{}.json", recipe.digest()))
}

/// Reads an entry. One that is no entry says nothing: what it was about is made anew, and the entry with it.
fn read_entry(path: &Path) -> Result<Option<Entry>> {
    match fs::read(path) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
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
    fn a_truncated_output_and_an_entry_that_is_none_are_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let outputs = Outputs::from([("disk".to_owned(), store.put_bytes(b"disk").unwrap())]);
        store.record(&recipe("a"), &outputs).unwrap();
        let path = store.path(&outputs["disk"].sha256);
        fs::remove_file(&path).unwrap();
        files::write_atomic(&path, "di", 0o444).unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), None);
        assert!(!path.exists());
        store.put_bytes(b"disk").unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), Some(outputs.clone()));
        files::write_atomic(&entry_path(store.root(), &recipe("a")), "{", 0o644).unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), None);
        store.record(&recipe("a"), &outputs).unwrap();
        assert_eq!(store.outputs(&recipe("a")).unwrap(), Some(outputs));
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
