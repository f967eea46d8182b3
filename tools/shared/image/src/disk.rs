//! Bootable disks made of Debian packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use store::{Artifact, Digest, Store};

use crate::recipe::{DiskRecipe, FileEntry, Mode};
use crate::sandbox::{Sandbox, clamp_times};
use crate::{Error, Result};
use crate::{boot, listing};

/// What every bootable disk has beside its recipe's packages: the boot loader, and the file system's own tools, with
/// which the file system is made too, so that their version is pinned like everything else.
pub(crate) const BOOT_PACKAGES: &[&str] = &["grub-pc-bin", "e2fsprogs"];

/// What a build gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// The image's file.
    pub disk: Artifact,
    /// A listing of the files in it.
    pub files: Artifact,
}

/// A disk image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// The recipe's name.
    pub name: String,
    /// The file.
    pub file: Artifact,
    /// `qcow2` or `raw`.
    pub format: String,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
}

impl DiskImage {
    /// Looks at a disk image in the store: what format, what size.
    ///
    /// # Errors
    /// [`Error::Store`] and [`Error::Io`].
    pub(crate) fn look(name: &str, store: &Store, file: Artifact) -> Result<Self> {
        let path = store.path(&file.sha256);
        let mut head = Vec::new();
        let opened = File::open(&path).map_err(Error::io("open", &path))?;
        opened.take(32).read_to_end(&mut head).map_err(Error::io("read", &path))?;
        // The qcow2 specification: magic in bytes 0 to 3, the disk's size big-endian in bytes 24 to 31.
        let size = head.get(24..32).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let (format, virtual_size) = match size {
            Some(size) if head.starts_with(b"QFI\xfb") => ("qcow2", size),
            _ => ("raw", file.size),
        };
        Ok(Self { name: name.to_owned(), file, format: format.to_owned(), virtual_size })
    }
}

/// GRUB's first words, built into the core: find the file system by its id, then read the menu there.
fn early_config(uuid: &str) -> String {
    format!("search.fs_uuid {uuid} root\nset prefix=($root)/boot/grub\n")
}

/// The menu: one entry, at once. `/vmlinuz` and `/initrd.img` are links that Debian's kernel packages keep on the newest.
fn menu(uuid: &str, options: &str) -> String {
    let options = if options.is_empty() { String::new() } else { format!(" {options}") };
    format!(
        "set timeout=0\nset default=0\nmenuentry Debian {{\n    linux /vmlinuz root=UUID={uuid} ro console=tty0 \
         console=ttyS0,115200{options}\n    initrd /initrd.img\n}}\n"
    )
}

/// Derives the file system's id from the recipe, so that it is the same in every build of it.
fn uuid(digest: &Digest) -> String {
    let hex = digest.to_string();
    // Version 8 of RFC 9562, whose other bits are free; variant 8.
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// The loader's core: modules that find, read and start a kernel, and nothing else.
const MODULES: &str =
    "biosdisk part_msdos ext2 search search_fs_uuid configfile normal linux echo test serial terminal";

/// Turns a finished root into a bootable image.
pub(crate) fn finish(
    sandbox: &Sandbox<'_>,
    recipe: &DiskRecipe,
    key: &Digest,
    store: &Store,
    progress: &dyn Fn(&str),
) -> Result<Finished> {
    let uuid = uuid(key);
    let (root, work) = (&sandbox.root, &sandbox.work);
    let file = |path: &str, text: String| (path.to_owned(), FileEntry { text, mode: Mode::default() });
    sandbox.files(&BTreeMap::from([
        file("/boot/grub/grub.cfg", menu(&uuid, &recipe.kernel_options)),
        file("/etc/fstab", format!("UUID={uuid} / ext4 rw,noatime,errors=remount-ro 0 1\n")),
        file("/etc/hostname", format!("{}\n", recipe.hostname)),
        // systemd(1), ConditionNeedsUpdate=: stamps no older than /usr say that caches need no rebuilding on the first
        // boot. The packages built them all, and rebuilding takes seconds under emulation.
        file("/etc/.updated", String::new()),
        file("/var/.updated", String::new()),
    ]))?;
    let early_path = work.join("early.cfg");
    store::files::write_atomic(&early_path, early_config(&uuid), 0o644).map_err(Error::io("write", &early_path))?;
    for link in ["vmlinuz", "initrd.img"] {
        if !root.join(link).exists() {
            let message = format!("there is no /{link} after the installation: the packages hold no kernel");
            return Err(Error::Build { image: sandbox.image.to_owned(), message });
        }
    }
    sandbox.step(
        "making the boot loader",
        &format!(
            "chroot \"$ROOT\" grub-mkimage -O i386-pc -p /boot/grub -c /mnt/early.cfg -o /mnt/core.img {MODULES}\n"
        ),
    )?;
    let boot_path = root.join("usr/lib/grub/i386-pc/boot.img");
    let boot_image = fs::read(&boot_path).map_err(Error::io("read", &boot_path))?;
    let core_path = work.join("core.img");
    let core = fs::read(&core_path).map_err(Error::io("read", &core_path))?;
    let id = u32::from_str_radix(&key.to_string()[..8], 16).unwrap_or(1);
    let head = boot::lay_out(sandbox.image, &boot_image, &core, recipe.size.0, id)?;

    progress("making the file system");
    clamp_times(root, sandbox.epoch)?;
    let files = store.put_bytes(listing::of_folder(root)?.as_bytes())?;
    let raw = work.join("disk.raw");
    write_raw(&raw, &head, recipe.size.0)?;
    sandbox.step("making the file system", &mkfs(&uuid, recipe.size.0, sandbox.epoch))?;

    progress("writing the image");
    let how = if recipe.compress { "-c -o compression_type=zstd " } else { "" };
    let convert = format!("qemu-img convert -f raw -O qcow2 {how}/mnt/disk.raw /mnt/disk.qcow2\n");
    sandbox.step("writing the image", &convert)?;
    let qcow = work.join("disk.qcow2");
    Ok(Finished { disk: store.put_file(&qcow)?, files })
}

fn write_raw(raw: &Path, head: &[u8], size: u64) -> Result<()> {
    let mut file = File::create(raw).map_err(Error::io("write", raw))?;
    file.set_len(size).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(Error::io("write", raw))?;
    file.write_all(head).map_err(Error::io("write", raw))
}

/// The root's own mke2fs makes the file system, from the root as it is without the build's mounts.
fn mkfs(uuid: &str, size: u64, epoch: u64) -> String {
    let kib = (size - boot::PARTITION_START) >> 10;
    format!(
        "export E2FSPROGS_FAKE_TIME={epoch}\nchroot \"$ROOT\" mke2fs -q -F -t ext4 -L root -U {uuid} -m 1 \
         -E offset={},hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,nodiscard -d /mnt/bare /mnt/disk.raw {kib}k\n",
        boot::PARTITION_START
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_s_id_follows_from_the_recipe() {
        let id = uuid(&Digest::of(""));
        assert_eq!(id, "e3b0c442-98fc-8c14-8afb-f4c8996fb924");
        assert!(early_config(&id).starts_with("search.fs_uuid e3b0c442-98fc-8c14-8afb-f4c8996fb924 root\n"));
        assert!(menu(&id, "quiet").contains(" console=ttyS0,115200 quiet\n"));
    }

    #[test]
    fn a_qcow2_tells_its_virtual_size_and_all_else_is_raw() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let mut head = b"QFI\xfb".to_vec();
        head.resize(24, 0);
        head.extend((3u64 << 30).to_be_bytes());
        let image = DiskImage::look("x", &store, store.put_bytes(&head).unwrap()).unwrap();
        assert_eq!((image.format.as_str(), image.virtual_size), ("qcow2", 3 << 30));
        let image = DiskImage::look("x", &store, store.put_bytes(b"raw").unwrap()).unwrap();
        assert_eq!((image.format.as_str(), image.virtual_size), ("raw", 3));
    }
}
