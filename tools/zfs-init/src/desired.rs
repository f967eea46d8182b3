//! What the inventory wants on each host.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::Serialize;
use site::{Dataset, LogicalVolume, LogicalVolumeName, Name, Pool, PoolDevice, PoolName, Share, Site, Size};

/// Properties of ZFS, by name.
pub(crate) type Properties = BTreeMap<String, String>;

/// What one host shall have.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Wanted<'a> {
    pub(crate) volumes: IndexMap<&'a LogicalVolumeName, Size>,
    pub(crate) pools: IndexMap<&'a PoolName, WantedPool<'a>>,
}

/// A pool that a host shall have.
#[derive(Debug, Serialize)]
pub(crate) struct WantedPool<'a> {
    pub(crate) device: &'a PoolDevice,
    pub(crate) ashift: u8,
    pub(crate) properties: &'a Properties,
    pub(crate) datasets: IndexMap<&'a str, &'a Properties>,
}

/// Sorts the site's volumes and pools by host, in the inventory's order.
///
/// The structures are taken apart, so that a new field of the inventory does not compile before it is handled here.
pub(crate) fn wanted(site: &Site) -> BTreeMap<&Name, Wanted<'_>> {
    let mut hosts: BTreeMap<&Name, Wanted<'_>> = BTreeMap::new();
    for (name, LogicalVolume { host, size }) in &site.logical_volumes {
        hosts.entry(host).or_default().volumes.insert(name, *size);
    }
    for (name, Pool { host, device, ashift, properties, datasets }) in &site.pools {
        let datasets = datasets.iter().map(|(name, Dataset { properties })| (name.as_str(), properties)).collect();
        let pool = WantedPool { device, ashift: *ashift, properties, datasets };
        hosts.entry(host).or_default().pools.insert(name, pool);
    }
    hosts
}

/// Lists what uses each dataset: its mounts in guests, and the stacks that need them.
pub(crate) fn users(site: &Site) -> BTreeMap<&str, Vec<String>> {
    let mut users: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (share, Share { dataset, mounts, .. }) in &site.shares {
        let users = users.entry(dataset.as_str()).or_default();
        for guest in mounts.keys() {
            users.push(format!("share {share} in {guest}"));
            let stacks = site.stacks.iter().filter(|(_, stack)| stack.guest == *guest && stack.shares.contains(share));
            users.extend(stacks.map(|(stack, _)| format!("stack {stack} in {guest}")));
        }
    }
    users
}

impl WantedPool<'_> {
    /// Returns the value that a dataset has from the nearest dataset above it, or the pool, that sets the property.
    pub(crate) fn inherited(&self, dataset: &str, property: &str) -> Option<&str> {
        let mut above = dataset;
        while let Some((parent, _)) = above.rsplit_once('/') {
            if let Some(value) = self.datasets.get(parent).and_then(|properties| properties.get(property)) {
                return Some(value);
            }
            above = parent;
        }
        self.properties.get(property).map(String::as_str)
    }

    /// Returns the names of all properties that the inventory sets somewhere in the pool.
    pub(crate) fn property_names(&self) -> impl Iterator<Item = &str> {
        self.properties.keys().chain(self.datasets.values().flat_map(|own| own.keys())).map(String::as_str)
    }
}
