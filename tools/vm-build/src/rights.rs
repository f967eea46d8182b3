//! What the API token must be allowed, and whether it is: asked before anything is changed.

use std::collections::BTreeMap;

use anyhow::Result;
use converge::Failure;
use pve::Client;

use crate::api::explain;
use crate::wanted::Wanted;

/// What each template and guest takes, on `/vms/VMID`.
pub const VM: [&str; 11] = [
    "VM.Allocate",
    "VM.Audit",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
];
/// What lets the agent read a file in the guest: release 9 has its own privilege for it, release 8 one for all of the
/// agent.
pub const AGENT: &str = "VM.GuestAgent.FileRead|VM.GuestAgent.Unrestricted|VM.Monitor";
/// What images, disks and seeds take, on `/storage/NAME`.
pub const STORAGE: [&str; 3] = ["Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate"];
/// What a network card takes, on its bridge.
pub const BRIDGE: &str = "SDN.Use";
/// What a device of the host takes, on its mapping.
pub const MAPPING: &str = "Mapping.Use";

/// What is given, by path, as `GET /access/permissions` answers.
pub type Given = BTreeMap<String, BTreeMap<String, u8>>;

/// Refuses where the token lacks something that this host's templates and guests take.
///
/// # Errors
/// A refusal that names every path and privilege; what the API answers.
pub fn check(client: &Client, wanted: &Wanted) -> Result<()> {
    let given = client.permissions().map_err(|error| explain(&wanted.host, error))?;
    let missing = missing(&given, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let lines = missing.iter().map(|(path, privilege)| format!("\n    {path}: {}", words(privilege)));
    let text = format!("{}: the API token {} lacks{}", wanted.host, client.token_name(), lines.collect::<String>());
    Err(Failure::refused(text).hint(mend(&missing)).into())
}

fn words(privilege: &str) -> String {
    privilege.replace('|', " or ")
}

/// Says how to give what is missing.
pub fn mend(missing: &[(String, String)]) -> String {
    let mut names: Vec<&str> =
        missing.iter().map(|(_, privilege)| privilege.split('|').next().unwrap_or_default()).collect();
    names.sort_unstable();
    names.dedup();
    let mut paths: Vec<&str> = missing.iter().map(|(path, _)| place(path)).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut text = format!("on the node: pveum role modify Hearth --append 1 --privs {}", names.join(","));
    if names.contains(&"VM.GuestAgent.FileRead") {
        text += "\n        (on Proxmox VE 8: VM.Monitor in place of VM.GuestAgent.FileRead)";
    }
    for path in paths {
        text += &format!(
            "\n        and, where {path} has no such role yet: pveum acl modify {path} --roles Hearth --users \
             hearth@pve --tokens 'hearth@pve!hearth'"
        );
    }
    text + "\n        (docs/trust.md has the role, the user and the token)"
}

/// Returns the path on which people give it: all VMs for one of them.
fn place(path: &str) -> &str {
    if path.starts_with("/vms/") { "/vms" } else { path }
}

/// Returns the pairs of path and privilege that are not given. A `|` stands between privileges of which one will do.
pub fn missing(given: &Given, wanted: &Wanted) -> Vec<(String, String)> {
    let mut needs: Vec<(String, &str)> = Vec::new();
    for vmid in wanted.numbers() {
        needs.extend(VM.iter().chain([&AGENT]).map(|privilege| (format!("/vms/{vmid}"), *privilege)));
    }
    needs.extend(STORAGE.iter().map(|privilege| (format!("/storage/{}", wanted.storage), *privilege)));
    for mapping in wanted.guests.iter().flat_map(|guest| &guest.state.pci) {
        needs.push((format!("/mapping/pci/{mapping}"), MAPPING));
    }
    let mut missing: Vec<(String, String)> = needs
        .into_iter()
        .filter(|(path, privilege)| !has(given, path, privilege))
        .map(|(path, privilege)| (path, privilege.to_owned()))
        .collect();
    // A bridge of the node's own is in the zone `localnetwork`; a VNet is in another one, which the site does not name.
    let end = format!("/{}", wanted.bridge);
    let elsewhere = given
        .iter()
        .any(|(path, own)| path.starts_with("/sdn/zones/") && path.ends_with(&end) && own.contains_key(BRIDGE));
    let bridge = format!("/sdn/zones/localnetwork/{}", wanted.bridge);
    if !elsewhere && !has(given, &bridge, BRIDGE) {
        missing.push((bridge, BRIDGE.to_owned()));
    }
    missing
}

/// Tells whether one of the privileges is given on a path: there, or on the nearest one above that is listed, where it
/// holds below that too.
fn has(given: &Given, path: &str, privileges: &str) -> bool {
    let one = |own: &BTreeMap<String, u8>, below: bool| {
        privileges.split('|').any(|name| own.get(name).is_some_and(|propagates| !below || *propagates == 1))
    };
    if let Some(own) = given.get(path) {
        return one(own, false);
    }
    let mut above = path;
    while let Some((parent, _)) = above.rsplit_once('/') {
        above = parent;
        if let Some(own) = given.get(if above.is_empty() { "/" } else { above }) {
            return one(own, true);
        }
        if above.is_empty() {
            break;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privilege_holds_below_its_path_where_it_propagates() {
        let own = |name: &str, below| [(name.to_owned(), below)].into();
        let given: Given = [
            ("/vms".to_owned(), own("VM.Audit", 1)),
            ("/vms/102".to_owned(), own("VM.Clone", 0)),
            ("/storage".to_owned(), own("Datastore.Allocate", 0)),
        ]
        .into();
        assert!(has(&given, "/vms/101", "VM.Audit") && has(&given, "/vms/101", "VM.Monitor|VM.Audit"));
        assert!(!has(&given, "/vms/102", "VM.Audit") && has(&given, "/vms/102", "VM.Clone"));
        assert!(!has(&given, "/storage/local", "Datastore.Allocate"));
        assert!(!has(&Given::new(), "/vms/101", "VM.Audit"));
        assert!(has(&[("/".to_owned(), own("SDN.Use", 1))].into(), "/sdn/zones/localnetwork/vmbr0", "SDN.Use"));
    }

    #[test]
    fn the_mend_is_a_command() {
        let missing = [("/vms/101", "VM.Clone"), ("/vms/111", "VM.Clone"), ("/vms/111", AGENT)];
        let missing = missing.map(|(path, privilege)| (path.to_owned(), privilege.to_owned()));
        let text = mend(&missing);
        let first = "on the node: pveum role modify Hearth --append 1 --privs VM.Clone,VM.GuestAgent.FileRead\n";
        assert!(text.starts_with(first), "{text}");
        assert_eq!(text.matches("pveum acl modify /vms ").count(), 1, "{text}");
    }
}
