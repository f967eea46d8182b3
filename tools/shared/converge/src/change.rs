use std::fmt;

use serde::{Deserialize, Serialize};
use store::Digest;

/// A thing's address in the site, as `zfs/pve1/tank-hdd/media`: the kind, then the way to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl Address {
    /// Joins an address of its parts.
    pub fn new<P: fmt::Display>(parts: impl IntoIterator<Item = P>) -> Self {
        Self(parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join("/"))
    }

    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Tells whether this address is `other` or lies below it, as `--only` means it.
    pub fn is_within(&self, other: &str) -> bool {
        let other = other.trim_end_matches('/');
        self.0 == other || self.0.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a change does to its thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is not there and will be made.
    Create,
    /// It is there and will be altered in place.
    Update,
    /// It is there and will be removed.
    Delete,
}

/// What a change costs those who use the site while it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of", content = "what")]
pub enum Impact {
    /// Nothing.
    None,
    /// These services restart.
    Restart(Vec<String>),
    /// These machines reboot.
    Reboot(Vec<String>),
    /// This data is lost; applied only with `--allow ADDRESS`.
    DataLoss(Vec<String>),
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no impact"),
            Self::Restart(what) => write!(f, "restarts {}", what.join(", ")),
            Self::Reboot(what) => write!(f, "reboots {}", what.join(", ")),
            Self::DataLoss(what) => write!(f, "LOSES DATA of {}", what.join(", ")),
        }
    }
}

/// One difference between desired and observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The thing that differs.
    pub address: Address,
    /// What is done to it.
    pub kind: Kind,
    /// As it is; `null` where it is not there.
    pub before: serde_json::Value,
    /// As it shall be; `null` where it shall not be there.
    pub after: serde_json::Value,
    /// What applying it costs.
    pub impact: Impact,
}

/// A change with what its tool needs to apply it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The change, for people.
    pub change: Change,
    /// Steps of a wave begin when all steps of the waves before it are done; 0 where everything may begin at once.
    #[serde(default)]
    pub wave: u32,
    /// The order within a wave: steps of one lane are applied one after the other, lanes may run at the same time. Usually the host.
    pub lane: String,
    /// The tool's own instruction.
    pub action: serde_json::Value,
}

/// All the steps of one tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The tool.
    pub tool: String,
    /// The site.
    pub site: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Returns the digest by which `apply --plan` sees that reality has not moved.
    pub fn digest(&self) -> Digest {
        Digest::of(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Create => '+',
            Kind::Update => '~',
            Kind::Delete => '-',
        };
        write!(f, "{sign} {}", self.address)?;
        for (key, before, after) in differences(&self.before, &self.after) {
            write!(f, "\n    ")?;
            if !key.is_empty() {
                write!(f, "{key}: ")?;
            }
            match (before, after) {
                (None, Some(after)) => write!(f, "{after}")?,
                (Some(before), None) => write!(f, "{before} → gone")?,
                (before, after) => write!(f, "{} → {}", before.unwrap_or_default(), after.unwrap_or_default())?,
            }
        }
        match &self.impact {
            Impact::None => Ok(()),
            impact => write!(f, "\n    {impact}"),
        }
    }
}

pub(crate) type Difference = (String, Option<String>, Option<String>);

/// Lists what differs between two values: by key where both are tables or one is missing, else as a whole.
pub(crate) fn differences(before: &serde_json::Value, after: &serde_json::Value) -> Vec<Difference> {
    use serde_json::Value::{Null, Object};
    let empty = serde_json::Map::new();
    let (old, new) = match (before, after) {
        (Object(old), Object(new)) => (old, new),
        (Null, Object(new)) => (&empty, new),
        (Object(old), Null) => (old, &empty),
        (Null, Null) => return Vec::new(),
        (old, new) => return vec![(String::new(), text(old), text(new))],
    };
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    keys.filter(|key| old.get(*key) != new.get(*key))
        .map(|key| (key.clone(), old.get(key).and_then(text), new.get(key).and_then(text)))
        .collect()
}

fn text(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_prints_only_what_differs_and_what_it_costs() {
        let change = Change {
            address: Address::new(["zfs", "pve1", "tank-hdd"]),
            kind: Kind::Update,
            before: json!({"compression": "off", "atime": "off"}),
            after: json!({"compression": "lz4", "atime": "off"}),
            impact: Impact::Restart(vec!["nfs-server".into()]),
        };
        assert_eq!(change.to_string(), "~ zfs/pve1/tank-hdd\n    compression: off → lz4\n    restarts nfs-server");
    }

    #[test]
    fn only_selects_an_address_and_what_lies_below_it() {
        let address = Address::new(["zfs", "pve1", "tank-hdd", "media"]);
        assert!(address.is_within("zfs/pve1/tank-hdd"));
        assert!(address.is_within("zfs/pve1/tank-hdd/media/"));
        assert!(!address.is_within("zfs/pve1/tank-hdd/med"));
        assert!(!address.is_within("zfs/pve1/tank"));
    }

    #[test]
    fn an_equal_plan_has_an_equal_digest_and_another_has_not() {
        let plan = |after| Plan {
            tool: "t".into(),
            site: "s".into(),
            steps: vec![Step {
                change: Change {
                    address: Address::new(["a"]),
                    kind: Kind::Create,
                    before: json!(null),
                    after: json!(after),
                    impact: Impact::None,
                },
                wave: 0,
                lane: String::new(),
                action: json!(null),
            }],
        };
        assert_eq!(plan("x").digest(), plan("x").digest());
        assert_ne!(plan("x").digest(), plan("y").digest());
    }
}
