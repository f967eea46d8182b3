//! Desired against observed: pure.

use converge::{Address, Change, Failure, Impact, Kind, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use site::{Name, OnChange, Vmid};

use crate::mark::Mark;
use crate::observe::{NO_DRIVE, Observed, disk_state, guest_state, mark_of, template_state};
use crate::wanted::{GuestState, Wanted, WantedDisk, WantedGuest, WantedTemplate};

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "make")]
pub enum Action {
    /// Make or finish a template.
    Template {
        /// Its host.
        host: Name,
        /// Its name.
        name: Name,
    },
    /// Make or finish a data disk.
    Disk {
        /// Its host.
        host: Name,
        /// Its guest.
        guest: Name,
        /// Its name.
        name: Name,
    },
    /// Make or change a guest.
    Guest {
        /// Its host.
        host: Name,
        /// Its name.
        name: Name,
        /// Whether it is deleted and cloned anew.
        rebuild: bool,
        /// Whether it can't be asked anything before this step is done.
        away: bool,
    },
}

/// The comparison of one host.
#[derive(Debug, Default)]
pub struct Diff {
    /// What is to be done.
    pub steps: Vec<Step>,
    /// Why nothing may be done.
    pub refused: Vec<Refused>,
}

/// One reason for which nothing may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is in the way.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Compares one host.
pub fn diff(site: &Name, wanted: &Wanted, observed: &Observed) -> Diff {
    let mut diff = Diff::default();
    for template in &wanted.templates {
        compare_template(site, wanted, template, observed, &mut diff);
    }
    for guest in &wanted.guests {
        for disk in &guest.disks {
            compare_disk(site, wanted, (guest, disk), observed, &mut diff);
        }
        compare_guest(site, wanted, guest, observed, &mut diff);
    }
    diff
}

/// Makes one refusal of all reasons.
///
/// # Errors
/// The refusal, where there is a reason.
pub fn refuse(refused: &[Refused]) -> Result<(), Failure> {
    let Some(first) = refused.first() else { return Ok(()) };
    let lines: Vec<&str> = refused.iter().map(|one| one.what.as_str()).collect();
    Err(Failure::refused(lines.join("\n  ")).hint(first.hint.clone()))
}

fn step(address: Address, wave: u32, action: &Action, before: Value, after: Value, impact: Impact) -> Step {
    let kind = if before.is_null() { Kind::Create } else { Kind::Update };
    let lane = address.to_string();
    let action = serde_json::json!(action);
    Step { change: Change { address, kind, before, after, impact }, wave, lane, action }
}

fn compare_template(site: &Name, wanted: &Wanted, template: &WantedTemplate, observed: &Observed, diff: &mut Diff) {
    let WantedTemplate { name, vmid, image, disk: _, state: after } = template;
    let address = wanted.template_address(name);
    let before = template_state(observed, *vmid, site);
    match &before {
        None if observed.vms.contains_key(&u32::from(*vmid)) => {
            return diff.refused.push(taken(site, wanted, &address, *vmid, observed));
        }
        Some(before) if before == after => return,
        Some(before) if before.image != after.image && observed.cloned.contains(&u32::from(*vmid)) => {
            let (old, new) = (short(&before.image), short(&after.image));
            return diff.refused.push(Refused {
                what: format!("{address}: image '{image}' is now {new}, and guests are linked clones of {old}"),
                hint: "give the new image a template of its own, with another vmid, and move the guests to it".into(),
            });
        }
        _ => {}
    }
    let action = Action::Template { host: wanted.host.clone(), name: name.clone() };
    diff.steps.push(step(address, 0, &action, value(before.as_ref()), value(Some(after)), Impact::None));
}

fn compare_disk(
    site: &Name,
    wanted: &Wanted,
    (guest, disk): (&WantedGuest, &WantedDisk),
    observed: &Observed,
    diff: &mut Diff,
) {
    let address = wanted.disk_address(disk);
    let (vmid, after) = (disk.vmid, &disk.state);
    let own = Mark::Disk { guest: disk.guest.to_string(), name: disk.mounted.name.to_string() };
    let there = observed.vms.contains_key(&u32::from(vmid));
    if there && mark_of(observed, vmid, site) != Some(own) {
        return diff.refused.push(taken(site, wanted, &address, vmid, observed));
    }
    let mut before = disk_state(observed, disk, guest, site);
    if let Some(before) = before.as_mut().filter(|before| before.size.bytes() == 0) {
        return diff.refused.push(Refused {
            what: format!("{address}: VM {vmid} '{}' is there, and has no volume any more", before.name),
            hint: format!("if its data is lost for good, delete VM {vmid}: then a blank disk is made anew"),
        });
    }
    if let Some(before) = before.as_mut() {
        if before.size > after.size {
            return diff.refused.push(Refused {
                what: format!("{address}: it has {}, and {} is wanted: a disk can't shrink", before.size, after.size),
                hint: format!(
                    "write size = \"{}\"; for a smaller one, add another data disk, copy the data, and take this one out",
                    before.size
                ),
            });
        }
        // It grows with its guest, which is shown there.
        before.size = after.size;
    }
    if before.as_ref() == Some(after) {
        return;
    }
    let action = Action::Disk { host: wanted.host.clone(), guest: disk.guest.clone(), name: disk.mounted.name.clone() };
    diff.steps.push(step(address, 0, &action, value(before.as_ref()), value(Some(after)), Impact::None));
}

fn compare_guest(site: &Name, wanted: &Wanted, guest: &WantedGuest, observed: &Observed, diff: &mut Diff) {
    let WantedGuest { name, vmid, state: after, on_change, .. } = guest;
    let address = wanted.guest_address(name);
    let Some(before) = guest_state(observed, guest, site) else {
        if observed.vms.contains_key(&u32::from(*vmid)) {
            return diff.refused.push(taken(site, wanted, &address, *vmid, observed));
        }
        let action = Action::Guest { host: wanted.host.clone(), name: name.clone(), rebuild: false, away: true };
        return diff.steps.push(step(address, 1, &action, Value::Null, value(Some(after)), Impact::None));
    };
    if before == *after {
        return;
    }
    let needs = Needs::of(&before, after, *on_change);
    if before.disk > after.disk && !needs.rebuild {
        return diff.refused.push(Refused {
            what: format!("{address}: its disk has {}, and {} is wanted: a disk can't shrink", before.disk, after.disk),
            hint: format!(
                "write disk = \"{}\"; for a smaller one, delete VM {vmid} yourself, and it is made anew",
                before.disk
            ),
        });
    }
    let away = before.power != "running" || !before.ready || needs.rebuild;
    let action = Action::Guest { host: wanted.host.clone(), name: name.clone(), rebuild: needs.rebuild, away };
    let impact = match needs {
        Needs { rebuild: true, .. } => Impact::DataLoss(vec![format!("the system disk of {name} ({})", before.disk)]),
        Needs { reboot: true, .. } if before.power == "running" => Impact::Reboot(vec![name.to_string()]),
        Needs { reapply: true, .. } if before.power == "running" => {
            Impact::Restart(vec![format!("cloud-init in {name}")])
        }
        _ => Impact::None,
    };
    diff.steps.push(step(address, 1, &action, value(Some(&before)), value(Some(after)), impact));
}

/// What a change of a guest takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// It must be cloned anew: its disk stands on another image, or the site wants it so for new user-data.
    pub rebuild: bool,
    /// It must be stopped and started.
    pub reboot: bool,
    /// cloud-init must run again in it.
    pub reapply: bool,
}

impl Needs {
    /// Compares field by field; a new field fails to compile until somebody says what its change takes.
    pub fn of(before: &GuestState, after: &GuestState, on_change: OnChange) -> Self {
        // Names, tags and what waits are set at once. Disks grow and are plugged in while the guest runs, and a medium is
        // changed so; a drive that is not there at all can't be added to a running machine.
        let GuestState {
            name: _,
            template,
            cores,
            memory,
            disk: _,
            onboot: _,
            bridge,
            pci,
            tags: _,
            user_data,
            seed,
            power: _,
            ready: _,
            network,
            file_system: _,
            disks: _,
            waiting: _,
        } = before;
        let told = *user_data != after.user_data;
        let machine = *cores != after.cores
            || *memory != after.memory
            || *bridge != after.bridge
            || *pci != after.pci
            || seed == NO_DRIVE;
        // A running guest does not move to another address: cloud-init only writes it down.
        let boots = told && (on_change == OnChange::Restart || *network != after.network);
        Self {
            rebuild: *template != after.template || (told && on_change == OnChange::Recreate),
            reboot: machine || boots,
            reapply: told && on_change == OnChange::Reapply,
        }
    }
}

fn value<T: Serialize>(state: Option<&T>) -> Value {
    serde_json::json!(state)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Says who has a number that is wanted.
fn taken(site: &Name, wanted: &Wanted, address: &Address, vmid: Vmid, observed: &Observed) -> Refused {
    let resource = observed.vms.get(&vmid.into()).map(|vm| vm.resource.clone()).unwrap_or_default();
    let kind = match (resource.kind.as_str(), resource.template) {
        ("lxc", _) => "container",
        (_, true) => "template",
        _ => "VM",
    };
    let tags =
        if resource.tags.trim().is_empty() { "no tags".into() } else { format!("tags {}", resource.tags.trim()) };
    let whose = match mark_of(observed, vmid, site) {
        Some(Mark::Template { .. }) => ", this site's own template",
        Some(Mark::Guest { .. }) => ", this site's own guest",
        Some(Mark::Disk { .. }) => ", which owns another data disk of this site",
        // What is on another node was not looked into.
        None if resource.node != wanted.node => "",
        None => ", not made by this site",
    };
    let who = format!("{kind} '{}' on node {} ({tags}){whose}", resource.name, resource.node);
    let hint = if resource.node == wanted.node {
        format!("give it another vmid, or delete {vmid} on {} yourself if nobody needs it", resource.node)
    } else {
        format!("VMIDs are counted in the whole cluster: give it another vmid, or move {vmid} to {}", wanted.node)
    };
    Refused { what: format!("{address}: VMID {vmid} is taken by {who}"), hint }
}
