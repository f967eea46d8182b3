use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The server's version.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Version {
    /// The whole version, as `9.1.2`.
    pub version: String,
    /// The release, as `9.1`.
    pub release: String,
}

/// One thing of the cluster. Kinds and states are open texts: a newer server may have more of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Resource {
    /// What it is: `qemu`, `lxc`, `storage`, `node` …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id, as `qemu/101`.
    pub id: String,
    /// Its number, where it is a guest.
    #[serde(deserialize_with = "number")]
    pub vmid: Option<u64>,
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its state, as `running`.
    pub status: String,
    /// Whether it is a template.
    #[serde(deserialize_with = "truth")]
    pub template: bool,
    /// Its tags, with semicolons between them.
    pub tags: String,
    /// What holds its lock, as `clone`; empty where none does.
    pub lock: String,
}

/// One volume of a storage.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Volume {
    /// Its id, as `local:iso/a.iso`.
    pub volid: String,
    /// Its kind, as `iso`.
    pub content: String,
    /// Its format, as `qcow2`.
    pub format: String,
    /// Its size in bytes.
    #[serde(deserialize_with = "number")]
    pub size: Option<u64>,
    /// The volume that it is a linked clone of.
    #[serde(deserialize_with = "plain")]
    pub parent: String,
}

/// A VM's power state.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Power {
    /// `running` or `stopped`.
    pub status: String,
    /// What holds the VM's lock; empty where none does.
    pub lock: String,
}

/// One key of a VM's configuration that waits for the next start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Pending {
    /// The key.
    pub key: String,
    /// The value in use.
    #[serde(deserialize_with = "scalar")]
    pub value: Option<String>,
    /// The value that waits.
    #[serde(deserialize_with = "scalar")]
    pub pending: Option<String>,
    /// Whether its deletion waits: 1, or 2 by force.
    #[serde(deserialize_with = "number")]
    pub delete: Option<u64>,
}

/// A VM's configuration: every value as text, whether the server sends a number or a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The digest by which the server sees that a change was made on another state.
    pub digest: String,
    /// The values by key.
    pub values: BTreeMap<String, String>,
}

impl Config {
    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Returns a value as a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.trim().parse().ok()
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut values: BTreeMap<_, _> =
            raw.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect();
        Ok(Self { digest: values.remove("digest").unwrap_or_default(), values })
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(u8::from(*truth).to_string()),
        value => Some(value.to_string()),
    }
}

fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(text(&Value::deserialize(deserializer)?))
}

/// Takes a text that may be null, as a list of images has it for those that stand on nothing.
fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(scalar(deserializer)?.unwrap_or_default())
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(text) = scalar(deserializer)? else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| serde::de::Error::custom(format!("'{text}' is no number")))
}

fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(scalar(deserializer)?.is_some_and(|text| matches!(text.as_str(), "1" | "true")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_config_reads_numbers_and_strings_alike() {
        let config: Config =
            serde_json::from_value(json!({"memory": "2048", "cores": 2, "digest": "ab", "gone": null})).unwrap();
        assert_eq!((config.number("memory"), config.number("cores")), (Some(2048), Some(2)));
        assert_eq!((config.digest.as_str(), config.values.len()), ("ab", 2));
    }

    #[test]
    fn an_unknown_kind_or_state_does_not_fail_the_answer() {
        let raw = json!({"type": "hologram", "id": "hologram/1", "vmid": "7", "template": 1, "status": "shimmering"});
        let resource: Resource = serde_json::from_value(raw).unwrap();
        assert_eq!((resource.kind.as_str(), resource.vmid, resource.template), ("hologram", Some(7), true));
    }
}
