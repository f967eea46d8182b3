//! Tap devices: one for each of a guest's network cards, on its bridge.

use remote::local::Command;

use crate::error::{ApiError, Result, host};

fn ip(lines: &str) -> Result<()> {
    Command::new("ip").args(["-batch", "-"]).stdin(lines).run().map(drop).map_err(host("can't set up the network"))
}

/// Returns a card's tap, named as Proxmox names it.
pub(super) fn name(vmid: u32, card: u32) -> String {
    format!("tap{vmid}i{card}")
}

/// Makes a tap on a bridge. One that a guest left behind when it ended by itself is removed first.
pub(super) fn add(tap: &str, bridge: &str) -> Result<()> {
    if !exists(bridge) {
        return Err(ApiError::failed(format!("bridge '{bridge}' does not exist")));
    }
    if exists(tap) {
        remove(tap)?;
    }
    ip(&format!("tuntap add dev {tap} mode tap\nlink set dev {tap} master {bridge}\nlink set dev {tap} up\n"))
}

/// Removes a tap, if it is there.
pub(super) fn remove(tap: &str) -> Result<()> {
    if exists(tap) { ip(&format!("link del dev {tap}\n")) } else { Ok(()) }
}

fn exists(device: &str) -> bool {
    // The server's namespace may have another /sys mounted than its own, so the question goes to the kernel.
    Command::new("ip").args(["link", "show", "dev", device]).output().is_ok_and(|output| output.status == 0)
}
