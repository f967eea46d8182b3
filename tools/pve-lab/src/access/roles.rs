//! The privileges of a release, and the roles that Proxmox VE makes of them itself (pve-access-control's
//! `AccessControl.pm`, `create_roles`).

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::Release;

/// Privileges of one subject: those of root alone, and those that administrators, users and auditors get.
struct Group {
    name: &'static str,
    root: &'static [&'static str],
    admin: &'static [&'static str],
    user: &'static [&'static str],
    audit: &'static [&'static str],
}

const GROUPS: [Group; 7] = [
    Group {
        name: "VM",
        root: &[],
        admin: &[
            "VM.Allocate",
            "VM.Clone",
            "VM.Config.CPU",
            "VM.Config.Disk",
            "VM.Config.HWType",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
            "VM.Migrate",
            "VM.Snapshot",
            "VM.Snapshot.Rollback",
        ],
        user: &["VM.Backup", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Console", "VM.PowerMgmt"],
        audit: &["VM.Audit"],
    },
    Group {
        name: "Sys",
        root: &["Sys.AccessNetwork", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt"],
        admin: &["Sys.Console", "Sys.Syslog"],
        user: &[],
        audit: &["Sys.Audit"],
    },
    Group {
        name: "Datastore",
        root: &[],
        admin: &["Datastore.Allocate", "Datastore.AllocateTemplate"],
        user: &["Datastore.AllocateSpace"],
        audit: &["Datastore.Audit"],
    },
    Group { name: "SDN", root: &[], admin: &["SDN.Allocate", "SDN.Audit"], user: &["SDN.Use"], audit: &["SDN.Audit"] },
    Group {
        name: "User",
        root: &["Realm.Allocate"],
        admin: &["Group.Allocate", "Realm.AllocateUser", "User.Modify"],
        user: &[],
        audit: &[],
    },
    Group { name: "Pool", root: &[], admin: &["Pool.Allocate"], user: &["Pool.Audit"], audit: &["Pool.Audit"] },
    Group { name: "Mapping", root: &[], admin: &["Mapping.Modify"], user: &["Mapping.Use"], audit: &["Mapping.Audit"] },
];

/// What VM administrators and auditors have beside that: release 9 took `VM.Monitor` apart.
fn vm_extra(release: Release) -> (&'static [&'static str], &'static [&'static str]) {
    match release {
        Release::V8 => (&["VM.Monitor"], &[]),
        Release::V9 => (
            &[
                "VM.GuestAgent.FileRead",
                "VM.GuestAgent.FileSystemMgmt",
                "VM.GuestAgent.FileWrite",
                "VM.GuestAgent.Unrestricted",
                "VM.Replicate",
            ],
            &["VM.GuestAgent.Audit"],
        ),
    }
}

type Set = BTreeSet<&'static str>;

fn parts(release: Release, group: &Group) -> [Set; 4] {
    let (admin, audit) = if group.name == "VM" { vm_extra(release) } else { (&[][..], &[][..]) };
    let set = |base: &[&'static str], more: &[&'static str]| base.iter().chain(more).copied().collect();
    [set(group.root, &[]), set(group.admin, admin), set(group.user, &[]), set(group.audit, audit)]
}

/// Returns every privilege of a release.
pub(crate) fn privileges(release: Release) -> BTreeSet<&'static str> {
    let mut all: BTreeSet<&'static str> = GROUPS.iter().flat_map(|group| parts(release, group)).flatten().collect();
    all.insert("Permissions.Modify");
    all
}

/// Returns the roles that are always there and can't be changed.
pub(crate) fn builtin(release: Release) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut roles: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    let mut give = |role: String, privileges: &Set| roles.entry(role).or_default().extend(privileges);
    for group in &GROUPS {
        let [_, admin, user, audit] = parts(release, group);
        for set in [&admin, &user, &audit] {
            give(format!("PVE{}Admin", group.name), set);
            give("PVEAdmin".into(), set);
        }
        if !user.is_empty() {
            give(format!("PVE{}User", group.name), &user);
            give(format!("PVE{}User", group.name), &audit);
        }
        give("PVEAuditor".into(), &audit);
    }
    give("PVETemplateUser".into(), &["VM.Audit", "VM.Clone"].into());
    give("Administrator".into(), &privileges(release));
    give("NoAccess".into(), &Set::new());
    if let Some(admin) = roles.get_mut("PVEAdmin") {
        admin.remove("Mapping.Modify");
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_its_agents_privileges() {
        assert!(privileges(Release::V8).contains("VM.Monitor") && !privileges(Release::V9).contains("VM.Monitor"));
        assert!(privileges(Release::V9).contains("VM.GuestAgent.FileRead"));
        assert_eq!(builtin(Release::V9)["PVETemplateUser"], ["VM.Audit", "VM.Clone"].into());
        assert_eq!(builtin(Release::V8)["PVEDatastoreUser"], ["Datastore.AllocateSpace", "Datastore.Audit"].into());
        assert!(!builtin(Release::V9)["PVEAdmin"].contains("Sys.Modify"));
        assert!(builtin(Release::V9)["NoAccess"].is_empty());
    }

    /// Every privilege that a method of the API's description asks for is one that the release has.
    #[test]
    fn the_description_asks_for_no_other_privileges() {
        for release in [Release::V8, Release::V9] {
            let known = privileges(release);
            let mut asked = BTreeSet::new();
            release.each_check(&mut |check| super::super::check::privileges(check, &mut asked));
            let unknown: Vec<_> = asked.iter().filter(|name| !known.contains(name.as_str())).collect();
            assert!(asked.len() > 25 && unknown.is_empty(), "{release:?}: {unknown:?} of {}", asked.len());
        }
    }
}
