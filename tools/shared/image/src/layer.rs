//! Layers: a folder as a tar that is the same every time, and the way back.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use store::Digest;

use crate::{Error, Result};

/// What the OCI image specification puts before the name of a file that a layer removes.
const WHITEOUT: &str = ".wh.";
/// What it names the mark of a folder whose lower content is all gone.
const OPAQUE: &str = ".wh..wh..opq";

/// The one extended attribute that a layer keeps: without it, programs lose their capabilities.
const CAPABILITY: &str = "security.capability";

/// Hashes what passes through to another writer.
pub struct HashingWriter<W> {
    inner: W,
    hasher: sha2::Sha256,
}

impl<W: Write> HashingWriter<W> {
    /// Begins with nothing hashed.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: sha2::Digest::new() }
    }

    /// Returns the digest of all that was written, and the writer behind.
    pub fn finish(self) -> (Digest, W) {
        (Digest::from_bytes(sha2::Digest::finalize(self.hasher).into()), self.inner)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        sha2::Digest::update(&mut self.hasher, &bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a folder as a tar: names sorted, times no later than `epoch`, owners by number, hard links kept. What an
/// overlay file system marks as removed becomes the image specification's whiteouts. Sockets are left out, and so is
/// what lies below the paths of `empty`, which are written as folders.
///
/// # Errors
/// [`Error::Io`].
pub fn write_layer(root: &Path, epoch: u64, empty: &[&str], to: impl Write) -> Result<()> {
    let mut writer = LayerWriter { root, epoch, empty, tar: tar::Builder::new(to), links: HashMap::new() };
    writer.folder(Path::new(""))?;
    writer.tar.into_inner().and_then(|mut inner| inner.flush()).map_err(Error::io("write the layer of", root))
}

struct LayerWriter<'a, W: Write> {
    root: &'a Path,
    epoch: u64,
    empty: &'a [&'a str],
    tar: tar::Builder<W>,
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> LayerWriter<'_, W> {
    fn folder(&mut self, inside: &Path) -> Result<()> {
        let folder = self.root.join(inside);
        if is_opaque(&folder)? {
            self.whiteout(&inside.join(OPAQUE))?;
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            names.push(entry.map_err(Error::io("list", &folder))?.file_name());
        }
        names.sort_unstable();
        names.into_iter().try_for_each(|name| self.entry(&inside.join(name)))
    }

    fn entry(&mut self, inside: &Path) -> Result<()> {
        let path = self.root.join(inside);
        let metadata = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        let kind = metadata.file_type();
        // Overlay file systems write a removed file as a device with the numbers 0 and 0.
        if kind.is_char_device() && metadata.rdev() == 0 {
            return self.whiteout(&whiteout_of(inside));
        }
        if kind.is_socket() {
            return Ok(());
        }
        self.attributes(&path)?;
        let mut header = self.header(&metadata);
        let io = || Error::io("write the layer's entry of", &path);
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            self.tar.append_data(&mut header, inside, io::empty()).map_err(io())?;
            let below = !self.empty.iter().any(|empty| Path::new(empty) == inside);
            return if below { self.folder(inside) } else { Ok(()) };
        }
        if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = fs::read_link(&path).map_err(Error::io("read", &path))?;
            return self.tar.append_link(&mut header, inside, &target).map_err(io());
        }
        let first = self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| inside.to_owned());
        if metadata.nlink() > 1 && first != inside {
            header.set_entry_type(tar::EntryType::Link);
            return self.tar.append_link(&mut header, inside, &*first).map_err(io());
        }
        if kind.is_file() {
            header.set_size(metadata.len());
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            return self.tar.append_data(&mut header, inside, file.take(metadata.len())).map_err(io());
        }
        self.special(&kind, &metadata, header, inside).map_err(io())
    }

    fn special(
        &mut self,
        kind: &fs::FileType,
        metadata: &fs::Metadata,
        mut header: tar::Header,
        inside: &Path,
    ) -> io::Result<()> {
        if kind.is_fifo() {
            header.set_entry_type(tar::EntryType::Fifo);
        } else {
            let block = kind.is_block_device();
            header.set_entry_type(if block { tar::EntryType::Block } else { tar::EntryType::Char });
            header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        self.tar.append_data(&mut header, inside, io::empty())
    }

    fn attributes(&mut self, path: &Path) -> Result<()> {
        let Some(value) = attribute(path, CAPABILITY)? else { return Ok(()) };
        let key = format!("SCHILY.xattr.{CAPABILITY}");
        self.tar
            .append_pax_extensions([(key.as_str(), value.as_slice())])
            .map_err(Error::io("write the attributes of", path))
    }

    fn whiteout(&mut self, inside: &Path) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(self.epoch);
        header.set_size(0);
        self.tar.append_data(&mut header, inside, io::empty()).map_err(Error::io("write the layer's entry of", inside))
    }

    fn header(&self, metadata: &fs::Metadata) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0).min(self.epoch));
        header.set_size(0);
        header
    }
}

fn whiteout_of(inside: &Path) -> PathBuf {
    let mut name = OsStr::new(WHITEOUT).to_owned();
    name.push(inside.file_name().unwrap_or_default());
    inside.with_file_name(name)
}

fn is_opaque(folder: &Path) -> Result<bool> {
    Ok(attribute(folder, "trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}

fn attribute(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    use rustix::io::Errno;
    let mut value = vec![0; 256];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(size) => {
            value.truncate(size);
            Ok(Some(value))
        }
        // Not set; a file system without attributes; attributes that only root may see.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
        Err(error) => Err(Error::io("read the attributes of", path)(error.into())),
    }
}

/// Unpacks a layer over those below it, owners and permissions kept, and removes what it removes.
///
/// # Errors
/// [`Error::Io`].
pub fn unpack_layer(from: impl Read, root: &Path) -> Result<()> {
    let io = |operation| Error::io(operation, root);
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    let mut times = Vec::new();
    for entry in archive.entries().map_err(io("read the layer for"))? {
        let mut entry = entry.map_err(io("read the layer for"))?;
        let inside = entry.path().map_err(io("read the layer for"))?.into_owned();
        let name = inside.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if name == OPAQUE.as_bytes() {
            let folder = root.join(inside.parent().unwrap_or(Path::new("")));
            remove_content(&folder)?;
        } else if let Some(removed) = name.strip_prefix(WHITEOUT.as_bytes()) {
            remove(&root.join(inside.with_file_name(OsStr::from_bytes(removed))))?;
        } else {
            make_way(&root.join(&inside), entry.header().entry_type())?;
            entry.unpack_in(root).map_err(Error::io("unpack into", &root.join(&inside)))?;
            if entry.header().entry_type().is_dir() {
                times.push((root.join(&inside), entry.header().mtime().unwrap_or(0)));
            }
        }
    }
    // Folders get their times last: unpacking into them changes them.
    for (folder, seconds) in times.iter().rev().filter(|(folder, _)| folder.is_dir()) {
        let time = rustix::fs::Timespec { tv_sec: i64::try_from(*seconds).unwrap_or(0), tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, folder, &times, rustix::fs::AtFlags::empty())
            .map_err(|error| Error::io("set the time of", folder)(error.into()))?;
    }
    Ok(())
}

/// Removes what can't be overwritten in place: a folder in the way of a file, or the other way round.
fn make_way(path: &Path, kind: tar::EntryType) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() && kind.is_dir() => Ok(()),
        Ok(_) => remove(path),
        Err(_) => Ok(()),
    }
}

fn remove_content(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        remove(&entry.map_err(Error::io("list", folder))?.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests;
