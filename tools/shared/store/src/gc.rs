//! Taking out of a store what nothing reaches.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::str::FromStr as _;

use serde::Serialize;

use crate::{Digest, Error, Result, Store};

/// What was, or would be, taken out of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// How many artifacts.
    pub artifacts: usize,
    /// Their size in bytes. What a cache shares with the store by hard links takes up its room until it is gone there too.
    pub bytes: u64,
    /// How many recipes' outputs were forgotten, since an output is gone.
    pub recipes: usize,
}

impl Store {
    /// Removes every artifact that the roots do not reach, or only says what it would remove. A root reaches what a recipe
    /// made it of, so that it can be made again without fetching. The cache is left as it is.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process has the store open; [`Error::Io`].
    pub fn collect(&self, roots: &BTreeSet<Digest>, dry: bool) -> Result<Freed> {
        if !dry {
            self.keep_others_out()?;
        }
        let entries = self.entries()?;
        let mut inputs: HashMap<Digest, BTreeSet<Digest>> = HashMap::new();
        for (_, recipe, outputs) in &entries {
            let named: BTreeSet<Digest> = recipe.inputs.values().flat_map(|value| digests(value)).collect();
            // The outputs of one recipe stand for one another: a container's description is of no use without its layers.
            let all: BTreeSet<Digest> = outputs.values().map(|artifact| artifact.sha256).collect();
            for output in &all {
                inputs.entry(*output).or_default().extend(named.iter().chain(&all));
            }
        }
        let mut kept = BTreeSet::new();
        let mut open: Vec<Digest> = roots.iter().copied().collect();
        while let Some(digest) = open.pop() {
            if kept.insert(digest) {
                open.extend(inputs.get(&digest).into_iter().flatten());
            }
        }
        let mut freed = Freed::default();
        for (path, _, outputs) in &entries {
            if !outputs.values().all(|artifact| kept.contains(&artifact.sha256)) {
                freed.recipes += 1;
                if !dry {
                    fs::remove_file(path).map_err(Error::io("remove", path))?;
                }
            }
        }
        for entry in fs::read_dir(self.root()).map_err(Error::io("list", self.root()))? {
            let entry = entry.map_err(Error::io("list", self.root()))?;
            let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_str(name).ok()) else {
                continue;
            };
            if kept.contains(&digest) {
                continue;
            }
            let path = entry.path();
            freed.artifacts += 1;
            freed.bytes += entry.metadata().map_err(Error::io("look at", &path))?.len();
            if !dry {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(freed)
    }
}

/// Finds the digests in a recipe's input, which may be a list of them with names.
fn digests(value: &str) -> impl Iterator<Item = Digest> {
    value.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).filter_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outputs, Recipe};

    #[test]
    fn what_a_root_is_made_of_stays_and_all_else_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let put = |bytes: &str| store.put_bytes(bytes.as_bytes()).unwrap();
        let [package, disk, beside, stray] = ["package", "disk", "beside", "stray!"].map(put);
        let inputs = [("packages".to_owned(), format!("curl={}", package.sha256))].into();
        let recipe = Recipe { kind: "disk".into(), inputs };
        let outputs = Outputs::from([("disk".to_owned(), disk), ("beside".to_owned(), beside)]);
        store.record(&recipe, &outputs).unwrap();
        let old = Recipe { kind: "old".into(), inputs: Default::default() };
        store.record(&old, &Outputs::from([("x".to_owned(), stray)])).unwrap();
        let roots = BTreeSet::from([disk.sha256]);
        let expected = Freed { artifacts: 1, bytes: 6, recipes: 1 };
        assert_eq!(store.collect(&roots, true).unwrap(), expected);
        assert!(store.contains(&stray.sha256));
        let other = Store::open(store.root()).unwrap();
        assert!(matches!(store.collect(&roots, false), Err(Error::InUse(_))));
        drop(other);
        assert_eq!(store.collect(&roots, false).unwrap(), expected);
        assert!(!store.contains(&stray.sha256));
        assert_eq!(store.outputs(&recipe).unwrap(), Some(outputs));
        assert!(store.contains(&package.sha256));
        assert_eq!(store.outputs(&old).unwrap(), None);
        assert_eq!(store.collect(&roots, false).unwrap(), Freed::default());
    }
}
