//! The folder that one build works in.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::sandbox::Sandbox;
use crate::toolroot::ToolRoot;
use crate::{Error, Result};

/// A folder for one build of one image. One build of an image runs at a time; the folder goes when the build ends, and
/// what a killed build left goes when the next one begins.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: TempDir,
    log: PathBuf,
    /// The kernel lets go of the lock when the file is closed, even by a kill.
    _lock: File,
}

impl Scratch {
    /// Waits for other builds of the image to end, then makes the folder.
    pub(crate) fn claim(scratch: &Path, image: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot(image.to_owned()));
        }
        Self::make(scratch, image)
    }

    fn make(scratch: &Path, image: &str) -> Result<Self> {
        let (logs, own) = (scratch.join("logs"), scratch.join(image));
        for folder in [&logs, &own] {
            fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        }
        // Mounts, and programs started elsewhere, need a path from /.
        let own = own.canonicalize().map_err(Error::io("find", &own))?;
        let logs = logs.canonicalize().map_err(Error::io("find", &logs))?;
        let path = logs.join(format!("{image}.lock"));
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(Error::io("open", &path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| Error::io("lock", &path)(error.into()))?;
        for entry in fs::read_dir(&own).map_err(Error::io("list", &own))? {
            let left = entry.map_err(Error::io("list", &own))?.path();
            fs::remove_dir_all(&left).map_err(Error::io("remove", &left))?;
        }
        let log = logs.join(format!("{image}.log"));
        store::files::write_atomic(&log, "", 0o644).map_err(Error::io("write", &log))?;
        let folder = tempfile::Builder::new().prefix("").tempdir_in(&own).map_err(Error::io("write", &own))?;
        Ok(Self { folder, log, _lock: lock })
    }

    /// Returns the folder, as a path from `/`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Describes the root that the build fills; nothing is made yet.
    pub(crate) fn sandbox<'n>(
        &self,
        image: &'n str,
        tools: &ToolRoot,
        epoch: u64,
        overlay: Option<String>,
    ) -> Sandbox<'n> {
        let path = |part: &str| self.folder().join(part);
        let (root, work) = (path("root"), path("work"));
        Sandbox { image, tools: tools.root(), root, work, overlay, epoch, log: self.log.clone(), clock: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_goes_and_the_next_waits_for_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        store::files::write_atomic(&folder.path().join("x/left/over"), "", 0o644).unwrap();
        let first = Scratch::make(folder.path(), "x").unwrap();
        assert!(!folder.path().join("x/left").exists());
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let second = Scratch::make(folder.path(), "x").unwrap();
                said.send(second.folder().to_owned()).unwrap();
            });
            let early = heard.recv_timeout(std::time::Duration::from_millis(100));
            assert!(early.is_err(), "the second began before the first ended");
            let path = first.folder().to_owned();
            drop(first);
            assert_ne!(heard.recv().unwrap(), path);
        });
    }
}
