//! Drives of a running guest: media that are changed, and virtio disks that are plugged and unplugged.

use std::time::{Duration, Instant};

use serde_json::json;

use super::config::Config;
use super::drives::Drive;
use super::{power, qemu, qmp};
use crate::error::{ApiError, Result};
use crate::server::{Mode, Server};

/// How long a guest may take to let go of a disk.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns whether a running guest takes this drive's change at once; `new` is none where the drive goes.
pub(super) fn can(server: &Server, before: &Config, key: &str, new: Option<&str>) -> bool {
    let parse = |text: &str| Drive::parse(server, key, text).ok();
    let old = before.get(key).and_then(|text| parse(text));
    let new = new.and_then(parse);
    let medium = |drive: &Drive| drive.is_cdrom() && !drive.is_cloudinit();
    match (old, new) {
        (Some(old), Some(new)) => medium(&old) && medium(&new),
        (None, Some(new)) => is_virtio(key) && !new.is_cdrom(),
        (Some(_), None) => is_virtio(key),
        (None, None) => false,
    }
}

fn is_virtio(key: &str) -> bool {
    key.strip_prefix("virtio").is_some_and(|n| n.parse::<u8>().is_ok())
}

/// Makes the change in the guest; a recorded one has nothing to change in.
pub(super) fn change(server: &Server, vmid: u32, before: &Config, key: &str, new: Option<&str>) -> Result<()> {
    if server.mode == Mode::ApiOnly || before.get(key).map(String::as_str) == new {
        return Ok(());
    }
    let mut monitor = qmp::Qmp::connect(&power::qmp_socket(server, vmid))?;
    let Some(new) = new.map(|text| Drive::parse(server, key, text)).transpose()? else {
        return unplug(&mut monitor, key);
    };
    if !new.is_cdrom() {
        return plug(server, &mut monitor, key, &new);
    }
    if matches!(new.file.as_str(), "none" | "cdrom") {
        return monitor.run("eject", &json!({"id": key, "force": true})).map(drop);
    }
    let (_, path) = server.storages.existing(&new.file)?;
    let medium = json!({
        "id": key, "filename": path, "format": "raw", "force": true, "read-only-mode": "read-only",
    });
    monitor.run("blockdev-change-medium", &medium).map(drop)
}

fn plug(server: &Server, monitor: &mut qmp::Qmp, key: &str, drive: &Drive) -> Result<()> {
    let backend = qemu::backend(server, key, drive)?;
    // Only the monitor for people takes a drive as the command line does.
    let said = monitor.run("human-monitor-command", &json!({"command-line": format!("drive_add 0 \"{backend}\"")}))?;
    let said = said.as_str().unwrap_or_default().trim();
    if said != "OK" {
        return Err(ApiError::failed(format!("hotplug problem - adding drive failed: {said}")));
    }
    let mut device = json!({"driver": "virtio-blk-pci", "id": key, "drive": format!("drive-{key}")});
    if let Some(serial) = drive.options.get("serial") {
        device["serial"] = json!(crate::http::percent::decode(serial, false));
    }
    monitor.run("device_add", &device).map(drop).inspect_err(|_| {
        // The first error is the one to tell of.
        let _ = monitor.run("human-monitor-command", &json!({"command-line": format!("drive_del drive-{key}")}));
    })
}

/// The drive goes with its device.
fn unplug(monitor: &mut qmp::Qmp, key: &str) -> Result<()> {
    monitor.run("device_del", &json!({"id": key}))?;
    let begin = Instant::now();
    loop {
        let devices = monitor.run("qom-list", &json!({"path": "/machine/peripheral"}))?;
        if !devices.as_array().into_iter().flatten().any(|device| device["name"] == key) {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(ApiError::failed(format!(
                "hotplug problem - error unplugging device '{key}': the guest keeps it"
            )));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
