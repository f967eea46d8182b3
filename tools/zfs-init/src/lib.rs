//! Logical volumes, ZFS pools, datasets and their properties on the hosts of a site.
//!
//! In: the inventory's `[logical_volumes]`, `[pools]` and their datasets. Out: what is missing is made, what differs is
//! set. Nothing is ever destroyed, a device that holds anything is refused, and a pool or volume that Hearth did not make
//! is left alone: what it makes carries a tag, `dev.hearth:site` on a pool and `hearth` on a volume.

mod action;
mod attempt;
mod desired;
mod diff;
mod disk;
mod observed;
mod probe;
mod property;
mod snapshot;

use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::{Context, Facts, Rendered, Step, Tool};
use remote::Probe;
use serde_json::Value;
use site::Name;

pub use action::Action;
pub use snapshot::snapshot;

use diff::Diff;
use observed::Observed;

/// The tool.
pub struct ZfsInit;

impl Tool for ZfsInit {
    fn name(&self) -> &'static str {
        "zfs-init"
    }

    fn about(&self) -> &'static str {
        "Makes logical volumes, ZFS pools and datasets on the hosts, and sets their properties"
    }

    fn desired(&self, cx: &Context<'_>) -> Result<Value> {
        let hosts = desired::wanted(cx.site);
        Ok(serde_json::to_value(hosts)?)
    }

    fn render(&self, cx: &Context<'_>) -> Result<Vec<Rendered>> {
        let mut texts = Vec::new();
        let users = desired::users(cx.site);
        for (host, wanted) in desired::wanted(cx.site) {
            let seen = Observed::default();
            let diff = Diff { site: &cx.site.name, host, seen: &seen, users: &users, present: false };
            let steps = diff.steps(&wanted)?;
            let scripts: Result<Vec<String>> =
                steps.iter().filter(|step| cx.selects(&step.change.address)).map(script).collect();
            let text = scripts?.concat();
            if !text.is_empty() {
                texts.push(Rendered { place: format!("{host}:sh"), text });
            }
        }
        Ok(texts)
    }

    fn probes(&self, cx: &Context<'_>) -> Result<Vec<Probe>> {
        Ok(desired::wanted(cx.site)
            .iter()
            .flat_map(|(host, wanted)| probe::probes(&cx.site.name, host, wanted))
            .collect())
    }

    fn plan(&self, cx: &Context<'_>, facts: &Facts) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let users = desired::users(cx.site);
        for (host, wanted) in desired::wanted(cx.site) {
            let seen = Observed::read(facts, host, &wanted)?;
            let present = seen.is_some();
            let seen = seen.unwrap_or_default();
            steps.extend(Diff { site: &cx.site.name, host, seen: &seen, users: &users, present }.steps(&wanted)?);
        }
        Ok(steps)
    }

    fn apply(&self, cx: &Context<'_>, step: &Step) -> Result<()> {
        let host: Name = step.lane.parse().with_context(|| format!("'{}' is no host", step.lane))?;
        let action = action(step)?;
        let deadline: Duration = action.deadline();
        cx.fleet.host(&host)?.run(&action.script(), deadline)?;
        Ok(())
    }
}

fn action(step: &Step) -> Result<Action> {
    serde_json::from_value(step.action.clone())
        .with_context(|| format!("the step {} is none of zfs-init", step.change.address))
}

fn script(step: &Step) -> Result<String> {
    Ok(action(step)?.script())
}
