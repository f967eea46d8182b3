//! From the tree to the model, table by table.

mod checks;
mod guests;
mod hosts;
mod secrets;
mod stacks;
mod storage;

use crate::model::{Network, Site, Snapshots};
use crate::names::Name;
use crate::reader::{At, Reader};
use crate::report::Finding;
use crate::scope::Scope;
use crate::tree::Table;

/// Reads the whole tree. What is wrong is reported to the scope and left out of the site, which is good for nothing but
/// further checks then.
pub(crate) fn site(root: &Table, scope: &Scope) -> Option<Site> {
    let mut reader = Reader::new(root, "the inventory", scope);
    let (name, network_namespace) = identity(&mut reader);
    let snapshots = snapshots(&mut reader);
    let network = network(&mut reader);
    let hosts = reader.named("hosts", "host", hosts::host);
    let logical_volumes =
        reader.named("logical_volumes", "logical volume", |_, reader| storage::logical_volume(reader));
    let pools = reader.named("pools", "pool", storage::pool);
    let shares = reader.named("shares", "share", storage::share);
    let templates = reader.named("templates", "template", |_, reader| guests::template(reader));
    let guests = reader.named("guests", "guest", |name, reader| guests::guest(name, reader, &hosts));
    let secrets = secrets::secrets(&mut reader);
    let stacks = reader.named("stacks", "stack", stacks::stack);
    let checks = reader.named("checks", "check", |_, reader| checks::check(reader));
    reader.finish();
    Some(Site {
        // Without a name the rest can still be checked; the missing name is reported already.
        name: name.or_else(|| "nameless".parse().ok())?,
        folder: scope.folder.clone(),
        project: scope.project.clone(),
        network_namespace,
        snapshots,
        inputs: scope.inputs(),
        network,
        hosts,
        logical_volumes,
        pools,
        shares,
        templates,
        guests,
        secrets,
        stacks,
        checks,
    })
}

fn identity(reader: &mut Reader<'_>) -> (Option<Name>, Option<String>) {
    let Some(mut site) = reader.table("site") else {
        if reader.table.entry("site").is_none() {
            reader.missing("site", "a table [site] with the site's name, as `name = \"home\"`");
        }
        return (None, None);
    };
    let name = site.required("name", "`name = \"home\"`");
    let namespace: Option<At<String>> = site.optional("network_namespace");
    let namespace = namespace.and_then(|given| device_name(given, 255, "a network namespace", site.scope));
    site.finish();
    (name, namespace)
}

fn snapshots(reader: &mut Reader<'_>) -> Option<Snapshots> {
    let mut table = reader.table("snapshots")?;
    let before_apply: Option<bool> = table.required("before_apply", "`before_apply = true`");
    let keep = if table.entry("keep").is_some() { table.number("keep", &(1..=1000)) } else { Some(5) };
    table.finish();
    before_apply?.then_some(Snapshots { keep: keep? })
}

fn network(reader: &mut Reader<'_>) -> Network {
    let mut network =
        Network { bridge: "vmbr0".to_owned(), prefix: 24, gateway: None, nameservers: Vec::new(), domain: None };
    let Some(mut table) = reader.table("network") else { return network };
    let bridge: Option<At<String>> = table.optional("bridge");
    // 15 is the kernel's limit for an interface's name (IFNAMSIZ less the final zero).
    if let Some(bridge) = bridge.and_then(|given| device_name(given, 15, "a bridge", table.scope)) {
        network.bridge = bridge;
    }
    network.prefix = table.number("prefix", &(8..=30)).unwrap_or(network.prefix);
    network.gateway = table.optional("gateway");
    network.nameservers = table.optional("nameservers").unwrap_or_default();
    let domain: Option<At<String>> = table.optional("domain");
    network.domain = domain.and_then(|given| {
        let good = given.value.split('.').all(|label| label.parse::<Name>().is_ok());
        let shape = "a domain is made of names with dots between them, as home.lan";
        accept(given, good, "a domain", shape, table.scope)
    });
    table.finish();
    network
}

fn device_name(given: At<String>, longest: usize, noun: &str, scope: &Scope) -> Option<String> {
    let good = given.value.len() <= longest
        && given.value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && given.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let shape = format!("up to {longest} letters, digits, '.', '_' and '-', the first a letter or digit");
    accept(given, good, &format!("the name of {noun}"), &shape, scope)
}

/// Returns a text that is good, and reports one that is not.
pub(super) fn accept(given: At<String>, good: bool, noun: &str, shape: &str, scope: &Scope) -> Option<String> {
    if good {
        return Some(given.value);
    }
    scope.report(Finding::at(&given.place, format!("'{}' is not {noun}", given.value)).help(shape));
    None
}
