//! The named formats that requests meet, with the real server's texts. A format that is not here lets everything through.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::propstr;

static IPCONFIG: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "ip": {"type": "string", "format": "pve-ipv4-config", "optional": 1},
        "gw": {"type": "string", "format": "ipv4", "optional": 1, "requires": "ip"},
        "ip6": {"type": "string", "format": "pve-ipv6-config", "optional": 1},
        "gw6": {"type": "string", "format": "ipv6", "optional": 1, "requires": "ip6"},
    })
});

const CONTENT: [&str; 8] = ["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"];

/// CPU types that pve-qemu-server knows by name.
const CPUS: [&str; 12] = [
    "host",
    "max",
    "kvm32",
    "kvm64",
    "qemu32",
    "qemu64",
    "x86-64-v2",
    "x86-64-v2-AES",
    "x86-64-v3",
    "x86-64-v4",
    "EPYC",
    "Haswell",
];

/// Checks a value against a named format; `name` is the parameter's, for the texts of property strings.
pub(crate) fn check(format: &str, value: &str, name: &str) -> Result<(), String> {
    let fits = |ok: bool, text: &str| if ok { Ok(()) } else { Err(text.to_owned()) };
    match format {
        "pve-vmid" => fits(vmid(value), "value does not look like a valid VM ID"),
        "dns-name" => fits(dns_name(value), "value does not look like a valid DNS name"),
        "mac-addr" => fits(mac(value), "value does not look like a valid unicast MAC address"),
        "pve-tag-list" => fits(value.split([';', ',', ' ', '\n']).all(tag), "invalid characters in tag"),
        "urlencoded" => fits(urlencoded(value), &format!("invalid urlencoded string: {value}")),
        "pve-volume-id" => volume(value),
        "pve-volume-id-or-qm-path" | "pve-volume-id-or-absolute-path" => match value {
            "none" | "cdrom" => Ok(()),
            path if path.starts_with('/') => Ok(()),
            other => volume(other),
        },
        "pve-storage-id" => fits(identifier(value, 2), &format!("storage ID '{value}' contains illegal characters")),
        "pve-configid" => fits(identifier(value, 2), &format!("invalid configuration ID '{value}'")),
        "pve-storage-content" | "pve-storage-content-list" => content(value),
        "pve-task-status-type-list" => {
            let wrong = value.split([',', ';', ' ']).find(|s| !["ok", "error", "warning", "unknown"].contains(s));
            wrong.map_or(Ok(()), |wrong| Err(format!("invalid status '{wrong}'")))
        }
        "pve-qm-ipconfig" => propstr::check(&IPCONFIG, value, name),
        "pve-ipv4-config" => {
            let fine = value == "dhcp" || value == "manual" || cidr::<Ipv4Addr>(value, 32);
            fits(fine, "value does not look like a valid ipv4 network configuration")
        }
        "pve-ipv6-config" => {
            let fine = ["dhcp", "manual", "auto"].contains(&value) || cidr::<Ipv6Addr>(value, 128);
            fits(fine, "value does not look like a valid ipv6 network configuration")
        }
        "ipv4" => fits(value.parse::<Ipv4Addr>().is_ok(), "value does not look like a valid IPv4 address"),
        "ipv6" => fits(value.parse::<Ipv6Addr>().is_ok(), "value does not look like a valid IPv6 address"),
        "pve-vm-cpu-conf" => cpu(value),
        _ => Ok(()),
    }
}

fn vmid(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|id| (100..=999_999_999).contains(&id)) && !value.starts_with('0')
}

fn dns_name(value: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    value.len() <= 255 && value.split('.').all(label)
}

fn mac(value: &str) -> bool {
    let parts: Vec<_> = value.split(':').map(|part| (part.len(), u8::from_str_radix(part, 16))).collect();
    let pairs = parts.len() == 6 && parts.iter().all(|(length, byte)| *length == 2 && byte.is_ok());
    pairs && matches!(parts[0].1, Ok(first) if first & 1 == 0)
}

fn tag(value: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    value.is_empty() || (word(value.as_bytes()[0]) && value.bytes().all(|b| word(b) || b"-+.".contains(&b)))
}

fn urlencoded(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_hexdigit());
        let plain = byte.is_ascii_alphanumeric() || b"-._~!*'()".contains(&byte);
        let escape = !plain && byte == b'%' && hex(bytes.next()) && hex(bytes.next());
        if !plain && !escape {
            return false;
        }
    }
    true
}

fn identifier(value: &str, least: usize) -> bool {
    let first = value.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    first && value.len() >= least && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn volume(value: &str) -> Result<(), String> {
    match value.split_once(':') {
        Some((storage, rest)) if identifier(storage, 2) && !rest.is_empty() => Ok(()),
        _ => Err(format!("unable to parse volume ID '{value}'")),
    }
}

fn content(value: &str) -> Result<(), String> {
    let wrong = value.split([',', ';', ' ']).find(|kind| !CONTENT.contains(kind));
    wrong.map_or(Ok(()), |wrong| Err(format!("invalid content type '{wrong}'")))
}

fn cidr<A: std::str::FromStr>(value: &str, bits: u8) -> bool {
    let Some((address, length)) = value.split_once('/') else { return false };
    address.parse::<A>().is_ok() && length.parse::<u8>().is_ok_and(|length| (1..=bits).contains(&length))
}

fn cpu(value: &str) -> Result<(), String> {
    let parts = propstr::split(value);
    let name = parts.iter().find(|(key, _)| key.is_none_or(|key| key == "cputype")).map_or("kvm64", |(_, name)| name);
    let family = ["EPYC", "Haswell", "Skylake", "Icelake", "Cascadelake", "Broadwell", "Opteron", "SapphireRapids"];
    if CPUS.contains(&name) || name.starts_with("custom-") || family.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(());
    }
    Err(format!("Built-in cputype '{name}' is not defined (missing 'custom-' prefix?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_real_servers() {
        for (format, value, text) in [
            ("pve-vmid", "99", "value does not look like a valid VM ID"),
            ("dns-name", "under_score", "value does not look like a valid DNS name"),
            ("mac-addr", "01:00:00:00:00:01", "value does not look like a valid unicast MAC address"),
            ("pve-tag-list", "ok;not!", "invalid characters in tag"),
            ("urlencoded", "a key", "invalid urlencoded string: a key"),
            ("pve-volume-id", "bogus", "unable to parse volume ID 'bogus'"),
            ("pve-storage-content", "bogus", "invalid content type 'bogus'"),
            ("pve-vm-cpu-conf", "nosuch", "Built-in cputype 'nosuch' is not defined (missing 'custom-' prefix?)"),
        ] {
            assert_eq!(check(format, value, "x").unwrap_err(), text);
        }
    }

    #[test]
    fn good_values_pass() {
        for (format, value) in [
            ("pve-vmid", "100"),
            ("dns-name", "a.b-c.example"),
            ("mac-addr", "BC:24:11:00:00:01"),
            ("pve-tag-list", "B;a,c A  a"),
            ("urlencoded", "ssh-ed25519%20AAAA%0A"),
            ("pve-volume-id-or-qm-path", "none"),
            ("pve-qm-ipconfig", "ip=192.0.2.10/24,gw=192.0.2.1,ip6=auto"),
            ("pve-vm-cpu-conf", "cputype=host,flags=+aes;-pcid"),
        ] {
            assert_eq!(check(format, value, "x"), Ok(()), "{format} {value}");
        }
    }
}
