//! The lab's storages, folders both, and the volumes in them.

mod disks;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{ApiError, Result, host};
use crate::layout::Layout;

pub(crate) use disks::{Disks, bytes, size_text};

/// One storage's definition. The lab has Proxmox's usual `local` and a second one for disks alone.
pub(crate) struct Storage {
    pub(crate) name: &'static str,
    pub(crate) content: &'static [&'static str],
}

const ALL: [Storage; 2] = [
    Storage { name: "local", content: &["backup", "images", "import", "iso", "rootdir", "snippets", "vztmpl"] },
    Storage { name: "data", content: &["images", "rootdir"] },
];

/// The storages and what makes disks in them.
pub(crate) struct Storages {
    layout: Layout,
    pub(crate) disks: Disks,
}

/// A volume's name, taken apart: `local:9001/base-9001-disk-0.qcow2/101/vm-101-disk-0.qcow2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) storage: String,
    pub(crate) kind: &'static str,
    pub(crate) vmid: Option<u32>,
    pub(crate) file: String,
    /// The base that a linked clone lies on, as `9001/base-9001-disk-0.qcow2`.
    pub(crate) base: Option<String>,
}

impl Volume {
    /// Takes a volume id apart.
    pub(crate) fn parse(volid: &str) -> Result<Self> {
        let (storage, name) = volid.split_once(':').unwrap_or(("", volid));
        let wrong = || ApiError::failed(format!("unable to parse directory volume name '{name}'"));
        let plain = |file: &&str| !file.is_empty() && !file.starts_with('.');
        let parts: Vec<&str> = name.split('/').collect();
        if storage.is_empty() || !parts.iter().all(plain) {
            return Err(wrong());
        }
        let volume = |kind, vmid: Option<&str>, file: &str, base| -> Result<Self> {
            let vmid = vmid.map(|id| id.parse().map_err(|_| wrong())).transpose()?;
            Ok(Self { storage: storage.to_owned(), kind, vmid, file: file.to_owned(), base })
        };
        match parts.as_slice() {
            ["iso", file] => volume("iso", None, file, None),
            ["vztmpl", file] => volume("vztmpl", None, file, None),
            ["import", file] => volume("import", None, file, None),
            [base_id, base, id, file] => volume("images", Some(id), file, Some(format!("{base_id}/{base}"))),
            [id, file] => volume("images", Some(id), file, None),
            _ => Err(wrong()),
        }
    }

    /// Makes the name of a guest's disk.
    pub(crate) fn image(storage: &str, vmid: u32, file: &str) -> Self {
        Self { storage: storage.into(), kind: "images", vmid: Some(vmid), file: file.into(), base: None }
    }

    /// Returns the volume id.
    pub(crate) fn id(&self) -> String {
        let base = self.base.as_ref().map(|base| format!("{base}/")).unwrap_or_default();
        let folder = self.vmid.map_or_else(|| self.kind.to_owned(), |id| id.to_string());
        format!("{}:{base}{folder}/{}", self.storage, self.file)
    }

    /// Returns the format that the file's ending says.
    pub(crate) fn format(&self) -> &str {
        match self.file.rsplit_once('.').map(|(_, ending)| ending) {
            Some("qcow2") => "qcow2",
            Some("vmdk") => "vmdk",
            Some("iso") if self.kind == "iso" => "iso",
            _ if self.kind == "iso" => "iso",
            _ if self.kind == "vztmpl" && self.file.ends_with("gz") => "tgz",
            _ if self.kind == "vztmpl" => "txz",
            _ => "raw",
        }
    }
}

impl Storages {
    /// Takes the lab's paths and what makes disks.
    pub(crate) fn new(layout: Layout, disks: Disks) -> Self {
        Self { layout, disks }
    }

    /// Returns every storage.
    pub(crate) fn all(&self) -> &'static [Storage] {
        &ALL
    }

    /// Finds a storage.
    pub(crate) fn find(&self, name: &str) -> Result<&'static Storage> {
        let found = ALL.iter().find(|storage| storage.name == name);
        found.ok_or_else(|| ApiError::failed(format!("storage '{name}' does not exist")))
    }

    /// Finds a storage that takes a kind of content.
    pub(crate) fn find_for(&self, name: &str, content: &str) -> Result<&'static Storage> {
        let storage = self.find(name)?;
        if storage.content.contains(&content) {
            return Ok(storage);
        }
        Err(ApiError::failed(format!("storage '{name}' does not support '{content}' content")))
    }

    /// Returns the folder of one kind of content.
    pub(crate) fn folder(&self, storage: &str, kind: &str) -> PathBuf {
        let below = match kind {
            "iso" => "template/iso",
            "vztmpl" => "template/cache",
            other => other,
        };
        self.layout.storage(storage).join(below)
    }

    /// Returns a volume's file.
    pub(crate) fn path(&self, volume: &Volume) -> PathBuf {
        let folder = self.folder(&volume.storage, volume.kind);
        match volume.vmid {
            Some(id) => folder.join(id.to_string()).join(&volume.file),
            None => folder.join(&volume.file),
        }
    }

    /// Returns a volume's file, if it is there.
    pub(crate) fn existing(&self, volid: &str) -> Result<(Volume, PathBuf)> {
        let volume = Volume::parse(volid)?;
        self.find(&volume.storage)?;
        let path = self.path(&volume);
        if path.is_file() {
            Ok((volume, path))
        } else {
            Err(ApiError::failed(format!("volume '{volid}' does not exist")))
        }
    }

    /// Returns the first free name for a guest's disk, `base-…` names included.
    pub(crate) fn free_name(&self, storage: &str, vmid: u32, format: &str) -> Volume {
        let folder = self.folder(storage, "images").join(vmid.to_string());
        let taken: Vec<String> = fs::read_dir(folder)
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        let used = |n: u32| taken.iter().any(|file| file.contains(&format!("-{vmid}-disk-{n}.")));
        let number = (0..).find(|n| !used(*n)).unwrap_or_default();
        Volume::image(storage, vmid, &format!("vm-{vmid}-disk-{number}.{format}"))
    }

    /// Removes a volume's file, and its folder when that is empty then.
    pub(crate) fn remove(&self, volume: &Volume) -> Result<bool> {
        let path = self.path(volume);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(host(format!("can't remove {}", path.display())))?,
        }
        if let (Some(_), Some(folder)) = (volume.vmid, path.parent()) {
            // It stays as long as another disk is in it.
            let _ = fs::remove_dir(folder);
        }
        Ok(true)
    }

    /// Lists a storage's volumes, by kind and guest if asked.
    pub(crate) fn list(&self, storage: &Storage, kind: Option<&str>, vmid: Option<u32>) -> Vec<Value> {
        let mut out = Vec::new();
        for kind in storage.content.iter().filter(|own| kind.is_none_or(|kind| **own == kind)) {
            let folder = self.folder(storage.name, kind);
            match *kind {
                "images" => out.extend(self.images(storage.name, &folder, vmid)),
                "iso" | "vztmpl" | "import" if vmid.is_none() => {
                    out.extend(files(&folder).into_iter().map(|path| template(storage.name, kind, &path)));
                }
                _ => {}
            }
        }
        out.sort_by_key(|entry| entry["volid"].as_str().unwrap_or_default().to_owned());
        out
    }

    fn images(&self, storage: &str, folder: &Path, vmid: Option<u32>) -> Vec<Value> {
        let mut out = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(owner) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            if vmid.is_some_and(|vmid| vmid != owner) {
                continue;
            }
            for path in files(&entry.path()) {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let Ok(info) = self.disks.info(&path) else { continue };
                let mut volume = Volume::image(storage, owner, &file);
                volume.base = info.parent.as_ref().and_then(|p| p.strip_prefix("../")).map(str::to_owned);
                out.push(json!({
                    "volid": volume.id(), "content": "images", "format": volume.format(), "vmid": owner,
                    "size": info.size, "used": info.used, "parent": info.parent, "ctime": changed(&path),
                }));
            }
        }
        out
    }

    /// Returns the ids of the volumes that lie on a base.
    pub(crate) fn clones_of(&self, base: &Volume) -> Vec<String> {
        let name = base.id();
        let head = format!("{name}/");
        let Ok(storage) = self.find(&base.storage) else { return Vec::new() };
        let all = self.list(storage, Some("images"), None);
        all.iter().filter_map(|v| v["volid"].as_str()).filter(|id| id.starts_with(&head)).map(str::to_owned).collect()
    }

    /// Returns a storage's size, what is used, and what is free, in bytes.
    pub(crate) fn space(&self) -> (u64, u64, u64) {
        let folder = self.layout.dir();
        let Ok(stat) = rustix::fs::statvfs(folder) else { return (0, 0, 0) };
        let (total, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
        (total, (stat.f_blocks - stat.f_bfree) * stat.f_frsize, free)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    files.sort();
    files
}

fn changed(path: &Path) -> u64 {
    let time = fs::metadata(path).and_then(|data| data.modified()).ok();
    time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}

fn template(storage: &str, kind: &'static str, path: &Path) -> Value {
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let volume = Volume { storage: storage.into(), kind, vmid: None, file, base: None };
    let size = fs::metadata(path).map_or(0, |data| data.len());
    json!({"volid": volume.id(), "content": kind, "format": volume.format(), "size": size, "ctime": changed(path)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_id_comes_apart_and_together() {
        for id in [
            "local:iso/a.iso",
            "local:import/b.qcow2",
            "data:100/vm-100-disk-0.raw",
            "data:9001/base-9001-disk-0.qcow2/100/vm-100-disk-0.qcow2",
        ] {
            assert_eq!(Volume::parse(id).unwrap().id(), id);
        }
        assert_eq!(Volume::parse("data:9/base-9-disk-0.qcow2/100/vm-100-disk-0.qcow2").unwrap().vmid, Some(100));
    }

    #[test]
    fn a_name_that_leaves_its_folder_is_refused() {
        for id in ["local:iso/../../x", "local:abc", "local:100/", "local:iso/.upload", "bogus", "local:x/../y/z"] {
            let error = Volume::parse(id).unwrap_err();
            assert!(error.message.starts_with("unable to parse directory volume name"), "{id}");
        }
    }
}
