//! The programs that build: a root of pinned packages, so that those of the building machine leave no trace in an image.
//!
//! The machine's own `dpkg-deb` and `tar` only unpack these packages, whose bytes are pinned; nothing is configured. All
//! that comes after (apt, dpkg, tar, find, qemu-img) runs in the unpacked root.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use remote::Command;
use rustix::fs::{FlockOperation, flock};
use store::files;
use tempfile::TempDir;

use crate::lock::{Lock, Request, Set};
use crate::tools::need;
use crate::{Error, Result};

/// What builds beside Debian's essential packages: `apt` finds the order of packages, `qemu-utils` writes disks.
const PACKAGES: [&str; 2] = ["apt", "qemu-utils"];

/// Where the root that is being built lies in the tools' root.
pub(crate) const TARGET: &str = "/target";

/// Returns what the lock file has to pin for the tools. It is the same for every image, whatever its suite.
pub(crate) fn request() -> Request {
    Request::new("trixie", &["main".to_owned()], PACKAGES.map(str::to_owned))
}

/// Returns what the lock file pins for the tools.
pub(crate) fn set<'l>(lock: &'l Lock, lock_path: &Path) -> Result<&'l Set> {
    lock.sets.get(&request()).ok_or_else(|| Error::ToolsNotLocked { file: lock_path.to_owned() })
}

/// Unpacks packages. Base-files goes first: it holds the links from `/bin` and `/lib` into `/usr`.
const UNPACK: &str = r#"
umask 022
cd "$1"
for deb in packages/base-files_*.deb packages/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C root --keep-directory-symlink --numeric-owner -p
done
mkdir root/target
echo 'root:x:0:0:root:/root:/bin/bash' >root/etc/passwd
echo 'root:x:0:' >root/etc/group
"#;

/// The unpacked root; gone when dropped.
#[derive(Debug)]
pub(crate) struct ToolRoot {
    folder: TempDir,
    /// Says that the folder is in use; the kernel lets go of it with the process.
    _lock: File,
}

impl ToolRoot {
    /// Unpacks the packages in a folder of its own below `scratch`.
    pub(crate) fn unpack<'p>(scratch: &Path, debs: impl IntoIterator<Item = (&'p String, PathBuf)>) -> Result<Self> {
        for (program, package) in [("bash", "bash"), ("dpkg-deb", "dpkg"), ("tar", "tar")] {
            need(program, package)?;
        }
        let own = scratch.join("tools");
        fs::create_dir_all(&own).map_err(Error::io("make", &own))?;
        let own = own.canonicalize().map_err(Error::io("find", &own))?;
        let (folder, lock) = claim(&own)?;
        offer(&folder.path().join("packages"), debs)?;
        let root = folder.path().join("root");
        fs::create_dir_all(&root).map_err(Error::io("make", &root))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).map_err(Error::io("open up", &root))?;
        let script = folder.path().join("unpack.sh");
        files::write_atomic(&script, UNPACK, 0o600).map_err(Error::io("write", &script))?;
        Command::new("/bin/bash")
            .args(["-euo", "pipefail"])
            .arg(&script)
            .arg(folder.path())
            .clear_env()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .deadline(Duration::from_secs(600))
            .run()?;
        Ok(Self { folder, _lock: lock })
    }

    /// Returns the root, as a path from `/`.
    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }
}

/// Makes a folder that is in use while its lock is held, and removes those that killed builds left.
fn claim(own: &Path) -> Result<(TempDir, File)> {
    let open = |path: &Path| {
        let file = File::options().create(true).truncate(false).write(true).open(path);
        file.map_err(Error::io("open", path))
    };
    let turn = own.join("lock");
    let file = open(&turn)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| Error::io("lock", &turn)(error.into()))?;
    for entry in fs::read_dir(own).map_err(Error::io("list", own))? {
        let left = entry.map_err(Error::io("list", own))?.path();
        if left.is_dir() && flock(&open(&left.join("lock"))?, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(&left).map_err(Error::io("remove", &left))?;
        }
    }
    let folder = tempfile::Builder::new().prefix("").tempdir_in(own).map_err(Error::io("write", own))?;
    let path = folder.path().join("lock");
    let lock = open(&path)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| Error::io("lock", &path)(error.into()))?;
    Ok((folder, lock))
}

/// Puts packages into a folder under their own names. Blobs are linked, or copied from another file system.
pub(crate) fn offer<'p>(folder: &Path, debs: impl IntoIterator<Item = (&'p String, PathBuf)>) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    for (id, blob) in debs {
        // apt takes a colon, and a percent sign too, for part of an address.
        let to = folder.join(format!("{}.deb", id.replace(':', "-")));
        if fs::hard_link(&blob, &to).is_err() {
            fs::copy(&blob, &to).map_err(Error::io("copy", &blob))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_build_left_goes_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join("left/root/etc/passwd"), "", 0o644).unwrap();
        let (first, _first) = claim(folder.path()).unwrap();
        assert!(!folder.path().join("left").exists());
        let (second, _second) = claim(folder.path()).unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
    }
}
