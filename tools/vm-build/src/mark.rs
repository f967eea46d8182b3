//! What Hearth writes into a VM's description, by which it knows its own.
//!
//! Tags can only be set after a clone is made, the description with it: so a VM whose maker was killed in between is
//! recognised too.

use std::collections::BTreeMap;

use site::{Name, Vmid};
use store::Digest;

const PREFIX: &str = "hearth:";
/// What the keys of a guest's data disks begin with.
const DISK: &str = "disk-";

/// What is written on a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// On a template: the SHA-256 of the image file that it was made of.
    Template {
        /// The image file's SHA-256.
        image: String,
    },
    /// On a guest.
    Guest {
        /// The SHA-256 of the image file behind the template that it is a clone of.
        template: String,
        /// The digest of the seed that it has.
        user_data: String,
        /// The digest of the seed with which it was seen up and well; empty before.
        ready: String,
        /// The digest of its network's configuration, short.
        network: String,
        /// The size of the system disk that its file system was seen to fill; empty before.
        filled: String,
        /// Its data disks by name, as they were set up in it.
        disks: BTreeMap<String, String>,
    },
    /// On a VM that never runs and owns a data disk.
    Disk {
        /// The guest that uses it.
        guest: String,
        /// The disk's name in the guest.
        name: String,
    },
}

impl Mark {
    /// Writes a description.
    pub fn describe(&self, site: &Name) -> String {
        let line = |key: &str, value: &str| format!("{PREFIX}{key}={value}\n");
        let head =
            format!("Made by Hearth for the site {site}, which reads the lines below back.\n\n{PREFIX}site={site}\n");
        let lines = match self {
            Self::Template { image } => line("image", image),
            Self::Guest { template, user_data, ready, network, filled, disks } => {
                let own = [("template", template), ("user-data", user_data), ("ready", ready), ("network", network)];
                let own: String = own.into_iter().map(|(key, value)| line(key, value)).collect();
                let disks = disks.iter().map(|(name, how)| line(&format!("{DISK}{name}"), how));
                disks.fold(own + &line("filled", filled), |text, disk| text + &disk)
            }
            Self::Disk { guest, name } => line("guest", guest) + &line("disk", name),
        };
        // The server strips a VM's trailing line breaks.
        (head + &lines).trim_end().to_owned()
    }

    /// Reads a description; none where it is not of this site.
    pub fn read(description: &str, site: &Name) -> Option<Self> {
        let pairs: BTreeMap<&str, &str> =
            description.lines().filter_map(|line| line.trim().strip_prefix(PREFIX)?.split_once('=')).collect();
        if pairs.get("site") != Some(&site.as_str()) {
            return None;
        }
        let value = |key: &str| pairs.get(key).copied().unwrap_or_default().to_owned();
        if pairs.contains_key("image") {
            return Some(Self::Template { image: value("image") });
        }
        if pairs.contains_key("disk") {
            return Some(Self::Disk { guest: value("guest"), name: value("disk") });
        }
        let disks = pairs.iter().filter_map(|(key, how)| Some((key.strip_prefix(DISK)?.to_owned(), (*how).to_owned())));
        let guest = Self::Guest {
            template: value("template"),
            user_data: value("user-data"),
            ready: value("ready"),
            network: value("network"),
            filled: value("filled"),
            disks: disks.collect(),
        };
        pairs.contains_key("template").then_some(guest)
    }
}

/// Returns the tags of what a site has made, as the server keeps them: sorted, in lower case.
pub fn tags(site: &Name) -> String {
    format!("hearth;{}", site_tag(site))
}

/// Returns the tag that tells sites apart.
pub fn site_tag(site: &Name) -> String {
    format!("hearth-site-{site}")
}

/// Returns the name of an image's file on a storage.
pub fn image_file(image: &Name, digest: &Digest, format: &str) -> String {
    format!("hearth-{image}-{}.{format}", digest.short())
}

/// Returns the name of a guest's seed on a storage.
pub fn seed_file(guest: &Name, vmid: Vmid, digest: &Digest) -> String {
    format!("{}{guest}-{}.iso", seed_prefix(vmid), digest.short())
}

/// Returns what the names of a VM's seeds begin with. Its number is in them, so that none is another VM's.
pub fn seed_prefix(vmid: Vmid) -> String {
    format!("hearth-seed-{vmid}-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_only_by_its_own_site() {
        let (lab, home): (Name, Name) = ("lab".parse().unwrap(), "home".parse().unwrap());
        let marks = [
            Mark::Template { image: "ab".into() },
            Mark::Guest {
                template: "ab".into(),
                user_data: "cd".into(),
                ready: String::new(),
                network: "ef".into(),
                filled: "6G".into(),
                disks: [("data".to_owned(), "8G at /srv/data".to_owned())].into(),
            },
            Mark::Disk { guest: "vm-intranet".into(), name: "data".into() },
        ];
        for mark in marks {
            let text = mark.describe(&lab);
            assert_eq!(Mark::read(&text, &lab), Some(mark));
            assert_eq!(Mark::read(&text, &home), None);
        }
        assert_eq!(Mark::read("my own VM, hearth:site=lab in the middle", &lab), None);
    }
}
