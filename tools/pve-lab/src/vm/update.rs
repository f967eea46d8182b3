//! Changing guests: options set, deleted and reverted; disks grown; templates made.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::{self, Config, IMMEDIATE};
use super::create::vmid;
use super::drives::{self, Drive};
use super::{Guest, hotplug, power, qmp};
use crate::auth::Identity;
use crate::error::{ApiError, Result};
use crate::schema::Params;
use crate::server::{Mode, Server};
use crate::storage::{Volume, bytes, size_text};
use crate::tasks::Log;

/// Parameters of an update that are no options of the guest.
const NOT_OPTIONS: [&str; 9] =
    ["node", "vmid", "digest", "delete", "revert", "force", "skiplock", "background_delay", "import-working-storage"];

/// One request to change a guest.
struct Change {
    set: Config,
    delete: Vec<String>,
    revert: Vec<String>,
    digest: Option<String>,
    force: bool,
}

fn words(text: Option<&str>) -> Vec<String> {
    let split = text.unwrap_or_default().split([',', ';', ' ', '\0']);
    split.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

impl Change {
    fn read(server: &Server, who: &Identity, params: &Params) -> Result<Self> {
        let (mut delete, revert) = (words(params.get("delete")), words(params.get("revert")));
        let mut set = params.0.clone();
        set.retain(|key, _| !NOT_OPTIONS.contains(&key.as_str()));
        if params.flag("skiplock") && !who.is_root() {
            return Err(ApiError::parameter("skiplock", "Only root may use this option."));
        }
        if set.is_empty() && delete.is_empty() && revert.is_empty() {
            return Err(ApiError::failed("no options specified"));
        }
        for (name, keys) in [("delete", &delete), ("revert", &revert)] {
            for key in keys {
                if set.contains_key(key) {
                    let text = format!("you can't use '-{key}' and -{name} {key}' at the same time");
                    return Err(ApiError::parameter(name, text));
                }
                if server.release.guest_option(key).is_none() || key == "vmid" {
                    return Err(ApiError::parameter(name, format!("unknown option '{key}'")));
                }
            }
        }
        if !who.is_root() {
            config::check_root_only(&set)?;
        }
        if let Some(script) = set.get("hookscript") {
            let text = format!("script '{script}' does not exist\n");
            return Err(ApiError::parameter("hookscript", text));
        }
        config::normalise(server.release, &mut set)?;
        if set.get("description").is_some_and(String::is_empty) {
            set.remove("description");
            delete.push("description".into());
        }
        if let Some(password) = set.get_mut("cipassword") {
            *password = super::cloudinit::hash_password(password)?;
        }
        let digest = params.get("digest").map(str::to_owned);
        Ok(Self { set, delete, revert, digest, force: params.flag("force") })
    }
}

/// Changes a guest at once, as PUT does.
pub(crate) fn put(server: &Server, who: &Identity, params: &Params) -> Result<Value> {
    let vmid = vmid(params, "vmid")?;
    let change = Change::read(server, who, params)?;
    apply(server, vmid, change, None)?;
    Ok(Value::Null)
}

/// Changes a guest in a task, as POST does; with a delay it answers null if the task ended well by then.
pub(crate) fn post(server: &Arc<Server>, who: &Identity, params: &Params) -> Result<Value> {
    let vmid = vmid(params, "vmid")?;
    let change = Change::read(server, who, params)?;
    server.guests.load(vmid)?;
    let lab = Arc::clone(server);
    let upid =
        server.tasks.spawn(who, "qmconfig", &vmid.to_string(), move |log| apply(&lab, vmid, change, Some(log)))?;
    if let Some(delay) = params.number("background_delay") {
        match server.tasks.wait(&upid, Duration::from_secs(delay)) {
            Some(status) if status == "OK" => return Ok(Value::Null),
            Some(status) => return Err(ApiError::failed(status)),
            None => {}
        }
    }
    Ok(json!(upid))
}

fn apply(server: &Server, vmid: u32, change: Change, log: Option<&Log>) -> Result<()> {
    let lock = server.guests.lock(vmid);
    let _held = lock.take()?;
    let mut guest = server.guests.load(vmid)?;
    config::check_digest(&guest, change.digest.as_deref())?;
    guest.check_lock()?;
    check(server, &guest, &change)?;
    if let Some(log) = log {
        let shown = |key: &str, value: &str| if key == "cipassword" { "<hidden>".to_owned() } else { value.to_owned() };
        let set: String = change.set.iter().map(|(key, value)| format!(" -{key} {}", shown(key, value))).collect();
        log.say(format!("update VM {vmid}:{set}"));
    }
    for key in &change.revert {
        guest.pending.remove(key);
        guest.delete.retain(|own| own != key);
    }
    for key in &change.delete {
        guest.pending.remove(key);
        if guest.config.contains_key(key) && !guest.delete.contains(key) {
            guest.delete.push(key.clone());
        }
        drop_from_boot(&mut guest, key);
    }
    for (key, value) in change.set {
        let text = if drives::is_drive(&key) {
            let drive = Drive::parse(server, &key, &value)?.realise(server, vmid, &key, log)?.0;
            add_to_boot(server, &mut guest, &key, &drive);
            drive.text()
        } else {
            value
        };
        guest.delete.retain(|own| *own != key);
        guest.pending.insert(key, text);
    }
    settle(server, vmid, &mut guest, change.force)?;
    server.guests.save(vmid, &guest)
}

/// Checks a change against the guest before anything is made.
fn check(server: &Server, guest: &Guest, change: &Change) -> Result<()> {
    let disk = |key: &&String| drives::is_drive(key) || drives::is_unused(key);
    let protected = guest.config.get("protection").is_some_and(|on| on == "1");
    if let Some(key) = change.delete.iter().find(disk).filter(|_| protected) {
        return Err(ApiError::failed(format!("can't remove drive '{key}' - protection mode enabled")));
    }
    let effective = guest.effective();
    for (key, value) in change.set.iter().filter(|(key, _)| drives::is_drive(key)) {
        let drive = Drive::parse(server, key, value)?;
        drive.check(server, key)?;
        let other = drives::all(server, &effective).into_iter().find(|(own, old)| own != key && old.is_cloudinit());
        if let Some((own, _)) = other.filter(|_| drive.is_cloudinit()) {
            return Err(ApiError::failed(format!("{key} - cloud-init drive is already attached at '{own}'")));
        }
    }
    let mut after = effective;
    after.extend(change.set.clone());
    let balloon = change.set.get("balloon").and_then(|text| text.parse::<u64>().ok());
    if balloon.is_some_and(|balloon| balloon > config::memory(&after)) {
        return Err(ApiError::failed("balloon value too large (must be smaller than assigned memory)"));
    }
    Ok(())
}

fn drop_from_boot(guest: &mut Guest, key: &str) {
    let effective = guest.effective();
    let mut order = drives::boot_order(&effective);
    if order.iter().any(|own| own == key) {
        order.retain(|own| own != key);
        guest.pending.insert("boot".into(), drives::boot_text(order));
    }
}

/// Proxmox makes a new CD-ROM bootable, as the last device, when there is a boot order at all.
fn add_to_boot(server: &Server, guest: &mut Guest, key: &str, drive: &Drive) {
    let effective = guest.effective();
    let before = effective.get(key).and_then(|text| Drive::parse(server, key, text).ok());
    let was_cdrom = before.is_some_and(|drive| drive.is_cdrom());
    let mut order = drives::boot_order(&effective);
    if drive.is_cdrom()
        && !drive.is_cloudinit()
        && !was_cdrom
        && !order.is_empty()
        && !order.iter().any(|own| own == key)
    {
        order.push(key.to_owned());
        guest.pending.insert("boot".into(), drives::boot_text(order));
    }
}

/// Makes pending changes so: all of a stopped guest's, of a running one's those that need no restart.
pub(crate) fn settle(server: &Server, vmid: u32, guest: &mut Guest, force: bool) -> Result<()> {
    let running = power::is_running(server, vmid)?;
    let before = guest.config.clone();
    let hot = |key: &str, new: Option<&str>| running && hotplug::can(server, &before, key, new);
    let now =
        |key: &str, new: Option<&str>| !running || IMMEDIATE.contains(&key) || drives::is_unused(key) || hot(key, new);
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut guest.delete).into_iter().partition(|key| now(key, None));
    guest.delete = kept;
    for key in gone {
        if let Some(text) = guest.config.remove(&key) {
            if hot(&key, None) {
                hotplug::change(server, vmid, &before, &key, None)?;
            }
            detach(server, vmid, guest, &key, &text, force)?;
        }
    }
    let (set, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut guest.pending).into_iter().partition(|(key, value)| now(key, Some(value)));
    // A value that is so already is not pending.
    guest.pending = kept.into_iter().filter(|(key, value)| guest.config.get(key) != Some(value)).collect();
    for (key, value) in set {
        if hot(&key, Some(&value)) {
            hotplug::change(server, vmid, &before, &key, Some(&value))?;
        }
        let new = if drives::is_drive(&key) { Drive::parse(server, &key, &value)?.volume() } else { None };
        if let Some(volume) = new {
            let id = volume.id();
            guest.config.retain(|own, text| !drives::is_unused(own) || *text != id);
            let old = guest.config.remove(&key);
            let same = |text: &String| Drive::parse(server, &key, text).is_ok_and(|drive| drive.file == id);
            if let Some(text) = old.filter(|text| !same(text)) {
                detach(server, vmid, guest, &key, &text, false)?;
            }
        }
        guest.config.insert(key, value);
    }
    Ok(())
}

/// Lets go of what an option named: a disk stays as `unusedN` unless forced, an unused or cloud-init volume goes.
fn detach(server: &Server, vmid: u32, guest: &mut Guest, key: &str, text: &str, force: bool) -> Result<()> {
    if !(drives::is_drive(key) || drives::is_unused(key)) {
        return Ok(());
    }
    let drive = Drive::parse(server, key, text)?;
    let file = if drives::is_unused(key) { text } else { &drive.file };
    let Ok(volume) = Volume::parse(file) else { return Ok(()) };
    if volume.kind != "images" || volume.vmid != Some(vmid) {
        return Ok(());
    }
    let elsewhere = drives::all(server, &guest.effective()).iter().any(|(_, other)| other.file == *file);
    if elsewhere {
        return Ok(());
    }
    if force || drives::is_unused(key) || drive.is_cloudinit() {
        return server.storages.remove(&volume).map(drop);
    }
    drives::add_unused(&mut guest.config, &volume);
    Ok(())
}

/// Grows a disk in a task.
pub(crate) fn resize(server: &Arc<Server>, who: &Identity, params: &Params) -> Result<String> {
    let vmid = vmid(params, "vmid")?;
    config::check_digest(&server.guests.load(vmid)?, params.get("digest"))?;
    let (disk, size) = (params.text("disk").to_owned(), params.text("size").to_owned());
    let lab = Arc::clone(server);
    server.tasks.spawn(who, "resize", &vmid.to_string(), move |log| grow(&lab, vmid, &disk, &size, log))
}

fn grow(server: &Server, vmid: u32, disk: &str, size: &str, log: &Log) -> Result<()> {
    let lock = server.guests.lock(vmid);
    let _held = lock.take()?;
    let mut guest = server.guests.load(vmid)?;
    guest.check_lock()?;
    let text = guest.config.get(disk).filter(|_| drives::is_drive(disk));
    let text = text.ok_or_else(|| ApiError::failed(format!("disk '{disk}' does not exist")))?;
    let mut drive = Drive::parse(server, disk, text)?;
    if drive.is_cdrom() {
        return Err(ApiError::failed("can't resize a cdrom"));
    }
    let (_, path) = server.storages.existing(&drive.file)?;
    let now = server.storages.disks.info(&path)?.size;
    let wrong = || ApiError::failed(format!("'{size}' is no size"));
    let wanted = match size.strip_prefix('+') {
        Some(more) => now + bytes(more, 1).ok_or_else(wrong)?,
        None => bytes(size, 1).ok_or_else(wrong)?,
    };
    if wanted < now {
        return Err(ApiError::failed("shrinking disks is not supported"));
    }
    if guest.is_template() {
        return Err(ApiError::failed(format!("'{}' is a base and can't be resized", path.display())));
    }
    if server.mode == Mode::Real && power::is_running(server, vmid)? {
        let arguments = json!({"device": format!("drive-{disk}"), "size": wanted});
        qmp::Qmp::connect(&power::qmp_socket(server, vmid))?.run("block_resize", &arguments)?;
        log.say("Image resized.");
    } else {
        log.say(server.storages.disks.resize(&path, wanted)?);
    }
    drive.options.insert("size".into(), size_text(wanted));
    guest.config.insert(disk.to_owned(), drive.text());
    server.guests.save(vmid, &guest)
}

/// Makes a stopped guest a template, in a task.
pub(crate) fn template(server: &Arc<Server>, who: &Identity, params: &Params) -> Result<String> {
    let vmid = vmid(params, "vmid")?;
    let guest = server.guests.load(vmid)?;
    guest.check_lock()?;
    if guest.is_template() {
        return Err(ApiError::failed("you can't convert a template to a template"));
    }
    if power::is_running(server, vmid)? {
        return Err(ApiError::failed("you can't convert a VM to template if VM is running"));
    }
    let lab = Arc::clone(server);
    server.tasks.spawn(who, "qmtemplate", &vmid.to_string(), move |_| {
        let lock = lab.guests.lock(vmid);
        let _held = lock.take()?;
        let mut guest = lab.guests.load(vmid)?;
        drives::make_bases(&lab, vmid, &mut guest.config)?;
        lab.guests.save(vmid, &guest)
    })
}
