//! A host with LVM and ZFS as far as zfs-init sees it: it answers the probes in the formats of the real programs, and
//! makes changes as the real ones do.

use std::collections::BTreeMap;

use converge::{Facts, HostFacts};
use remote::Output;
use serde_json::{Value, json};
use site::{Pool as SitePool, PoolDevice, Site};
use zfs_init::Action;

/// The size of LVM's extents, in bytes.
const EXTENT: u64 = 4 << 20;
const TAG: &str = "dev.hearth:site";

/// Properties with their defaults as `zfs get -p` prints them (zfsprops(7)), and whether datasets below have them too.
const KNOWN: [(&str, &str, bool); 9] = [
    ("atime", "on", true),
    ("canmount", "on", false),
    ("compression", "on", true),
    ("mountpoint", "", true),
    ("quota", "0", false),
    ("recordsize", "131072", true),
    ("reservation", "0", false),
    ("utf8only", "off", true),
    (TAG, "-", true),
];

/// The host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Bytes that the group `pve` has free.
    pub free: u64,
    /// Volumes of the group `pve`: bytes and tags.
    pub volumes: BTreeMap<String, (u64, String)>,
    /// Whole disks by their name below by-id.
    pub disks: Vec<&'static str>,
    /// Imported pools.
    pub pools: BTreeMap<String, Pool>,
    /// Pools that are there and not imported, with their device.
    pub exported: BTreeMap<String, Pool>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    pub ashift: u8,
    /// `/dev/pve/X` or `/dev/disk/by-id/X`.
    pub device: String,
    /// The size of the device that the pool knows of.
    pub bytes: u64,
    /// Datasets, the pool's own first, with what is set on each, and whether it is mounted.
    pub datasets: BTreeMap<String, (BTreeMap<String, String>, bool)>,
}

impl Host {
    /// Returns a host with an empty group of 40 GiB and three blank disks.
    pub fn new() -> Self {
        let disks = vec!["ata-ONE", "ata-TWO", "ata-THREE"];
        Self { free: 40 << 30, volumes: BTreeMap::new(), disks, pools: BTreeMap::new(), exported: BTreeMap::new() }
    }

    /// Answers all probes that zfs-init asks for this site.
    pub fn facts(&self, site: &Site) -> Facts {
        let wanted: Vec<(&str, &SitePool)> = site.pools.iter().map(|(name, pool)| (name.as_str(), pool)).collect();
        let answers = [
            ("lvs", self.lvs()),
            ("vgs", self.vgs()),
            ("pools", self.zpool_list()),
            ("vdevs", self.vdevs()),
            ("datasets", self.zfs_get(&wanted)),
            ("disks", self.lsblk()),
            ("links", self.links()),
            ("found", self.found(&wanted)),
            ("imports", self.exported.keys().map(|name| format!("   pool: {name}\n     id: 1\n")).collect()),
        ];
        let answers = answers.map(|(id, text)| {
            (id.to_owned(), Output { command: id.into(), status: 0, stdout: text.into(), stderr: Vec::new() })
        });
        Facts::new([("pve1".parse().unwrap(), HostFacts::Answers(answers.into()))])
    }

    fn lvs(&self) -> String {
        let row = |(name, (bytes, tags)): (&String, &(u64, String))| json!({"vg_name": "pve", "lv_name": name, "lv_size": bytes.to_string(), "lv_tags": tags, "lv_layout": "linear"});
        json!({"report": [{"lv": self.volumes.iter().map(row).collect::<Vec<_>>()}]}).to_string()
    }

    fn vgs(&self) -> String {
        let row = json!({"vg_name": "pve", "vg_free": self.free.to_string(), "vg_extent_size": EXTENT.to_string()});
        json!({"report": [{"vg": [row]}]}).to_string()
    }

    fn zpool_list(&self) -> String {
        let line = |(name, pool): (&String, &Pool)| {
            let grown = self.bytes(&pool.device).saturating_sub(pool.bytes);
            let expand = if grown == 0 { "-".to_owned() } else { grown.to_string() };
            format!("{name}\t{}\t{expand}\n", pool.ashift)
        };
        self.pools.iter().map(line).collect()
    }

    fn vdevs(&self) -> String {
        let node =
            |device: &str| if device.starts_with("/dev/pve/") { self.node(device) } else { self.node(device) + "1" };
        self.pools.iter().map(|(name, pool)| format!("{name}\n\t{}\t-\t-\n", node(&pool.device))).collect()
    }

    fn zfs_get(&self, wanted: &[(&str, &SitePool)]) -> String {
        let mut text = String::new();
        for pool in wanted.iter().filter_map(|(name, _)| self.pools.get(*name)) {
            for (dataset, (_, mounted)) in &pool.datasets {
                text += &format!("{dataset}\ttype\tfilesystem\t-\n{dataset}\tmounted\t{}\t-\n", yes(*mounted));
                for (property, ..) in KNOWN {
                    let (value, source) = pool.get(dataset, property);
                    text += &format!("{dataset}\t{property}\t{value}\t{source}\n");
                }
            }
        }
        text
    }

    fn lsblk(&self) -> String {
        let blank = |kname: &str, path: &str, kind: &str, bytes: u64| json!({"kname": kname, "path": path, "type": kind, "size": bytes, "serial": null, "fstype": null, "mountpoints": [null]});
        let mut all = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            let kname = format!("sd{}", ['a', 'b', 'c'][index]);
            let mut node = blank(&kname, &format!("/dev/{kname}"), "disk", 100 << 30);
            node["serial"] = json!(disk);
            if self.user(&format!("/dev/disk/by-id/{disk}")).is_some() {
                node["children"] = json!([blank(&format!("{kname}1"), &format!("/dev/{kname}1"), "part", 100 << 30)]);
            }
            all.push(node);
        }
        for (index, (name, (bytes, _))) in self.volumes.iter().enumerate() {
            all.push(blank(&format!("dm-{index}"), &format!("/dev/mapper/pve-{name}"), "lvm", *bytes));
        }
        json!({ "blockdevices": all }).to_string()
    }

    fn links(&self) -> String {
        let disks = self.disks.iter().map(|disk| format!("/dev/disk/by-id/{disk}"));
        let volumes = self.volumes.keys().map(|name| format!("/dev/pve/{name}"));
        disks
            .chain(volumes)
            .map(|path| format!("{path}\t../..{}\n", self.node(&path).trim_start_matches("/dev")))
            .collect()
    }

    fn found(&self, wanted: &[(&str, &SitePool)]) -> String {
        let mut text = String::new();
        for (_, pool) in wanted.iter().filter(|(name, _)| !self.pools.contains_key(*name)) {
            let path = match &pool.device {
                PoolDevice::LogicalVolume(volume) => format!("/dev/{volume}"),
                PoolDevice::DiskId(id) => format!("/dev/disk/by-id/{id}"),
                PoolDevice::DiskSerial(serial) => self.node(&format!("/dev/disk/by-id/{serial}")),
            };
            if self.node(&path).is_empty() && !path.starts_with("/dev/sd") {
                continue;
            }
            text += &format!("== {path}\n");
            if self.user(&path).is_some() {
                text += "zfs_member\nzfs_label\n";
            }
        }
        text
    }

    /// Returns a device's node, as `/dev/sda`; nothing where there is no such device.
    fn node(&self, path: &str) -> String {
        if let Some(id) = path.strip_prefix("/dev/disk/by-id/") {
            let at = self.disks.iter().position(|disk| *disk == id);
            return at.map(|at| format!("/dev/sd{}", ['a', 'b', 'c'][at])).unwrap_or_default();
        }
        let at = self.volumes.keys().position(|name| Some(name.as_str()) == path.strip_prefix("/dev/pve/"));
        at.map(|at| format!("/dev/dm-{at}")).unwrap_or_default()
    }

    /// Returns the pool that is on a device.
    fn user(&self, path: &str) -> Option<&Pool> {
        let node = if path.starts_with("/dev/sd") { path.to_owned() } else { self.node(path) };
        self.pools.values().chain(self.exported.values()).find(|pool| self.node(&pool.device) == node)
    }

    fn bytes(&self, device: &str) -> u64 {
        device.strip_prefix("/dev/pve/").map_or(100 << 30, |name| self.volumes[name].0)
    }

    /// Makes a change as the real programs would.
    ///
    /// # Panics
    /// Where they would fail.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::CreateVolume { volume, bytes } => {
                let name = volume.strip_prefix("pve/").unwrap();
                assert_eq!(bytes % EXTENT, 0);
                self.free = self.free.checked_sub(*bytes).expect("lvcreate: no room");
                assert!(self.volumes.insert(name.to_owned(), (*bytes, "hearth".into())).is_none());
            }
            Action::GrowVolume { volume, bytes } => {
                let had = self.volumes.get_mut(volume.strip_prefix("pve/").unwrap()).unwrap();
                assert!(*bytes > had.0, "lvextend: no larger");
                self.free = self.free.checked_sub(bytes - had.0).expect("lvextend: no room");
                had.0 = *bytes;
            }
            Action::GrowPool { pool, device } => {
                let bytes = self.bytes(device);
                self.pools.get_mut(pool).unwrap().bytes = bytes;
            }
            Action::CreatePool { pool, device, ashift, properties, site, leftover } => {
                assert!(!leftover && self.user(device).is_none() && !self.node(device).is_empty());
                let mut made = Pool {
                    ashift: *ashift,
                    device: device.clone(),
                    bytes: self.bytes(device),
                    datasets: BTreeMap::new(),
                };
                let mut own = plain(properties);
                own.insert(TAG.into(), site.clone());
                made.datasets.insert(pool.clone(), (own, false));
                made.settle(pool);
                assert!(self.pools.insert(pool.clone(), made).is_none());
            }
            Action::CreateDataset { dataset, properties } => {
                let pool = self.pools.get_mut(dataset.split('/').next().unwrap()).unwrap();
                assert!(pool.datasets.contains_key(dataset.rsplit_once('/').unwrap().0), "zfs create: no parent");
                assert!(pool.datasets.insert(dataset.clone(), (plain(properties), false)).is_none());
                pool.settle(dataset);
            }
            Action::ChangeDataset { dataset, set, inherit, mount } => {
                let pool = self.pools.get_mut(dataset.split('/').next().unwrap()).unwrap();
                let own = &mut pool.datasets.get_mut(dataset).unwrap().0;
                assert!(set.keys().all(|name| name != "utf8only"), "zfs set: read only after creation");
                own.extend(plain(set));
                for name in inherit {
                    own.remove(name);
                }
                if set.keys().chain(inherit).any(|name| ["mountpoint", "canmount"].contains(&name.as_str())) {
                    pool.settle(dataset);
                }
                if *mount {
                    pool.datasets.get_mut(dataset).unwrap().1 = true;
                }
            }
        }
    }
}

impl Pool {
    /// Returns a property's value and source, as `zfs get -p` does.
    pub fn get(&self, dataset: &str, property: &str) -> (String, String) {
        let (_, default, inherited) = KNOWN.iter().find(|(name, ..)| *name == property).unwrap();
        let mut above = dataset;
        loop {
            if let Some(value) = self.datasets[above].0.get(property) {
                if above == dataset {
                    return (value.clone(), "local".into());
                }
                let rest =
                    if property == "mountpoint" && value.starts_with('/') { &dataset[above.len()..] } else { "" };
                return (format!("{value}{rest}"), format!("inherited from {above}"));
            }
            match above.rsplit_once('/').filter(|_| *inherited) {
                Some((parent, _)) => above = parent,
                None if property == "mountpoint" => return (format!("/{dataset}"), "default".into()),
                None => return ((*default).into(), if *default == "-" { "-" } else { "default" }.into()),
            }
        }
    }

    /// Mounts what a change of a dataset's place lets be mounted, as `zfs set mountpoint` does.
    fn settle(&mut self, dataset: &str) {
        let below = |name: &String| name == dataset || name.starts_with(&format!("{dataset}/"));
        for name in self.datasets.keys().filter(|name| below(name)).cloned().collect::<Vec<_>>() {
            let mounted = self.get(&name, "canmount").0 == "on" && self.get(&name, "mountpoint").0.starts_with('/');
            self.datasets.get_mut(&name).unwrap().1 = mounted;
        }
    }
}

/// Writes values as `zfs get -p` prints them.
fn plain(properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let value = |value: &str| match value {
        "none" => "0".to_owned(),
        "16K" => "16384".into(),
        "1M" => "1048576".into(),
        "1G" => "1073741824".into(),
        "5G" => "5368709120".into(),
        other => other.to_owned(),
    };
    let printed = |(name, text): (&String, &String)| {
        (name.clone(), if name == "mountpoint" { text.clone() } else { value(text) })
    };
    properties.iter().map(printed).collect()
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Reads a step's action.
pub fn action(step: &Value) -> Action {
    serde_json::from_value(step.clone()).unwrap()
}
