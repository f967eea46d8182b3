//! A guest's mounts, compared.

use anyhow::Result;
use converge::{Address, Change, Failure, Impact, Kind, Step};
use serde_json::{Value, json};
use site::Name;

use crate::action::Action;
use crate::desired::Mount;
use crate::observed::{Client, Mounted};
use crate::server;
use crate::unit::{self, RETRY, UNITS};

/// What is not wanted any more is unmounted before its export goes: a mount whose server says no can hang.
const LEFTOVERS: u32 = 0;
/// The mounts come after all exports.
const MOUNTS: u32 = server::WAVE + 1;

/// Compares one guest.
pub(crate) struct Diff<'a> {
    pub(crate) site: &'a Name,
    pub(crate) guest: &'a Name,
    pub(crate) seen: &'a Client,
}

impl Diff<'_> {
    /// Returns the guest's steps: what is not wanted any more goes first, for it may be in the way.
    pub(crate) fn steps(&self, wanted: &[Mount]) -> Result<Vec<Step>> {
        let mut steps = self.leftovers(wanted)?;
        if !wanted.is_empty() {
            steps.extend(self.retry()?);
        }
        for mount in wanted {
            self.may_mount(mount)?;
            steps.extend(self.mount(mount)?);
        }
        Ok(steps)
    }

    fn step(&self, name: &str, kind: Kind, values: [Value; 2], impact: Impact, action: &Action) -> Result<Step> {
        let [before, after] = values;
        let address = Address::new(["nfs", self.guest.as_str(), name]);
        let change = Change { address, kind, before, after, impact };
        let wave = if kind == Kind::Delete { LEFTOVERS } else { MOUNTS };
        Ok(Step { change, wave, lane: self.guest.to_string(), action: serde_json::to_value(action)? })
    }

    /// Removes the units that this site has made and does not want any more.
    fn leftovers(&self, wanted: &[Mount]) -> Result<Vec<Step>> {
        let header = unit::header(self.site);
        let mut steps = Vec::new();
        for (path, text) in &self.seen.files {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_wanted =
                if name == RETRY { !wanted.is_empty() } else { wanted.iter().any(|mount| mount.unit == name) };
            if is_wanted || !text.starts_with(&header) {
                continue;
            }
            let before = match name {
                RETRY => json!({ "file": path }),
                _ => json!({ "source": value(text, "What"), "target": value(text, "Where") }),
            };
            let action = Action::Remove { unit: name.to_owned() };
            steps.push(self.step(name, Kind::Delete, [before, Value::Null], Impact::None, &action)?);
        }
        // A mount must go before the unit that would try it again.
        steps.sort_by_key(|step| step.change.address.as_str().ends_with(RETRY));
        Ok(steps)
    }

    fn retry(&self) -> Result<Option<Step>> {
        let text = unit::retry(self.site);
        let there = self.seen.file(RETRY);
        if there == Some(&text) {
            return Ok(None);
        }
        if there.is_some() {
            self.made_here(RETRY)?;
        }
        let file = format!("{UNITS}/{RETRY}");
        let is = if there.is_some() { "another text" } else { "missing" };
        let kind = if there.is_some() { Kind::Update } else { Kind::Create };
        let values = [json!({ &file: is }), json!({ &file: "as rendered" })];
        self.step("retry", kind, values, Impact::None, &Action::Retry { file, text }).map(Some)
    }

    /// Makes sure that a unit's file that is there is this site's.
    fn made_here(&self, name: &str) -> Result<(), Failure> {
        let foreign = self.seen.file(name).is_some_and(|text| !text.starts_with(&unit::header(self.site)));
        if !foreign {
            return Ok(());
        }
        let message = format!("{} has a unit {UNITS}/{name} that Hearth did not make for this site", self.guest);
        Err(Failure::refused(message).hint("remove it, or take its mount point out of the inventory"))
    }

    /// Makes sure that nobody else has put something at the mount point.
    fn may_mount(&self, mount: &Mount) -> Result<(), Failure> {
        let Mount { target, unit, source, .. } = mount;
        let guest = self.guest;
        if let Some((number, _, line)) = self.seen.fstab.iter().find(|(_, place, _)| place == target) {
            let message = format!("{guest} mounts {target} in /etc/fstab, line {number}: {}", line.trim());
            let hint = "remove the line; Hearth mounts with a unit, which a guest can boot without";
            return Err(Failure::refused(message).hint(hint));
        }
        self.made_here(unit)?;
        let own = format!("{UNITS}/{unit}");
        let state = self.seen.units.get(unit);
        if let Some(state) = state.filter(|state| !["", "/dev/null", &own].contains(&state.file.as_str())) {
            let message = format!("{guest} mounts {target} by the unit {}, which Hearth did not make", state.file);
            return Err(Failure::refused(message).hint("remove it, or choose another mount point"));
        }
        if let Some(mounted) = self.seen.mounts.get(target)
            && mounted.source != *source
            && self.seen.file(unit).is_none()
        {
            let message = format!("{guest} has {} mounted at {target}, which Hearth did not do", mounted.source);
            return Err(Failure::refused(message).hint("unmount it, or choose another mount point"));
        }
        Ok(())
    }

    /// Says what a mount costs: who requires it is stopped while it is mounted in another way.
    fn impact(&self, remount: bool, stacks: &[String]) -> Impact {
        let names: Vec<String> = stacks.iter().map(|stack| format!("stack {stack} in {}", self.guest)).collect();
        if remount && !names.is_empty() { Impact::Restart(names) } else { Impact::None }
    }

    fn mount(&self, mount: &Mount) -> Result<Option<Step>> {
        let Mount { share, source, target, options, unit, stacks } = mount;
        let text = unit::mount(self.site, mount);
        let there = self.seen.file(unit);
        let options = options.join(",");
        if there.is_none() {
            let after = json!({ "source": source, "target": target, "options": options });
            // What is mounted as wanted, though its unit's file is gone, stays.
            let other = |mounted: &Mounted| mounted.source != *source || mode(&mounted.options) != mode(&options);
            let remount = self.seen.mounts.get(target).is_some_and(other) || self.seen.stale.contains(target);
            let action = Action::Mount { unit: unit.clone(), text, remount };
            let impact = self.impact(remount, stacks);
            return self.step(share.as_str(), Kind::Create, [Value::Null, after], impact, &action).map(Some);
        }
        let old = there.unwrap_or_default();
        let mounted = self.seen.mounts.get(target);
        let state = self.seen.units.get(unit);
        let is_mounted = mounted.is_some() && state.is_some_and(|state| state.active);
        let (mut before, mut after) = (json!({}), json!({}));
        let mut compare = |key: &str, is: &str, shall: &str| {
            if is != shall {
                before[key] = json!(is);
                after[key] = json!(shall);
            }
        };
        compare("source", &value(old, "What"), source);
        compare("options", &value(old, "Options"), &options);
        let text_differs = old != text || state.is_some_and(|state| state.stale);
        compare("unit", if text_differs { "another text" } else { "as rendered" }, "as rendered");
        let stale = self.seen.stale.contains(target);
        compare(
            "mounted",
            if stale {
                "stale"
            } else if is_mounted {
                "yes"
            } else {
                "no"
            },
            "yes",
        );
        compare("at boot", if state.is_some_and(|state| state.enabled) { "mounted" } else { "not mounted" }, "mounted");
        if let Some(mounted) = mounted {
            compare("mounted source", &mounted.source, source);
            compare("mounted as", mode(&mounted.options), mode(&options));
        }
        if before == json!({}) {
            return Ok(None);
        }
        let cause = ["source", "options", "mounted source", "mounted as"];
        let remount = mounted.is_some() && (stale || cause.iter().any(|key| before.get(*key).is_some()));
        let impact = self.impact(remount, stacks);
        let action = Action::Mount { unit: unit.clone(), text, remount };
        self.step(share.as_str(), Kind::Update, [before, after], impact, &action).map(Some)
    }
}

/// Tells how options have something mounted.
fn mode(options: &str) -> &'static str {
    if options.split(',').any(|option| option == "ro") { "ro" } else { "rw" }
}

/// Returns the value of a unit file's line.
fn value(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().replace("%%", "%")
}
