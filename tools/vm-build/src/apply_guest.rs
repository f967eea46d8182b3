//! Makes a guest what it shall be.

use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::Failure;
use pve::{Config, Form};

use crate::apply::{Step, TASK};
use crate::diff::Needs;
use crate::guests::Guests;
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
    let WantedGuest { name, vmid, template: _, seed, state } = guest;
    let mut config = step.config(*vmid)?;
    if let Some(there) = &config {
        let Mark::Guest { template, .. } = step.own(*vmid, there)? else {
            return Err(Failure::refused(format!("VM {vmid} is a template of this site, not guest '{name}'")).into());
        };
        if template != state.template {
            delete(step, guest, rebuild)?;
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
    let ready = is_ready(&config, step, state);
    let restarted = configure(step, guest, config)?;
    if restarted || !ready {
        step.say(format!("waiting for {name}"));
        guests.wait(step.cx, &step.vm(*vmid), name, seed.digest())?;
        let form = Form::new().set("description", description(step, state, true));
        step.api(step.vm(*vmid).set(form, ""))?;
    }
    Ok(())
}

fn is_ready(config: &Config, step: &Step<'_>, state: &GuestState) -> bool {
    let mark = Mark::read(config.get("description").unwrap_or_default(), step.site());
    matches!(mark, Some(Mark::Guest { ready, .. }) if ready == state.user_data)
}

fn description(step: &Step<'_>, state: &GuestState, ready: bool) -> String {
    mark_of(state, ready).describe(step.site())
}

pub(crate) fn mark_of(state: &GuestState, ready: bool) -> Mark {
    let user_data = state.user_data.clone();
    let ready = if ready { user_data.clone() } else { String::new() };
    Mark::Guest { template: state.template.clone(), user_data, ready }
}

fn delete(step: &Step<'_>, guest: &WantedGuest, consent: bool) -> Result<()> {
    let WantedGuest { name, vmid, .. } = guest;
    if !consent {
        let what = format!("guest '{name}' stands on another image now than when this was planned");
        return Err(Failure::refused(what).hint("plan again").into());
    }
    step.say(format!("deleting {name}, to clone it anew"));
    let vm = step.vm(*vmid);
    step.api(vm.stop(TASK))?;
    step.api(vm.delete(TASK))
}

fn clone(step: &Step<'_>, guests: &dyn Guests, guest: &WantedGuest) -> Result<()> {
    let WantedGuest { name, vmid, template, seed: _, state } = guest;
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
    let form = Form::new().set("name", name).set("description", description(step, state, false));
    step.api(step.vm(*template).clone_to(*vmid, form, TASK))
}

/// Sets what differs and has the guest run; tells whether it was started.
fn configure(step: &Step<'_>, guest: &WantedGuest, mut config: Config) -> Result<bool> {
    let WantedGuest { name, vmid, state, seed, .. } = guest;
    let vm = step.vm(*vmid);
    let running = step.api(vm.power())?.status == "running";
    let mut now = observe::guest_state(&step.observed(*vmid, &config), *vmid, step.site())
        .with_context(|| format!("VM {vmid} has lost its mark"))?;
    // Whether the file is there is found out by uploading it; here it counts what the drive names.
    now.seed = config.get("ide2").and_then(|drive| option(drive, "file")).map(file_name).unwrap_or_default().to_owned();
    now.power = if running { "running" } else { "stopped" }.to_owned();
    let iso = step.cx.store.put_bytes(&seed.iso())?;
    let there = step.upload("iso", &state.seed, &iso)?;
    let reboot = Needs::of(&now, state).reboot;
    if running && reboot {
        step.say(format!("shutting {name} down"));
        step.api(vm.shutdown(PATIENCE))?;
        // What was pending is in it now.
        config = step.config(*vmid)?.with_context(|| format!("VM {vmid} is gone right after it was shut down"))?;
    }
    // A guest that is about to boot with something new is not ready until it was seen so.
    let ready = now.ready && !reboot;
    let form = changes(step, &now, state, &config).set("description", description(step, state, ready));
    step.api(vm.set(form, &config.digest))?;
    if now.disk < state.disk {
        step.api(vm.resize("scsi0", state.disk.bytes(), TASK))?;
    }
    let starts = !running || reboot;
    if starts {
        step.say(format!("starting {name}"));
        step.api(vm.start(TASK))?;
    }
    // Only now no drive holds an older seed any more.
    let prefix = mark::seed_prefix(*vmid);
    let stale = |name: &str| name.starts_with(&prefix) && name != state.seed;
    for volume in there.iter().filter(|volume| stale(file_name(&volume.volid))) {
        step.api(step.client.node(&step.wanted.node).delete_volume(&volume.volid, TASK))?;
    }
    Ok(starts)
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
