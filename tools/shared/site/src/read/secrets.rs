//! `[secrets]`, and which of them a stack uses.

use std::path::PathBuf;

use indexmap::IndexMap;

use super::accept;
use crate::model::{Secrets, StackSecret};
use crate::names::Name;
use crate::reader::{At, Reader, parse_key, wrong_type};
use crate::report::Finding;
use crate::scope::Kind;
use crate::tree::{Entry, Value};

/// The largest user number: the next one means that none is meant (chown(2)).
const MAX_UID: i64 = 4_294_967_294;

pub(crate) fn secrets(reader: &mut Reader<'_>) -> Secrets {
    let Some(mut table) = reader.table("secrets") else { return Secrets::default() };
    let example = "`recipients = [\"age1…\"]`, the public keys of those who may read the secrets";
    let given: Vec<At<String>> = table.required("recipients", example).unwrap_or_default();
    if given.is_empty()
        && matches!(table.table.entry("recipients").map(|entry| &entry.node.value), Some(Value::Array(items)) if items.is_empty())
    {
        let finding = Finding::at(&table.table.find(&["recipients"]), "`recipients` names nobody");
        table.scope.report(finding.help(format!("add {example}")));
    }
    let mut recipients: Vec<String> = Vec::new();
    for key in given {
        let place = key.place.clone();
        let Some(key) = recipient(key, &table) else { continue };
        if recipients.contains(&key) {
            table.scope.report(Finding::at(&place, "this recipient is given twice").help("remove one of them"));
        }
        recipients.push(key);
    }
    let files: Vec<At<String>> =
        if table.entry("identity_files").is_some() { table.optional("identity_files") } else { None }
            .unwrap_or_default();
    let identity_files: Vec<PathBuf> =
        files.iter().filter_map(|file| table.scope.path(&file.value, &file.place)).collect();
    table.finish();
    Secrets { recipients, identity_files }
}

/// Checks a recipient's shape; its checksum is for the tool that encrypts.
fn recipient(given: At<String>, table: &Reader<'_>) -> Option<String> {
    if given.value.contains("PRIVATE KEY") || given.value.to_ascii_uppercase().starts_with("AGE-SECRET-KEY") {
        // Not at its place, for that would print it.
        let finding = Finding::nowhere("`recipients` of [secrets] holds a private key");
        let help = "name the public key there, and make a new pair: who has seen this file can read the secrets";
        table.scope.report(finding.help(help));
        return None;
    }
    // 32 bytes and a checksum in Bech32's 32 letters (BIP 173).
    let age = |rest: &str| rest.len() == 58 && rest.bytes().all(|b| b"qpzry9x8gf2tvdw0s3jn54khce6mua7l".contains(&b));
    let ssh = given.value.strip_prefix("ssh-ed25519 ").is_some_and(|rest| rest.starts_with("AAAA"));
    let good = given.value.strip_prefix("age1").is_some_and(age) || ssh;
    let shape =
        "a recipient is an age public key, age1 and 58 letters and digits, or a line `ssh-ed25519 AAAA… comment`";
    accept(given, good, "a recipient", shape, table.scope)
}

/// Reads `secrets` of a stack: a list of names, or a table from the name that services see to the secret.
pub(crate) fn of_stack(reader: &mut Reader<'_>) -> Option<IndexMap<Name, StackSecret>> {
    let Some(entry) = reader.entry("secrets") else { return Some(IndexMap::new()) };
    match &entry.node.value {
        Value::Array(_) => {
            let names = reader.references("secrets", Kind::Secret)?;
            Some(names.into_iter().map(|name| (name.clone(), StackSecret { secret: name, uid: 0 })).collect())
        }
        Value::Table(table) => {
            let read = |entry: &Entry| {
                let name = parse_key::<Name>(entry, "secret", reader.scope);
                let secret = one(entry, reader);
                Some((name?, secret?))
            };
            let read: Vec<_> = table.entries.iter().map(read).collect();
            read.into_iter().collect()
        }
        _ => wrong_type(
            &entry.node,
            "a list or a table",
            "[\"db-password\"] or { password = \"db-password\" }",
            reader.scope,
        ),
    }
}

fn one(entry: &Entry, reader: &Reader<'_>) -> Option<StackSecret> {
    let Value::Table(table) = &entry.node.value else {
        let name: At<Name> = crate::reader::Decode::decode(&entry.node, reader.scope)?;
        reader.scope.refer(Kind::Secret, name.value.as_str(), &name.place);
        return Some(StackSecret { secret: name.value, uid: 0 });
    };
    let mut table = Reader::new(table, format!("secret '{}' of {}", entry.key, reader.what), reader.scope);
    let secret = table.reference("secret", Kind::Secret, "`secret = \"db-password\"`");
    let uid = if table.entry("uid").is_some() { table.number("uid", &(0..=MAX_UID)) } else { Some(0) };
    table.finish();
    Some(StackSecret { secret: secret?, uid: uid? })
}
