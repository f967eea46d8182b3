//! What is there: one list of the cluster, one configuration for each VM of ours, one list of seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use pve::{Client, Config, Pending, Resource};
use site::{Name, Size, Vmid};

use crate::api::explain;
use crate::mark::{self, Mark};
use crate::wanted::{DiskState, GuestState, TemplateState, Wanted, WantedDisk, WantedGuest};

/// How long a creation that is still running is waited for.
const SETTLE: Duration = Duration::from_secs(600);
/// How a guest's seed is spoken of where not even its drive is there.
pub const NO_DRIVE: &str = "no drive";

/// A VMID that is taken.
#[derive(Clone, Debug, Default)]
pub struct Vm {
    /// The cluster's line about it.
    pub resource: Resource,
    /// Its configuration, where it is a VM on the wanted node.
    pub config: Option<Config>,
    /// The settings of ours that somebody left waiting for its next start, as `memory=512`.
    pub waiting: Vec<String>,
}

/// What one host has of what is wanted there.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The VMs by their number.
    pub vms: BTreeMap<u32, Vm>,
    /// The names of the storage's ISO files.
    pub isos: BTreeSet<String>,
    /// What carries this site's tag here and is not wanted any more.
    pub left: Vec<Resource>,
    /// Numbers of templates whose disk others are linked clones of, where that was asked.
    pub cloned: BTreeSet<u32>,
    /// The sizes of volumes in bytes, where a data disk is in no guest.
    pub volumes: BTreeMap<String, u64>,
}

/// Asks a host's API.
///
/// # Errors
/// Whatever the API answers.
pub fn observe(client: &Client, wanted: &Wanted, site: &Name) -> Result<Observed> {
    let node = client.node(&wanted.node);
    let (resources, isos) = thread::scope(|scope| {
        let isos = scope.spawn(|| node.content(&wanted.storage, "iso"));
        (client.resources("vm"), isos.join())
    });
    let resources = resources.map_err(|error| explain(&wanted.host, error))?;
    let isos = isos.map_err(|_| anyhow::anyhow!("listing {} panicked", wanted.storage))?;
    let isos = isos.map_err(|error| explain(&wanted.host, error))?;
    let numbers: BTreeSet<u64> = wanted.numbers().map(|vmid| u64::from(u32::from(vmid))).collect();
    let mine: Vec<&Resource> =
        resources.iter().filter(|one| one.vmid.is_some_and(|vmid| numbers.contains(&vmid))).collect();
    let mut observed = Observed {
        vms: configs(client, wanted, &mine)?,
        isos: isos.iter().map(|volume| file_name(&volume.volid).to_owned()).collect(),
        left: left(wanted, &resources, site),
        cloned: BTreeSet::new(),
        volumes: BTreeMap::new(),
    };
    if wanted.guests.iter().any(|guest| guest.disks.iter().any(|disk| is_loose(&observed, disk, guest))) {
        let volumes = node.content(&wanted.storage, "images").map_err(|error| explain(&wanted.host, error))?;
        observed.volumes = volumes.into_iter().filter_map(|one| Some((one.volid, one.size?))).collect();
    }
    if wanted.templates.iter().any(|template| outdated(&observed, template.vmid, &template.state, site)) {
        observed.cloned = cloned(client, wanted, &resources)?;
    }
    Ok(observed)
}

fn configs(client: &Client, wanted: &Wanted, mine: &[&Resource]) -> Result<BTreeMap<u32, Vm>> {
    let read = |resource: &Resource| -> Result<(u32, Vm)> {
        let vmid = Vmid::try_from(u32::try_from(resource.vmid.unwrap_or_default())?)?;
        let here = resource.kind == "qemu" && resource.node == wanted.node;
        let (config, waiting) = if here { settled(client, wanted, vmid)? } else { Default::default() };
        Ok((vmid.into(), Vm { resource: resource.clone(), config: here.then_some(config), waiting }))
    };
    thread::scope(|scope| {
        let threads: Vec<_> = mine.iter().map(|resource| scope.spawn(|| read(resource))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("reading a VM panicked")))
            .collect()
    })
}

/// Reads a VM's configuration, and what of it waits for the next start, once no creation of it is running any more. While one is, it has no description yet by which
/// it could be known: a run that was killed may have left one.
///
/// # Errors
/// Whatever the API answers.
pub fn settled(client: &Client, wanted: &Wanted, vmid: Vmid) -> Result<(Config, Vec<String>)> {
    let begin = Instant::now();
    loop {
        let keys = client.node(&wanted.node).vm(vmid).pending().map_err(|error| explain(&wanted.host, error))?;
        let (config, waiting) = split(keys);
        if !matches!(config.get("lock"), Some("create" | "clone")) {
            return Ok((config, waiting));
        }
        anyhow::ensure!(
            begin.elapsed() < SETTLE,
            "VM {vmid} on {} is still being made after {} s: look at its task, or remove its lock with `qm unlock {vmid}`",
            wanted.host,
            SETTLE.as_secs()
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// Parts what is in use from what waits, of the settings that are ours to set.
fn split(keys: Vec<Pending>) -> (Config, Vec<String>) {
    let (mut config, mut waiting) = (Config::default(), Vec::new());
    for Pending { key, value, pending, delete } in keys {
        let ours = matches!(key.as_str(), "cores" | "memory" | "net0" | "ide2" | "scsi0") || is_device(&key);
        match (ours, &pending, delete) {
            (true, Some(text), _) => waiting.push(format!("{key}={text}")),
            (true, None, Some(_)) => waiting.push(format!("{key} goes")),
            _ => {}
        }
        match value {
            Some(digest) if key == "digest" => config.digest = digest,
            Some(value) => drop(config.values.insert(key, value)),
            None => {}
        }
    }
    (config, waiting)
}

/// Returns what the site made on this node and does not name any more. Nothing is deleted that is not named, so people
/// are told.
fn left(wanted: &Wanted, resources: &[Resource], site: &Name) -> Vec<Resource> {
    let own = mark::site_tag(site);
    let named = |vmid: u64| wanted.numbers().any(|number| u64::from(u32::from(number)) == vmid);
    let here = resources.iter().filter(|one| one.node == wanted.node && tag_set(&one.tags).contains(own.as_str()));
    here.filter(|one| one.vmid.is_some_and(|vmid| !named(vmid))).cloned().collect()
}

fn outdated(observed: &Observed, vmid: Vmid, wanted: &TemplateState, site: &Name) -> bool {
    template_state(observed, vmid, site).is_some_and(|state| state.image != wanted.image)
}

/// Returns the numbers of VMs whose disk another one is a linked clone of. Asked only when a template is to be replaced.
fn cloned(client: &Client, wanted: &Wanted, resources: &[Resource]) -> Result<BTreeSet<u32>> {
    let mut bases = BTreeSet::new();
    for resource in resources.iter().filter(|one| one.kind == "qemu" && one.node == wanted.node && !one.template) {
        let vmid = Vmid::try_from(u32::try_from(resource.vmid.unwrap_or_default())?)?;
        let config = client.node(&wanted.node).vm(vmid).config().map_err(|error| explain(&wanted.host, error))?;
        bases.extend(config.values.values().filter_map(|value| base_of(value)));
    }
    Ok(bases)
}

/// Returns whose base disk a drive stands on, as `local:9001/base-9001-disk-0.qcow2/101/vm-101-disk-0.qcow2` does.
fn base_of(drive: &str) -> Option<u32> {
    let (_, rest) = drive.split_once("base-")?;
    let (number, rest) = rest.split_once('-')?;
    rest.starts_with("disk-").then(|| number.parse().ok())?
}

/// Returns a volume's file name: `local:iso/a.iso` is `a.iso`.
pub fn file_name(volid: &str) -> &str {
    volid.rsplit(['/', ':']).next().unwrap_or(volid)
}

/// Returns a number's mark, where this site made what has it.
pub fn mark_of(observed: &Observed, vmid: Vmid, site: &Name) -> Option<Mark> {
    let config = observed.vms.get(&vmid.into())?.config.as_ref()?;
    Mark::read(config.get("description").unwrap_or_default(), site)
}

/// Returns a template as it is; none where it is not there or not this site's.
pub fn template_state(observed: &Observed, vmid: Vmid, site: &Name) -> Option<TemplateState> {
    let Some(Mark::Template { image }) = mark_of(observed, vmid, site) else { return None };
    let config = observed.vms.get(&vmid.into())?.config.as_ref()?;
    Some(TemplateState {
        name: config.get("name").unwrap_or_default().to_owned(),
        image,
        tags: tags(config, site),
        template: config.number("template") == Some(1),
    })
}

/// Returns a guest as it is; none where it is not there or not this site's.
pub fn guest_state(observed: &Observed, guest: &WantedGuest, site: &Name) -> Option<GuestState> {
    let vmid = guest.vmid;
    let Some(Mark::Guest { template, user_data, ready, network, filled, disks }) = mark_of(observed, vmid, site) else {
        return None;
    };
    let vm = observed.vms.get(&vmid.into())?;
    let config = vm.config.as_ref()?;
    let seed = config.get("ide2").map_or(NO_DRIVE, |drive| option(drive, "file").map(file_name).unwrap_or_default());
    let lost = seed != NO_DRIVE && !observed.isos.contains(seed);
    Some(GuestState {
        name: config.get("name").unwrap_or_default().to_owned(),
        template,
        // What a configuration does not name has the value of the API's description.
        cores: config.number("cores").unwrap_or(1),
        memory: Size::from_bytes(memory(config) << 20),
        disk: disk_size(config.get("scsi0").unwrap_or_default()),
        onboot: config.number("onboot") == Some(1),
        bridge: option(config.get("net0").unwrap_or_default(), "bridge").unwrap_or_default().to_owned(),
        pci: pci(config).into_iter().map(|(_, mapping)| mapping).collect(),
        tags: tags(config, site),
        seed: if lost { String::new() } else { seed.to_owned() },
        power: vm.resource.status.clone(),
        ready: !ready.is_empty() && ready == user_data,
        user_data,
        network,
        file_system: filled.parse().unwrap_or_else(|_| Size::from_bytes(0)),
        disks: guest.disks.iter().filter_map(|disk| in_guest(config, disk, &disks)).collect(),
        waiting: vm.waiting.clone(),
    })
}

/// Says how a guest has a data disk: none where it is in none of its slots.
fn in_guest(config: &Config, disk: &WantedDisk, set_up: &BTreeMap<String, String>) -> Option<(String, String)> {
    let (_, drive) = slot(config, disk.vmid)?;
    let (name, size) = (disk.mounted.name.as_str(), disk_size(drive).to_string());
    let how = set_up.get(name).filter(|how| how.split(' ').next() == Some(size.as_str()));
    Some((name.to_owned(), how.cloned().unwrap_or_else(|| format!("{size}, not set up"))))
}

/// Returns the slot of a configuration that has a volume of this VM: its key and its text.
pub fn slot(config: &Config, owner: Vmid) -> Option<(&str, &str)> {
    let virtio = |key: &str| key.strip_prefix("virtio").is_some_and(|n| n.parse::<u8>().is_ok());
    let all = config.values.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    all.into_iter().find(|(key, value)| virtio(key) && owned(value, owner))
}

fn owned(drive: &str, owner: Vmid) -> bool {
    file_name(drive.split(',').next().unwrap_or_default()).starts_with(&format!("vm-{owner}-disk-"))
}

/// Returns the volume that a data disk's VM owns, in use there or not.
pub fn volume(config: &Config, owner: Vmid) -> Option<(&str, &str)> {
    let all = config.values.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let (key, value) = all.into_iter().find(|(key, value)| *key != "description" && owned(value, owner))?;
    Some((key, value.split(',').next().unwrap_or_default()))
}

fn config_of(observed: &Observed, vmid: Vmid) -> Option<&Config> {
    observed.vms.get(&vmid.into())?.config.as_ref()
}

/// Tells whether a data disk is there and in no slot of its guest, so that only its storage knows its size.
fn is_loose(observed: &Observed, disk: &WantedDisk, guest: &WantedGuest) -> bool {
    let held = config_of(observed, guest.vmid).is_some_and(|config| slot(config, disk.vmid).is_some());
    config_of(observed, disk.vmid).is_some() && !held
}

/// Returns a data disk as it is; none where it is not there. Its size is 0 where its volume is gone.
pub fn disk_state(observed: &Observed, disk: &WantedDisk, guest: &WantedGuest, site: &Name) -> Option<DiskState> {
    let config = config_of(observed, disk.vmid)?;
    let kept = volume(config, disk.vmid);
    let in_guest = config_of(observed, guest.vmid).and_then(|config| slot(config, disk.vmid));
    let size = match (in_guest, kept) {
        (Some((_, drive)), _) => disk_size(drive),
        (None, Some((_, id))) => Size::from_bytes(observed.volumes.get(id).copied().unwrap_or_default()),
        (None, None) => Size::from_bytes(0),
    };
    let unused = kept.is_some_and(|(key, _)| key.starts_with("unused"));
    Some(DiskState {
        name: config.get("name").unwrap_or_default().to_owned(),
        size,
        tags: tags(config, site),
        kept: unused && config.number("protection") == Some(1),
    })
}

/// Returns a VM's tags; a site's own where all of them are there, for people may add theirs.
fn tags(config: &Config, site: &Name) -> String {
    let wanted = mark::tags(site);
    let there = tag_set(config.get("tags").unwrap_or_default());
    if tag_set(&wanted).is_subset(&there) { wanted } else { there.into_iter().collect::<Vec<_>>().join(";") }
}

/// Returns a VM's tags with the site's own among them.
pub fn tags_with_own(config: &Config, site: &Name) -> String {
    let own = mark::tags(site);
    let all = &tag_set(config.get("tags").unwrap_or_default()) | &tag_set(&own);
    all.into_iter().collect::<Vec<_>>().join(";")
}

/// Splits tags as the API does: at `;`, `,` and blanks.
fn tag_set(tags: &str) -> BTreeSet<&str> {
    tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).collect()
}

/// Returns the memory in MiB: a plain number, or `current=` in a property string.
fn memory(config: &Config) -> u64 {
    let text = config.get("memory").unwrap_or("512");
    option(text, "current").unwrap_or(text).parse().unwrap_or_default()
}

/// Returns a drive's size; nothing where it has none.
pub fn disk_size(drive: &str) -> Size {
    let text = option(drive, "size").unwrap_or_default();
    let bytes = || text.parse().unwrap_or_default();
    text.parse().unwrap_or_else(|_| Size::from_bytes(bytes()))
}

fn is_device(key: &str) -> bool {
    key.strip_prefix("hostpci").is_some_and(|n| n.parse::<u8>().is_ok())
}

/// Returns the PCI devices that are passed through, by their keys: mappings by name, others as they stand.
pub fn pci(config: &Config) -> Vec<(String, String)> {
    let devices = config.values.iter().filter(|(key, _)| is_device(key));
    devices.map(|(key, value)| (key.clone(), option(value, "mapping").unwrap_or(value).to_owned())).collect()
}

/// Returns one option of a property string; `file` is also what stands first without a name.
pub fn option<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let named = text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let first = || text.split(',').next().filter(|first| name == "file" && !first.is_empty() && !first.contains('='));
    named.or_else(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_and_sizes_are_read() {
        assert_eq!(base_of("local:9001/base-9001-disk-0.qcow2/101/vm-101-disk-0.qcow2,size=12G"), Some(9001));
        assert_eq!(base_of("local-zfs:base-9001-disk-0/vm-101-disk-0,size=12G"), Some(9001));
        assert_eq!(base_of("local:101/vm-101-disk-0.qcow2,size=12G"), None);
        assert_eq!(disk_size("local:101/vm-101-disk-0.qcow2,size=3584M").to_string(), "3584M");
        assert_eq!(disk_size("local:101/vm-101-disk-0.qcow2,size=1234567").bytes(), 1_234_567);
        assert_eq!(option("local:iso/a.iso,media=cdrom,size=374K", "file").map(file_name), Some("a.iso"));
        assert_eq!(option("virtio=BC:24:11:00:00:01,bridge=vmbr0", "bridge"), Some("vmbr0"));
    }
}
