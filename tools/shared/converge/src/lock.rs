use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::failure::{Failure, Reason};

/// The one run at a time that a site allows. The kernel drops it when its holder dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a project folder for a site.
    ///
    /// # Errors
    /// A [`Failure`] of reason `Locked` that names the holder, or the file system's error.
    pub fn take(project: &Path, site: &str) -> Result<Self> {
        let folder = project.join(".hearth/locks");
        std::fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let path = folder.join(format!("{site}.lock"));
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.with_context(|| format!("can't open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                // The holder writes its name once it has the lock: a moment in which there is none.
                let holder = if holder.trim().is_empty() { "a run that has just begun" } else { holder.trim() };
                let message = format!("site '{site}' is locked by {holder}");
                return Err(Failure::new(Reason::Locked, message).hint("wait for it to end, or stop it").into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("can't lock {}", path.display()));
            }
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", crate::hold::holder())?;
        Ok(Self { _file: file })
    }

    /// Returns who has the lock of a project folder for a site; none where nobody has.
    pub fn holder(project: &Path, site: &str) -> Option<String> {
        let mut file = File::open(project.join(".hearth/locks").join(format!("{site}.lock"))).ok()?;
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        let mut holder = String::new();
        file.read_to_string(&mut holder).ok()?;
        Some(holder.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_holds_it_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path(), "lab").unwrap();
        let error = Lock::take(folder.path(), "lab").unwrap_err();
        assert_eq!(crate::reason(&error), Reason::Locked);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.to_string().contains(", since 20"), "{error}");
        let named = error.to_string().strip_prefix("site 'lab' is locked by ").map(str::to_owned);
        assert_eq!(Lock::holder(folder.path(), "lab"), named);
        assert!(Lock::take(folder.path(), "home").is_ok());
        drop(lock);
        assert_eq!(Lock::holder(folder.path(), "lab"), None);
        assert!(Lock::take(folder.path(), "lab").is_ok());
    }
}
