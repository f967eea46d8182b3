//! The locks of the hosts that are going to be changed.

use std::collections::BTreeSet;

use anyhow::Result;
use site::Name;

use crate::change::{Plan, Step};
use crate::context::Context;
use crate::event::Event;

/// Locks each node that a plan changes, by itself or by its guests, for the rest of the run; a node that is locked already
/// is left so, and an empty plan locks none.
///
/// Returns whether one was locked now: then it has to be observed again, since somebody may have changed it before.
///
/// # Errors
/// Another run has the lock (75, with its name), or the node can't be reached.
pub fn hold(cx: &Context<'_>, plan: &Plan) -> Result<bool> {
    let nodes: BTreeSet<Name> = plan.steps.iter().flat_map(|step| nodes(cx.site, step)).collect();
    let new = cx.fleet.hold(&nodes, &holder())?;
    if new {
        let names: Vec<&str> = nodes.iter().map(Name::as_str).collect();
        cx.events.emit(&Event::Note { message: format!("locked for this run: {}", names.join(", ")) });
    }
    Ok(new)
}

/// Says who we are, for whoever comes second.
pub fn holder() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "someone".to_owned());
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = machine.trim();
    let program = std::env::args().next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words: Vec<String> = std::iter::once(program).chain(std::env::args().skip(1)).collect();
    let since = time::OffsetDateTime::now_utc();
    let (date, hour, minute, second) = (since.date(), since.hour(), since.minute(), since.second());
    let process = std::process::id();
    format!(
        "{user}@{machine}, process {process} (`{}`), since {date} {hour:02}:{minute:02}:{second:02} UTC",
        words.join(" ")
    )
}

/// Returns the nodes that a step changes: the one that its lane or its address names, or the one of the guest named there.
/// A step that names neither may change any.
fn nodes(site: &site::Site, step: &Step) -> Vec<Name> {
    let words = std::iter::once(step.lane.as_str()).chain(step.change.address.as_str().split('/').skip(1));
    for word in words {
        if let Some((name, _)) = site.hosts.iter().find(|(name, _)| name.as_str() == word) {
            return vec![name.clone()];
        }
        if let Some((_, guest)) = site.guests.iter().find(|(name, _)| name.as_str() == word) {
            return vec![guest.host.clone()];
        }
    }
    site.hosts.keys().cloned().collect()
}
