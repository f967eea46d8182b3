//! A guest's configuration: keys and texts as Proxmox keeps them, and how the API shows them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Guest;
use crate::error::{ApiError, Result};
use crate::schema::{Release, boolean, parse_properties};

/// Options by name, in order.
pub(crate) type Config = BTreeMap<String, String>;

/// Options that apply to a running guest at once; everything else waits for its next start.
pub(crate) const IMMEDIATE: [&str; 11] = [
    "lock",
    "name",
    "onboot",
    "shares",
    "startup",
    "description",
    "protection",
    "vmstatestorage",
    "hookscript",
    "tags",
    "template",
];

/// Options that only root itself may set, with a ticket; a token of root is not root.
const ROOT_ONLY: [&str; 6] = ["args", "lock", "skiplock", "spice_enhancements", "vmgenid", "hugepages"];

/// Returns the configuration's digest: it changes when the configuration does. Forty digits, as a SHA-1 has.
pub(crate) fn digest(guest: &Guest) -> String {
    let text = json!([guest.config, guest.pending, guest.delete]).to_string();
    Sha256::digest(text).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses when the caller has seen another configuration than this one.
pub(crate) fn check_digest(guest: &Guest, given: Option<&str>) -> Result<()> {
    match given {
        Some(given) if given != digest(guest) => {
            Err(ApiError::failed("detected modified configuration - file changed by other user? Try again."))
        }
        _ => Ok(()),
    }
}

/// Shows one option as the API does: numbers where the schema has numbers or booleans, secrets as stars.
pub(crate) fn show(release: Release, key: &str, text: &str) -> Value {
    if key == "cipassword" {
        return json!("**********");
    }
    let kind = release.guest_option(key).and_then(|spec| spec["type"].as_str()).unwrap_or("string");
    match kind {
        "integer" | "boolean" => text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number)),
        _ => json!(text),
    }
}

/// Shows a whole configuration.
pub(crate) fn show_all(release: Release, config: &Config, digest: &str) -> Value {
    let mut out: serde_json::Map<String, Value> =
        config.iter().map(|(key, text)| (key.clone(), show(release, key, text))).collect();
    out.insert("digest".into(), json!(digest));
    Value::Object(out)
}

/// Shows what is and what will be, option by option.
pub(crate) fn show_pending(release: Release, guest: &Guest) -> Value {
    let mut out = Vec::new();
    for (key, text) in &guest.config {
        let mut entry = json!({"key": key, "value": show(release, key, text)});
        if let Some(pending) = guest.pending.get(key) {
            entry["pending"] = show(release, key, pending);
        } else if guest.delete.contains(key) {
            entry["delete"] = json!(1);
        }
        out.push(entry);
    }
    for (key, text) in guest.pending.iter().filter(|(key, _)| !guest.config.contains_key(*key)) {
        out.push(json!({"key": key, "pending": show(release, key, text)}));
    }
    out.push(json!({"key": "digest", "value": digest(guest)}));
    Value::Array(out)
}

/// Refuses options that only root itself may set.
pub(crate) fn check_root_only(options: &Config) -> Result<()> {
    for (key, value) in options {
        if ROOT_ONLY.contains(&key.as_str()) {
            return Err(ApiError::failed(format!("only root can set '{key}' config")));
        }
        if key.starts_with("serial") && value.starts_with("/dev/") {
            return Err(ApiError::failed(format!("only root can modify '{key}' config for real devices")));
        }
    }
    Ok(())
}

/// Brings options into the form in which Proxmox keeps them. A network card without an address gets a
/// new one, whatever it had before: that is what the real server does.
pub(crate) fn normalise(release: Release, options: &mut Config) -> Result<()> {
    for (key, value) in options.iter_mut() {
        let indexed = |base: &str| key.strip_prefix(base).is_some_and(|n| n.parse::<u8>().is_ok());
        if indexed("net") {
            *value = net(release, key, value)?;
        } else if key == "tags" {
            *value = tags(value);
        } else if key == "description" {
            *value = value.trim_end_matches('\n').to_owned();
        } else if key == "sshkeys" {
            ssh_keys(value)?;
        }
    }
    Ok(())
}

fn ssh_keys(encoded: &str) -> Result<()> {
    let text = crate::http::percent::decode(encoded, false);
    let key = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.iter().any(|word| ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| word.starts_with(kind))) && words.len() >= 2
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if lines.into_iter().all(key) { Ok(()) } else { Err(ApiError::failed("SSH public key validation error")) }
}

fn tags(text: &str) -> String {
    let words = text.split([';', ',', ' ', '\n']).filter(|tag| !tag.is_empty());
    let mut tags: Vec<String> = words.map(str::to_lowercase).collect();
    tags.sort();
    tags.dedup();
    if tags.is_empty() { " ".into() } else { tags.join(";") }
}

fn net(release: Release, key: &str, text: &str) -> Result<String> {
    let mut card = card(release, key, text)?;
    let address = match card.remove("macaddr") {
        Some(address) => address.to_uppercase(),
        None => crate::random::mac().map_err(crate::error::host("can't make a MAC address"))?,
    };
    let model = card.remove("model").unwrap_or_else(|| "virtio".into());
    let rest: String = card.iter().map(|(key, value)| format!(",{key}={value}")).collect();
    Ok(format!("{model}={address}{rest}"))
}

/// Takes a network card's option apart: `model`, `macaddr`, `bridge` and the rest.
pub(crate) fn card(release: Release, key: &str, text: &str) -> Result<BTreeMap<String, String>> {
    let format = release.guest_option(key).map_or(&Value::Null, |spec| &spec["format"]);
    parse_properties(format, text, key).map_err(|error| ApiError::parameter(key, error))
}

/// Returns memory in MiB; Proxmox's default is 512.
pub(crate) fn memory(config: &Config) -> u64 {
    let text = config.get("memory").map_or("512", |text| text.strip_prefix("current=").unwrap_or(text));
    text.split(',').next().and_then(|number| number.parse().ok()).unwrap_or(512)
}

/// Returns the number of virtual CPUs.
pub(crate) fn cpus(config: &Config) -> u64 {
    let number = |key: &str| config.get(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    config.get("vcpus").and_then(|text| text.parse().ok()).unwrap_or_else(|| number("cores") * number("sockets"))
}

/// Returns whether the guest is said to run QEMU's agent.
pub(crate) fn has_agent(config: &Config) -> bool {
    let first = config.get("agent").and_then(|text| text.split(',').next()).unwrap_or("0");
    boolean(first.strip_prefix("enabled=").unwrap_or(first)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_lower_cased_sorted_and_once() {
        assert_eq!(tags("B;a,c A  a"), "a;b;c");
        assert_eq!(tags(";,; "), " ");
    }

    #[test]
    fn a_card_without_an_address_gets_one() {
        let new = net(Release::V9, "net0", "model=e1000,macaddr=bc:24:11:00:00:07,firewall=yes,bridge=vmbr1").unwrap();
        assert_eq!(new, "e1000=BC:24:11:00:00:07,bridge=vmbr1,firewall=1");
        assert!(net(Release::V9, "net0", "virtio,bridge=vmbr0").unwrap().starts_with("virtio=BC:24:11:"));
    }

    #[test]
    fn numbers_are_numbers_and_memory_is_a_text() {
        assert_eq!(show(Release::V9, "cores", "2"), json!(2));
        assert_eq!(show(Release::V9, "memory", "2048"), json!("2048"));
        assert_eq!(show(Release::V9, "cipassword", "geheim"), json!("**********"));
    }

    #[test]
    fn another_digest_is_refused() {
        let guest = Guest::default();
        assert!(check_digest(&guest, Some(&digest(&guest))).is_ok());
        assert_eq!(check_digest(&guest, Some("00")).unwrap_err().status, 500);
    }
}
