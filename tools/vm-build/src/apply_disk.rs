//! Makes a data disk: a volume that is owned by a VM which never runs, so that it goes with no guest.

use anyhow::{Context as _, Result};
use converge::Failure;
use pve::Form;
use site::Name;

use crate::apply::{IMPORT, Step};
use crate::mark::Mark;
use crate::observe;
use crate::wanted::{Wanted, WantedDisk};

/// Makes or finishes a data disk.
///
/// # Errors
/// Whatever the API answers; a refusal where the number is somebody else's.
pub(crate) fn disk(step: &Step<'_>, disk: &WantedDisk) -> Result<()> {
    let WantedDisk { guest, vmid, mounted, state } = disk;
    let node = step.client.node(&step.wanted.node);
    if step.config(*vmid)?.is_none() {
        step.say(format!("making the data disk {} of {guest}", mounted.name));
        step.api(node.create(*vmid, disk_form(step.wanted, disk, step.site()), IMPORT))?;
    }
    let config = step.config(*vmid)?.with_context(|| format!("VM {vmid} is gone right after it was made"))?;
    if step.own(*vmid, &config)? != mark(disk) {
        let what = format!("VM {vmid} is another thing of this site, not the data disk '{}' of {guest}", mounted.name);
        return Err(Failure::refused(what).into());
    }
    let (key, _) =
        observe::volume(&config, *vmid).with_context(|| format!("VM {vmid} has no volume: it was taken away since"))?;
    let mut form = Form::new().set("name", &state.name).set("tags", observe::tags_with_own(&config, step.site()));
    if !key.starts_with("unused") {
        // Out of its slot it stays the VM's own, and nobody can run the VM with it.
        form = form.set("delete", key);
    }
    step.api(step.vm(*vmid).set(form.flag("protection", true), &config.digest))
}

fn mark(disk: &WantedDisk) -> Mark {
    Mark::Disk { guest: disk.guest.to_string(), name: disk.mounted.name.to_string() }
}

/// Returns how a data disk's VM is created.
pub(crate) fn disk_form(wanted: &Wanted, disk: &WantedDisk, site: &Name) -> Form {
    // In GiB, of which a MiB is a fraction that ends after ten digits.
    let gib = disk.state.size.mib() as f64 / 1024.0;
    Form::new()
        .set("name", &disk.state.name)
        .set("description", mark(disk).describe(site))
        .set("tags", &disk.state.tags)
        .set("ostype", "l26")
        .set("cores", 1)
        .set("memory", 16)
        .set("scsihw", "virtio-scsi-single")
        .set("scsi0", format!("{}:{gib}", wanted.storage))
        .flag("onboot", false)
}
