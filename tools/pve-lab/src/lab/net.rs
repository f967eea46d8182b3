//! The lab's wire: a network namespace with a bridge, which is also the gateway's address and the API's.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use remote::local::Command;

use super::Error;

/// The bridge's address, on which the API listens.
pub(crate) const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The same as text.
pub(crate) const GATEWAY: &str = "192.168.1.1";
/// The bridge that guests are on.
pub(crate) const BRIDGE: &str = "vmbr0";

/// Returns the file that keeps a namespace alive, as ip-netns(8) names it.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Returns whether the namespace is there.
pub(crate) fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Makes the namespace and its bridge. A bridge with spanning tree or a forward delay would swallow a guest's first
/// half minute of packets; both are off.
pub(crate) fn make(name: &str) -> Result<(), Error> {
    Command::new("ip").args(["netns", "add", name]).run()?;
    let lines = format!(
        "link set lo up\nlink add {BRIDGE} type bridge stp_state 0 forward_delay 0\n\
         addr add {GATEWAY}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
    );
    batch(name, &lines)
}

/// Makes a tap on the bridge for the node guest, unless it is there.
pub(crate) fn tap(name: &str, tap: &str) -> Result<(), Error> {
    let there = Command::new("ip").args(["-n", name, "link", "show", "dev", tap]).output()?.status == 0;
    if there {
        return Ok(());
    }
    batch(name, &format!("tuntap add dev {tap} mode tap\nlink set dev {tap} master {BRIDGE}\nlink set dev {tap} up\n"))
}

/// Removes the namespace with all that is in it.
pub(crate) fn remove(name: &str) -> Result<(), Error> {
    Ok(Command::new("ip").args(["netns", "del", name]).run().map(drop)?)
}

fn batch(name: &str, lines: &str) -> Result<(), Error> {
    Ok(Command::new("ip").args(["-n", name, "-batch", "-"]).stdin(lines).run().map(drop)?)
}
