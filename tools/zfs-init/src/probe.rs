//! The questions to a host, all read-only.

use std::collections::BTreeSet;

use remote::{Probe, quote};
use site::{Name, PoolDevice};

use crate::attempt::{self, LEFTOVER};
use crate::desired::{Wanted, WantedPool};
use crate::property::TAG;

/// Asks for all pools at once, since starting a process takes 10 ms and more in an emulated guest; `there POOL` tells then
/// whether one is imported.
const THERE: &str = "have=\" $(zpool list -H -o name | tr '\\n' ' ') \"\n\
    there() { case \"$have\" in *\" $1 \"*) ;; *) return 1 ;; esac; }\n";

/// Returns the questions to one host.
pub(crate) fn probes(site: &Name, host: &Name, wanted: &Wanted<'_>) -> Vec<Probe> {
    let probe = |id: &str, script: String| Probe { host: host.clone(), id: id.to_owned(), script };
    let mut probes = Vec::new();
    if !wanted.volumes.is_empty() {
        let lvm = |command: &str| format!("{command} --reportformat json --units b --nosuffix -o");
        probes.push(probe("lvs", format!("{} vg_name,lv_name,lv_size,lv_tags,lv_layout", lvm("lvs"))));
        probes.push(probe("vgs", format!("{} vg_name,vg_free,vg_extent_size", lvm("vgs"))));
    }
    if wanted.pools.is_empty() {
        return probes;
    }
    let names: Vec<String> = wanted.pools.keys().map(|name| quote(name.as_str())).collect();
    let names = names.join(" ");
    let properties: BTreeSet<&str> = wanted.pools.values().flat_map(WantedPool::property_names).collect();
    let mut columns = vec!["type", "mounted", "canmount", "mountpoint", TAG];
    columns.extend(properties.into_iter().filter(|name| !["canmount", "mountpoint"].contains(name)));
    let columns = quote(&columns.join(","));
    probes.push(probe("pools", "zpool list -Hp -o name,ashift,expandsize".into()));
    probes.push(probe("vdevs", "zpool list -vHPL -o name".into()));
    probes.push(probe(
        "datasets",
        format!(
            "{THERE}set --\nfor p in {names}; do if there \"$p\"; then set -- \"$@\" \"$p\"; fi; done\n\
             [ $# = 0 ] || zfs get -rHp -t filesystem,volume -o name,property,value,source {columns} \"$@\"\n"
        ),
    ));
    // With the name among the columns, lsblk prints what is part of what; without it, a flat list.
    probes.push(probe("disks", "lsblk -J -b -o NAME,KNAME,PATH,TYPE,SIZE,SERIAL,FSTYPE,MOUNTPOINTS".into()));
    let groups: BTreeSet<&str> = wanted.volumes.keys().map(|volume| volume.group()).collect();
    let folders: String = groups.iter().map(|group| " ".to_owned() + &quote(&format!("/dev/{group}"))).collect();
    probes.push(probe(
        "links",
        format!(
            "for d in /dev/disk/by-id{folders}; do [ ! -d \"$d\" ] || find \"$d\" -type l -printf '%p\\t%l\\n'; done"
        ),
    ));
    probes.push(probe("found", found(site, wanted)));
    // Looking for pools to import reads every disk, so it is done only where a pool is missing.
    probes.push(probe(
        "imports",
        format!(
            "{THERE}for p in {names}; do if ! there \"$p\"; then zpool import 2>/dev/null || true; break; fi; done"
        ),
    ));
    probes
}

/// Writes the script that looks for anything on the disks of pools that are not there. It prints `== DEVICE`, then one
/// line for each kind of signature; libblkid needs some uberblocks to see ZFS, so its labels are asked for too.
fn found(site: &Name, wanted: &Wanted<'_>) -> String {
    let mut script = format!(
        "{THERE}{}site={}\n\
         look() {{ pool=$1; shift; for d in \"$@\"; do if [ -e \"$d\" ]; then printf '== %s\\n' \"$d\"; \
         w=$(wipefs -n --noheadings -O TYPE \"$d\"); [ -z \"$w\" ] || echo \"$w\" | sort -u; \
         if zdb -l \"$d\" >/dev/null 2>&1; then echo zfs_label; fi; \
         if [ -n \"$w\" ] && leftover \"$site\" \"$pool\" \"$d\"; then echo {LEFTOVER}; fi; fi; done; }}\n",
        attempt::functions(),
        quote(site.as_str()),
    );
    for (name, pool) in &wanted.pools {
        let devices = match pool.device {
            PoolDevice::LogicalVolume(volume) => quote(&format!("/dev/{volume}")),
            PoolDevice::DiskId(id) => quote(&format!("/dev/disk/by-id/{id}")),
            PoolDevice::DiskSerial(serial) => format!(
                "$(lsblk -dnro PATH,SERIAL | while read -r d s; do [ \"$s\" != {} ] || echo \"$d\"; done)",
                quote(serial)
            ),
        };
        let name = quote(name.as_str());
        script += &format!("if ! there {name}; then look {name} {devices}; fi\n");
    }
    script
}
