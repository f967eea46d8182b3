//! What methods check beyond their description: a guest's options by key, the storages and bridges that they name, the
//! owner of a task (qemu-server's `API2/Qemu.pm`, pve-storage's `check_volume_access`).

use super::Access;
use super::check::words;
use crate::auth::Identity;
use crate::error::{ApiError, Result};
use crate::schema::Params;
use crate::server::{Call, Server};
use crate::storage::Volume;
use crate::tasks::Task;
use crate::vm::drives::{self, Drive};
use crate::vm::{Config, config};

/// Options by the privilege that changes them; what is in none of the lists is for root alone.
const CPU: [&str; 9] = ["affinity", "cores", "cpu", "cpulimit", "cpuunits", "numa", "smp", "sockets", "vcpus"];
const MEMORY: [&str; 3] = ["balloon", "memory", "shares"];
const HARDWARE: [&str; 10] =
    ["acpi", "audio0", "hotplug", "kvm", "machine", "rng0", "scsihw", "smbios1", "tablet", "vga"];
const OPTIONS: [&str; 22] = [
    "agent",
    "allow-ksm",
    "autostart",
    "bios",
    "description",
    "hookscript",
    "keyboard",
    "localtime",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "ostype",
    "protection",
    "reboot",
    "startdate",
    "startup",
    "tags",
    "tdf",
    "template",
    "vmgenid",
    "watchdog",
];
const DISK: [&str; 3] = ["boot", "bootdisk", "vmstatestorage"];
const CLOUDINIT: [&str; 8] =
    ["cicustom", "cipassword", "citype", "ciupgrade", "ciuser", "nameserver", "searchdomain", "sshkeys"];
/// Parameters of the methods that are no options of the guest.
const NO_OPTIONS: [&str; 17] = [
    "node",
    "vmid",
    "digest",
    "delete",
    "revert",
    "force",
    "skiplock",
    "background_delay",
    "import-working-storage",
    "start",
    "pool",
    "storage",
    "archive",
    "unique",
    "bwlimit",
    "live-restore",
    "ha-managed",
];

struct Asked<'a> {
    server: &'a Server,
    access: &'a Access,
    who: &'a Identity,
}

/// Checks what a method's description leaves to the method.
pub(crate) fn check(call: &Call, verb: &str, template: &str) -> Result<()> {
    if call.who.is_root() {
        return Ok(());
    }
    let asked = Asked { server: &call.server, access: &call.server.access, who: &call.who };
    let params = &call.params;
    match (verb, template) {
        ("POST", "/nodes/{node}/qemu") => asked.create(params),
        ("PUT" | "POST", "/nodes/{node}/qemu/{vmid}/config") => asked.update(params),
        ("POST", "/nodes/{node}/qemu/{vmid}/clone") => asked.clone(params),
        ("PUT", "/nodes/{node}/qemu/{vmid}/resize") => asked.disk_storage(params, "disk", None),
        ("POST", "/nodes/{node}/qemu/{vmid}/move_disk") => {
            if let Some(target) = params.get("target-vmid") {
                asked.access.need(asked.who, &format!("/vms/{target}"), &["VM.Config.Disk"])?;
            }
            asked.disk_storage(params, "disk", params.get("storage"))
        }
        ("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}") => {
            let path = format!("/storage/{}", params.text("storage"));
            asked.access.need(asked.who, &path, &["Datastore.Allocate"])
        }
        ("GET" | "PUT", "/nodes/{node}/storage/{storage}/content/{volume}") => {
            let (storage, name) = (params.text("storage"), params.text("volume"));
            let whole = if name.contains(':') { name.to_owned() } else { format!("{storage}:{name}") };
            asked.volume(None, &whole)
        }
        ("GET", "/nodes/{node}/tasks/{upid}/status" | "/nodes/{node}/tasks/{upid}/log") => {
            asked.task(params, "Sys.Audit")
        }
        ("DELETE", "/nodes/{node}/tasks/{upid}") => asked.task(params, "Sys.Modify"),
        _ => Ok(()),
    }
}

/// Tells whether a task is one's own. A token sees tokens' tasks only.
pub(crate) fn owns(who: &Identity, task: &Task) -> bool {
    task.user == who.user && task.tokenid == who.token
}

/// Tells whether someone may see a volume in a list.
pub(crate) fn sees(call: &Call, volid: &str) -> bool {
    let asked = Asked { server: &call.server, access: &call.server.access, who: &call.who };
    call.who.is_root() || asked.volume(None, volid).is_ok()
}

impl Asked<'_> {
    fn need(&self, path: &str, wanted: &[&str]) -> Result<()> {
        self.access.need(self.who, path, wanted)
    }

    fn create(&self, params: &Params) -> Result<()> {
        let vmid = params.text("vmid");
        let pool = params.get("pool").map(|pool| format!("/pool/{pool}"));
        let who = self.who.name();
        let path = format!("/vms/{vmid}");
        let in_pool = || pool.is_some_and(|pool| self.access.has_any(&who, &pool, &["VM.Allocate"]));
        if !self.access.has_any(&who, &path, &["VM.Allocate"]) && !in_pool() {
            // The real server names nothing here.
            return Err(ApiError::no_permission());
        }
        let options = options(params);
        for (key, value) in &options {
            self.option(&path, key, Some(value), None)?;
            if drives::is_drive(key) {
                self.drive(vmid.parse().ok(), key, value)?;
            }
        }
        self.bridges(&options)
    }

    fn update(&self, params: &Params) -> Result<()> {
        let vmid: Option<u32> = params.text("vmid").parse().ok();
        // A guest that is not there is the method's own matter.
        let Some(guest) = vmid.and_then(|vmid| self.server.guests.load(vmid).ok()) else { return Ok(()) };
        let now = guest.effective();
        let path = format!("/vms/{}", params.text("vmid"));
        let gone = ["delete", "revert"].into_iter().flat_map(|name| words(params.get(name).unwrap_or_default()));
        for key in gone {
            self.option(&path, key, None, now.get(key))?;
        }
        let options = options(params);
        for (key, value) in &options {
            self.option(&path, key, Some(value), now.get(key))?;
            if drives::is_drive(key) {
                self.drive(vmid, key, value)?;
            }
        }
        self.bridges(&options)
    }

    fn clone(&self, params: &Params) -> Result<()> {
        let Ok(guest) =
            self.server.guests.load(params.number("vmid").and_then(|id| u32::try_from(id).ok()).unwrap_or(0))
        else {
            return Ok(());
        };
        let config = guest.effective();
        for (_, drive) in drives::all(self.server, &config) {
            if let Some(volume) = drive.volume().filter(|_| !drive.is_cdrom()) {
                let storage = params.get("storage").unwrap_or(&volume.storage);
                self.need(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            }
        }
        for (key, value) in config.iter().filter(|(key, _)| indexed(key, "hostpci")) {
            self.mapping(key, value)?;
        }
        self.bridges(&config)
    }

    /// Growing or moving a disk takes room on its storage, or on another one.
    fn disk_storage(&self, params: &Params, name: &str, storage: Option<&str>) -> Result<()> {
        let vmid = params.number("vmid").and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
        let Ok(guest) = self.server.guests.load(vmid) else { return Ok(()) };
        let key = params.text(name);
        let drive = guest.effective().get(key).and_then(|text| Drive::parse(self.server, key, text).ok());
        let own = drive.and_then(|drive| drive.volume()).map(|volume| volume.storage);
        match storage.map(str::to_owned).or(own) {
            Some(storage) => self.need(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"]),
            None => Ok(()),
        }
    }

    /// Checks one option that is set, or deleted where there is no value.
    fn option(&self, path: &str, key: &str, value: Option<&str>, now: Option<&String>) -> Result<()> {
        let need = |privilege: &str| self.need(path, &[privilege]);
        if drives::is_drive(key) {
            // A creation's disks are checked by the storage that they take; a change asks for the drive's privilege too.
            let creates = now.is_none() && self.server.guests.load(number(path)).is_err();
            let drives = [now.map(String::as_str), value].into_iter().flatten();
            return if creates {
                Ok(())
            } else {
                drives.into_iter().try_for_each(|text| self.drive_kind(path, key, text))
            };
        }
        match key {
            _ if drives::is_unused(key) => need("VM.Config.Disk"),
            "startup" => need("VM.Config.Options").and_then(|()| self.need("/", &["Sys.Modify"])),
            "freeze" => need("VM.PowerMgmt"),
            "cdrom" => need("VM.Config.CDROM"),
            _ if CPU.contains(&key) || indexed(key, "numa") => need("VM.Config.CPU"),
            _ if MEMORY.contains(&key) => need("VM.Config.Memory"),
            _ if HARDWARE.contains(&key) => need("VM.Config.HWType"),
            _ if OPTIONS.contains(&key) => need("VM.Config.Options"),
            _ if DISK.contains(&key) => need("VM.Config.Disk"),
            _ if indexed(key, "net") => need("VM.Config.Network"),
            _ if CLOUDINIT.contains(&key) || indexed(key, "ipconfig") => {
                self.access.need_any(self.who, path, &["VM.Config.Cloudinit", "VM.Config.Network"])
            }
            _ if indexed(key, "serial") => match value.or(now.map(String::as_str)) {
                Some("socket") | None => need("VM.Config.HWType"),
                Some(_) => Err(ApiError::failed(format!("only root can modify '{key}' config for real devices"))),
            },
            _ if indexed(key, "hostpci") || indexed(key, "usb") => {
                need("VM.Config.HWType")?;
                [now.map(String::as_str), value].into_iter().flatten().try_for_each(|text| self.mapping(key, text))
            }
            _ if indexed(key, "virtiofs") => {
                need("VM.Config.Disk")?;
                [now.map(String::as_str), value].into_iter().flatten().try_for_each(|text| {
                    let folder = text.split(',').next().unwrap_or_default().trim_start_matches("dirid=");
                    self.need(&format!("/mapping/dir/{folder}"), &["Mapping.Use"])
                })
            }
            other => Err(ApiError::failed(format!("only root can set '{other}' config"))),
        }
    }

    fn drive_kind(&self, path: &str, key: &str, text: &str) -> Result<()> {
        let Ok(drive) = Drive::parse(self.server, key, text) else { return Ok(()) };
        if drive.is_cloudinit() {
            return self.need(path, &["VM.Config.Cloudinit", "VM.Config.CDROM"]);
        }
        self.need(path, &[if drive.is_cdrom() { "VM.Config.CDROM" } else { "VM.Config.Disk" }])
    }

    fn mapping(&self, key: &str, text: &str) -> Result<()> {
        let kind = key.trim_end_matches(|c: char| c.is_ascii_digit()).trim_start_matches("host");
        match text.split(',').find_map(|part| part.strip_prefix("mapping=")) {
            Some(name) => self.need(&format!("/mapping/{kind}/{name}"), &["Mapping.Use"]),
            None if kind == "usb" && text.split(',').any(|part| part.trim_start_matches("host=") == "spice") => Ok(()),
            None => Err(ApiError::failed(format!("only root can set '{key}' config for non-mapped devices"))),
        }
    }

    /// Checks what a drive takes: room for a new volume, access to one that is there.
    fn drive(&self, vmid: Option<u32>, key: &str, text: &str) -> Result<()> {
        let Ok(drive) = Drive::parse(self.server, key, text) else { return Ok(()) };
        let (storage, name) = drive.file.split_once(':').unwrap_or(("", &drive.file));
        match name {
            "none" => {}
            "cdrom" => self.need("/", &["Sys.Console"])?,
            // As the real server: no room is asked for where the cloud-init drive goes.
            "cloudinit" => {}
            new if new.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
                self.need(&format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            }
            _ => self.volume(vmid, &drive.file)?,
        }
        let Some(source) = drive.options.get("import-from") else { return Ok(()) };
        match Volume::parse(source).ok().and_then(|volume| volume.vmid) {
            Some(owner) => self.need(&format!("/vms/{owner}"), &["VM.Clone"]),
            None => self.volume(vmid, source),
        }
    }

    /// Checks access to a volume that is there, for a guest.
    fn volume(&self, vmid: Option<u32>, volid: &str) -> Result<()> {
        let Ok(volume) = Volume::parse(volid) else { return Ok(()) };
        let path = format!("/storage/{}", volume.storage);
        if self.access.has_any(&self.who.name(), &path, &["Datastore.Allocate"]) {
            return Ok(());
        }
        match volume.vmid {
            None => self.access.need_any(self.who, &path, &["Datastore.AllocateSpace", "Datastore.Audit"]),
            Some(owner) if Some(owner) == vmid => Ok(()),
            Some(owner) => {
                self.need(&path, &["Datastore.Audit"])?;
                self.need(&format!("/vms/{owner}"), &["VM.Config.Disk"])
            }
        }
    }

    fn bridges(&self, options: &Config) -> Result<()> {
        let cards = options.iter().filter(|(key, _)| indexed(key, "net"));
        for (key, text) in cards {
            let Ok(card) = config::card(self.server.release, key, text) else { continue };
            let Some(bridge) = card.get("bridge") else { continue };
            let tag = card.get("tag").map(|tag| format!("/{tag}")).unwrap_or_default();
            self.need(&format!("/sdn/zones/localnetwork/{bridge}{tag}"), &["SDN.Use"])?;
        }
        Ok(())
    }

    fn task(&self, params: &Params, privilege: &str) -> Result<()> {
        match self.server.tasks.get(params.text("upid")) {
            Some(task) if !owns(self.who, &task) => self.need(&format!("/nodes/{}", params.text("node")), &[privilege]),
            _ => Ok(()),
        }
    }
}

fn number(path: &str) -> u32 {
    path.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or_default()
}

fn indexed(key: &str, base: &str) -> bool {
    key.strip_prefix(base).is_some_and(|n| n.parse::<u8>().is_ok())
}

/// Returns the parameters that are options of the guest.
fn options(params: &Params) -> Config {
    params
        .0
        .iter()
        .filter(|(key, _)| !NO_OPTIONS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
