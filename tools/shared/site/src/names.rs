//! Names, numbers and sizes that the inventory is made of: parsed once, at the boundary.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no such name, number or size: what it must look like, for an error that points at it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

macro_rules! text_type {
    ($(#[$doc:meta])* $type:ident, $check:path, $shape:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(Malformed($shape.to_owned())) }
            }
        }

        impl TryFrom<String> for $type {
            type Error = Malformed;

            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_type!(
    /// A host, guest, template, share, stack, check or image: a DNS label (RFC 1123), so that it can be a host name.
    Name, is_label, "a name has 1 to 63 lower-case letters, digits and '-', and neither begins nor ends with '-'"
);
text_type!(
    /// A ZFS pool (zpool-create(8)): begins with a letter; letters, digits, `_`, `-`, `.`; none of ZFS's reserved words.
    PoolName, is_pool, "a pool's name begins with a letter and has letters, digits, '-', '_' and '.'; mirror, raidz, draid, spare and log are ZFS's own words"
);
text_type!(
    /// A ZFS dataset with its pool in front, as `tank-hdd/media` (zfsconcepts(7)).
    DatasetName, is_dataset, "a dataset is named with its pool in front, as tank-hdd/media"
);
text_type!(
    /// An LVM logical volume with its group in front, as `pve/zfs-ssd` (lvm(8)).
    LogicalVolumeName, is_lv, "a logical volume is named with its group in front, as pve/zfs-ssd"
);
text_type!(
    /// An absolute path without `.`, `..`, doubled or final slashes, blanks or quotes: a mount point or a folder on a host.
    AbsolutePath, is_path, "a path begins with '/', has no '.', '..' or empty part, and no blank or quote"
);

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_zfs_part(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    !matches!(text, "" | "." | "..") && text.bytes().all(plain)
}

fn is_pool(text: &str) -> bool {
    let reserved = ["mirror", "raidz", "draid", "spare", "log"];
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && is_zfs_part(text)
        && !text.contains(':')
        && !reserved.iter().any(|word| text.starts_with(word))
}

fn is_dataset(text: &str) -> bool {
    text.len() < 256
        && text.split_once('/').is_some_and(|(pool, rest)| is_pool(pool) && rest.split('/').all(is_zfs_part))
}

fn is_lv(text: &str) -> bool {
    let part =
        |part: &str| is_zfs_part(part) && !part.starts_with('-') && part != "." && part != ".." && !part.contains(':');
    text.split_once('/').is_some_and(|(group, volume)| part(group) && part(volume))
}

fn is_path(text: &str) -> bool {
    let part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || "'\"\\".contains(c))
    };
    text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

impl DatasetName {
    /// Returns the pool that the dataset is in.
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

impl LogicalVolumeName {
    /// Returns the volume group's name.
    pub fn group(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// Returns the volume's own name, without its group.
    pub fn volume(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
}

/// A guest's number in the cluster, 100 to 999,999,999 (the API schema's `pve-vmid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vmid(u32);

impl TryFrom<u32> for Vmid {
    type Error = Malformed;

    fn try_from(number: u32) -> Result<Self, Malformed> {
        if (100..=999_999_999).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Malformed("a VMID is a number from 100 to 999999999".to_owned()))
        }
    }
}

impl From<Vmid> for u32 {
    fn from(vmid: Vmid) -> Self {
        vmid.0
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes, written with a binary unit as Proxmox, LVM and QEMU do: `512M`, `15G`, `1T` (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl Size {
    /// Returns the number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the number of whole MiB.
    pub fn mib(self) -> u64 {
        self.0 >> 20
    }

    /// Returns a size of so many bytes.
    pub fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for Size {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let unit = UNITS.iter().find(|(unit, _)| text.ends_with(*unit))?;
            let number: u64 = text[..text.len() - 1].parse().ok()?;
            let bytes = number.checked_mul(1 << unit.1)?;
            (number > 0 && !text.starts_with('+')).then_some(Self(bytes))
        };
        parse().ok_or_else(|| Malformed("a size is a whole number with K, M, G or T behind it, as 15G".to_owned()))
    }
}

impl TryFrom<String> for Size {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match whole {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "vm-intranet", "9", "debian-13"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert!("a".repeat(63).parse::<Name>().is_ok());
        assert!("a".repeat(64).parse::<Name>().is_err());
    }

    #[test]
    fn zfs_and_lvm_names_follow_their_manuals() {
        for bad in ["mirror0", "raidz", "1tank", "tank/", "ta nk", "log"] {
            assert!(bad.parse::<PoolName>().is_err(), "{bad}");
        }
        let dataset: DatasetName = "tank-hdd/media/films".parse().unwrap();
        assert_eq!(dataset.pool(), "tank-hdd");
        for bad in ["tank", "tank//a", "/tank/a", "tank/a b", "tank/a@b", "tank/..", "tank/./a"] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad}");
        }
        let volume: LogicalVolumeName = "pve/zfs-ssd".parse().unwrap();
        assert_eq!((volume.group(), volume.volume()), ("pve", "zfs-ssd"));
        for bad in ["pve", "pve/", "-pve/a", "pve/a/b"] {
            assert!(bad.parse::<LogicalVolumeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_can_be_put_into_a_unit_or_an_export() {
        for bad in ["mnt", "/", "/mnt/", "/mnt//a", "/mnt/../etc", "/mnt/a b", "/mnt/'a'"] {
            assert!(bad.parse::<AbsolutePath>().is_err(), "{bad}");
        }
        assert!("/mnt/appdata".parse::<AbsolutePath>().is_ok());
    }

    #[test]
    fn sizes_are_binary_and_print_as_written() {
        for text in ["1K", "512M", "15G", "2T"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("1G".parse::<Size>().unwrap().mib(), 1024);
        for bad in ["", "G", "0G", "15", "15GB", "-1G", "+1G", "1.5G", "99999999999T"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_vmid_has_proxmox_bounds() {
        assert!(Vmid::try_from(99).is_err());
        assert!(Vmid::try_from(100).is_ok());
        assert!(Vmid::try_from(1_000_000_000).is_err());
    }
}
