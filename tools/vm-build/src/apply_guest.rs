//! Makes a guest what it shall be.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::Failure;
use pve::{Config, Form};
use site::{OnChange, Size, Vmid};

use crate::apply::{Step, TASK};
use crate::diff::Needs;
use crate::guests::Guests;
use crate::inside::Inside;
use crate::mark::{self, Mark};
use crate::observe::{self, file_name, option};
use crate::wanted::{GuestState, WantedGuest};

/// How long a guest may take to shut down before its plug is pulled.
const PATIENCE: Duration = Duration::from_secs(180);

/// Makes, finishes or changes a guest. `rebuild` is the consent to lose its disk.
///
/// # Errors
/// Whatever the API answers; a refusal where the number is somebody else's; what the guest says where it does not get well.
pub(crate) fn guest(step: &Step<'_>, guests: &dyn Guests, guest: &WantedGuest, rebuild: bool) -> Result<()> {
    let WantedGuest { name, vmid, seed, on_change, state, .. } = guest;
    let mut config = step.config(*vmid)?;
    if let Some(there) = &config {
        let Mark::Guest { template, user_data, .. } = step.own(*vmid, there)? else {
            let what = format!("VM {vmid} is another thing of this site, not guest '{name}'");
            return Err(Failure::refused(what).into());
        };
        if template != state.template || (*on_change == OnChange::Recreate && user_data != state.user_data) {
            delete(step, guest, there, rebuild)?;
            config = None;
        }
    }
    let config = match config {
        Some(config) => config,
        None => {
            clone(step, guests, guest)?;
            step.config(*vmid)?.with_context(|| format!("VM {vmid} is gone right after it was cloned"))?
        }
    };
    let done = configure(step, guest, config)?;
    if done.started {
        step.say(format!("waiting for {name}"));
        guests.wait(step.cx, &step.vm(*vmid), name, seed.digest())?;
    } else if !done.ready && *on_change == OnChange::Reapply {
        step.say(format!("running cloud-init again in {name}"));
        guests.reapply(step.cx, name, seed.digest())?;
    } else if !done.ready {
        step.say(format!("waiting for {name}"));
        guests.wait(step.cx, &step.vm(*vmid), name, seed.digest())?;
    }
    // A guest's first boot fills its disk by itself.
    let filled = done.now.file_system == state.file_system || (done.started && done.now.file_system.bytes() == 0);
    if !filled || done.now.disks != state.disks {
        step.say(format!("setting up the disks of {name}"));
        let disks = guest.disks.iter().map(|disk| disk.mounted.clone()).collect();
        guests.settle(step.cx, name, &Inside { disk: state.disk, disks })?;
    }
    if done.description != description(step, state, true) {
        let form = Form::new().set("description", description(step, state, true));
        step.api(step.vm(*vmid).set(form, ""))?;
    }
    Ok(())
}

fn description(step: &Step<'_>, state: &GuestState, ready: bool) -> String {
    mark_of(state, ready).describe(step.site())
}

pub(crate) fn mark_of(state: &GuestState, ready: bool) -> Mark {
    let GuestState { template, user_data, network, file_system, disks, .. } = state.clone();
    let ready = if ready { user_data.clone() } else { String::new() };
    Mark::Guest { template, user_data, ready, network, filled: file_system.to_string(), disks }
}

fn delete(step: &Step<'_>, guest: &WantedGuest, config: &Config, consent: bool) -> Result<()> {
    let WantedGuest { name, vmid, .. } = guest;
    if !consent {
        let what = format!("guest '{name}' would have to be made anew now, which was not planned");
        return Err(Failure::refused(what).hint("plan again").into());
    }
    step.say(format!("deleting {name}, to clone it anew"));
    let vm = step.vm(*vmid);
    // What it has not written yet to a disk that stays must not be lost with it.
    if config.values.keys().any(|key| key.starts_with("virtio")) {
        step.api(vm.shutdown(PATIENCE))?;
    }
    step.api(vm.stop(TASK))?;
    step.api(vm.delete(TASK))
}

fn clone(step: &Step<'_>, guests: &dyn Guests, guest: &WantedGuest) -> Result<()> {
    let WantedGuest { name, vmid, template, state, .. } = guest;
    let base = step.config(*template)?.filter(|config| config.number("template") == Some(1));
    let made_of =
        base.as_ref().and_then(|config| Mark::read(config.get("description").unwrap_or_default(), step.site()));
    if made_of != Some(Mark::Template { image: state.template.clone() }) {
        let what =
            format!("template {template}, which guest '{name}' is to be cloned of, is not there or of another image");
        return Err(Failure::refused(what).hint("apply the template first").into());
    }
    guests.forget(step.cx, name)?;
    step.say(format!("cloning {name}"));
    // The clone carries its mark from its first moment; tags can only be set later.
    let blank = GuestState { file_system: Size::from_bytes(0), disks: Default::default(), ..state.clone() };
    let form = Form::new().set("name", name).set("description", description(step, &blank, false));
    step.api(step.vm(*template).clone_to(*vmid, form, TASK))
}

/// What configuring a guest came to.
struct Configured {
    /// As it was before.
    now: GuestState,
    /// Whether it was started.
    started: bool,
    /// Whether it was seen well with its seed already.
    ready: bool,
    /// Its description.
    description: String,
}

/// Reads a guest's state as far as its configuration tells it.
fn look(step: &Step<'_>, guest: &WantedGuest, config: &Config, running: bool) -> Result<GuestState> {
    let mut now = observe::guest_state(&step.observed(guest.vmid, config), guest, step.site())
        .with_context(|| format!("VM {} has lost its mark", guest.vmid))?;
    // Whether the file is there is found out by uploading it; here it counts what the drive names.
    if let Some(drive) = config.get("ide2") {
        now.seed = option(drive, "file").map(file_name).unwrap_or_default().to_owned();
    }
    now.power = if running { "running" } else { "stopped" }.to_owned();
    Ok(now)
}

/// Sets what differs and has the guest run.
fn configure(step: &Step<'_>, guest: &WantedGuest, mut config: Config) -> Result<Configured> {
    let WantedGuest { name, vmid, state, seed, .. } = guest;
    let vm = step.vm(*vmid);
    let running = step.api(vm.power())?.status == "running";
    if running {
        config = revert(step, *vmid, config)?;
    }
    let mut now = look(step, guest, &config, running)?;
    let iso = step.cx.store.put_bytes(&seed.iso())?;
    let there = step.upload("iso", &state.seed, &iso)?;
    let needs = Needs::of(&now, state, guest.on_change);
    if running && needs.reboot {
        step.say(format!("shutting {name} down"));
        step.api(vm.shutdown(PATIENCE))?;
        config = step.config(*vmid)?.with_context(|| format!("VM {vmid} is gone right after it was shut down"))?;
        now = look(step, guest, &config, false)?;
    }
    // A guest that is about to boot with something new is not ready until it was seen so.
    let ready = now.ready && now.user_data == state.user_data && !needs.reboot;
    let half = GuestState { file_system: now.file_system, disks: set_up(&config, step), ..state.clone() };
    let description = description(step, &half, ready);
    let form = attach(step, guest, &config, changes(step, &now, state, &config))?;
    step.api(vm.set(form.set("description", &description), &config.digest))?;
    grow(step, guest, &now)?;
    let started = !running || needs.reboot;
    if started {
        step.say(format!("starting {name}"));
        step.api(vm.start(TASK))?;
    }
    // Only now no drive holds an older seed any more.
    let prefix = mark::seed_prefix(*vmid);
    let stale = |name: &str| name.starts_with(&prefix) && name != state.seed;
    for volume in there.iter().filter(|volume| stale(file_name(&volume.volid))) {
        step.api(step.client.node(&step.wanted.node).delete_volume(&volume.volid, TASK))?;
    }
    Ok(Configured { now, started, ready, description })
}

/// Takes back what somebody left waiting for the next start.
fn revert(step: &Step<'_>, vmid: Vmid, config: Config) -> Result<Config> {
    let (_, waiting) = observe::settled(step.client, step.wanted, vmid)?;
    if waiting.is_empty() {
        return Ok(config);
    }
    let keys: Vec<&str> = waiting.iter().filter_map(|one| one.split(['=', ' ']).next()).collect();
    step.api(step.vm(vmid).set(Form::new().set("revert", keys.join(",")), ""))?;
    step.config(vmid)?.with_context(|| format!("VM {vmid} is gone right after it was changed"))
}

/// Returns how the guest's mark has its data disks.
fn set_up(config: &Config, step: &Step<'_>) -> BTreeMap<String, String> {
    match Mark::read(config.get("description").unwrap_or_default(), step.site()) {
        Some(Mark::Guest { disks, .. }) => disks,
        _ => BTreeMap::new(),
    }
}

/// Puts the volumes of data disks that are not in the guest into free slots. They stay their own VMs'.
fn attach(step: &Step<'_>, guest: &WantedGuest, config: &Config, mut form: Form) -> Result<Form> {
    let mut free = (0..16).map(|number| format!("virtio{number}")).filter(|key| config.get(key).is_none());
    for disk in guest.disks.iter().filter(|disk| observe::slot(config, disk.vmid).is_none()) {
        let name = &disk.mounted.name;
        let owner = step.config(disk.vmid)?;
        let volume = owner.as_ref().and_then(|config| observe::volume(config, disk.vmid));
        let (_, volume) = volume
            .ok_or_else(|| Failure::refused(format!("the data disk '{name}' of VM {} is not there", disk.vmid)))?;
        let slot = free.next().with_context(|| format!("{} has no free slot for '{name}'", guest.name))?;
        form = form.set(&slot, format!("{volume},serial={name}"));
    }
    Ok(form)
}

/// Grows disks that are too small.
fn grow(step: &Step<'_>, guest: &WantedGuest, now: &GuestState) -> Result<()> {
    let vm = step.vm(guest.vmid);
    if now.disk < guest.state.disk {
        step.api(vm.resize("scsi0", guest.state.disk.bytes(), TASK))?;
    }
    if now.disks == guest.state.disks {
        return Ok(());
    }
    let config = step.config(guest.vmid)?.with_context(|| format!("VM {} is gone", guest.vmid))?;
    for disk in &guest.disks {
        let Some((slot, drive)) = observe::slot(&config, disk.vmid) else { continue };
        if observe::disk_size(drive) < disk.state.size {
            step.api(vm.resize(slot, disk.state.size.bytes(), TASK))?;
        }
    }
    Ok(())
}

/// Returns the keys to set: those that differ.
fn changes(step: &Step<'_>, now: &GuestState, state: &GuestState, config: &Config) -> Form {
    let GuestState {
        name,
        template: _,
        cores,
        memory,
        disk: _,
        onboot,
        bridge,
        pci,
        tags,
        user_data: _,
        seed,
        power: _,
        ready: _,
        network: _,
        file_system: _,
        disks: _,
        waiting: _,
    } = state;
    let mut form = Form::new();
    if *name != now.name {
        form = form.set("name", name);
    }
    if *cores != now.cores {
        form = form.set("cores", cores);
    }
    if *memory != now.memory {
        form = form.set("memory", memory.mib());
    }
    if *onboot != now.onboot {
        form = form.flag("onboot", *onboot);
    }
    if *bridge != now.bridge {
        form = form.set("net0", card(config, bridge));
    }
    if *tags != now.tags {
        form = form.set("tags", observe::tags_with_own(config, step.site()));
    }
    if *seed != now.seed {
        form = form.set("ide2", format!("{}:iso/{seed},media=cdrom", step.wanted.storage));
    }
    if *pci != now.pci { devices(form, pci, config) } else { form }
}

/// Puts a card on a bridge and keeps the rest of it, its address above all.
fn card(config: &Config, bridge: &str) -> String {
    let now = config.get("net0").filter(|text| !text.is_empty()).unwrap_or("virtio");
    let rest = now.split(',').filter(|part| !part.starts_with("bridge="));
    rest.map(str::to_owned).chain([format!("bridge={bridge}")]).collect::<Vec<_>>().join(",")
}

fn devices(mut form: Form, pci: &[String], config: &Config) -> Form {
    for (number, mapping) in pci.iter().enumerate() {
        form = form.set(&format!("hostpci{number}"), format!("mapping={mapping}"));
    }
    let wanted: Vec<String> = (0..pci.len()).map(|number| format!("hostpci{number}")).collect();
    let gone: Vec<String> =
        observe::pci(config).into_iter().map(|(key, _)| key).filter(|key| !wanted.contains(key)).collect();
    if gone.is_empty() { form } else { form.set("delete", gone.join(",")) }
}
