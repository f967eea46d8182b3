//! Everything that a run may leave behind, as one text a machine: to tell a site that was interrupted and finished from
//! one that never was.

use std::collections::BTreeMap;

use crate::api::api;
use crate::{EXTRANET, INTRANET, NODE, on, project};

/// What is on the node: volumes, pools and their properties, exports, what writes of Hearth's leave if cut off.
const ON_NODE: &str = r#"
lvs --noheadings -o vg_name,lv_name,lv_size --units b | sort
zpool list -H -o name,health
zfs get -H -s local,received -t filesystem -o name,property,value all | sort
exportfs -s | sort
find /etc /var/lib/hearth -name '.hearth.*' -o -name '*.incoming*' -o -name '*.new' 2>/dev/null | sort
for device in /dev/disk/by-id/virtio-HEARTH-*; do echo "$device $(blkid -o value -s PTTYPE "$device" || true)"; done
"#;

/// What is on a guest: mounts, units, bundles, images, containers, temporary files.
const ON_GUEST: &str = r#"
findmnt -rn -t nfs,nfs4 -o TARGET,SOURCE | sort
systemctl list-unit-files --no-legend 'hearth-*' 'mnt-*' | awk '{print $1, $2}' | sort
systemctl list-units --no-legend --plain --all 'hearth-*' 'mnt-*' | awk '{print $1, $3}' | sort
if [ -d /var/lib/hearth ]; then
    find /var/lib/hearth -path '*/tmp*' -o -name '.incoming*' -o -name 'incoming.*' -o -name '.hearth.*' -o -name '*.new' | sort
    find /var/lib/hearth/store -type f | sort
    find /var/lib/hearth/stacks -mindepth 1 -maxdepth 3 | sort
fi
if docker info >/dev/null 2>&1; then
    docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort
    docker ps -a --no-trunc --format '{{.Names}} {{.State}} {{.Image}}' | sort
    docker volume ls -q | sort
fi
find /etc -name '.hearth.*' | sort
"#;

/// Takes the census of the lab: of the API, the node, both guests, and the project's folder.
///
/// # Panics
/// Where one of them does not answer.
pub fn census() -> BTreeMap<&'static str, String> {
    let volumes = api("GET", "/nodes/pve1/storage/local/content", &[]);
    let mut volids: Vec<String> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| format!("{} {}", volume["volid"], volume["size"]))
        .collect();
    volids.sort();
    let machines = api("GET", "/cluster/resources", &[("type", "vm")]);
    let mut vms: Vec<String> = machines
        .as_array()
        .into_iter()
        .flatten()
        .map(|vm| {
            let config = api("GET", &format!("/nodes/pve1/qemu/{}/config", vm["vmid"]), &[]);
            let mut lines: Vec<String> = config
                .as_object()
                .into_iter()
                .flatten()
                // Made anew with each VM, or with each change.
                .filter(|(key, _)| !matches!(key.as_str(), "digest" | "vmgenid" | "smbios1" | "meta" | "net0"))
                .map(|(key, value)| format!("  {key}: {value}"))
                .collect();
            lines.sort();
            format!("{} {} {} {}\n{}", vm["vmid"], vm["name"], vm["status"], vm["template"], lines.join("\n"))
        })
        .collect();
    vms.sort();
    let left = |folder: &str| {
        let entries = std::fs::read_dir(project().join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.starts_with('.') || name.contains("tmp"));
        names.sort();
        names.join("\n")
    };
    [
        ("volumes", volids.join("\n")),
        ("machines", vms.join("\n")),
        ("node", on(NODE, ON_NODE)),
        ("vm-intranet", on(INTRANET, ON_GUEST)),
        ("vm-extranet", on(EXTRANET, ON_GUEST)),
        ("the store's temporary files", left(".hearth/store")),
        ("the generations' temporary files", left(".hearth/generations")),
    ]
    .into()
}

/// Takes the part of the census that is there before there are guests.
///
/// # Panics
/// Where the node does not answer.
pub fn of_node() -> BTreeMap<&'static str, String> {
    [("node", on(NODE, ON_NODE))].into()
}

/// Panics where two censuses differ, with the lines that do.
///
/// # Panics
/// Where they differ.
pub fn same(before: &BTreeMap<&'static str, String>, after: &BTreeMap<&'static str, String>, what: &str) {
    for (part, old) in before {
        let new = after.get(part).map(String::as_str).unwrap_or_default();
        let gone: Vec<&str> = old.lines().filter(|line| !new.lines().any(|other| other == *line)).collect();
        let come: Vec<&str> = new.lines().filter(|line| !old.lines().any(|other| other == *line)).collect();
        assert!(
            gone.is_empty() && come.is_empty(),
            "{what}: {part} differs\n- {}\n+ {}",
            gone.join("\n- "),
            come.join("\n+ ")
        );
    }
}
