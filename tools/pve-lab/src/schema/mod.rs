//! The official API description: which method a path and a verb name, and whether its parameters fit.

mod format;
mod propstr;
mod verify;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::LazyLock;

use serde_json::Value;

pub(crate) use propstr::{boolean, parse as parse_properties, split as split_properties};
pub(crate) use verify::{Params, property, verify};

static V8: LazyLock<Value> = LazyLock::new(|| unpack(include_bytes!("../../schema/pve-8.4.json.gz")));
static V9: LazyLock<Value> = LazyLock::new(|| unpack(include_bytes!("../../schema/pve-9.1.json.gz")));

/// Which release's API is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Release {
    /// Proxmox VE 8.4.
    #[value(name = "8.4")]
    V8,
    /// Proxmox VE 9.1.
    #[default]
    #[value(name = "9.1")]
    V9,
}

/// A method that the schema has.
pub(crate) struct Found {
    /// The path with its placeholders, such as `/nodes/{node}/qemu`.
    pub(crate) template: &'static str,
    /// The method's parameters, permissions and name.
    pub(crate) info: &'static Value,
    /// What the placeholders stood for.
    pub(crate) path: BTreeMap<String, String>,
    /// The names of the sub-folders, for an index.
    pub(crate) children: Vec<&'static str>,
}

impl Release {
    /// Returns the version that `GET /version` answers.
    pub(crate) fn version(self) -> (&'static str, &'static str) {
        match self {
            Self::V8 => ("8.4", "8.4.14"),
            Self::V9 => ("9.2", "9.2.11"),
        }
    }

    fn tree(self) -> &'static Value {
        match self {
            Self::V8 => &V8,
            Self::V9 => &V9,
        }
    }

    /// Finds the method of a decoded path; a placeholder takes one segment, `{volume}` all that is left.
    pub(crate) fn find(self, verb: &str, path: &str) -> Option<Found> {
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let mut nodes = self.tree().as_array()?;
        let mut found = None;
        let mut values = BTreeMap::new();
        let mut at = 0;
        while at < segments.len() {
            let node = child(nodes, segments[at])?;
            let text = node["text"].as_str()?;
            let greedy = text == "{volume}" || text == "{cidr}";
            let end = if greedy { segments.len() } else { at + 1 };
            if let Some(name) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
                values.insert(name.to_owned(), segments[at..end].join("/"));
            }
            found = Some(node);
            nodes = node["children"].as_array().unwrap_or(&EMPTY);
            at = end;
        }
        let node = found?;
        let info = node["info"].get(verb)?;
        let children = nodes.iter().filter_map(|c| c["text"].as_str()).collect();
        Some(Found { template: node["path"].as_str()?, info, path: values, children })
    }

    /// Calls a function with each method's permission check.
    #[cfg(test)]
    pub(crate) fn each_check(self, each: &mut dyn FnMut(&Value)) {
        fn walk(nodes: &Value, each: &mut dyn FnMut(&Value)) {
            for node in nodes.as_array().into_iter().flatten() {
                let methods = node["info"].as_object().into_iter().flatten();
                methods.for_each(|(_, method)| each(&method["permissions"]["check"]));
                walk(&node["children"], each);
            }
        }
        walk(self.tree(), each);
    }

    /// Returns the schema of a guest's option, such as `scsi[n]` for `scsi0`, from the method that sets it.
    pub(crate) fn guest_option(self, key: &str) -> Option<&'static Value> {
        let info = self.find("POST", "/nodes/n/qemu")?.info;
        property(&info["parameters"]["properties"], key)
    }
}

static EMPTY: Vec<Value> = Vec::new();

fn child<'a>(nodes: &'a [Value], segment: &str) -> Option<&'a Value> {
    let named = |text: &str| nodes.iter().find(|n| n["text"] == *text);
    named(segment).or_else(|| nodes.iter().find(|n| n["text"].as_str().is_some_and(|t| t.starts_with('{'))))
}

fn unpack(bytes: &[u8]) -> Value {
    let mut text = String::new();
    let read = flate2::read::GzDecoder::new(bytes).read_to_string(&mut text);
    // The bytes are compiled in and a test reads both, so neither step can fail in a build that passed.
    match read.map_err(|e| e.to_string()).and_then(|_| serde_json::from_str(&text).map_err(|e| e.to_string())) {
        Ok(tree) => tree,
        Err(error) => panic!("the built-in API description is damaged: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_releases_are_there_and_differ() {
        assert!(Release::V8.find("GET", "/version").is_some());
        assert!(Release::V9.find("GET", "/nodes/a/qemu/100/dbus-vmstate").is_none());
        assert_eq!(Release::V9.find("PUT", "/nodes/a/qemu/100/config").unwrap().path["vmid"], "100");
    }

    #[test]
    fn a_volume_takes_the_rest_of_the_path() {
        let found = Release::V9.find("DELETE", "/nodes/a/storage/local/content/local:iso/x.iso").unwrap();
        assert_eq!(found.path["volume"], "local:iso/x.iso");
        assert_eq!(found.template, "/nodes/{node}/storage/{storage}/content/{volume}");
    }

    #[test]
    fn an_unknown_verb_or_path_is_not_found() {
        assert!(Release::V9.find("POST", "/version").is_none());
        assert!(Release::V9.find("GET", "/nosuch").is_none());
    }

    #[test]
    fn an_indexed_option_ends_at_its_last_index() {
        assert!(Release::V9.guest_option("scsi30").is_some());
        assert!(Release::V9.guest_option("scsi31").is_none());
        assert!(Release::V9.guest_option("scsi01").is_none());
    }
}
