//! Checks that need more than one table: networks, clones, stacks.

use std::net::Ipv4Addr;

use indexmap::IndexMap;

use crate::model::{PoolDevice, Site, Stack};
use crate::names::Name;
use crate::report::Finding;
use crate::scope::Scope;
use crate::tree::{Table, find_item};

/// Checks what was read as a whole.
pub(crate) fn check(site: &Site, root: &Table, scope: &Scope) {
    addresses(site, root, scope);
    placement(site, root, scope);
    mount_points(site, root, scope);
    stacks(site, root, scope);
    cycles(&site.stacks, root, scope);
}

fn network_of(address: Ipv4Addr, prefix: u8) -> (u32, u32) {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    (u32::from(address) & mask, !mask)
}

fn addresses(site: &Site, root: &Table, scope: &Scope) {
    let prefix = site.network.prefix;
    let inside = |address: Ipv4Addr, host: Ipv4Addr| {
        let (network, rest) = network_of(host, prefix);
        let own = u32::from(address) & rest;
        network_of(address, prefix).0 == network && own != 0 && own != rest
    };
    let shown = |host: Ipv4Addr| format!("{}/{prefix}", Ipv4Addr::from(network_of(host, prefix).0));
    for (name, guest) in &site.guests {
        let Some(host) = site.hosts.get(&guest.host) else { continue };
        if !inside(guest.address, host.address) {
            let place = root.find(&["guests", name.as_str(), "address"]);
            let message = format!(
                "{} is no address in the network of host '{}', {}",
                guest.address,
                guest.host,
                shown(host.address)
            );
            let label = "can't be reached there";
            scope.report(
                Finding::at(&place, message).label(label).help("choose another one, or mend `prefix` of [network]"),
            );
        }
    }
    let Some(gateway) = site.network.gateway else { return };
    let place = root.find(&["network", "gateway"]);
    if !site.hosts.is_empty() && !site.hosts.values().any(|host| inside(gateway, host.address)) {
        let message = format!("the gateway {gateway} is in no host's network");
        scope.report(Finding::at(&place, message).help("a gateway has an address in the guests' own network"));
    }
    for (name, guest) in site.guests.iter().filter(|(_, guest)| guest.address == gateway) {
        let own = root.find(&["guests", name.as_str(), "address"]);
        let finding = Finding::at(&own, format!("guest '{name}' has the gateway's address {}", guest.address));
        scope.report(finding.also(&place, "the gateway").help("choose another address for the guest"));
    }
}

/// Checks that no two datasets of a host say the same `mountpoint`: the second would hide the first.
fn mount_points(site: &Site, root: &Table, scope: &Scope) {
    for (pool_name, pool) in &site.pools {
        let own = |name: &str, path: &[&str], properties: &std::collections::BTreeMap<String, String>| {
            let Some(place) = properties.get("mountpoint").filter(|place| place.starts_with('/')) else { return };
            let value = format!("{place} of {}", pool.host);
            let help = "give each dataset a place of its own: the second would hide the first";
            scope.claim("the mount point", &value, &root.find(path), &format!("dataset '{name}'"), help);
        };
        let name = pool_name.as_str();
        own(name, &["pools", name, "properties", "mountpoint"], &pool.properties);
        for (dataset, below) in &pool.datasets {
            let short = dataset.as_str().split_once('/').map_or("", |(_, short)| short);
            let path = ["pools", name, "datasets", short, "properties", "mountpoint"];
            own(dataset.as_str(), &path, &below.properties);
        }
    }
}

/// Checks that things which work on one host only are on one host.
fn placement(site: &Site, root: &Table, scope: &Scope) {
    for (name, guest) in &site.guests {
        let Some(template) = site.templates.get(&guest.template).filter(|template| template.host != guest.host) else {
            continue;
        };
        let place = root.find(&["guests", name.as_str(), "template"]);
        let message = format!(
            "guest '{name}' is on '{}', and its template '{}' on '{}'",
            guest.host, guest.template, template.host
        );
        let help = format!(
            "a linked clone stays on its template's host: add a template for '{}' with a VMID of its own",
            guest.host
        );
        scope.report(Finding::at(&place, message).label("is on another host").help(help));
    }
    for (name, pool) in &site.pools {
        let PoolDevice::LogicalVolume(volume) = &pool.device else { continue };
        let Some(on) = site.logical_volumes.get(volume).map(|volume| &volume.host).filter(|host| **host != pool.host)
        else {
            continue;
        };
        let place = root.find(&["pools", name.as_str(), "logical_volume"]);
        let message = format!("pool '{name}' is on '{}', and its logical volume on '{on}'", pool.host);
        scope.report(Finding::at(&place, message).label("is on another host").help("give both the same `host`"));
    }
}

fn stacks(site: &Site, root: &Table, scope: &Scope) {
    for (name, stack) in &site.stacks {
        for share in &stack.shares {
            let Some(mounts) = site.shares.get(share).map(|share| &share.mounts) else { continue };
            if !mounts.contains_key(&stack.guest) {
                let place = find_item(root, &["stacks", name.as_str(), "shares"], share.as_str());
                let message =
                    format!("stack '{name}' needs share '{share}', which is not mounted in '{}'", stack.guest);
                let help = format!("add `{} = \"/mnt/{share}\"` to `mounts` of [shares.{share}]", stack.guest);
                scope.report(Finding::at(&place, message).label("not mounted there").help(help));
            }
        }
        for need in &stack.needs {
            let Some(other) = site.stacks.get(need).filter(|other| other.guest != stack.guest) else { continue };
            let place = find_item(root, &["stacks", name.as_str(), "needs"], need.as_str());
            let message = format!(
                "stack '{name}' is on '{}' and needs stack '{need}', which is on '{}'",
                stack.guest, other.guest
            );
            let help = "a stack waits for stacks of its own guest only: move one of them, or drop the need";
            scope.report(Finding::at(&place, message).label("is on another guest").help(help));
        }
    }
}

/// Reports each circle of needs once, at the stack that comes first in the inventory.
fn cycles(stacks: &IndexMap<Name, Stack>, root: &Table, scope: &Scope) {
    for (index, start) in stacks.keys().enumerate() {
        let Some(path) = way_back(stacks, start, index) else { continue };
        let next = path.get(1).unwrap_or(&start);
        let place = find_item(root, &["stacks", start.as_str(), "needs"], next.as_str());
        let message = if path.len() == 1 {
            format!("stack '{start}' needs itself")
        } else {
            let way: Vec<&str> = path.iter().map(|name| name.as_str()).collect();
            format!("these stacks wait for each other: {} needs {start}", way.join(" needs "))
        };
        scope.report(Finding::at(&place, message).label("closes the circle").help("drop one of these needs"));
    }
}

/// Finds the shortest way from a stack back to itself over later stacks, so that each circle has one beginning.
fn way_back<'a>(stacks: &'a IndexMap<Name, Stack>, start: &'a Name, index: usize) -> Option<Vec<&'a Name>> {
    let mut ways = std::collections::VecDeque::from([vec![start]]);
    let mut seen = std::collections::HashSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        for need in &stacks.get(*last)?.needs {
            if need == start {
                return Some(way);
            }
            if stacks.get_index_of(need).is_some_and(|other| other > index) && seen.insert(need) {
                ways.push_back([way.as_slice(), &[need]].concat());
            }
        }
    }
    None
}
