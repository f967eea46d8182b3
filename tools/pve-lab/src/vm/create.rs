//! Creating and destroying guests.

use std::sync::Arc;

use super::config::{self, Config};
use super::drives::{self, Drive};
use super::{Guest, power};
use crate::auth::Identity;
use crate::error::{ApiError, Result, host};
use crate::random;
use crate::schema::Params;
use crate::server::Server;
use crate::storage::Volume;
use crate::tasks::Log;

/// Parameters of `create` that are no options of the guest.
const NOT_OPTIONS: [&str; 14] = [
    "node",
    "vmid",
    "start",
    "pool",
    "storage",
    "archive",
    "force",
    "unique",
    "bwlimit",
    "live-restore",
    "ha-managed",
    "import-working-storage",
    "skiplock",
    "background_delay",
];
/// What `create` could do and the lab can't.
const NOT_HERE: [&str; 3] = ["archive", "live-restore", "ha-managed"];

/// Creates a guest in a task and returns its UPID.
pub(crate) fn create(server: &Arc<Server>, who: &Identity, params: &Params) -> Result<String> {
    let vmid = vmid(params, "vmid")?;
    if let Some(name) = NOT_HERE.iter().find(|name| params.get(name).is_some_and(|value| value != "0")) {
        return Err(ApiError::not_implemented(format!("parameter '{name}' not implemented in pve-lab")));
    }
    if let Some(pool) = params.get("pool") {
        return Err(ApiError::permission(&format!("pool '{pool}' does not exist")));
    }
    let mut options: Config = params.0.clone();
    options.retain(|key, _| !NOT_OPTIONS.contains(&key.as_str()));
    if !who.is_root() {
        config::check_root_only(&options)?;
    }
    config::normalise(server.release, &mut options)?;
    for key in options.keys().filter(|key| drives::is_drive(key)) {
        Drive::parse(server, key, &options[key])?.check(server, key)?;
    }
    reserve(server, vmid, "create")
        .map_err(|error| ApiError::failed(format!("unable to create VM {vmid} - {}", error.line())))?;
    let (start, template) = (params.flag("start"), options.remove("template").is_some_and(|on| on == "1"));
    let (lab, owner) = (Arc::clone(server), who.clone());
    server.tasks.spawn(who, "qmcreate", &vmid.to_string(), move |log| {
        let lock = lab.guests.lock(vmid);
        let guard = lock.take()?;
        let mut made = Vec::new();
        let built = build(&lab, vmid, options, template, log, &mut made);
        if let Err(error) = built {
            undo(&lab, vmid, &made, log);
            return Err(ApiError::failed(format!("unable to create VM {vmid} - {}", error.line())));
        }
        drop(guard);
        if start {
            // A task of its own, whose failure is not this one's.
            power::start(&lab, &owner, vmid, None)?;
        }
        Ok(())
    })
}

/// Takes a VMID with a locked, empty configuration, so that nobody else can.
pub(super) fn reserve(server: &Server, vmid: u32, lock: &str) -> Result<()> {
    let guard = server.guests.lock(vmid);
    let _held = guard.take()?;
    if server.guests.exists(vmid) {
        return Err(ApiError::failed(drives::exists_text(vmid)));
    }
    let guest = Guest { config: Config::from([("lock".into(), lock.into())]), ..Guest::default() };
    server.guests.save(vmid, &guest)
}

fn build(
    server: &Server,
    vmid: u32,
    mut options: Config,
    template: bool,
    log: &Log,
    made: &mut Vec<Volume>,
) -> Result<()> {
    for (key, drive) in drives::all(server, &options) {
        let (drive, new) = drive.realise(server, vmid, &key, Some(log))?;
        if new {
            made.extend(drive.volume());
        }
        options.insert(key, drive.text());
    }
    if !options.contains_key("boot") {
        options.insert("boot".into(), drives::default_boot(server, &options));
    }
    identify(&mut options)?;
    options.insert("meta".into(), format!("creation-qemu=10.1.2,ctime={}", random::now()));
    options.retain(|key, value| key != "description" || !value.is_empty());
    if template {
        drives::make_bases(server, vmid, &mut options)?;
    }
    server.guests.save(vmid, &Guest { config: options, ..Guest::default() })
}

/// Gives a guest its own identifiers: a machine's UUID and a generation's.
pub(super) fn identify(options: &mut Config) -> Result<()> {
    let uuid = || random::uuid().map_err(host("can't make a UUID"));
    let smbios = options.remove("smbios1").unwrap_or_default();
    let smbios = match smbios.split(',').any(|part| part.starts_with("uuid=")) {
        true => smbios,
        false if smbios.is_empty() => format!("uuid={}", uuid()?),
        false => format!("{smbios},uuid={}", uuid()?),
    };
    options.insert("smbios1".into(), smbios);
    options.insert("vmgenid".into(), uuid()?);
    Ok(())
}

/// Removes what a failed task has made.
pub(super) fn undo(server: &Server, vmid: u32, made: &[Volume], log: &Log) {
    for volume in made {
        if let Err(error) = server.storages.remove(volume) {
            log.say(format!("can't clean up: {}", error.line()));
        }
    }
    if let Err(error) = server.guests.remove(vmid) {
        log.say(format!("can't clean up: {}", error.line()));
    }
}

/// Removes guests that a server was making when it ended, with the disks made so far. Their VMID is free again, so that
/// whoever asked can ask once more.
pub(crate) fn forget_halves(server: &Server) -> Result<()> {
    for vmid in server.guests.ids()? {
        let lock = server.guests.load(vmid)?.config.get("lock").cloned().unwrap_or_default();
        if lock != "create" && lock != "clone" {
            continue;
        }
        for storage in server.storages.all() {
            for entry in server.storages.list(storage, Some("images"), Some(vmid)) {
                server.storages.remove(&Volume::parse(entry["volid"].as_str().unwrap_or_default())?)?;
            }
        }
        server.guests.remove(vmid)?;
    }
    Ok(())
}

/// Destroys a stopped guest and its disks in a task.
pub(crate) fn destroy(server: &Arc<Server>, who: &Identity, params: &Params) -> Result<String> {
    let vmid = vmid(params, "vmid")?;
    let guest = server.guests.load(vmid)?;
    guest.check_lock()?;
    if guest.config.get("protection").is_some_and(|on| on == "1") {
        return Err(ApiError::failed(format!("can't remove VM {vmid} - protection mode enabled")));
    }
    if power::is_running(server, vmid)? {
        return Err(ApiError::failed(format!("VM {vmid} is running - destroy failed")));
    }
    let unreferenced = params.get("destroy-unreferenced-disks").is_some_and(|on| on == "1");
    let lab = Arc::clone(server);
    server.tasks.spawn(who, "qmdestroy", &vmid.to_string(), move |log| {
        let lock = lab.guests.lock(vmid);
        let _held = lock.take()?;
        let guest = lab.guests.load(vmid)?;
        if power::is_running(&lab, vmid)? {
            return Err(ApiError::failed(format!("VM {vmid} is running - destroy failed")));
        }
        remove(&lab, vmid, &guest, unreferenced, log)
    })
}

fn remove(server: &Server, vmid: u32, guest: &Guest, unreferenced: bool, log: &Log) -> Result<()> {
    let texts = guest.config.iter().chain(&guest.pending);
    let mut volumes: Vec<Volume> = Vec::new();
    for (key, text) in texts {
        let volume = if drives::is_drive(key) {
            Drive::parse(server, key, text)?.volume()
        } else if drives::is_unused(key) {
            Volume::parse(text).ok()
        } else {
            None
        };
        volumes.extend(volume.filter(|volume| volume.vmid == Some(vmid)));
    }
    if let Some(base) = volumes.iter().find(|volume| !server.storages.clones_of(volume).is_empty()) {
        let text = format!("base volume '{}' is still in use by linked cloned", base.id());
        return Err(ApiError::failed(text));
    }
    if unreferenced {
        for storage in server.storages.all() {
            let listed = server.storages.list(storage, Some("images"), Some(vmid));
            volumes.extend(listed.iter().filter_map(|entry| Volume::parse(entry["volid"].as_str()?).ok()));
        }
    }
    power::forget(server, vmid)?;
    for volume in volumes {
        if let Err(error) = server.storages.remove(&volume) {
            log.say(format!("Could not remove disk '{}', check manually: {}", volume.id(), error.line()));
        }
    }
    server.guests.remove(vmid)
}

/// Reads a VMID that the schema has checked.
pub(crate) fn vmid(params: &Params, name: &str) -> Result<u32> {
    let wrong = || ApiError::parameter(name, "invalid format - value does not look like a valid VM ID\n");
    params.text(name).parse().map_err(|_| wrong())
}
