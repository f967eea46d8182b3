//! What the site wants of the Proxmox hosts.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use converge::{Address, Failure};
use image::DiskImage;
use serde::Serialize;
use site::{DataDisk, Guest, Host, Name, OnChange, Site, Size, Template, Vmid};

use crate::inside::Mounted;
use crate::mark;
use crate::seed::Seed;

/// A template as it shall be, or as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TemplateState {
    /// Its name.
    pub name: String,
    /// The SHA-256 of its image's file.
    pub image: String,
    /// Its tags.
    pub tags: String,
    /// Whether it is a template already, not just on its way there.
    pub template: bool,
}

/// A template to be.
#[derive(Clone, Debug)]
pub struct WantedTemplate {
    /// Its name in the site.
    pub name: Name,
    /// Its number.
    pub vmid: Vmid,
    /// The image's name.
    pub image: Name,
    /// The image.
    pub disk: DiskImage,
    /// As it shall be.
    pub state: TemplateState,
}

/// A guest as it shall be, or as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestState {
    /// Its name.
    pub name: String,
    /// The SHA-256 of the image behind its template.
    pub template: String,
    /// Its number of cores.
    pub cores: u64,
    /// Its memory.
    pub memory: Size,
    /// Its system disk's size.
    pub disk: Size,
    /// Whether the node starts it when it boots.
    pub onboot: bool,
    /// The bridge that its card is on.
    pub bridge: String,
    /// Its PCI mappings.
    pub pci: Vec<String>,
    /// Its tags.
    pub tags: String,
    /// The digest of its seed.
    pub user_data: String,
    /// The seed's file in its drive; empty where the drive or the file is missing.
    pub seed: String,
    /// `running` or `stopped`.
    pub power: String,
    /// Whether it was seen up and well with this seed.
    pub ready: bool,
    /// The digest of its network's configuration, short.
    pub network: String,
    /// The size that its system disk's file system was seen to fill.
    pub file_system: Size,
    /// Its data disks by name: their size, and where they were seen mounted.
    pub disks: BTreeMap<String, String>,
    /// Settings that somebody else's change left waiting for the next start.
    pub waiting: Vec<String>,
}

/// A data disk as it shall be, or as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskState {
    /// The name of the VM that owns it.
    pub name: String,
    /// Its size.
    pub size: Size,
    /// The tags.
    pub tags: String,
    /// Whether its VM is protected and has it in no slot, so that it can't be run with it.
    pub kept: bool,
}

/// A data disk to be.
#[derive(Clone, Debug)]
pub struct WantedDisk {
    /// Its guest.
    pub guest: Name,
    /// The number of the VM that owns it.
    pub vmid: Vmid,
    /// As its guest shall have it.
    pub mounted: Mounted,
    /// As it shall be.
    pub state: DiskState,
}

impl WantedDisk {
    /// Returns how a guest's mark and state speak of a disk of some size that is set up as wanted.
    pub fn shown(&self, size: Size) -> String {
        match &self.mounted.mount {
            Some(mount) => format!("{size} at {mount}"),
            None => size.to_string(),
        }
    }
}

/// A guest to be.
#[derive(Clone, Debug)]
pub struct WantedGuest {
    /// Its name.
    pub name: Name,
    /// Its number.
    pub vmid: Vmid,
    /// The number of the template that it is a clone of.
    pub template: Vmid,
    /// Its seed.
    pub seed: Seed,
    /// What a changed seed does to it.
    pub on_change: OnChange,
    /// Its data disks.
    pub disks: Vec<WantedDisk>,
    /// As it shall be.
    pub state: GuestState,
}

/// One host's part.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The host.
    pub host: Name,
    /// Its name in the API.
    pub node: String,
    /// The storage that takes disks, images and seeds.
    pub storage: String,
    /// The bridge that cards are on.
    pub bridge: String,
    /// Its templates.
    pub templates: Vec<WantedTemplate>,
    /// Its guests.
    pub guests: Vec<WantedGuest>,
}

impl Wanted {
    /// Returns the VMIDs of its templates and guests.
    pub fn numbers(&self) -> impl Iterator<Item = Vmid> {
        let templates = self.templates.iter().map(|template| template.vmid);
        templates.chain(self.guests.iter().map(|guest| guest.vmid)).chain(self.disks().map(|disk| disk.vmid))
    }

    /// Returns all data disks.
    pub fn disks(&self) -> impl Iterator<Item = &WantedDisk> {
        self.guests.iter().flat_map(|guest| &guest.disks)
    }

    /// Returns a data disk's address.
    pub fn disk_address(&self, disk: &WantedDisk) -> Address {
        Address::new(["disk", self.host.as_str(), disk.guest.as_str(), disk.mounted.name.as_str()])
    }

    /// Returns a template's address.
    pub fn template_address(&self, name: &Name) -> Address {
        Address::new(["template", self.host.as_str(), name.as_str()])
    }

    /// Returns a guest's address.
    pub fn guest_address(&self, name: &Name) -> Address {
        Address::new(["vm", self.host.as_str(), name.as_str()])
    }
}

/// Sorts the site by host. `images` has every template's image.
///
/// # Errors
/// Where a guest does not fit its template, has no key to log in with, or has a cloud-config that can't be used.
pub fn wanted(site: &Site, images: &BTreeMap<Name, DiskImage>) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    for (name, Host { address: _, api, ssh: _, storage }) in &site.hosts {
        let mut host = Wanted {
            host: name.clone(),
            node: api.node.clone(),
            storage: storage.clone(),
            bridge: site.network.bridge.clone(),
            templates: Vec::new(),
            guests: Vec::new(),
        };
        for (template_name, template) in site.templates.iter().filter(|(_, template)| template.host == *name) {
            host.templates.push(wanted_template(site, template_name, template, images)?);
        }
        for (guest_name, guest) in site.guests.iter().filter(|(_, guest)| guest.host == *name) {
            host.guests.push(wanted_guest(site, guest_name, guest, images)?);
        }
        if !host.templates.is_empty() || !host.guests.is_empty() {
            all.push(host);
        }
    }
    Ok(all)
}

fn disk_of<'a>(images: &'a BTreeMap<Name, DiskImage>, image: &Name) -> Result<&'a DiskImage> {
    images.get(image).with_context(|| format!("image '{image}' is not built"))
}

fn wanted_template(
    site: &Site,
    name: &Name,
    Template { host: _, vmid, image }: &Template,
    images: &BTreeMap<Name, DiskImage>,
) -> Result<WantedTemplate> {
    let disk = disk_of(images, image)?.clone();
    // A VM's name is a DNS name, so its label ends after 63 characters.
    let stem: String = name.as_str().chars().take(50).collect();
    let state = TemplateState {
        name: format!("{stem}-{}", disk.file.sha256.short()),
        image: disk.file.sha256.to_string(),
        tags: mark::tags(&site.name),
        template: true,
    };
    Ok(WantedTemplate { name: name.clone(), vmid: *vmid, image: image.clone(), disk, state })
}

fn wanted_guest(site: &Site, name: &Name, guest: &Guest, images: &BTreeMap<Name, DiskImage>) -> Result<WantedGuest> {
    // Every field is named, so that a new one fails to compile until somebody says what it means for the VM. The address,
    // the login, the keys and the cloud-config are in the seed.
    let Guest {
        host: _,
        vmid,
        template,
        address: _,
        cores,
        memory,
        disk,
        onboot,
        ssh: _,
        authorized_keys: _,
        pending_keys: _,
        user_data: _,
        on_change,
        disks,
        pci,
    } = guest;
    let template =
        site.templates.get(template).with_context(|| format!("guest '{name}' has no template '{template}'"))?;
    let image = disk_of(images, &template.image)?;
    if disk.bytes() < image.virtual_size {
        let least = Size::from_bytes(image.virtual_size);
        let what = format!("guest '{name}' has a disk of {disk}, and its template's is {least}: it can't shrink");
        return Err(Failure::config(what).hint(format!("give it at least disk = \"{least}\"")).into());
    }
    let seed = Seed::of(name, guest, &site.network)?;
    let disks: Vec<WantedDisk> = disks.iter().map(|(disk, data)| wanted_disk(site, name, disk, data)).collect();
    let shown = disks.iter().map(|disk| (disk.mounted.name.to_string(), disk.shown(disk.state.size)));
    let state = GuestState {
        name: name.to_string(),
        template: image.file.sha256.to_string(),
        cores: u64::from(*cores),
        memory: *memory,
        disk: *disk,
        onboot: *onboot,
        bridge: site.network.bridge.clone(),
        pci: pci.clone(),
        tags: mark::tags(&site.name),
        user_data: seed.digest().to_string(),
        seed: mark::seed_file(name, *vmid, seed.digest()),
        power: "running".to_owned(),
        ready: true,
        network: seed.network(),
        file_system: *disk,
        disks: shown.collect(),
        waiting: Vec::new(),
    };
    let (name, template) = (name.clone(), template.vmid);
    Ok(WantedGuest { name, vmid: *vmid, template, seed, on_change: *on_change, disks, state })
}

fn wanted_disk(site: &Site, guest: &Name, name: &Name, DataDisk { vmid, size, mount }: &DataDisk) -> WantedDisk {
    // A VM's name is a DNS name, so its label ends after 63 characters; a disk's name has up to 20.
    let stem: String = guest.as_str().chars().take(42).collect();
    let state = DiskState { name: format!("{stem}-{name}"), size: *size, tags: mark::tags(&site.name), kept: true };
    let mounted = Mounted { name: name.clone(), size: *size, mount: mount.clone() };
    WantedDisk { guest: guest.clone(), vmid: *vmid, mounted, state }
}

/// Refuses guests that nobody could log in to: nothing could be set up on them.
///
/// # Errors
/// A refusal that names them.
pub fn can_log_in(site: &Site) -> Result<(), Failure> {
    for (name, guest) in &site.guests {
        if let Some(path) = guest.pending_keys.first() {
            let what = format!("guest '{name}': its key {} is not there yet", path.display());
            return Err(Failure::refused(what).hint("a lab's key is made by `pve-lab up`"));
        }
        if guest.authorized_keys.is_empty() {
            return Err(Failure::config(format!("guest '{name}' has no key to log in with")));
        }
    }
    Ok(())
}

/// Stands in for an image that is not built yet, where only texts are wanted: its digest is all zeros.
pub fn unbuilt(image: &Name) -> DiskImage {
    let file = store::Artifact { sha256: store::Digest::from_bytes([0; 32]), size: 0 };
    DiskImage { name: image.to_string(), file, format: "qcow2".to_owned(), virtual_size: 0 }
}
