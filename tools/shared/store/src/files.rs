//! File writes that a power cut can't leave half done.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Writes a file so that its name holds either the old content or all of the new: temporary file, sync, rename, sync of
/// the folder. Makes the folder where it is missing. `mode` is the file's permission bits.
///
/// # Errors
/// Whatever the file system fails with; the temporary file is removed then.
pub fn write_atomic(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> io::Result<()> {
    let folder = parent(path);
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes.as_ref())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    persist(file, path)
}

/// Gives a temporary file its name: sync, rename, sync of the folder.
///
/// # Errors
/// Whatever the file system fails with.
pub fn persist(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        write_atomic(&path, "long before", 0o644).unwrap();
        write_atomic(&path, "after", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }
}
