//! Cloning: of a template by overlays on its bases, or in full.

use std::sync::Arc;

use super::create::{identify, reserve, undo, vmid};
use super::drives::{self, Drive};
use super::{Config, Guest, power};
use crate::auth::Identity;
use crate::error::{ApiError, Result};
use crate::schema::Params;
use crate::server::Server;
use crate::storage::{Volume, size_text};
use crate::tasks::Log;

/// What a clone is to be.
struct Wish {
    from: u32,
    to: u32,
    full: bool,
    name: Option<String>,
    description: Option<String>,
    storage: Option<String>,
    format: Option<String>,
}

/// Clones a guest in a task and returns its UPID.
pub(crate) fn clone(server: &Arc<Server>, who: &Identity, params: &Params) -> Result<String> {
    let from = vmid(params, "vmid")?;
    let guest = server.guests.load(from)?;
    guest.check_lock()?;
    let elsewhere = params.get("target").filter(|node| *node != crate::server::NODE).map(|_| "target");
    let other = ["snapname", "pool"].into_iter().find(|name| params.get(name).is_some());
    if let Some(name) = elsewhere.or(other) {
        return Err(ApiError::not_implemented(format!("parameter '{name}' not implemented in pve-lab")));
    }
    let full = params.get("full").map_or(!guest.is_template(), |full| full == "1");
    for name in ["storage", "format"] {
        if !full && params.get(name).is_some() {
            return Err(ApiError::failed(format!("parameter '{name}' not allowed for linked clones")));
        }
    }
    if !full && !guest.is_template() {
        return Err(ApiError::failed("Linked clone feature is not supported for a VM that is no template"));
    }
    if let Some(storage) = params.get("storage") {
        server.storages.find_for(storage, "images")?;
    }
    if full && power::is_running(server, from)? {
        return Err(ApiError::not_implemented("clone of a running VM not implemented in pve-lab"));
    }
    let owned = |name: &str| params.get(name).map(str::to_owned);
    let wish = Wish {
        from,
        to: vmid(params, "newid")?,
        full,
        name: owned("name"),
        description: owned("description"),
        storage: owned("storage"),
        format: owned("format"),
    };
    let to = wish.to;
    reserve(server, to, "clone")
        .map_err(|_| ApiError::failed(format!("unable to create VM {to}: config file already exists")))?;
    let lab = Arc::clone(server);
    server.tasks.spawn(who, "qmclone", &from.to_string(), move |log| {
        let [source, target] = [from, to].map(|id| lab.guests.lock(id));
        let _held = source.take()?;
        let _held_too = if from == to { None } else { Some(target.take()?) };
        log.say(format!("creating a clone of VM {from} with ID {to}"));
        let mut made = Vec::new();
        let result = build(&lab, &wish, log, &mut made);
        if result.is_err() {
            undo(&lab, to, &made, log);
        }
        result.map_err(|error| ApiError::failed(format!("clone failed: {}", error.line())))
    })
}

fn build(server: &Server, wish: &Wish, log: &Log, made: &mut Vec<Volume>) -> Result<()> {
    let mut config = server.guests.load(wish.from)?.effective();
    let drives = drives::all(server, &config);
    for key in ["template", "smbios1", "parent", "lock"] {
        config.remove(key);
    }
    config.retain(|key, _| !drives::is_unused(key));
    for (key, drive) in drives {
        let text = copy(server, wish, &key, drive, log, made)?.text();
        config.insert(key, text);
    }
    rename(wish, &mut config);
    identify(&mut config)?;
    for key in (0..32).map(|n| format!("net{n}")) {
        if let Some(text) = config.get(&key) {
            let mut card = super::config::card(server.release, &key, text)?;
            card.remove("macaddr");
            let model = card.remove("model").unwrap_or_else(|| "virtio".into());
            let rest: String = card.iter().map(|(key, value)| format!(",{key}={value}")).collect();
            config.insert(key, format!("{model}{rest}"));
        }
    }
    super::config::normalise(server.release, &mut config)?;
    server.guests.save(wish.to, &Guest { config, ..Guest::default() })
}

fn rename(wish: &Wish, config: &mut Config) {
    let source = config.get("name").cloned().unwrap_or_else(|| wish.from.to_string());
    let name = wish.name.clone().unwrap_or_else(|| format!("Copy-of-VM-{source}"));
    config.insert("name".into(), name);
    if let Some(description) = &wish.description {
        config.insert("description".into(), description.clone());
    }
}

fn copy(server: &Server, wish: &Wish, key: &str, drive: Drive, log: &Log, made: &mut Vec<Volume>) -> Result<Drive> {
    let Some(volume) = drive.volume().filter(|volume| volume.kind == "images") else { return Ok(drive) };
    let (disks, mut drive) = (server.storages.disks, drive);
    let path = server.storages.path(&volume);
    let info = disks.info(&path)?;
    let storage = wish.storage.clone().unwrap_or_else(|| volume.storage.clone());
    let to = if drive.is_cloudinit() {
        let format = wish.format.as_deref().unwrap_or(volume.format());
        log.say(format!("create full clone of drive {key} ({})", volume.id()));
        let to = Volume::image(&storage, wish.to, &format!("vm-{}-cloudinit.{format}", wish.to));
        log.say(disks.create(&server.storages.path(&to), format, info.size)?);
        to
    } else if wish.full {
        let format = wish.format.as_deref().unwrap_or(volume.format());
        log.say(format!("create full clone of drive {key} ({})", volume.id()));
        let to = server.storages.free_name(&storage, wish.to, format);
        made.push(to.clone());
        disks.convert(&path, &server.storages.path(&to), format)?;
        to
    } else {
        let base = format!("{}/{}", wish.from, volume.file);
        log.say(format!("create linked clone of drive {key} ({})", volume.id()));
        let mut to = server.storages.free_name(&storage, wish.to, "qcow2");
        to.base = Some(base.clone());
        log.say(disks.overlay(&server.storages.path(&to), &format!("../{base}"), &info.format, info.size)?);
        to
    };
    drive.file = to.id();
    made.push(to);
    drive.options.insert("size".into(), size_text(info.size));
    Ok(drive)
}
