//! `[logical_volumes."GROUP/NAME"]`, `[pools.NAME]`, `[shares.NAME]`.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use crate::model::{Dataset, LogicalVolume, Pool, PoolDevice, Share};
use crate::names::{AbsolutePath, DatasetName, LogicalVolumeName, Name, PoolName, Size};
use crate::read::accept;
use crate::reader::{At, Reader, parse_key};
use crate::report::Finding;
use crate::scope::{Kind, Scope};
use crate::tree::Value;
use crate::words::{self, Wrong};

const BY_ID: &str = "/dev/disk/by-id/";
/// Folders that a guest needs to run.
const SYSTEM: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/mnt", "/proc", "/root", "/run", "/sbin", "/sys", "/usr",
    "/var",
];
const HOST: &str = "`host = \"pve1\"`";
const DEVICE: &str = "one of `logical_volume = \"pve/zfs-ssd\"`, `disk_id = \"ata-…\"` (a name below /dev/disk/by-id) and \
    `disk_serial = \"…\"` (as `lsblk -o SERIAL` prints it)";

pub(crate) fn logical_volume(reader: &mut Reader<'_>) -> Option<LogicalVolume> {
    let host = reader.reference("host", Kind::Host, HOST);
    let size: Option<At<Size>> = reader.required("size", "`size = \"15G\"`");
    if let Some(size) = &size
        && !size.value.bytes().is_multiple_of(4 << 20)
    {
        // vgcreate(8): a group's extents have 4 MiB unless told otherwise.
        let finding = Finding::at(&size.place, format!("a logical volume of {} can't be made exactly", size.value));
        reader.scope.report(finding.help("LVM gives out extents of 4M: choose a multiple of that"));
    }
    Some(LogicalVolume { host: host?, size: size?.value })
}

pub(crate) fn pool(name: &PoolName, reader: &mut Reader<'_>) -> Option<Pool> {
    let host = reader.reference("host", Kind::Host, HOST);
    let device = device(host.as_ref(), reader);
    // zpoolprops(7).
    let ashift = match reader.entry("ashift") {
        Some(_) => reader.number("ashift", &(9..=16)),
        None => Some(12),
    };
    let properties = properties(reader);
    let datasets = datasets(name, reader);
    Some(Pool { host: host?, device: device?, ashift: ashift?, properties: properties?, datasets: datasets? })
}

fn device(host: Option<&Name>, reader: &mut Reader<'_>) -> Option<PoolDevice> {
    let keys = ["logical_volume", "disk_id", "disk_serial"];
    let given: Vec<_> = keys.into_iter().filter_map(|key| reader.entry(key)).collect();
    if given.is_empty() {
        let finding = Finding::at(&reader.table.place, format!("{} has no device", reader.what));
        reader.scope.report(finding.label("is made of nothing").help(format!("add {DEVICE}")));
    }
    if let [first, second, ..] = given.as_slice() {
        let finding = Finding::at(&second.place, format!("{} has two devices", reader.what)).label("the second");
        reader.scope.report(finding.also(&first.place, "the first").help(format!("keep {DEVICE}")));
    }
    let entry = *given.first()?;
    let device = match entry.key.as_str() {
        "logical_volume" => {
            let volume: At<LogicalVolumeName> = reader.optional("logical_volume")?;
            reader.scope.refer(Kind::LogicalVolume, volume.value.as_str(), &volume.place);
            PoolDevice::LogicalVolume(volume.value)
        }
        "disk_id" => PoolDevice::DiskId(disk_id(reader.optional("disk_id")?, reader.scope)?),
        _ => {
            let given: At<String> = reader.optional("disk_serial")?;
            let good = given.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+".contains(&b));
            let shape = "letters, digits, '-', '_', '.', ':' and '+', as `lsblk -o SERIAL` prints it";
            PoolDevice::DiskSerial(accept(given, good, "a serial number", shape, reader.scope)?)
        }
    };
    let (what, value) = match &device {
        PoolDevice::LogicalVolume(name) => ("the logical volume", name.to_string()),
        PoolDevice::DiskId(id) => ("the disk", format!("{id} of {}", host?)),
        PoolDevice::DiskSerial(serial) => ("the disk with serial", format!("{serial} of {}", host?)),
    };
    let help = "give each pool a device of its own: a pool takes the whole of it";
    reader.scope.claim(what, &value, &entry.node.place, &reader.what, help);
    Some(device)
}

fn disk_id(given: At<String>, scope: &Scope) -> Option<String> {
    let name = given.value.strip_prefix(BY_ID).unwrap_or(&given.value).to_owned();
    let kernel = name.starts_with("/dev/")
        || ["sd", "vd", "hd", "xvd"].iter().any(|kind| name.strip_prefix(kind).is_some_and(is_drive_letters))
        || name.strip_prefix("nvme").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if kernel {
        let finding = Finding::at(&given.place, format!("'{}' is not a disk's id", given.value))
            .label("may be another disk tomorrow");
        scope.report(finding.help(
            "the kernel numbers disks in the order in which it finds them, which can change at any boot; name the disk as \
             `ls -l /dev/disk/by-id` on the host does, as ata-ST500LM000_W1234567",
        ));
        return None;
    }
    let partition = name.rsplit_once("-part").is_some_and(|(_, number)| number.bytes().all(|b| b.is_ascii_digit()));
    let good = !partition && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:+=@".contains(&b));
    let shape = "the name of a whole disk below /dev/disk/by-id, as ata-ST500LM000_W1234567";
    accept(At { value: name, place: given.place }, good, "a disk's id", shape, scope)
}

fn is_drive_letters(text: &str) -> bool {
    (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Reads `properties`: ZFS's own names of them and plain values (zfsprops(7)).
fn properties(reader: &mut Reader<'_>) -> Option<BTreeMap<String, String>> {
    if reader.entry("properties").is_none() {
        return Some(BTreeMap::new());
    }
    let table = reader.table("properties")?;
    let mut properties = BTreeMap::new();
    for entry in &table.table.entries {
        let Value::Text(value) = &entry.node.value else {
            let finding = Finding::at(&entry.node.place, format!("property `{}` must be a text in quotes", entry.key));
            let kind = format!("is {}", entry.node.value.kind());
            reader.scope.report(finding.label(kind).help("ZFS's values are texts, as \"off\" or \"128K\""));
            continue;
        };
        let name_good = entry.key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b":-_.".contains(&b));
        if !name_good || entry.key.is_empty() {
            let finding = Finding::at(&entry.place, format!("'{}' is not a property's name", entry.key));
            reader.scope.report(finding.help("lower-case letters, digits, ':', '-', '_' and '.' (zfsprops(7))"));
        } else if value.is_empty() || value.contains(|c: char| c.is_control() || c == '\'') {
            let finding = Finding::at(&entry.node.place, format!("property `{}` has no plain value", entry.key));
            reader.scope.report(finding.help("write it as `zfs get` prints it, without line ends and quotes"));
        } else if let Err(wrong) = words::property(&entry.key) {
            reader.scope.report(Finding::at(&entry.place, wrong.message).label("unknown to ZFS").help(wrong.help));
        } else if let Err(wrong) = words::value(&entry.key, value) {
            reader.scope.report(Finding::at(&entry.node.place, wrong.message).help(wrong.help));
        } else {
            properties.insert(entry.key.clone(), value.clone());
        }
    }
    (properties.len() == table.table.entries.len()).then_some(properties)
}

fn datasets(pool: &PoolName, reader: &mut Reader<'_>) -> Option<IndexMap<DatasetName, Dataset>> {
    if reader.entry("datasets").is_none() {
        return Some(IndexMap::new());
    }
    let table = reader.table("datasets")?;
    let mut datasets = Vec::new();
    for entry in &table.table.entries {
        let full = crate::tree::Entry {
            key: format!("{pool}/{}", entry.key),
            place: entry.place.clone(),
            node: crate::tree::Node {
                key: entry.key.clone(),
                place: entry.node.place.clone(),
                value: Value::Boolean(true),
            },
        };
        let name: Option<DatasetName> = parse_key(&full, "dataset", reader.scope);
        let parent = entry.key.rsplit_once('/').map(|(parent, _)| parent);
        if let Some(parent) = parent.filter(|parent| table.table.entry(parent).is_none()) {
            let finding = Finding::at(&entry.place, format!("dataset '{}' has no parent in the inventory", full.key));
            let help = format!("add `{parent:?} = {{}}` beside it, so that the parent's properties are known too");
            reader.scope.report(finding.label("its parent is not listed").help(help));
        }
        let Value::Table(below) = &entry.node.value else {
            let finding = Finding::at(&entry.node.place, format!("dataset '{}' must be a table", full.key));
            reader.scope.report(finding.help(format!("write `{} = {{}}`", entry.key)));
            continue;
        };
        let mut below = Reader::new(below, format!("dataset '{}'", full.key), reader.scope);
        let properties = properties(&mut below);
        below.finish();
        datasets.extend(name.zip(properties).map(|(name, properties)| (name, Dataset { properties })));
    }
    // Stable, so that the inventory's order stays among datasets of one depth; parents come before children.
    datasets.sort_by_key(|(name, _)| name.as_str().matches('/').count());
    (datasets.len() == table.table.entries.len()).then(|| datasets.into_iter().collect())
}

pub(crate) fn share(_: &Name, reader: &mut Reader<'_>) -> Option<Share> {
    let dataset: Option<At<DatasetName>> = reader.required("dataset", "`dataset = \"tank-hdd/media\"`");
    if let Some(dataset) = &dataset {
        reader.scope.refer(Kind::Dataset, dataset.value.as_str(), &dataset.place);
        let help = "keep one share and give it the `mounts` of both";
        reader.scope.claim("the dataset", dataset.value.as_str(), &dataset.place, &reader.what, help);
    }
    let export_options =
        options(reader, "export_options", &["rw", "sync", "no_subtree_check", "no_root_squash"], exports);
    let mount_options = options(reader, "mount_options", &["defaults", "_netdev"], |_, _| Ok(()));
    let mounts = mounts(reader);
    Some(Share {
        dataset: dataset?.value,
        export_options: export_options?,
        mount_options: mount_options?,
        mounts: mounts?,
    })
}

/// Checks one option of an export beside those before it.
fn exports(before: &[String], option: &str) -> Result<(), Wrong> {
    words::export(option)?;
    match words::opposite(before, option) {
        None => Ok(()),
        Some(other) => {
            let message = format!("'{option}' says the opposite of '{other}' before it");
            Err(Wrong { message, help: "keep one of the two".to_owned() })
        }
    }
}

fn options(
    reader: &mut Reader<'_>,
    key: &'static str,
    default: &[&str],
    check: impl Fn(&[String], &str) -> Result<(), Wrong>,
) -> Option<Vec<String>> {
    let Some(entry) = reader.entry(key) else { return Some(default.iter().map(ToString::to_string).collect()) };
    let given: Vec<At<String>> = reader.optional(key)?;
    if given.is_empty() {
        let finding = Finding::at(&entry.node.place, format!("`{key}` of {} is empty", reader.what));
        reader
            .scope
            .report(finding.help(format!("name the options, as {default:?}, or leave `{key}` out to have these")));
        return None;
    }
    let count = given.len();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-=.:/@".contains(&b);
    let shape = "one option of letters, digits and '_-=.:/@'; a list has one text for each";
    let mut good = Vec::new();
    for option in given {
        let place = option.place.clone();
        let is_plain = option.value.bytes().all(plain);
        let Some(option) = accept(option, is_plain, "an option", shape, reader.scope) else { continue };
        match check(&good, &option) {
            Ok(()) => good.push(option),
            Err(wrong) => reader.scope.report(Finding::at(&place, wrong.message).help(wrong.help)),
        }
    }
    (good.len() == count).then_some(good)
}

fn mounts(reader: &mut Reader<'_>) -> Option<IndexMap<Name, AbsolutePath>> {
    let example = "`mounts = { vm-intranet = \"/mnt/media\" }`";
    let Some(entry) = reader.entry("mounts") else {
        reader.missing("mounts", example);
        return None;
    };
    let given: IndexMap<String, At<AbsolutePath>> = reader.pairs("mounts")?;
    if given.is_empty() {
        let finding = Finding::at(&entry.node.place, format!("{} is mounted nowhere", reader.what));
        reader.scope.report(finding.help(format!("write {example}")));
        return None;
    }
    let table = reader.table.table("mounts")?;
    let mut mounts = IndexMap::new();
    for (guest, path) in given {
        let place = &table.entry(&guest)?.place;
        if SYSTEM.contains(&path.value.as_str()) {
            let finding =
                Finding::at(&path.place, format!("a mount at {} would hide the system of {guest}", path.value));
            reader.scope.report(finding.help("choose a folder of its own, as /mnt/media"));
        }
        reader.scope.refer(Kind::Guest, &guest, place);
        let value = format!("{} of {guest}", path.value);
        let help = "mount one of them somewhere else: the second would hide the first";
        reader.scope.claim("the mount point", &value, &path.place, &reader.what, help);
        mounts.extend(guest.parse::<Name>().ok().map(|guest| (guest, path.value)));
    }
    Some(mounts)
}
