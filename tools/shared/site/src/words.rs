//! The words of other programs that the inventory passes on: ZFS's properties and the NFS server's options. A word that
//! is none of theirs is told while nothing is changed yet, and not by a command that fails in the middle of a run.

use crate::nearest::nearest;

/// What is wrong with a word, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// What is wrong.
    pub(crate) message: String,
    /// What to do.
    pub(crate) help: String,
}

fn wrong<T>(message: String, help: String) -> Result<T, Wrong> {
    Err(Wrong { message, help })
}

/// What a property of ZFS can be set to.
#[derive(Clone, Copy)]
enum Values {
    /// One of these words.
    Words(&'static [&'static str]),
    /// One of these words, or one with a level behind it, as `zstd-3`.
    Levels(&'static [&'static str]),
    /// A size, or `none`.
    Limit,
    /// A power of two from 512 to 16M.
    Record,
    /// A path, `none` or `legacy`.
    Place,
    /// Anything: what fits depends on more than the word.
    Any,
}

use Values::{Any, Levels, Limit, Place, Record, Words};

const SWITCH: Values = Words(&["on", "off"]);
const CACHE: Values = Words(&["all", "none", "metadata"]);

/// The properties of a file system that can be set (zfsprops(7), OpenZFS 2.3).
const PROPERTIES: [(&str, Values); 50] = [
    ("aclinherit", Words(&["discard", "noallow", "restricted", "passthrough", "passthrough-x"])),
    ("aclmode", Words(&["discard", "groupmask", "passthrough", "restricted"])),
    ("acltype", Words(&["off", "noacl", "nfsv4", "posix", "posixacl"])),
    ("atime", SWITCH),
    ("canmount", Words(&["on", "off", "noauto"])),
    ("casesensitivity", Words(&["sensitive", "insensitive", "mixed"])),
    (
        "checksum",
        Words(&["on", "off", "fletcher2", "fletcher4", "sha256", "noparity", "sha512", "skein", "edonr", "blake3"]),
    ),
    ("compression", Levels(&["on", "off", "lz4", "lzjb", "zle", "gzip", "zstd", "zstd-fast"])),
    ("context", Any),
    ("copies", Words(&["1", "2", "3"])),
    ("dedup", Any),
    ("defcontext", Any),
    ("devices", SWITCH),
    ("direct", Words(&["disabled", "standard", "always"])),
    ("dnodesize", Words(&["legacy", "auto", "1k", "2k", "4k", "8k", "16k"])),
    ("encryption", Any),
    ("exec", SWITCH),
    ("filesystem_limit", Any),
    ("fscontext", Any),
    ("keyformat", Words(&["raw", "hex", "passphrase"])),
    ("keylocation", Any),
    ("logbias", Words(&["latency", "throughput"])),
    ("longname", SWITCH),
    ("mlslabel", Any),
    ("mountpoint", Place),
    ("nbmand", SWITCH),
    ("normalization", Words(&["none", "formC", "formD", "formKC", "formKD"])),
    ("overlay", SWITCH),
    ("pbkdf2iters", Any),
    ("prefetch", CACHE),
    ("primarycache", CACHE),
    ("quota", Limit),
    ("readonly", SWITCH),
    ("recordsize", Record),
    ("redundant_metadata", Words(&["all", "most", "some", "none"])),
    ("refquota", Limit),
    ("refreservation", Any),
    ("relatime", SWITCH),
    ("reservation", Limit),
    ("rootcontext", Any),
    ("secondarycache", CACHE),
    ("setuid", SWITCH),
    ("sharenfs", Any),
    ("sharesmb", Any),
    ("snapdir", Words(&["hidden", "visible", "disabled"])),
    ("snapshot_limit", Any),
    ("special_small_blocks", Any),
    ("sync", Words(&["standard", "always", "disabled"])),
    ("utf8only", SWITCH),
    ("xattr", Words(&["on", "off", "sa", "dir"])),
];

/// Properties that ZFS has and nobody can set.
const READ_ONLY: [&str; 16] = [
    "available",
    "compressratio",
    "creation",
    "createtxg",
    "encryptionroot",
    "guid",
    "keystatus",
    "logicalreferenced",
    "logicalused",
    "mounted",
    "objsetid",
    "origin",
    "referenced",
    "type",
    "used",
    "written",
];

/// Checks a property's name. One with a colon is the user's own.
pub(crate) fn property(name: &str) -> Result<(), Wrong> {
    if name.contains(':') || PROPERTIES.iter().any(|(known, _)| *known == name) {
        return Ok(());
    }
    if READ_ONLY.contains(&name) {
        return wrong(format!("`{name}` can be read and not set"), "take it out; `zfs get` shows it".to_owned());
    }
    let help = match nearest(name, PROPERTIES.iter().map(|(known, _)| *known)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "zfsprops(7) lists the properties; one of your own has a colon in its name, as home:owner".to_owned(),
    };
    wrong(format!("ZFS has no property `{name}`"), help)
}

/// Checks a property's value.
pub(crate) fn value(name: &str, value: &str) -> Result<(), Wrong> {
    let Some((_, values)) = PROPERTIES.iter().find(|(known, _)| *known == name) else { return Ok(()) };
    let level = |word: &&str| value.strip_prefix(*word).and_then(|rest| rest.strip_prefix('-')).is_some_and(is_number);
    let (good, shape) = match values {
        Any => return Ok(()),
        Words(words) => (words.contains(&value), format!("one of {}", words.join(", "))),
        Levels(words) => (
            words.contains(&value) || words.iter().any(level),
            format!("one of {}, some with a level, as zstd-3", words.join(", ")),
        ),
        Limit => (value == "none" || is_size(value), "a size, as 500G, or none".to_owned()),
        Record => {
            let good = [
                "512", "1K", "2K", "4K", "8K", "16K", "32K", "64K", "128K", "256K", "512K", "1M", "2M", "4M", "8M",
                "16M",
            ];
            let bytes =
                value.parse().is_ok_and(|bytes: u64| bytes.is_power_of_two() && (512..=16 << 20).contains(&bytes));
            (
                bytes || good.contains(&value.to_ascii_uppercase().as_str()),
                "a power of two from 512 to 16M, as 16K".to_owned(),
            )
        }
        Place => (
            matches!(value, "none" | "legacy")
                || (value.starts_with('/') && !value.split('/').any(|part| part == "..")),
            "an absolute path, none, or legacy".to_owned(),
        ),
    };
    if good {
        return Ok(());
    }
    let words = if let Words(words) | Levels(words) = values { *words } else { &[] };
    let help = match nearest(value, words.iter().copied()).filter(|near| near.len() > 2) {
        Some(near) => format!("did you mean \"{near}\"? It is {shape}"),
        None => format!("it is {shape}"),
    };
    wrong(format!("'{value}' is no value of `{name}`"), help)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Tells whether ZFS reads a text as a size: digits, perhaps a fraction, and a unit.
fn is_size(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    let rest = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    let number = rest.strip_suffix(['K', 'M', 'G', 'T', 'P']).unwrap_or(rest);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    is_number(whole) && is_number(fraction)
}

/// The NFS server's options that stand alone (exports(5)).
const EXPORTS: [&str; 26] = [
    "all_squash",
    "async",
    "auth_nlm",
    "crossmnt",
    "hide",
    "insecure",
    "insecure_locks",
    "mountpoint",
    "no_acl",
    "no_all_squash",
    "no_auth_nlm",
    "no_pnfs",
    "no_root_squash",
    "no_subtree_check",
    "no_wdelay",
    "nohide",
    "pnfs",
    "ro",
    "root_squash",
    "rw",
    "secure",
    "secure_locks",
    "security_label",
    "subtree_check",
    "sync",
    "wdelay",
];

/// Those with a value.
const VALUED: [&str; 9] = ["anongid", "anonuid", "fsid", "mountpoint", "mp", "refer", "replicas", "sec", "xprtsec"];

/// Options of which only one can hold.
const OPPOSITES: [(&str, &str); 8] = [
    ("ro", "rw"),
    ("sync", "async"),
    ("root_squash", "no_root_squash"),
    ("all_squash", "no_all_squash"),
    ("secure", "insecure"),
    ("subtree_check", "no_subtree_check"),
    ("wdelay", "no_wdelay"),
    ("hide", "nohide"),
];

/// Checks one option of an export.
pub(crate) fn export(option: &str) -> Result<(), Wrong> {
    let (name, given) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    match given {
        None if EXPORTS.contains(&name) => return Ok(()),
        None if VALUED.contains(&name) => {
            return wrong(
                format!("the export option '{name}' has no value"),
                format!("write it as {name}=VALUE (exports(5))"),
            );
        }
        Some(value) if ["anonuid", "anongid"].contains(&name) && !is_number(value) => {
            return wrong(
                format!("'{value}' is no number of a user or group"),
                format!("write digits, as {name}=1000"),
            );
        }
        Some(value) if VALUED.contains(&name) && !value.is_empty() => return Ok(()),
        _ => {}
    }
    let help = match nearest(name, EXPORTS.into_iter().chain(VALUED)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("the NFS server knows {} (exports(5))", EXPORTS.join(", ")),
    };
    wrong(format!("'{option}' is no option of an export"), help)
}

/// Returns the option of a list that a further one contradicts.
pub(crate) fn opposite<'a>(options: &'a [String], further: &str) -> Option<&'a str> {
    let other = OPPOSITES.iter().find_map(|(one, other)| match further {
        further if further == *one => Some(*other),
        further if further == *other => Some(*one),
        _ => None,
    })?;
    options.iter().map(String::as_str).find(|option| *option == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manuals_name_is_good() {
        for (name, text) in [
            ("compression", "zstd-19"),
            ("compression", "gzip-9"),
            ("recordsize", "1M"),
            ("recordsize", "131072"),
            ("quota", "1.5T"),
            ("quota", "none"),
            ("quota", "10GiB"),
            ("mountpoint", "/srv/a b"),
            ("copies", "2"),
            ("home:owner", "me"),
        ] {
            assert_eq!((property(name), value(name, text)), (Ok(()), Ok(())), "{name}={text}");
        }
        for option in ["rw", "fsid=0", "sec=krb5p", "anonuid=1000", "mountpoint", "mountpoint=/srv"] {
            assert_eq!(export(option), Ok(()), "{option}");
        }
    }

    #[test]
    fn what_they_do_not_name_is_told() {
        for (name, text) in
            [("compression", "zstd-"), ("recordsize", "3K"), ("recordsize", "32M"), ("quota", "10 G"), ("atime", "yes")]
        {
            assert!(value(name, text).is_err(), "{name}={text}");
        }
        for option in ["", "=", "fsid", "anonuid=me", "rw=1", "sec="] {
            assert!(export(option).is_err(), "{option}");
        }
        assert_eq!(opposite(&["rw".into(), "sync".into()], "ro"), Some("rw"));
        assert_eq!(opposite(&["rw".into()], "sync"), None);
    }
}
