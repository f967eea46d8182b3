//! What a host has: the probes' answers, parsed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use converge::Facts;
use serde::Deserialize;
use site::Name;

use crate::desired::Wanted;

/// What one host has.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Logical volumes by `GROUP/NAME`.
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// Volume groups by name.
    pub(crate) groups: BTreeMap<String, Group>,
    /// All imported pools by name.
    pub(crate) pools: BTreeMap<String, Pool>,
    /// Datasets of the wanted pools, with the properties that were asked for.
    pub(crate) datasets: BTreeMap<String, BTreeMap<String, Setting>>,
    /// Block devices, each with the path of what it is a part of.
    pub(crate) devices: Vec<Device>,
    /// Names of devices, as `/dev/disk/by-id/X`, with the device that they stand for.
    pub(crate) links: BTreeMap<String, String>,
    /// The kinds of signatures on the disks of missing pools, by the name that was looked at.
    pub(crate) found: BTreeMap<String, Vec<String>>,
    /// Pools that are there to be imported.
    pub(crate) importable: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) bytes: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) layout: String,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) free: u64,
    pub(crate) extent: u64,
}

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) ashift: u8,
    /// Whether its device has grown and the pool has not.
    pub(crate) can_grow: bool,
    /// The devices' real paths.
    pub(crate) devices: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) source: String,
}

/// A block device.
#[derive(Debug)]
pub(crate) struct Device {
    /// As `/dev/sda`.
    pub(crate) node: String,
    /// As `/dev/mapper/pve-root`, where it differs from the node.
    pub(crate) path: String,
    /// `disk`, `part`, `lvm`, `crypt` …
    pub(crate) kind: String,
    pub(crate) bytes: u64,
    pub(crate) serial: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) mounts: Vec<String>,
    pub(crate) parent: Option<String>,
}

impl Observed {
    /// Parses a host's answers; none where the host is still to be made.
    pub(crate) fn read(facts: &Facts, host: &Name, wanted: &Wanted<'_>) -> Result<Option<Self>> {
        if facts.is_absent(host) {
            return Ok(None);
        }
        let text = |id: &str| facts.text(host, id).map(Option::unwrap_or_default);
        let mut seen = Self::default();
        if !wanted.volumes.is_empty() {
            seen.read_lvm(&text("lvs")?, &text("vgs")?).with_context(|| format!("{host}: can't read lvs and vgs"))?;
        }
        if wanted.pools.is_empty() {
            return Ok(Some(seen));
        }
        seen.read_pools(&text("pools")?, &text("vdevs")?).with_context(|| format!("{host}: can't read zpool list"))?;
        seen.read_datasets(&text("datasets")?).with_context(|| format!("{host}: can't read zfs get"))?;
        let tree: Tree = serde_json::from_str(&text("disks")?).with_context(|| format!("{host}: can't read lsblk"))?;
        seen.devices = flatten(tree.blockdevices, None);
        seen.links = links(&text("links")?);
        seen.found = found(&text("found")?).with_context(|| format!("{host}: can't read wipefs"))?;
        let imports = text("imports")?;
        seen.importable =
            imports.lines().filter_map(|line| line.trim().strip_prefix("pool: ")).map(str::to_owned).collect();
        Ok(Some(seen))
    }

    fn read_lvm(&mut self, lvs: &str, vgs: &str) -> Result<()> {
        let volumes: Report<LvSection> = serde_json::from_str(lvs)?;
        for row in volumes.report.into_iter().flat_map(|section| section.lv) {
            let tags = row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
            let volume = Volume { bytes: row.lv_size.parse()?, tags, layout: row.lv_layout };
            self.volumes.insert(format!("{}/{}", row.vg_name, row.lv_name), volume);
        }
        let groups: Report<VgSection> = serde_json::from_str(vgs)?;
        for row in groups.report.into_iter().flat_map(|section| section.vg) {
            let group = Group { free: row.vg_free.parse()?, extent: row.vg_extent_size.parse()? };
            self.groups.insert(row.vg_name, group);
        }
        Ok(())
    }

    fn read_pools(&mut self, pools: &str, vdevs: &str) -> Result<()> {
        for line in pools.lines() {
            let [name, ashift, grow] = fields(line)?;
            let can_grow = !matches!(grow, "-" | "0");
            self.pools.insert(name.to_owned(), Pool { ashift: ashift.parse()?, can_grow, devices: Vec::new() });
        }
        let mut pool = None;
        for line in vdevs.lines() {
            if let Some(device) = line.strip_prefix('\t') {
                let device = device.trim_start().split('\t').next().unwrap_or_default();
                let pool: &mut Pool = pool.as_deref_mut().context("a device comes before its pool")?;
                pool.devices.push(device.to_owned());
            } else {
                let name = line.split('\t').next().unwrap_or_default();
                pool = self.pools.get_mut(name);
            }
        }
        Ok(())
    }

    fn read_datasets(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            let [name, property, value, source] = fields(line)?;
            let setting = Setting { value: value.to_owned(), source: source.to_owned() };
            self.datasets.entry(name.to_owned()).or_default().insert(property.to_owned(), setting);
        }
        Ok(())
    }

    /// Returns the value of a dataset's property; none where either is not there.
    pub(crate) fn value(&self, dataset: &str, property: &str) -> Option<&str> {
        Some(self.datasets.get(dataset)?.get(property)?.value.as_str())
    }

    /// Returns the block device with this path or node.
    pub(crate) fn device(&self, path: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.node == path || device.path == path)
    }
}

fn fields<const N: usize>(line: &str) -> Result<[&str; N]> {
    let fields: Vec<&str> = line.split('\t').collect();
    let Ok(fields) = fields.try_into() else { bail!("'{line}' has not {N} columns") };
    Ok(fields)
}

#[derive(Deserialize)]
struct Report<T> {
    report: Vec<T>,
}

#[derive(Deserialize)]
struct LvSection {
    lv: Vec<LvRow>,
}

#[derive(Deserialize)]
struct LvRow {
    vg_name: String,
    lv_name: String,
    lv_size: String,
    lv_tags: String,
    lv_layout: String,
}

#[derive(Deserialize)]
struct VgSection {
    vg: Vec<VgRow>,
}

#[derive(Deserialize)]
struct VgRow {
    vg_name: String,
    vg_free: String,
    vg_extent_size: String,
}

#[derive(Deserialize)]
struct Tree {
    blockdevices: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    kname: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
    size: Option<u64>,
    serial: Option<String>,
    fstype: Option<String>,
    #[serde(default)]
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Node>,
}

fn flatten(nodes: Vec<Node>, parent: Option<&str>) -> Vec<Device> {
    let mut devices = Vec::new();
    for Node { kname, path, kind, size, serial, fstype, mountpoints, children } in nodes {
        let node = format!("/dev/{kname}");
        let below = flatten(children, Some(&node));
        devices.push(Device {
            node,
            path,
            kind,
            bytes: size.unwrap_or_default(),
            serial: serial.map(|serial| serial.trim().to_owned()).filter(|serial| !serial.is_empty()),
            format: fstype,
            mounts: mountpoints.into_iter().flatten().collect(),
            parent: parent.map(str::to_owned),
        });
        devices.extend(below);
    }
    devices
}

/// Reads `LINK <tab> TARGET` lines; udev's links all go to `../../NODE`.
fn links(text: &str) -> BTreeMap<String, String> {
    let node = |target: &str| format!("/dev/{}", target.rsplit('/').next().unwrap_or_default());
    text.lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(link, target)| (link.to_owned(), node(target)))
        .collect()
}

fn found(text: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut device = None;
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("== ") {
            found.entry(path.to_owned()).or_default();
            device = Some(path);
        } else {
            let path = device.context("a signature comes before its device")?;
            found.entry(path.to_owned()).or_default().push(line.trim().to_owned());
        }
    }
    Ok(found)
}
