//! The changes that can be made on a host, and the scripts that make them.

use std::time::Duration;

use remote::quote;
use serde::{Deserialize, Serialize};

use crate::attempt::Attempt;
use crate::desired::Properties;
use crate::property::TAG;

/// The tag of a logical volume that Hearth has made.
pub(crate) const VOLUME_TAG: &str = "hearth";

/// One change on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Makes a logical volume.
    CreateVolume {
        /// As `pve/zfs-ssd`.
        volume: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// Makes a logical volume larger.
    GrowVolume {
        /// As `pve/zfs-ssd`.
        volume: String,
        /// Its new size in bytes.
        bytes: u64,
    },
    /// Lets a pool use all of its device.
    GrowPool {
        /// The pool.
        pool: String,
        /// The device.
        device: String,
    },
    /// Makes a pool on a blank device.
    CreatePool {
        /// The pool.
        pool: String,
        /// The device.
        device: String,
        /// The sector size as a power of two.
        ashift: u8,
        /// Properties of its root dataset.
        properties: Properties,
        /// The site that it is made for.
        site: String,
        /// Whether to take away first what an earlier try left on the device (see [`crate::attempt`]).
        leftover: bool,
    },
    /// Makes a dataset.
    CreateDataset {
        /// The dataset.
        dataset: String,
        /// Its own properties.
        properties: Properties,
    },
    /// Changes a dataset.
    ChangeDataset {
        /// The dataset.
        dataset: String,
        /// Properties to set.
        set: Properties,
        /// Properties to take from the dataset above again.
        inherit: Vec<String>,
        /// Whether to mount it.
        mount: bool,
    },
}

impl Action {
    /// Returns the script that makes the change, for `sh -eu` as root.
    pub fn script(&self) -> String {
        match self {
            Self::CreateVolume { volume, bytes } => {
                let (group, name) = volume.split_once('/').unwrap_or((volume, ""));
                let (group, name) = (quote(group), quote(name));
                // A volume that was here before may have left signatures in these extents.
                format!(
                    "lvcreate --yes --wipesignatures y --zero y --addtag {VOLUME_TAG} -L {bytes}b -n {name} {group}\n\
                     udevadm settle --timeout 30\n"
                )
            }
            Self::GrowVolume { volume, bytes } => format!("lvextend -L {bytes}b {}\n", quote(volume)),
            Self::GrowPool { pool, device } => format!("zpool online -e {} {}\n", quote(pool), quote(device)),
            Self::CreatePool { pool, device, ashift, properties, site, leftover } => {
                let tag = quote(&format!("{TAG}={site}"));
                let properties = pairs(" -O ", properties);
                let try_it = Attempt { site, pool, device };
                let clear = if *leftover { try_it.clear() } else { String::new() };
                format!(
                    "{clear}{}zpool create -o ashift={ashift}{properties} -O {tag} {} {}\n\
                     udevadm settle --timeout 30\n{}",
                    try_it.begin(),
                    quote(pool),
                    quote(device),
                    try_it.end(),
                )
            }
            Self::CreateDataset { dataset, properties } => {
                format!("zfs create{} {}\n", pairs(" -o ", properties), quote(dataset))
            }
            Self::ChangeDataset { dataset, set, inherit, mount } => {
                let name = quote(dataset);
                let mut script = String::new();
                if !set.is_empty() {
                    script += &format!("zfs set{} {name}\n", pairs(" ", set));
                }
                for property in inherit {
                    script += &format!("zfs inherit {} {name}\n", quote(property));
                }
                if *mount {
                    script += &format!("[ \"$(zfs get -H -o value mounted {name})\" = yes ] || zfs mount {name}\n");
                }
                script
            }
        }
    }

    /// Returns how long the script may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(if matches!(self, Self::CreatePool { .. }) { 300 } else { 120 })
    }
}

fn pairs(before: &str, properties: &Properties) -> String {
    properties.iter().map(|(name, value)| before.to_owned() + &quote(&format!("{name}={value}"))).collect()
}
