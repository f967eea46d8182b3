//! Desired against observed: pure.

use converge::{Address, Change, Failure, Impact, Kind, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use site::{Name, Vmid};

use crate::mark::Mark;
use crate::observe::{Observed, guest_state, mark_of, template_state};
use crate::wanted::{GuestState, Wanted, WantedGuest, WantedTemplate};

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

fn compare_guest(site: &Name, wanted: &Wanted, guest: &WantedGuest, observed: &Observed, diff: &mut Diff) {
    let WantedGuest { name, vmid, template: _, seed: _, state: after } = guest;
    let address = wanted.guest_address(name);
    let Some(before) = guest_state(observed, *vmid, site) else {
        if observed.vms.contains_key(&u32::from(*vmid)) {
            return diff.refused.push(taken(site, wanted, &address, *vmid, observed));
        }
        let action = Action::Guest { host: wanted.host.clone(), name: name.clone(), rebuild: false, away: true };
        return diff.steps.push(step(address, 1, &action, Value::Null, value(Some(after)), Impact::None));
    };
    if before == *after {
        return;
    }
    let needs = Needs::of(&before, after);
    if before.disk > after.disk && !needs.rebuild {
        return diff.refused.push(Refused {
            what: format!("{address}: its disk has {}, and {} is wanted: a disk can't shrink", before.disk, after.disk),
            hint: format!("write disk = \"{}\"", before.disk),
        });
    }
    let away = before.power != "running" || !before.ready || needs.rebuild;
    let action = Action::Guest { host: wanted.host.clone(), name: name.clone(), rebuild: needs.rebuild, away };
    let whom = vec![name.to_string()];
    let impact = match needs {
        Needs { rebuild: true, .. } => Impact::DataLoss(whom),
        Needs { reboot: true, .. } if before.power == "running" => Impact::Reboot(whom),
        _ => Impact::None,
    };
    diff.steps.push(step(address, 1, &action, value(Some(&before)), value(Some(after)), impact));
}

/// What a change of a guest takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// It must be cloned anew: its disk stands on another image.
    pub rebuild: bool,
    /// It must be stopped and started.
    pub reboot: bool,
}

impl Needs {
    /// Compares field by field; a new field fails to compile until somebody says what its change takes.
    pub fn of(before: &GuestState, after: &GuestState) -> Self {
        let GuestState {
            name: _,
            template,
            cores,
            memory,
            disk,
            onboot: _,
            bridge,
            pci,
            tags: _,
            user_data,
            seed,
            power: _,
            ready: _,
        } = before;
        // The disk grows at once, but the guest's file system at the next boot, by cloud-init; the seed is read then too.
        let reboot = *cores != after.cores
            || *memory != after.memory
            || *disk != after.disk
            || *bridge != after.bridge
            || *pci != after.pci
            || *user_data != after.user_data
            || *seed != after.seed;
        Self { rebuild: *template != after.template, reboot }
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
