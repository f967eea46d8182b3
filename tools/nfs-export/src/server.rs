//! A host's exports, compared.

use std::net::Ipv4Addr;

use anyhow::Result;
use converge::{Address, Change, Failure, Impact, Kind, Step};
use serde_json::{Value, json};
use site::Name;

use crate::action::Action;
use crate::desired::Export;
use crate::observed::{Server, exports};
use crate::unit;

/// The exports come between what is unmounted and what is mounted.
pub(crate) const WAVE: u32 = 1;

/// Options of which exactly one holds, the default first (exports(5), General Options).
const PAIRS: [[&str; 2]; 5] = [
    ["ro", "rw"],
    ["sync", "async"],
    ["root_squash", "no_root_squash"],
    ["no_all_squash", "all_squash"],
    ["secure", "insecure"],
];

/// Compares one host.
pub(crate) struct Diff<'a> {
    pub(crate) site: &'a Name,
    pub(crate) host: &'a Name,
    pub(crate) seen: &'a Server,
    /// The addresses of the site's guests: their exports are the site's affair.
    pub(crate) guests: &'a [Ipv4Addr],
}

impl Diff<'_> {
    /// Returns the host's steps: first the server, then what it exports.
    pub(crate) fn steps(&self, wanted: &[Export]) -> Result<Vec<Step>> {
        let (exports, addition) = (unit::exports_file(self.site), unit::server_file(self.site));
        for file in [&exports, &addition] {
            if self.seen.files.get(file).is_some_and(|text| !text.starts_with(&unit::header(self.site))) {
                let message = format!("{} has a file {file} that Hearth did not make", self.host);
                return Err(Failure::refused(message).hint("move it away; Hearth writes this file whole").into());
            }
        }
        if wanted.is_empty() {
            return Ok(self.removal([exports, addition])?.into_iter().collect());
        }
        self.no_clash(wanted)?;
        Ok(self.server(addition, wanted)?.into_iter().chain(self.exports(exports, wanted)?).collect())
    }

    fn step(&self, name: &str, kind: Kind, before: Value, after: Value, action: &Action) -> Result<Step> {
        let address = Address::new(["nfs", self.host.as_str(), name]);
        let change = Change { address, kind, before, after, impact: Impact::None };
        Ok(Step { change, wave: WAVE, lane: self.host.to_string(), action: serde_json::to_value(action)? })
    }

    fn removal(&self, files: [String; 2]) -> Result<Option<Step>> {
        let there: Vec<String> = files.into_iter().filter(|file| self.seen.files.contains_key(file)).collect();
        if there.is_empty() {
            return Ok(None);
        }
        let before = json!({ "files": there });
        self.step("exports", Kind::Delete, before, Value::Null, &Action::Unexport { files: there }).map(Some)
    }

    /// Makes sure that nobody else exports the same folder to the same client: which of both options hold would depend
    /// on the order of the files.
    fn no_clash(&self, wanted: &[Export]) -> Result<(), Failure> {
        let same = |a: &Export, b: &Export| a.path == b.path && a.client == b.client;
        for (place, other) in &self.seen.others {
            if wanted.iter().any(|export| same(export, other)) {
                let message = format!("{} exports {} to {} in {place} already", self.host, other.path, other.client);
                return Err(Failure::refused(message).hint("remove it there, so that the inventory alone says it"));
            }
        }
        Ok(())
    }

    fn server(&self, file: String, wanted: &[Export]) -> Result<Option<Step>> {
        let text = unit::server(self.site, wanted);
        let (mut before, mut after) = (json!({}), json!({}));
        let mut differs = |key: &str, is: &str, shall: &str| {
            before[key] = json!(is);
            after[key] = json!(shall);
        };
        let there = self.seen.files.get(&file);
        if there != Some(&text) {
            differs(&file, if there.is_some() { "another text" } else { "missing" }, "as rendered");
        }
        if self.seen.unit.stale {
            differs("units", "changed since they were loaded", "loaded");
        }
        if !self.seen.unit.active {
            differs("server", "stopped", "running");
        }
        if !self.seen.unit.enabled {
            differs("at boot", "not started", "started");
        }
        if before == json!({}) {
            return Ok(None);
        }
        let kind = if there.is_some() { Kind::Update } else { Kind::Create };
        self.step("server", kind, before, after, &Action::Serve { file, text }).map(Some)
    }

    fn exports(&self, file: String, wanted: &[Export]) -> Result<Option<Step>> {
        let text = unit::exports(self.site, wanted);
        let there = self.seen.files.get(&file);
        let lines: Vec<Export> = there.map(|text| text.lines().flat_map(exports).collect()).unwrap_or_default();
        let (mut before, mut after) = (json!({}), json!({}));
        for export in wanted {
            let key = format!("{} {}", export.path, export.client);
            if let Some(is) = self.difference(export, &lines) {
                before[&key] = is.map_or(Value::Null, Value::String);
                after[&key] = json!(export.options.join(","));
            }
        }
        for export in self.leftovers(wanted, &lines) {
            before[format!("{} {}", export.path, export.client)] = json!(export.options.join(","));
        }
        if before == json!({}) && there == Some(&text) {
            return Ok(None);
        }
        if before == json!({}) {
            before["file"] = json!("another order or text");
            after["file"] = json!("as rendered");
        }
        let kind = if there.is_some() { Kind::Update } else { Kind::Create };
        let mut paths: Vec<String> = wanted.iter().map(|export| export.path.clone()).collect();
        paths.dedup();
        self.step("exports", kind, before, after, &Action::Export { file, text, paths }).map(Some)
    }

    /// Returns how an export is now, where that is not as wanted: none inside where it is not there at all.
    fn difference(&self, export: &Export, lines: &[Export]) -> Option<Option<String>> {
        let same = |other: &&Export| other.path == export.path && other.client == export.client;
        let Some(line) = lines.iter().find(same) else { return Some(None) };
        if line.options != export.options {
            return Some(Some(line.options.join(",")));
        }
        match self.seen.active.iter().find(same) {
            None => Some(Some("in the file, but not exported".to_owned())),
            Some(active) if holds(&export.options, &active.options) => None,
            Some(active) => Some(Some(format!("exported with {}", active.options.join(",")))),
        }
    }

    /// Lists what is in our file, or exported to a guest of ours and in no file, and not wanted.
    fn leftovers<'a>(&'a self, wanted: &[Export], lines: &'a [Export]) -> Vec<&'a Export> {
        let among = |all: &[Export], one: &Export| all.iter().any(|a| a.path == one.path && a.client == one.client);
        let ours = |export: &Export| self.guests.iter().any(|guest| guest.to_string() == export.client);
        let elsewhere =
            |one: &Export| self.seen.others.iter().any(|(_, a)| a.path == one.path && a.client == one.client);
        let active = self
            .seen
            .active
            .iter()
            .filter(|export| ours(export) && !elsewhere(export) && !among(lines, export) && !among(wanted, export));
        lines.iter().filter(|export| !among(wanted, export)).chain(active).collect()
    }
}

/// Tells whether an active export has the wanted options, those that are not named being at their default.
fn holds(wanted: &[String], active: &[String]) -> bool {
    let has = |options: &[String], option: &str| options.iter().any(|other| other == option);
    let pairs = PAIRS.iter().all(|[default, other]| {
        let expected = if has(wanted, other) { other } else { default };
        has(active, expected)
    });
    pairs && has(active, "no_subtree_check") != has(wanted, "subtree_check")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn active_options_are_compared_with_defaults_in_mind() {
        let options = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let active = options("sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,no_root_squash,no_all_squash");
        assert!(holds(&options("rw,sync,no_subtree_check,no_root_squash"), &active));
        assert!(holds(&options("rw,no_root_squash"), &active));
        for other in ["ro,no_root_squash", "rw", "rw,no_root_squash,async", "rw,no_root_squash,subtree_check"] {
            assert!(!holds(&options(other), &active), "{other}");
        }
    }
}
