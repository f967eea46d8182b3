//! What the inventory wants: the exports of each host and the mounts of each guest.

use std::net::Ipv4Addr;

use converge::Failure;
use indexmap::IndexMap;
use serde::Serialize;
use site::{Dataset, DatasetName, Name, Share, Site};

use crate::unit;

/// One line of an exports file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Export {
    pub(crate) path: String,
    pub(crate) client: String,
    pub(crate) options: Vec<String>,
}

impl Export {
    /// Writes the line as exports(5) has it.
    pub(crate) fn line(&self) -> String {
        format!("{} {}({})", self.path, self.client, self.options.join(","))
    }
}

/// One mount of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Mount {
    pub(crate) share: Name,
    /// As `192.168.1.100:/tank-hdd/media`.
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
    /// The name of the mount's unit, as `mnt-media.mount`.
    pub(crate) unit: String,
    /// The stacks of the guest that need it.
    pub(crate) stacks: Vec<String>,
}

/// All that the inventory wants.
#[derive(Debug, Serialize)]
pub(crate) struct Wanted {
    /// By host, also of those that export nothing.
    pub(crate) exports: IndexMap<Name, Vec<Export>>,
    /// By guest, also of those that mount nothing.
    pub(crate) mounts: IndexMap<Name, Vec<Mount>>,
}

impl Wanted {
    /// Reads the site's shares.
    ///
    /// # Errors
    /// A share whose dataset has no place in the file system.
    pub(crate) fn of(site: &Site) -> Result<Self, Failure> {
        let mut wanted = Self {
            exports: site.hosts.keys().map(|name| (name.clone(), Vec::new())).collect(),
            mounts: site.guests.keys().map(|name| (name.clone(), Vec::new())).collect(),
        };
        // Taken apart, so that a new field of the inventory does not compile before it is handled here.
        for (share, Share { dataset, export_options, mount_options, mounts }) in &site.shares {
            let (host, address) = server(site, share, dataset)?;
            let path = mount_point(site, share, dataset)?;
            for (guest, target) in mounts {
                let Some(client) = site.guests.get(guest).map(|guest| guest.address) else {
                    return Err(Failure::config(format!("share {share} names a guest {guest} that is not there")));
                };
                let export = Export { path: path.clone(), client: client.to_string(), options: export_options.clone() };
                wanted.exports.entry(host.clone()).or_default().push(export);
                let needs = |(name, stack): (&Name, &site::Stack)| {
                    (stack.guest == *guest && stack.shares.contains(share)).then(|| name.to_string())
                };
                wanted.mounts.entry(guest.clone()).or_default().push(Mount {
                    share: share.clone(),
                    source: format!("{address}:{path}"),
                    target: target.to_string(),
                    options: mount_options.clone(),
                    unit: unit::name(target.as_str(), "mount"),
                    stacks: site.stacks.iter().filter_map(needs).collect(),
                });
            }
        }
        Ok(wanted)
    }
}

fn server<'a>(site: &'a Site, share: &Name, dataset: &DatasetName) -> Result<(&'a Name, Ipv4Addr), Failure> {
    let host = site.pools.get(dataset.pool()).map(|pool| &pool.host);
    let found = host.and_then(|host| Some((host, site.hosts.get(host)?.address)));
    found.ok_or_else(|| Failure::config(format!("share {share}: no host of the site has the pool of {dataset}")))
}

/// Returns where a dataset is mounted on its host: below the nearest mount point that is set above it, else below `/`
/// (zfsprops(7), `mountpoint`).
fn mount_point(site: &Site, share: &Name, dataset: &DatasetName) -> Result<String, Failure> {
    let pool = site.pools.get(dataset.pool());
    let set = |name: &str| {
        let pool = pool?;
        let own = match pool.datasets.get(name) {
            Some(Dataset { properties }) => properties,
            None if name == dataset.pool() => &pool.properties,
            None => return None,
        };
        own.get("mountpoint").cloned()
    };
    let mut above = dataset.as_str();
    loop {
        if let Some(place) = set(above) {
            if !place.starts_with('/') {
                let message = format!("share {share}: {dataset} can't be exported, for its mountpoint is {place}");
                let hint = "give the dataset a path for a mountpoint, or take the share out";
                return Err(Failure::config(message).hint(hint));
            }
            return Ok(place.trim_end_matches('/').to_owned() + &dataset.as_str()[above.len()..]);
        }
        match above.rsplit_once('/') {
            Some((parent, _)) => above = parent,
            None => return Ok(format!("/{dataset}")),
        }
    }
}
