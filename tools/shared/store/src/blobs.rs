use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::hold::{self, Hold};
use crate::{Digest, Error, Result, files};

/// An immutable file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// The SHA-256 of its content, which is its name too.
    pub sha256: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// A folder of artifacts, each under its digest, with an optional second folder that is shared as a cache.
///
/// Whoever has it open shares a lock on it, so that nothing is collected under a run or a build.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    cache: Option<PathBuf>,
    held: Vec<Arc<Hold>>,
}

impl Store {
    /// Opens a store, making its folder where it is missing. Recipes go to the folder `recipes` beside it. What a
    /// killed writer left is removed where nobody else has the store open.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_owned(), cache: None, held: vec![Arc::new(Hold::open(root)?)] })
    }

    /// Adds a second store: artifacts and recipes missing here are taken from it, and what is put here goes to it too,
    /// by hard link where the file system allows it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn with_cache(mut self, cache_root: &Path) -> Result<Self> {
        self.held.push(Arc::new(Hold::open(cache_root)?));
        self.cache = Some(cache_root.to_owned());
        Ok(self)
    }

    /// Returns the store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps everybody else out of the store, cache aside, for as long as this store is open.
    ///
    /// # Errors
    /// [`Error::InUse`] where another process has it open.
    pub(crate) fn keep_others_out(&self) -> Result<()> {
        self.held.first().map_or(Ok(()), |hold| hold.exclusive(&self.root))
    }

    pub(crate) fn cache_root(&self) -> Option<&Path> {
        self.cache.as_deref()
    }

    /// Returns where an artifact is or would be; says nothing of whether it is there or whole.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.to_string())
    }

    /// Tells whether an artifact is here, after looking in the cache. A file that the cache holds altered counts as
    /// absent.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file() || matches!(self.import(digest), Ok(true))
    }

    /// Puts bytes into the store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Artifact> {
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(Error::io("write", &self.root))?;
        writer.finish()
    }

    /// Copies a file into the store, hashing it on the way.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_file(&self, path: &Path) -> Result<Artifact> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let mut writer = self.writer()?;
        copy(&mut file, &mut writer).map_err(Error::io("copy", path))?;
        writer.finish()
    }

    /// Begins an artifact whose bytes come one after another.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn writer(&self) -> Result<StoreWriter> {
        let file = temporary(&self.root)?;
        Ok(StoreWriter { store: self.clone(), file, hasher: Sha256::new(), size: 0 })
    }

    /// Opens an artifact for reading. The content is hashed as it is read; the read that reaches the end fails if it is
    /// not what the name says, and the file is removed then, so that the next run fetches or builds it anew.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::Io`].
    pub fn read(&self, digest: &Digest) -> Result<VerifiedReader> {
        if !self.contains(digest) {
            return Err(Error::Missing(*digest));
        }
        VerifiedReader::start(self.path(digest), *digest)
    }

    /// Reads all of an artifact and compares; returns its size in bytes.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Altered`] and [`Error::Io`].
    pub fn verify(&self, digest: &Digest) -> Result<u64> {
        if !self.contains(digest) {
            return Err(Error::Missing(*digest));
        }
        let path = self.path(digest);
        let (found, size) = Digest::of_file(&path).map_err(Error::io("read", &path))?;
        if found == *digest {
            return Ok(size);
        }
        let _ = fs::remove_file(&path);
        // The cache may hold it whole.
        if matches!(self.import(digest), Ok(true)) {
            return self.path(digest).metadata().map(|file| file.len()).map_err(Error::io("look at", &path));
        }
        Err(Error::Altered { path, wanted: *digest, found })
    }

    /// Takes an artifact from the cache: hard link or copy, hashed before it gets its name here. A file that the cache
    /// holds altered is removed: nobody could use it, and it would keep a whole one out.
    fn import(&self, digest: &Digest) -> Result<bool> {
        let Some(from) = self.cache.as_ref().map(|cache| cache.join(digest.to_string())) else { return Ok(false) };
        if !from.is_file() {
            return Ok(false);
        }
        let (found, _) = Digest::of_file(&from).map_err(Error::io("read", &from))?;
        if found != *digest {
            let _ = fs::remove_file(&from);
            return Err(Error::Altered { path: from, wanted: *digest, found });
        }
        link_or_copy(&from, &self.path(digest))?;
        Ok(true)
    }

    fn feed_cache(&self, digest: &Digest) -> Result<()> {
        let Some(cache) = &self.cache else { return Ok(()) };
        link_or_copy(&self.path(digest), &cache.join(digest.to_string()))
    }
}

/// An artifact being written. It gets its name only when it is finished; dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct StoreWriter {
    store: Store,
    file: NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl StoreWriter {
    /// Returns the digest and size of what was written so far, were it finished now.
    pub fn so_far(&self) -> Artifact {
        Artifact { sha256: Digest::from_bytes(self.hasher.clone().finalize().into()), size: self.size }
    }

    /// Gives the artifact its name: sync, rename, sync of the folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<Artifact> {
        let artifact = self.so_far();
        let path = self.store.path(&artifact.sha256);
        files::persist(self.file, &path).map_err(Error::io("write", &path))?;
        self.store.feed_cache(&artifact.sha256)?;
        Ok(artifact)
    }
}

impl Write for StoreWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads an artifact and re-hashes it; at the end a difference is an error of kind `InvalidData`.
#[derive(Debug)]
pub struct VerifiedReader {
    file: File,
    path: PathBuf,
    wanted: Digest,
    hasher: Sha256,
}

impl VerifiedReader {
    fn start(path: PathBuf, wanted: Digest) -> Result<Self> {
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { file, path, wanted, hasher: Sha256::new() })
    }

    /// Removes the altered file, unless its name stands for another one by now.
    fn put_aside(&self) {
        let number = |file: io::Result<fs::Metadata>| file.map(|file| (file.dev(), file.ino())).ok();
        let own = number(self.file.metadata());
        if own.is_some() && own == number(self.path.metadata()) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Returns the file's size in bytes, before anything is said of its content.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn size(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("look at", &self.path))?.len())
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() {
            let found = Digest::from_bytes(self.hasher.clone().finalize().into());
            if found != self.wanted {
                self.put_aside();
                let altered = Error::Altered { path: self.path.clone(), wanted: self.wanted, found };
                return Err(io::Error::new(io::ErrorKind::InvalidData, altered));
            }
        }
        Ok(n)
    }
}

fn temporary(folder: &Path) -> Result<NamedTempFile> {
    let mode = fs::Permissions::from_mode(0o444);
    tempfile::Builder::new()
        .prefix(hold::UNFINISHED)
        .permissions(mode)
        .tempfile_in(folder)
        .map_err(Error::io("write", folder))
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 18];
    let mut total = 0;
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(total);
        }
        to.write_all(&buffer[..n])?;
        total += n as u64;
    }
}

/// Links a blob to a second name, or copies it where the names are on two file systems.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => {
            let mut file = File::open(from).map_err(Error::io("open", from))?;
            let mut new = temporary(to.parent().unwrap_or(to))?;
            copy(&mut file, &mut new).map_err(Error::io("copy", from))?;
            files::persist(new, to).map_err(Error::io("write", to))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    /// Lists the store, its lock aside.
    fn names(store: &Store) -> Vec<String> {
        let entries = fs::read_dir(store.root()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != hold::LOCK).collect()
    }

    fn alter(path: &Path, bytes: &[u8]) {
        fs::remove_file(path).unwrap();
        File::create(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn bytes_and_files_get_the_name_of_their_digest_and_can_t_be_written() {
        let (folder, store) = store();
        let artifact = store.put_bytes(b"hello").unwrap();
        assert_eq!(artifact, Artifact { sha256: Digest::of("hello"), size: 5 });
        files::write_atomic(&folder.path().join("f"), "hello", 0o644).unwrap();
        assert_eq!(store.put_file(&folder.path().join("f")).unwrap(), artifact);
        let path = store.path(&artifact.sha256);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        let mut text = String::new();
        store.read(&artifact.sha256).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(names(&store), [artifact.sha256.to_string()]);
    }

    #[test]
    fn an_altered_or_truncated_artifact_is_noticed_on_read() {
        let (_folder, store) = store();
        let artifact = store.put_bytes(b"hello").unwrap();
        for wrong in [&b"hellO"[..], b"hell", b""] {
            alter(&store.path(&artifact.sha256), wrong);
            let mut all = Vec::new();
            let error = store.read(&artifact.sha256).unwrap().read_to_end(&mut all).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(&artifact.sha256.to_string()), "{error}");
            // What is altered is gone, so that whoever asks next makes it anew.
            assert!(!store.contains(&artifact.sha256));
            store.put_bytes(wrong).unwrap();
            store.put_bytes(b"hello").unwrap();
            alter(&store.path(&artifact.sha256), wrong);
            assert!(matches!(store.verify(&artifact.sha256), Err(Error::Altered { .. })));
            store.put_bytes(b"hello").unwrap();
            assert_eq!(store.verify(&artifact.sha256).unwrap(), 5);
        }
    }

    #[test]
    fn an_artifact_that_is_half_written_has_no_name_and_leaves_nothing() {
        let (_folder, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"half").unwrap();
        assert!(!store.contains(&Digest::of("half")));
        assert!(!names(&store).iter().any(|name| name.len() == 64));
        drop(writer);
        assert!(names(&store).is_empty());
        assert!(matches!(store.read(&Digest::of("half")), Err(Error::Missing(_))));
    }

    #[test]
    fn the_cache_gives_what_is_whole_and_not_what_is_altered() {
        let (folder, first) = store();
        let cache = folder.path().join("cache");
        let first = first.with_cache(&cache).unwrap();
        let [good, bad] = [b"good", b"bad!"].map(|bytes| first.put_bytes(bytes).unwrap().sha256);
        alter(&cache.join(bad.to_string()), b"evil");
        let second = Store::open(&folder.path().join("second")).unwrap().with_cache(&cache).unwrap();
        assert_eq!(second.verify(&good).unwrap(), 4);
        assert!(!second.contains(&bad));
        // The altered one has left the cache, and a whole one can take its place.
        second.put_bytes(b"bad!").unwrap();
        assert_eq!(fs::read(cache.join(bad.to_string())).unwrap(), b"bad!");
        alter(&second.path(&good), b"bad");
        assert_eq!(second.verify(&good).unwrap(), 4, "the cache mends it");
    }

    #[test]
    fn what_a_killed_writer_left_goes_when_nobody_else_has_the_store_open() {
        let (_folder, store) = store();
        let left = store.root().join(".new-left");
        alter_new(&left);
        drop(Store::open(store.root()).unwrap());
        assert!(left.exists(), "somebody has the store open, and it may be theirs");
        let root = store.root().to_owned();
        drop(store);
        drop(Store::open(&root).unwrap());
        assert!(!left.exists());
    }

    fn alter_new(path: &Path) {
        File::create(path).unwrap().write_all(b"half").unwrap();
    }
}
