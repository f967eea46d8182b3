//! Drives: a guest's disks and CD-ROMs as option texts, and the volumes behind them.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::config::Config;
use crate::error::{ApiError, Result};
use crate::schema::parse_properties;
use crate::server::{NODE, Server};
use crate::storage::{Volume, bytes, size_text};
use crate::tasks::Log;

/// Buses in the order in which the boot disk is looked for, with their last index.
const BUSES: [(&str, u8); 4] = [("ide", 3), ("scsi", 30), ("virtio", 15), ("sata", 5)];
/// The size of a cloud-init drive.
const CLOUDINIT_SIZE: u64 = 4 << 20;

/// A drive's option, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Drive {
    pub(crate) file: String,
    pub(crate) options: BTreeMap<String, String>,
}

/// What a drive's `file` asks for.
enum Wish {
    /// `none`, `cdrom`: no volume.
    Nothing,
    /// `storage:SIZE`: a new volume of so many bytes, or with `import-from` a copy.
    New { storage: String, size: u64 },
    /// `storage:cloudinit`.
    CloudInit { storage: String },
    /// A volume that is there already.
    Existing(Volume),
}

impl Drive {
    /// Takes a drive's option apart.
    pub(crate) fn parse(server: &Server, key: &str, text: &str) -> Result<Self> {
        let format = server.release.guest_option(key).map_or(&Value::Null, |spec| &spec["format"]);
        let mut options = parse_properties(format, text, key).map_err(|error| ApiError::parameter(key, error))?;
        let file = options.remove("file").unwrap_or_default();
        Ok(Self { file, options })
    }

    /// Writes it as Proxmox does: the volume, then the options by name.
    pub(crate) fn text(&self) -> String {
        let rest: String = self.options.iter().map(|(key, value)| format!(",{key}={value}")).collect();
        format!("{}{rest}", self.file)
    }

    /// Returns whether it is a CD-ROM, the cloud-init drive included.
    pub(crate) fn is_cdrom(&self) -> bool {
        self.options.get("media").is_some_and(|media| media == "cdrom") || self.is_cloudinit()
    }

    /// Returns whether it is the cloud-init drive.
    pub(crate) fn is_cloudinit(&self) -> bool {
        self.file.contains("-cloudinit.") || self.file.ends_with(":cloudinit")
    }

    /// Returns its volume, if it has one.
    pub(crate) fn volume(&self) -> Option<Volume> {
        Volume::parse(&self.file).ok()
    }

    fn wish(&self) -> Result<Wish> {
        if matches!(self.file.as_str(), "none" | "cdrom") {
            return Ok(Wish::Nothing);
        }
        let (storage, name) = self.file.split_once(':').unwrap_or(("", &self.file));
        let storage = storage.to_owned();
        if name == "cloudinit" {
            return Ok(Wish::CloudInit { storage });
        }
        if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            let size = bytes(name, 1 << 30);
            let size = size.ok_or_else(|| ApiError::failed(format!("'{name}' is no size in GiB")))?;
            return Ok(Wish::New { storage, size });
        }
        Volume::parse(&self.file).map(Wish::Existing)
    }

    /// Checks all that can be known before any work begins.
    pub(crate) fn check(&self, server: &Server, key: &str) -> Result<()> {
        match self.wish()? {
            Wish::Nothing => Ok(()),
            Wish::New { storage, size } => {
                server.storages.find_for(&storage, "images")?;
                match self.options.get("import-from") {
                    Some(_) if size > 0 => {
                        let syntax = "use <storage ID>:0,import-from=<source>";
                        let text = format!("'import-from' requires special syntax - {syntax}");
                        Err(ApiError::parameter(key, text))
                    }
                    Some(source) if source.starts_with('/') => {
                        Err(ApiError::permission("Only root can pass arbitrary filesystem paths."))
                    }
                    Some(source) => server.storages.find(&Volume::parse(source)?.storage).map(drop),
                    None if size == 0 => Err(ApiError::failed(format!("{key}: a disk of no size can't be made"))),
                    None => Ok(()),
                }
            }
            Wish::CloudInit { storage } => server.storages.find_for(&storage, "images").map(drop),
            Wish::Existing(volume) => server.storages.find(&volume.storage).map(drop),
        }
    }

    /// Makes what the drive asks for and returns the drive as it is kept, and whether a volume was made.
    pub(crate) fn realise(mut self, server: &Server, vmid: u32, key: &str, log: Option<&Log>) -> Result<(Self, bool)> {
        let say = |line: String| log.into_iter().for_each(|log| log.say(line.clone()));
        let made = match self.wish()? {
            Wish::Nothing => None,
            Wish::New { storage, size } => Some(self.make(server, vmid, &storage, size, &say)?),
            Wish::CloudInit { storage } => {
                let volume = Volume::image(&storage, vmid, &format!("vm-{vmid}-cloudinit.qcow2"));
                say(server.storages.disks.create(&server.storages.path(&volume), "qcow2", CLOUDINIT_SIZE)?);
                self.options.insert("media".into(), "cdrom".into());
                Some((volume, None))
            }
            Wish::Existing(volume) => {
                let (_, path) = server.storages.existing(&volume.id())?;
                self.options.insert("size".into(), size_text(server.storages.disks.info(&path)?.size));
                None
            }
        };
        let is_new = made.is_some();
        self.options.remove("format");
        self.options.remove("import-from");
        if let Some((volume, size)) = made {
            self.file = volume.id();
            if let Some(size) = size {
                self.options.insert("size".into(), size_text(size));
            }
            say(format!("{key}: successfully created disk '{}'", self.text()));
        }
        Ok((self, is_new))
    }

    fn make(
        &self,
        server: &Server,
        vmid: u32,
        storage: &str,
        size: u64,
        say: &dyn Fn(String),
    ) -> Result<(Volume, Option<u64>)> {
        let wanted = self.options.get("format").map(String::as_str);
        let disks = server.storages.disks;
        let Some(source) = self.options.get("import-from") else {
            let volume = server.storages.free_name(storage, vmid, wanted.unwrap_or("raw"));
            say(disks.create(&server.storages.path(&volume), volume.format(), size)?);
            return Ok((volume, Some(size)));
        };
        let from = Volume::parse(source)?;
        let path = server.storages.path(&from);
        if !path.is_file() {
            return Err(ApiError::failed(format!("failed to stat '{}'", path.display())));
        }
        let info = disks.info(&path)?;
        if let Some(parent) = info.parent.filter(|_| from.kind == "import") {
            // A backing file named by an uploaded image could be any file of the host.
            return Err(ApiError::failed(format!("{source}: backing file '{parent}' is not allowed")));
        }
        let own = if info.format == "vmdk" { "qcow2" } else { &info.format };
        let volume = server.storages.free_name(storage, vmid, wanted.unwrap_or(own));
        say(format!("importing disk '{source}' ..."));
        disks.convert(&path, &server.storages.path(&volume), volume.format())?;
        Ok((volume, Some(info.size)))
    }
}

/// Returns whether an option names a drive.
pub(crate) fn is_drive(key: &str) -> bool {
    let base = key.trim_end_matches(|c: char| c.is_ascii_digit());
    BUSES.iter().any(|(bus, _)| *bus == base) && base.len() < key.len() || matches!(key, "efidisk0" | "tpmstate0")
}

/// Returns whether an option names a volume that is attached no more.
pub(crate) fn is_unused(key: &str) -> bool {
    key.strip_prefix("unused").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Returns all drives of a configuration, in the order of boot.
pub(crate) fn all(server: &Server, config: &Config) -> Vec<(String, Drive)> {
    let names = BUSES.iter().flat_map(|(bus, last)| (0..=*last).map(move |n| format!("{bus}{n}")));
    let names = names.chain(["efidisk0".into(), "tpmstate0".into()]);
    names.filter_map(|key| Some((key.clone(), Drive::parse(server, &key, config.get(&key)?).ok()?))).collect()
}

/// Returns Proxmox's own choice of a boot order: the first disk, the first CD-ROM, the first network card.
pub(crate) fn default_boot(server: &Server, config: &Config) -> String {
    let drives = all(server, config);
    let disk =
        drives.iter().find(|(key, drive)| !drive.is_cdrom() && !key.starts_with("efi") && !key.starts_with("tpm"));
    let cdrom = drives.iter().find(|(_, drive)| drive.is_cdrom());
    let card = (0..32).map(|n| format!("net{n}")).find(|key| config.contains_key(key));
    let order = [disk.map(|(key, _)| key.clone()), cdrom.map(|(key, _)| key.clone()), card];
    boot_text(order.into_iter().flatten())
}

/// Writes a boot order; without any device it is a blank.
pub(crate) fn boot_text(order: impl IntoIterator<Item = String>) -> String {
    let order: Vec<String> = order.into_iter().collect();
    if order.is_empty() { " ".into() } else { format!("order={}", order.join(";")) }
}

/// Reads a boot order.
pub(crate) fn boot_order(config: &Config) -> Vec<String> {
    let text = config.get("boot").map_or("", |text| text.trim());
    let order = text.split(',').find_map(|part| part.strip_prefix("order=")).unwrap_or(text);
    order.split(';').filter(|key| is_drive(key) || key.starts_with("net")).map(str::to_owned).collect()
}

/// Notes a volume as attached no more, under the first free number.
pub(crate) fn add_unused(config: &mut Config, volume: &Volume) {
    let id = volume.id();
    let there = config.iter().any(|(key, value)| is_unused(key) && *value == id);
    let free = (0..256).map(|n| format!("unused{n}")).find(|key| !config.contains_key(key));
    if let Some(key) = free.filter(|_| !there) {
        config.insert(key, id);
    }
}

/// Returns the sum of the disks' sizes, as `maxdisk` shows the boot disk's.
pub(crate) fn boot_size(server: &Server, config: &Config) -> u64 {
    let drives = all(server, config);
    let disks: Vec<_> = drives.iter().filter(|(_, drive)| !drive.is_cdrom()).collect();
    let order = boot_order(config);
    let boot = order.iter().find_map(|key| disks.iter().find(|(own, _)| own == key));
    boot.or(disks.first()).and_then(|(_, drive)| bytes(drive.options.get("size")?, 1)).unwrap_or(0)
}

/// Turns a guest's disks into bases, which clones may lie on: renamed, and no longer writable.
pub(crate) fn make_bases(server: &Server, vmid: u32, config: &mut Config) -> Result<()> {
    for (key, mut drive) in all(server, config) {
        let Some(volume) = drive.volume().filter(|volume| volume.kind == "images" && !drive.is_cdrom()) else {
            continue;
        };
        let Some(rest) = volume.file.strip_prefix(&format!("vm-{vmid}-")) else { continue };
        let base = Volume { file: format!("base-{vmid}-{rest}"), ..volume.clone() };
        let [from, to] = [&volume, &base].map(|volume| server.storages.path(volume));
        fs::rename(&from, &to).map_err(crate::error::host(format!("can't rename {}", from.display())))?;
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        fs::set_permissions(&to, read_only).map_err(crate::error::host(format!("can't protect {}", to.display())))?;
        drive.file = base.id();
        config.insert(key, drive.text());
    }
    config.insert("template".into(), "1".into());
    Ok(())
}

/// Returns the node's words for a guest that is there already.
pub(crate) fn exists_text(vmid: u32) -> String {
    format!("VM {vmid} already exists on node '{NODE}'")
}
