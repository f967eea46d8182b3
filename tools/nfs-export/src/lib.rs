//! NFS exports on the hosts of a site, and mounts in its guests.
//!
//! In: the inventory's `[shares]`. Out: on a host, a file of its own below `/etc/exports.d`, and an addition to the NFS
//! server's unit, so that it does not export what is not mounted; in a guest, one systemd mount unit for each share.
//! Exports and mounts of other people stay as they are; where one is in the way, the plan is refused and names it.

mod action;
mod client;
mod desired;
mod observed;
mod probe;
mod server;
mod unit;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use converge::{Context, Facts, Rendered, Step, Tool};
use remote::Probe;
use serde_json::Value;
use site::Name;

pub use action::Action;

use desired::{Mount, Wanted};

/// The tool.
pub struct NfsExport;

impl Tool for NfsExport {
    fn name(&self) -> &'static str {
        "nfs-export"
    }

    fn about(&self) -> &'static str {
        "Exports datasets over NFS on the hosts, and mounts them in the guests"
    }

    fn desired(&self, cx: &Context<'_>) -> Result<Value> {
        Ok(serde_json::to_value(Wanted::of(cx.site)?)?)
    }

    /// Returns the files, and the same as classic `/etc/exports` and `/etc/fstab` lines below `classic/`; `--only` takes
    /// the beginning of a place, as `classic` or `pve1`.
    fn render(&self, cx: &Context<'_>) -> Result<Vec<Rendered>> {
        let wanted = Wanted::of(cx.site)?;
        let site = &cx.site.name;
        let mut texts = Vec::new();
        let mut add = |place: String, text: String| texts.push(Rendered { place, text });
        for (host, exports) in wanted.exports.iter().filter(|(_, exports)| !exports.is_empty()) {
            add(format!("{host}:{}", unit::exports_file(site)), unit::exports(site, exports));
            add(format!("{host}:{}", unit::server_file(site)), unit::server(site, exports));
        }
        for (guest, mounts) in wanted.mounts.iter().filter(|(_, mounts)| !mounts.is_empty()) {
            for mount in mounts {
                add(format!("{guest}:{}/{}", unit::UNITS, mount.unit), unit::mount(site, mount));
            }
            add(format!("{guest}:{}/{}", unit::UNITS, unit::RETRY), unit::retry(site));
        }
        for (host, exports) in wanted.exports.iter().filter(|(_, exports)| !exports.is_empty()) {
            let lines = exports.iter().map(|export| export.line() + "\n").collect();
            add(format!("classic/{host}:/etc/exports"), lines);
        }
        let all: Vec<&Mount> = wanted.mounts.values().flatten().collect();
        for (guest, mounts) in wanted.mounts.iter().filter(|(_, mounts)| !mounts.is_empty()) {
            add(format!("classic/{guest}:/etc/fstab"), unit::fstab(mounts, &all));
        }
        texts.retain(|text| cx.only.is_empty() || cx.only.iter().any(|only| is_within(&text.place, only)));
        Ok(texts)
    }

    fn probes(&self, cx: &Context<'_>) -> Result<Vec<Probe>> {
        let wanted = Wanted::of(cx.site)?;
        let servers =
            wanted.exports.iter().flat_map(|(host, exports)| probe::server(host, &cx.site.name, !exports.is_empty()));
        let clients = wanted.mounts.iter().flat_map(|(guest, mounts)| probe::client(guest, mounts));
        Ok(servers.chain(clients).collect())
    }

    fn plan(&self, cx: &Context<'_>, facts: &Facts) -> Result<Vec<Step>> {
        let wanted = Wanted::of(cx.site)?;
        let site = &cx.site.name;
        let guests: Vec<Ipv4Addr> = cx.site.guests.values().map(|guest| guest.address).collect();
        let mut steps = Vec::new();
        // All hosts: one may still have exports that are not wanted any more.
        for (host, exports) in &wanted.exports {
            let seen = observed::Server::read(facts, host, site)?.unwrap_or_default();
            steps.extend(server::Diff { site, host, seen: &seen, guests: &guests }.steps(exports)?);
        }
        for (guest, mounts) in &wanted.mounts {
            let seen = observed::Client::read(facts, guest)?.unwrap_or_default();
            steps.extend(client::Diff { site, guest, seen: &seen }.steps(mounts)?);
        }
        Ok(steps)
    }

    fn apply(&self, cx: &Context<'_>, step: &Step) -> Result<()> {
        let host: Name = step.lane.parse().with_context(|| format!("'{}' is no host", step.lane))?;
        let action: Action = serde_json::from_value(step.action.clone())
            .with_context(|| format!("the step {} is none of nfs-export", step.change.address))?;
        cx.fleet.host(&host)?.run(&action.script(), action.deadline())?;
        Ok(())
    }
}

fn is_within(place: &str, only: &str) -> bool {
    let rest = place.strip_prefix(only.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']))
}
