//! Which disk is meant, and whether it may be taken.

use converge::Failure;
use site::{Name, PoolDevice, Size};

use crate::attempt::LEFTOVER;
use crate::observed::{Device, Observed};

const BY_ID: &str = "/dev/disk/by-id/";

/// A device that was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// The name that stays the same over boots, for `zpool create`.
    pub(crate) path: String,
    /// The device's node at this time, as `/dev/sda`.
    pub(crate) node: String,
}

/// Finds the one device that the inventory means.
///
/// # Errors
/// A refusal where there is none, or more than one could be meant.
pub(crate) fn locate(host: &Name, device: &PoolDevice, seen: &Observed) -> Result<Located, Failure> {
    match device {
        PoolDevice::LogicalVolume(volume) => {
            let path = format!("/dev/{volume}");
            let node = seen.links.get(&path).cloned();
            let node = node.ok_or_else(|| Failure::refused(format!("{host} has no {path}, though the volume exists")));
            node.map(|node| Located { path, node })
                .map_err(|failure| failure.hint(format!("activate it: lvchange -ay {volume}")))
        }
        PoolDevice::DiskId(id) => by_id(host, id, seen),
        PoolDevice::DiskSerial(serial) => by_serial(host, serial, seen),
    }
}

fn by_id(host: &Name, id: &str, seen: &Observed) -> Result<Located, Failure> {
    let path = format!("{BY_ID}{id}");
    let Some(node) = seen.links.get(&path) else {
        let message = format!("{host} has no disk {path}; there are: {}", ids(seen));
        return Err(Failure::refused(message).hint("put one of these into the inventory, if it is the disk you mean"));
    };
    let disk = seen.device(node).filter(|device| device.kind == "disk");
    let disk = disk.ok_or_else(|| Failure::refused(format!("{path} of {host} is {node}, which is no whole disk")))?;
    if let Some(serial) = &disk.serial {
        only_one(host, &path, with_serial(seen, serial))?;
    }
    Ok(Located { path, node: node.clone() })
}

fn by_serial(host: &Name, serial: &str, seen: &Observed) -> Result<Located, Failure> {
    let disks = with_serial(seen, serial);
    let Some(disk) = disks.first() else {
        let message = format!("{host} has no disk with the serial {serial}; there are: {}", serials(seen));
        return Err(Failure::refused(message).hint("put one of these into the inventory, if it is the disk you mean"));
    };
    let node = disk.node.clone();
    only_one(host, &format!("the serial {serial}"), disks)?;
    let path = seen.links.iter().find(|(link, target)| link.starts_with(BY_ID) && **target == node);
    let (path, _) = path.ok_or_else(|| {
        Failure::refused(format!("{node} of {host} has no name below {BY_ID}, and {node} may be another disk tomorrow"))
    })?;
    Ok(Located { path: path.clone(), node })
}

/// Disks of one serial would share one name below by-id, and which of them has it changes from boot to boot.
fn only_one(host: &Name, what: &str, disks: Vec<&Device>) -> Result<(), Failure> {
    if disks.len() < 2 {
        return Ok(());
    }
    let names: Vec<String> = disks.into_iter().map(describe).collect();
    let message = format!("{what} of {host} is ambiguous: {} have the same serial", names.join(" and "));
    Err(Failure::refused(message).hint("take one of them out, or name another disk"))
}

fn with_serial<'a>(seen: &'a Observed, serial: &str) -> Vec<&'a Device> {
    seen.devices.iter().filter(|device| device.kind == "disk" && device.serial.as_deref() == Some(serial)).collect()
}

fn describe(device: &Device) -> String {
    format!("{} ({})", device.path, Size::from_bytes(device.bytes))
}

fn ids(seen: &Observed) -> String {
    let whole = |node: &str| seen.device(node).is_some_and(|device| device.kind == "disk");
    let names = seen.links.iter().filter(|(link, node)| link.starts_with(BY_ID) && whole(node));
    let names: Vec<String> = names
        .map(|(link, node)| format!("{} ({})", &link[BY_ID.len()..], seen.device(node).map_or(node.clone(), describe)))
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn serials(seen: &Observed) -> String {
    let disks = seen.devices.iter().filter(|device| device.kind == "disk");
    let named = |device: &Device| Some(format!("{} on {}", device.serial.as_ref()?, describe(device)));
    let names: Vec<String> = disks.filter_map(named).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Makes sure that nothing is on a device, or nothing but what an unfinished `zpool create` of ours has left: true then.
///
/// # Errors
/// A refusal that names all that was found.
pub(crate) fn blank(host: &Name, located: &Located, seen: &Observed) -> Result<bool, Failure> {
    let Located { path, node } = located;
    let looked = seen.found.get(path).or_else(|| seen.found.get(node));
    let signatures = looked.ok_or_else(|| Failure::refused(format!("{path} of {host} was not looked at")))?;
    let leftover = signatures.iter().any(|found| found == LEFTOVER);
    let mut holds: Vec<String> = signatures.iter().filter(|found| *found != LEFTOVER).cloned().collect();
    let own = |device: &&Device| device.node == *node || device.parent.as_deref() == Some(node);
    let in_use = |device: &Device| device.format.is_some() || !device.mounts.is_empty();
    if leftover && !seen.devices.iter().filter(own).any(in_use) {
        return Ok(true);
    }
    for device in &seen.devices {
        let inside = device.parent.as_deref() == Some(node);
        if !inside && device.node != *node {
            continue;
        }
        if inside {
            let format = device.format.as_ref().map(|format| format!(" with {format}")).unwrap_or_default();
            holds.push(format!("{} {}{format}", device.kind, device.path));
        }
        holds.extend(device.mounts.iter().map(|mount| format!("a mount at {mount}")));
    }
    if holds.is_empty() {
        return Ok(false);
    }
    let size = seen.device(node).map(|device| format!(", {}", Size::from_bytes(device.bytes))).unwrap_or_default();
    let message = format!("{path} of {host} ({node}{size}) is not blank: it holds {}", holds.join(", "));
    Err(Failure::refused(message)
        .hint(format!("name another disk; or, if nothing on it is needed any more, empty it: wipefs --all {path}")))
}

/// Tells whether a pool's device is this one, or a partition of it.
pub(crate) fn is_on(device: &str, located: &Located, seen: &Observed) -> bool {
    let parent = || seen.device(device)?.parent.as_deref();
    device == located.node || parent() == Some(located.node.as_str())
}
