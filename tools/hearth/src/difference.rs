//! `hearth diff`: what differs between two generations, or between one and the inventory as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use anyhow::Result;
use converge::cli::Session;
use converge::{Quiet, exit};
use serde::Serialize;
use serde_json::Value;
use store::{Generation, Generations};

use crate::build;
use crate::forward::Used;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `artifacts`, or the tool that wants it.
    pub of: String,
    /// The artifact's name, or the way to the value: its keys with dots between.
    pub key: String,
    /// The value in the first; none where it has no such thing. An artifact's is its digest.
    pub before: Option<Value>,
    /// The value in the second.
    pub after: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Value| match value {
            Value::String(text) if self.of == "artifacts" => text.chars().take(12).collect(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "~ {}: {} → {}", self.key, text(before), text(after)),
            (Some(before), None) => write!(f, "- {}: {}", self.key, text(before)),
            (None, Some(after)) => write!(f, "+ {}: {}", self.key, text(after)),
            (None, None) => f.write_str(&self.key),
        }
    }
}

/// Prints what differs; returns 0 where nothing does, 2 where something does, as `plan`.
///
/// # Errors
/// A generation that there is not, or an inventory that can't be built.
pub fn print(
    session: &Session,
    used: &Used,
    numbers: (u64, Option<u64>),
    json: bool,
    out: &mut dyn Write,
) -> Result<u8> {
    let generations = Generations::open(&session.site.project.join(".hearth/generations"))?;
    let before = generations.load(numbers.0)?;
    let (after, name) = match numbers.1 {
        Some(number) => (generations.load(number)?, format!("generation {number}")),
        None => (build::evaluate(&session.context(&Quiet, &[]), &used.tools)?, "the inventory as it is".to_owned()),
    };
    let all = differences(&before, &after);
    if json {
        for one in &all {
            writeln!(out, "{}", serde_json::to_string(one)?)?;
        }
    } else if all.is_empty() {
        writeln!(out, "generation {} and {name} are the same", numbers.0)?;
    } else {
        writeln!(out, "from generation {} to {name}: {} differences", numbers.0, all.len())?;
        let mut of = "";
        for one in &all {
            if one.of != of {
                writeln!(out, "{}", one.of)?;
            }
            writeln!(out, "  {one}")?;
            of = &one.of;
        }
    }
    Ok(if all.is_empty() { exit::OK } else { exit::CHANGES_PENDING })
}

/// Lists what differs: artifacts first, then each tool's wishes, value by value.
pub fn differences(before: &Generation, after: &Generation) -> Vec<Difference> {
    let artifacts = |generation: &Generation| -> BTreeMap<String, Value> {
        let named = generation.artifacts.iter();
        named.map(|(name, artifact)| (name.clone(), artifact.sha256.to_string().into())).collect()
    };
    let mut all = compare("artifacts", &artifacts(before), &artifacts(after));
    let tools = before.desired.keys().chain(after.desired.keys().filter(|tool| !before.desired.contains_key(*tool)));
    for tool in tools {
        let leaves = |generation: &Generation| {
            let mut leaves = BTreeMap::new();
            if let Some(value) = generation.desired.get(tool) {
                flatten(String::new(), value, &mut leaves);
            }
            leaves
        };
        all.extend(compare(tool, &leaves(before), &leaves(after)));
    }
    all
}

fn compare(of: &str, before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<Difference> {
    let mut keys: Vec<&String> = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))).collect();
    keys.sort();
    let pairs = keys.into_iter().map(|key| (key, before.get(key), after.get(key)));
    let differing = pairs.filter(|(_, before, after)| before != after);
    differing
        .map(|(key, before, after)| Difference {
            of: of.to_owned(),
            key: key.clone(),
            before: before.cloned(),
            after: after.cloned(),
        })
        .collect()
}

/// Takes a value apart: tables by key, lists by the `name` of their items where these have one, else by place.
fn flatten(key: String, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    let join = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match value {
        Value::Object(table) if !table.is_empty() => {
            table.iter().for_each(|(name, value)| flatten(join(name), value, leaves));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (place, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str).map_or_else(|| place.to_string(), str::to_owned);
                flatten(join(&name), item, leaves);
            }
        }
        other => drop(leaves.insert(key, other.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use store::{Artifact, Digest};

    fn generation(artifacts: &[(&str, &str)], desired: Value) -> Generation {
        let artifact = |text: &str| Artifact { sha256: Digest::of(text), size: 1 };
        Generation {
            site: "home".into(),
            artifacts: artifacts.iter().map(|(name, text)| ((*name).to_owned(), artifact(text))).collect(),
            desired: serde_json::from_value(desired).unwrap(),
        }
    }

    #[test]
    fn artifacts_and_wishes_are_compared_value_by_value() {
        let before = generation(
            &[("images/a.qcow2", "1"), ("inputs/site/site.toml", "x")],
            json!({ "vm-build": { "pve1": { "guests": [{ "name": "vm-a", "cores": 1, "pci": [] }] } } }),
        );
        let after = generation(
            &[("images/a.qcow2", "2"), ("seeds/vm-b.iso", "s"), ("inputs/site/site.toml", "x")],
            json!({ "vm-build": { "pve1": { "guests": [{ "name": "vm-b", "cores": 4, "pci": [] },
                                                       { "name": "vm-a", "cores": 2, "pci": ["gpu"] }] } } }),
        );
        let text: Vec<String> = differences(&before, &after).iter().map(|one| format!("{}: {one}", one.of)).collect();
        assert_eq!(
            text,
            [
                "artifacts: ~ images/a.qcow2: 6b86b273ff34 → d4735e3a265e",
                "artifacts: + seeds/vm-b.iso: 043a718774c5",
                "vm-build: ~ pve1.guests.vm-a.cores: 1 → 2",
                "vm-build: ~ pve1.guests.vm-a.pci: [] → [\"gpu\"]",
                "vm-build: + pve1.guests.vm-b.cores: 4",
                "vm-build: + pve1.guests.vm-b.name: vm-b",
                "vm-build: + pve1.guests.vm-b.pci: []",
            ]
        );
        assert!(differences(&before, &before).is_empty());
    }
}
