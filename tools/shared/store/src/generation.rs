use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Artifact, Digest, Error, Result, files, hold};

/// Every artifact and every tool's desired state for one evaluation of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// The site's name.
    pub site: String,
    /// The artifacts by a name that people know, like `images/debian-13.qcow2`.
    pub artifacts: BTreeMap<String, Artifact>,
    /// What each tool wants, by the tool's name.
    pub desired: BTreeMap<String, Value>,
}

impl Generation {
    /// Returns the SHA-256 of the generation's canonical JSON: keys sorted at every depth, no blanks.
    pub fn digest(&self) -> Digest {
        Digest::of(canonical(&serde_json::json!(self)).to_string())
    }
}

/// Sorts the keys of every object, whatever order they were written in.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<_, _> = object.iter().map(|(key, value)| (key.clone(), canonical(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(array) => array.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

/// The numbered generations of a site, in one folder beside the folder `store`.
#[derive(Clone, Debug)]
pub struct Generations {
    folder: PathBuf,
}

impl Generations {
    /// Opens the folder of generations, making it where it is missing. Its artifacts are in `../store`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Returns the folder of one generation: `manifest.json`, `SHA256SUMS`, and each artifact under its name as a link
    /// into the store.
    pub fn folder(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// Saves a generation under the next number; one that is there already keeps its number, so that a site that went
    /// back has the number that it went back to.
    ///
    /// # Errors
    /// [`Error::Name`] for an artifact's name that leaves the folder, [`Error::Io`], [`Error::Json`].
    pub fn save(&self, generation: &Generation) -> Result<u64> {
        if let Some(bad) = generation.artifacts.keys().find(|name| !is_plain(name)) {
            return Err(Error::Name(bad.clone()));
        }
        let _alone = self.alone()?;
        let digest = generation.digest();
        for number in self.numbers()?.into_iter().rev() {
            // One that can't be read is equal to none.
            if self.load(number).is_ok_and(|same| same.digest() == digest) {
                return Ok(number);
            }
        }
        let new = tempfile::Builder::new().prefix(hold::UNFINISHED).tempdir_in(&self.folder);
        let new = new.map_err(Error::io("write", &self.folder))?;
        fill(new.path(), generation)?;
        let mut number = self.numbers()?.last().map_or(1, |number| number + 1);
        while self.folder(number).exists() {
            number += 1;
        }
        let path = self.folder(number);
        fs::rename(new.path(), &path).map_err(Error::io("write", &path))?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", &self.folder))?;
        Ok(number)
    }

    /// Returns the generation with the highest number.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`].
    pub fn latest(&self) -> Result<Option<(u64, Generation)>> {
        match self.numbers()?.last() {
            Some(&number) => Ok(Some((number, self.load(number)?))),
            None => Ok(None),
        }
    }

    /// Returns the numbers of all generations, lowest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn numbers(&self) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))? {
            let name = entry.map_err(Error::io("list", &self.folder))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Waits until nobody else saves a generation here, then removes what a killed one left.
    fn alone(&self) -> Result<File> {
        let path = self.folder.join(hold::LOCK);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::io("open", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        for entry in fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))? {
            let entry = entry.map_err(Error::io("list", &self.folder))?;
            if entry.file_name().to_string_lossy().starts_with(hold::UNFINISHED) {
                fs::remove_dir_all(entry.path()).map_err(Error::io("remove", &entry.path()))?;
            }
        }
        Ok(file)
    }

    /// Forgets a generation; its artifacts stay in the store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, number: u64) -> Result<()> {
        let path = self.folder(number);
        fs::remove_dir_all(&path).map_err(Error::io("remove", &path))
    }

    /// Returns the generation with this number.
    ///
    /// # Errors
    /// [`Error::NoGeneration`], [`Error::Io`], [`Error::Json`].
    pub fn load(&self, number: u64) -> Result<Generation> {
        let path = self.folder(number).join("manifest.json");
        let json = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NoGeneration { number, folder: self.folder.clone() },
            _ => Error::io("read", &path)(error),
        })?;
        serde_json::from_slice(&json).map_err(|source| Error::Json { path, source })
    }
}

fn fill(folder: &Path, generation: &Generation) -> Result<()> {
    let path = folder.join("manifest.json");
    let value = canonical(&serde_json::json!(generation));
    let json = format!("{value:#}\n");
    files::write_atomic(&path, json, 0o644).map_err(Error::io("write", &path))?;
    let mut sums = String::new();
    for (name, artifact) in &generation.artifacts {
        let link = folder.join(name);
        let up = "../".repeat(name.split('/').count() + 1);
        let target = format!("{up}store/{}", artifact.sha256);
        let inside = link.parent().unwrap_or(folder);
        fs::create_dir_all(inside).map_err(Error::io("make", inside))?;
        symlink(target, &link).map_err(Error::io("link", &link))?;
        // Writing to a string can't fail.
        let _ = writeln!(sums, "{}  {name}", artifact.sha256);
    }
    let path = folder.join("SHA256SUMS");
    files::write_atomic(&path, sums, 0o644).map_err(Error::io("write", &path))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder, mode).map_err(Error::io("open up", folder))
}

/// Tells whether a name stays inside the folder, needs no quoting in `SHA256SUMS`, and clashes with no file of ours.
fn is_plain(name: &str) -> bool {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.is_empty()
        && name != "manifest.json"
        && name != "SHA256SUMS"
        && !name.contains(['\n', '\r', '\\'])
        && !name.contains("//")
        && !name.ends_with('/')
        && Path::new(name).components().all(plain)
        && !name.split('/').any(|part| part == ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn site() -> (tempfile::TempDir, Store, Generations, Generation) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let generations = Generations::open(&folder.path().join("generations")).unwrap();
        let generation = Generation {
            site: "lab".into(),
            artifacts: [
                ("images/debian-13.qcow2".to_owned(), store.put_bytes(b"disk").unwrap()),
                ("notes".to_owned(), store.put_bytes(b"notes").unwrap()),
            ]
            .into(),
            desired: [("zfs-init".to_owned(), serde_json::json!({ "b": 1, "a": { "d": 2, "c": 3 } }))].into(),
        };
        (folder, store, generations, generation)
    }

    #[test]
    fn the_digest_does_not_depend_on_the_order_of_keys() {
        let (_folder, _store, _generations, generation) = site();
        let mut other = generation.clone();
        other.desired.insert("zfs-init".into(), serde_json::json!({ "a": { "c": 3, "d": 2 }, "b": 1 }));
        assert_eq!(generation.digest(), other.digest());
        other.site = "else".into();
        assert_ne!(generation.digest(), other.digest());
    }

    #[test]
    fn an_equal_generation_keeps_its_number_and_a_new_one_gets_the_next() {
        let (_folder, _store, generations, mut generation) = site();
        assert_eq!(generations.latest().unwrap(), None);
        assert_eq!(generations.save(&generation).unwrap(), 1);
        assert_eq!(generations.save(&generation).unwrap(), 1);
        let first = generation.clone();
        generation.site = "else".into();
        assert_eq!(generations.save(&generation).unwrap(), 2);
        assert_eq!(generations.save(&first).unwrap(), 1);
        assert_eq!(generations.latest().unwrap(), Some((2, generation)));
        assert_eq!(generations.load(1).unwrap().site, "lab");
        assert!(matches!(generations.load(7), Err(Error::NoGeneration { number: 7, .. })));
        assert_eq!(generations.numbers().unwrap(), [1, 2]);
    }

    #[test]
    fn sha256sum_reads_the_sums_and_notices_an_altered_artifact() {
        let (_folder, store, generations, generation) = site();
        let number = generations.save(&generation).unwrap();
        // `remote` stands above this crate, so the test starts the program by itself.
        #[allow(clippy::disallowed_methods, reason = "remote is built on this crate")]
        let check = || {
            let mut command = std::process::Command::new("sha256sum");
            command.args(["-c", "--strict", "SHA256SUMS"]).current_dir(generations.folder(number)).output().unwrap()
        };
        let good = check();
        assert!(good.status.success(), "{good:?}");
        assert_eq!(String::from_utf8(good.stdout).unwrap(), "images/debian-13.qcow2: OK\nnotes: OK\n");
        let path = store.path(&generation.artifacts["notes"].sha256);
        fs::remove_file(&path).unwrap();
        files::write_atomic(&path, "evil", 0o444).unwrap();
        assert!(!check().status.success());
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        let (_folder, _store, generations, generation) = site();
        for name in ["../x", "/x", "a/../b", "", "a//b", "./a", "a/.", "a/", "manifest.json", "a\nb"] {
            let mut bad = generation.clone();
            bad.artifacts = [(name.to_owned(), generation.artifacts["notes"])].into();
            assert!(matches!(generations.save(&bad), Err(Error::Name(_))), "{name:?}");
        }
        assert_eq!(generations.latest().unwrap(), None);
    }
}
