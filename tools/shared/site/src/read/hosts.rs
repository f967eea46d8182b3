//! `[hosts.NAME]`.

use std::path::PathBuf;

use crate::model::{Api, Host, Ssh};
use crate::names::Name;
use crate::read::accept;
use crate::reader::{At, Reader};

const ONE_ADDRESS: &str = "each host and guest needs an address of its own";
const ONE_NAME: &str = "rename one: hosts and guests are told apart by name alone";

pub(crate) fn host(name: &Name, reader: &mut Reader<'_>) -> Option<Host> {
    claim_name(name, reader);
    let address = address(reader, "`address = \"192.168.1.100\"`");
    let storage: Option<At<String>> = reader.optional("storage");
    let storage = match storage {
        Some(given) => {
            // The API schema's `pve-storage-id`.
            let good = given.value.starts_with(|c: char| c.is_ascii_alphabetic())
                && given.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            accept(
                given,
                good,
                "a storage's name",
                "letters, digits, '-', '_' and '.', the first a letter",
                reader.scope,
            )
        }
        None => Some("local".to_owned()),
    };
    let api = api(name, reader, address.map(|address| format!("https://{address}:8006")));
    let ssh = ssh(reader);
    Some(Host { address: address?, api: api?, ssh: ssh?, storage: storage? })
}

/// Reads the address of a host or guest, which no other may have.
pub(super) fn address(reader: &mut Reader<'_>, example: &str) -> Option<std::net::Ipv4Addr> {
    let address: At<std::net::Ipv4Addr> = reader.required("address", example)?;
    let text = address.value.to_string();
    reader.scope.claim("the address", &text, &address.place, &reader.what, ONE_ADDRESS);
    Some(address.value)
}

/// Takes the name of a host or guest.
pub(super) fn claim_name(name: &Name, reader: &Reader<'_>) {
    reader.scope.claim("the name", name.as_str(), &reader.table.place, &reader.what, ONE_NAME);
}

fn api(name: &Name, reader: &mut Reader<'_>, default: Option<String>) -> Option<Api> {
    let example = format!("a table [hosts.{name}.api] with `token_file` and `ca_file` or `fingerprint`");
    let Some(mut table) = reader.table("api") else {
        if reader.table.entry("api").is_none() {
            reader.missing("api", &example);
        }
        return None;
    };
    let given: Option<At<String>> = table.optional("url");
    let url = match given {
        Some(given) => url(given, &table),
        None => default,
    };
    let node: Option<Name> = table.optional("node");
    let token_file = required_path(&mut table, "token_file", "`token_file = \"~/.config/hearth/token\"`");
    let ca_file = table.path("ca_file").map(|path| path.value);
    let fingerprint = fingerprint(&mut table);
    table.finish();
    let node = node.map_or_else(|| name.to_string(), String::from);
    Some(Api { url: url?, node, token_file: token_file?, ca_file, fingerprint, pinned: None })
}

fn url(given: At<String>, reader: &Reader<'_>) -> Option<String> {
    let good = given
        .value
        .strip_prefix("https://")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-".contains(&b)));
    let shape =
        "https:// and a host, with a port where it is not 443, and nothing behind it, as https://192.168.1.100:8006";
    accept(given, good, "the base of an API", shape, reader.scope)
}

fn fingerprint(reader: &mut Reader<'_>) -> Option<String> {
    let given: At<String> = reader.optional("fingerprint")?;
    let pairs: Vec<&str> = given.value.split(':').collect();
    let good =
        pairs.len() == 32 && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
    let shape = "a SHA-256 fingerprint is 32 pairs of hexadecimal digits with colons between them, as AB:CD:…";
    Some(accept(given, good, "a fingerprint", shape, reader.scope)?.to_ascii_uppercase())
}

fn ssh(reader: &mut Reader<'_>) -> Option<Ssh> {
    let Some(mut table) = reader.table("ssh") else {
        if reader.table.entry("ssh").is_none() {
            reader.missing("ssh", "`ssh = { key_file = \"~/.ssh/id_ed25519\" }`");
        }
        return None;
    };
    let user = match table.optional("user") {
        Some(given) => user(given, &table),
        None => Some("root".to_owned()),
    };
    let port = table.number("port", &(1..=65535)).unwrap_or(22);
    let key_file = required_path(&mut table, "key_file", "`key_file = \"~/.ssh/id_ed25519\"`");
    let known_hosts_file = table.path("known_hosts_file").map(|path| path.value);
    let known_hosts_file = known_hosts_file.unwrap_or_else(|| table.scope.project.join(".hearth/known_hosts"));
    table.finish();
    Some(Ssh { user: user?, port, key_file: key_file?, known_hosts_file, pinned: Vec::new() })
}

/// Checks a user's name (useradd(8)).
pub(super) fn user(given: At<String>, reader: &Reader<'_>) -> Option<String> {
    let good = given.value.len() <= 32
        && given.value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && given.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    let shape = "up to 32 lower-case letters, digits, '_' and '-', the first a letter or '_'";
    accept(given, good, "a user's name", shape, reader.scope)
}

fn required_path(reader: &mut Reader<'_>, key: &'static str, example: &str) -> Option<PathBuf> {
    if reader.table.entry(key).is_none() {
        let _ = reader.entry(key);
        reader.missing(key, example);
        return None;
    }
    reader.path(key).map(|path| path.value)
}
