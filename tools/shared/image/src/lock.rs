//! `pipeline.lock`: every Debian package that the images are made of, pinned by SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use serde::Deserialize;
use store::{Digest, files};

use crate::{Error, Result};

/// The version of the lock file's layout.
const VERSION: u32 = 1;

/// What a set of packages is resolved from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Request {
    /// Debian's release.
    pub suite: String,
    /// Sections of the archive, sorted.
    pub components: Vec<String>,
    /// The packages asked for, sorted, on top of the essential ones.
    pub packages: Vec<String>,
}

/// A request's whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The time that the builds see, in seconds since 1970: when the newest of the archive's indexes was made.
    pub epoch: u64,
    /// The essential packages and all that they need, sorted: what has to be there before any package can be installed.
    pub bootstrap: Vec<String>,
    /// All other packages, sorted.
    pub packages: Vec<String>,
}

/// One `.deb`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
    /// Its archive (`debian` or `debian-security`) and its path there.
    pub path: String,
}

/// The lock file. A package's id is `name_version_architecture`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lock {
    /// The answers by request.
    pub sets: BTreeMap<Request, Set>,
    /// Every package that a set names.
    pub packages: BTreeMap<String, Package>,
    /// What `hearth trust` has pinned (`site::trust`); kept as it is.
    pub trust: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    set: Vec<SetEntry>,
    #[serde(default)]
    package: BTreeMap<String, Package>,
    #[serde(default)]
    trust: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetEntry {
    suite: String,
    components: Vec<String>,
    requested: Vec<String>,
    epoch: u64,
    bootstrap: Vec<String>,
    packages: Vec<String>,
}

impl Request {
    /// Sorts what is asked for, so that the order in a recipe makes no difference.
    pub fn new(suite: &str, components: &[String], packages: impl IntoIterator<Item = String>) -> Self {
        let components: BTreeSet<_> = components.iter().cloned().collect();
        let packages: BTreeSet<_> = packages.into_iter().collect();
        Self {
            suite: suite.to_owned(),
            components: components.into_iter().collect(),
            packages: packages.into_iter().collect(),
        }
    }
}

impl Set {
    /// Returns every package's id.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.bootstrap.iter().chain(&self.packages)
    }
}

impl Lock {
    /// Reads the lock file; one that is not there is empty.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Lock`].
    pub fn load(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Self::parse(path, &text),
                Err(_) => Err(Error::Lock { file: path.to_owned(), message: "it is no UTF-8".to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// Understands the lock file's text; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Lock`], also when a set names a package that is not listed.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let bad = |message: String| Error::Lock { file: path.to_owned(), message };
        let file: File = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        if file.version != VERSION {
            return Err(bad(format!("its version is {}, this program knows {VERSION}", file.version)));
        }
        let mut lock = Self { sets: BTreeMap::new(), packages: file.package, trust: file.trust };
        for entry in file.set {
            let request = Request { suite: entry.suite, components: entry.components, packages: entry.requested };
            let set = Set { epoch: entry.epoch, bootstrap: entry.bootstrap, packages: entry.packages };
            if let Some(id) = set.all().find(|id| !lock.packages.contains_key(*id)) {
                return Err(bad(format!("a set names the package {id}, which is not listed")));
            }
            lock.sets.insert(request, set);
        }
        Ok(lock)
    }

    /// Writes the lock file: sorted, a package a line, so that a diff shows what moved.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, self.render(), 0o644).map_err(Error::io("write", path))
    }

    /// Returns the lock file's text.
    pub fn render(&self) -> String {
        let mut text = format!("# Written by `hearth lock`; not for editing.\nversion = {VERSION}\n");
        for (request, set) in &self.sets {
            let _ = write!(text, "\n[[set]]\nsuite = {}\ncomponents = ", quoted(&request.suite));
            list(&mut text, &request.components);
            text.push_str("requested = ");
            list(&mut text, &request.packages);
            let _ = write!(text, "epoch = {}\nbootstrap = ", set.epoch);
            list(&mut text, &set.bootstrap);
            text.push_str("packages = ");
            list(&mut text, &set.packages);
        }
        text.push_str("\n[package]\n");
        for (id, package) in &self.packages {
            let Package { size, sha256, path } = package;
            let _ =
                writeln!(text, "{} = {{ size = {size}, sha256 = \"{sha256}\", path = {} }}", quoted(id), quoted(path));
        }
        if !self.trust.is_empty() {
            let table: toml::Table = [("trust".to_owned(), self.trust.clone().into())].into_iter().collect();
            let _ = write!(text, "\n# Written by `hearth trust`.\n{table}");
        }
        text
    }

    /// Drops the packages that no set names.
    pub fn prune(&mut self) {
        let named: BTreeSet<&String> = self.sets.values().flat_map(Set::all).collect();
        let gone: Vec<String> = self.packages.keys().filter(|id| !named.contains(id)).cloned().collect();
        for id in gone {
            self.packages.remove(&id);
        }
    }

    /// Returns what another lock has in place of this one's packages: a line for each package that moved, came or went.
    pub fn moved(&self, new: &Self) -> Vec<String> {
        let split = |lock: &Self| -> BTreeMap<String, BTreeSet<String>> {
            let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for id in lock.packages.keys() {
                let (name, version) = id.split_once('_').unwrap_or((id, ""));
                names.entry(name.to_owned()).or_default().insert(version.to_owned());
            }
            names
        };
        let (old, new) = (split(self), split(new));
        let none = BTreeSet::new();
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let show = |versions: &BTreeSet<String>| match versions.is_empty() {
            true => "nothing".to_owned(),
            false => versions.iter().cloned().collect::<Vec<_>>().join(", "),
        };
        let line = |name: &&String| {
            let (before, after) = (old.get(*name).unwrap_or(&none), new.get(*name).unwrap_or(&none));
            (before != after).then(|| format!("{name}: {} -> {}", show(before), show(after)))
        };
        names.iter().filter_map(line).collect()
    }
}

fn list(text: &mut String, items: &[String]) {
    text.push_str("[\n");
    for item in items {
        let _ = writeln!(text, "    {},", quoted(item));
    }
    text.push_str("]\n");
}

/// Writes a TOML basic string; the values here are names, versions and paths.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(version: &str) -> Lock {
        let id = format!("sudo_{version}_amd64");
        let package =
            Package { size: 3, sha256: Digest::of("deb"), path: "debian/pool/main/s/sudo/sudo.deb".to_owned() };
        let request = Request::new("trixie", &["main".to_owned()], ["sudo".to_owned(), "curl".to_owned()]);
        let set = Set { epoch: 1, bootstrap: vec![], packages: vec![id.clone()] };
        Lock { sets: [(request, set)].into(), packages: [(id, package)].into(), trust: toml::Table::new() }
    }

    #[test]
    fn a_lock_comes_back_from_its_text() {
        let lock = lock("1.9");
        let text = lock.render();
        assert_eq!(Lock::parse(Path::new("pipeline.lock"), &text).unwrap(), lock);
        let line = "\"sudo_1.9_amd64\" = { size = 3, sha256 = \"";
        assert!(text.lines().any(|l| l.starts_with(line)), "{text}");
        assert!(text.contains("requested = [\n    \"curl\",\n    \"sudo\",\n]"), "{text}");
    }

    #[test]
    fn what_people_trust_is_kept() {
        let mut lock = lock("1.9");
        lock.trust =
            toml::from_str("[home.pve1]\ncertificate = \"AB:CD\"\nhost_keys = [\"ssh-ed25519 AAAA\"]\n").unwrap();
        let text = lock.render();
        let wanted = "\n[trust.home.pve1]\ncertificate = \"AB:CD\"\nhost_keys = [\"ssh-ed25519 AAAA\"]\n";
        assert!(text.ends_with(wanted), "{text}");
        assert_eq!(Lock::parse(Path::new("pipeline.lock"), &text).unwrap(), lock);
    }

    #[test]
    fn a_lock_is_written_and_read_and_a_missing_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipeline.lock");
        assert_eq!(Lock::load(&path).unwrap(), Lock::default());
        lock("1.9").save(&path).unwrap();
        assert_eq!(Lock::load(&path).unwrap(), lock("1.9"));
    }

    #[test]
    fn a_set_that_names_an_unlisted_package_and_an_unknown_version_are_refused() {
        let mut unlisted = lock("1.9");
        unlisted.packages.clear();
        let path = Path::new("pipeline.lock");
        let text = Lock::parse(path, &unlisted.render()).unwrap_err().to_string();
        assert!(text.contains("sudo_1.9_amd64, which is not listed"), "{text}");
        let text = Lock::parse(path, "version = 9\n").unwrap_err().to_string();
        assert!(text.contains("its version is 9, this program knows 1"), "{text}");
    }

    #[test]
    fn what_moved_is_a_line_a_package() {
        assert_eq!(lock("1.9").moved(&lock("1.10")), ["sudo: 1.9_amd64 -> 1.10_amd64"]);
        assert_eq!(lock("1.9").moved(&lock("1.9")), [""; 0]);
        assert_eq!(lock("1.9").moved(&Lock::default()), ["sudo: 1.9_amd64 -> nothing"]);
    }

    #[test]
    fn a_package_that_no_set_names_is_pruned() {
        let mut lock = lock("1.9");
        lock.sets.clear();
        lock.prune();
        assert_eq!(lock, Lock::default());
    }
}
