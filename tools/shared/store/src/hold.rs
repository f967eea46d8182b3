//! The lock that everybody shares who has a store open.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// The lock's file in a store's folder.
pub(crate) const LOCK: &str = ".lock";
/// What the name of a file that is still being written begins with.
pub(crate) const UNFINISHED: &str = ".new-";

/// A shared lock on a store; the kernel drops it when its holder dies.
#[derive(Debug)]
pub(crate) struct Hold {
    file: File,
}

impl Hold {
    /// Makes the folder where it is missing and shares its lock. Who finds that nobody has it removes what killed writers
    /// left.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(Error::io("make", root))?;
        let path = root.join(LOCK);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {
                sweep(root, UNFINISHED)?;
                // What is written beside its name there gets the name that tempfile gives (`files::write_atomic`).
                sweep(&root.parent().unwrap_or(root).join("recipes"), ".tmp")?;
                file.unlock().map_err(Error::io("unlock", &path))?;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        file.lock_shared().map_err(Error::io("lock", &path))?;
        Ok(Self { file })
    }

    /// Turns the shared lock into one that nobody else can share.
    pub(crate) fn exclusive(&self, root: &Path) -> Result<()> {
        let path = root.join(LOCK);
        self.file.unlock().map_err(Error::io("unlock", &path))?;
        match self.file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                self.file.lock_shared().map_err(Error::io("lock", &path))?;
                Err(Error::InUse(root.to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}

fn sweep(folder: &Path, beginning: &str) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", folder)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("list", folder))?;
        if entry.file_name().to_string_lossy().starts_with(beginning) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}
