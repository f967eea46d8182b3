//! `[templates.NAME]` and `[guests.NAME]`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::model::{DataDisk, Guest, Host, OnChange, Ssh, Template};
use crate::names::{Name, Size, Vmid};
use crate::read::{accept, hosts};
use crate::reader::{At, Reader};
use crate::report::{Finding, Place};
use crate::scope::Kind;

const HOST: &str = "`host = \"pve1\"`";
const PRIVATE: &str = "PRIVATE KEY";
/// The smallest memory that the API takes (`memory`, minimum 16 MiB).
const LEAST_MEMORY: u64 = 16 << 20;

pub(crate) fn template(reader: &mut Reader<'_>) -> Option<Template> {
    let host = reader.reference("host", Kind::Host, HOST);
    let vmid = vmid(reader);
    let image = reader.reference("image", Kind::Image, "`image = \"debian-13-docker\"`");
    Some(Template { host: host?, vmid: vmid?, image: image? })
}

fn vmid(reader: &mut Reader<'_>) -> Option<Vmid> {
    if reader.entry("vmid").is_none() {
        reader.missing("vmid", "`vmid = 101`");
        return None;
    }
    let number: u32 = reader.number("vmid", &(100..=999_999_999))?;
    let place = reader.table.find(&["vmid"]);
    let help = "give each template and guest a number of its own";
    reader.scope.claim("the VMID", &number.to_string(), &place, &reader.what, help);
    Vmid::try_from(number).ok()
}

pub(crate) fn guest(name: &Name, reader: &mut Reader<'_>, all_hosts: &IndexMap<Name, Host>) -> Option<Guest> {
    hosts::claim_name(name, reader);
    let host = reader.reference("host", Kind::Host, HOST);
    let vmid = vmid(reader);
    let template = reader.reference("template", Kind::Template, "`template = \"debian-13\"`");
    let address = hosts::address(reader, "`address = \"192.168.1.101\"`");
    let cores = if reader.entry("cores").is_some() { reader.number("cores", &(1..=1024)) } else { Some(1) };
    let memory = size(reader, "memory", "`memory = \"2G\"`", LEAST_MEMORY);
    let disk = size(reader, "disk", "`disk = \"12G\"`", 1 << 20);
    let onboot = if reader.entry("onboot").is_some() { reader.optional("onboot") } else { Some(true) };
    let (authorized_keys, pending_keys) = keys(reader);
    let user_data = user_data(reader);
    let on_change = on_change(reader);
    let disks = reader.named("disks", "data disk", data_disk);
    let pci = pci(reader);
    let user = user(reader);
    let ssh = ssh(reader, user, host.as_ref().and_then(|host| all_hosts.get(host)));
    Some(Guest {
        host: host?,
        vmid: vmid?,
        template: template?,
        address: address?,
        cores: cores?,
        memory: memory?,
        disk: disk?,
        onboot: onboot?,
        ssh: ssh?,
        authorized_keys,
        pending_keys,
        user_data,
        on_change,
        disks,
        pci: pci?,
    })
}

fn size(reader: &mut Reader<'_>, key: &'static str, example: &str, least: u64) -> Option<Size> {
    let size: At<Size> = reader.required(key, example)?;
    let bytes = size.value.bytes();
    if bytes >= least && bytes.is_multiple_of(1 << 20) {
        return Some(size.value);
    }
    let finding = Finding::at(&size.place, format!("{} has a `{key}` of {}", reader.what, size.value));
    let help = format!("choose a multiple of 1M, {} or more", Size::from_bytes(least));
    reader.scope.report(finding.label("not possible").help(help));
    None
}

fn user(reader: &mut Reader<'_>) -> Option<String> {
    let given: At<String> = reader.required("user", "`user = \"hearth\"`, the user that cloud-init makes")?;
    if given.value == "root" {
        let finding = Finding::at(&given.place, format!("{} would be entered as root", reader.what));
        reader.scope.report(finding.help("cloud-init makes this user and lets it use sudo: choose another name"));
        return None;
    }
    hosts::user(given, reader)
}

/// Reads `ssh`; what it does not say is as for the host.
fn ssh(reader: &mut Reader<'_>, user: Option<String>, host: Option<&Host>) -> Option<Ssh> {
    let mut ssh = Ssh {
        user: user.unwrap_or_default(),
        port: 22,
        key_file: host.map(|host| host.ssh.key_file.clone()).unwrap_or_default(),
        known_hosts_file: host.map(|host| host.ssh.known_hosts_file.clone()).unwrap_or_default(),
        pinned: Vec::new(),
    };
    if reader.entry("ssh").is_some() {
        let mut table = reader.table("ssh")?;
        ssh.port = table.number("port", &(1..=65535)).unwrap_or(ssh.port);
        if let Some(path) = table.path("key_file") {
            ssh.key_file = path.value;
        }
        if let Some(path) = table.path("known_hosts_file") {
            ssh.known_hosts_file = path.value;
        }
        table.finish();
    }
    (host.is_some() && !ssh.user.is_empty()).then_some(ssh)
}

/// Reads the public keys: those written in the inventory and those in files. Second come the files that are not made yet.
fn keys(reader: &mut Reader<'_>) -> (Vec<String>, Vec<PathBuf>) {
    let inline: Option<Vec<At<String>>> = reader.optional("authorized_keys");
    let files: Option<Vec<At<String>>> = reader.optional("authorized_keys_files");
    let given = ["authorized_keys", "authorized_keys_files"].map(|key| reader.table.entry(key).is_some());
    let example = "`authorized_keys_files = [\"~/.ssh/id_ed25519.pub\"]`: without a key nobody can log in";
    if given == [false, false] {
        reader.missing("authorized_keys", example);
    } else if given == [inline.is_some(), files.is_some()] && inline.iter().chain(&files).all(Vec::is_empty) {
        let finding = Finding::at(&reader.table.place, format!("{} lets nobody in", reader.what));
        reader.scope.report(finding.help(format!("add {example}")));
    }
    let (mut keys, mut pending) = (Vec::new(), Vec::new());
    for line in inline.into_iter().flatten() {
        keys.extend(public_key(&line.value, &line.place, reader));
    }
    for file in files.into_iter().flatten() {
        let Some(path) = reader.scope.path(&file.value, &file.place) else { continue };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                keys.extend(keys_of(&text, &path, &file.place, reader));
                reader.scope.input(&path);
            }
            // What Hearth's own tools make may come later: a clean clone is built and rendered before its lab is up.
            Err(error) if error.kind() == ErrorKind::NotFound && reader.scope.is_made(&path) => pending.push(path),
            Err(error) => {
                let finding = Finding::at(&file.place, format!("can't read {}: {error}", path.display()));
                let help = "a path is relative to the inventory's folder; `ssh-keygen` makes a key";
                reader.scope.report(finding.help(help));
            }
        }
    }
    (keys, pending)
}

/// Reads the keys of a file, one a line, with comments as in `authorized_keys`.
fn keys_of(text: &str, path: &Path, place: &Place, reader: &Reader<'_>) -> Vec<String> {
    if text.contains(PRIVATE) {
        reader.scope.report(private_key(place));
        return Vec::new();
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<&str> = lines.collect();
    if lines.is_empty() {
        let finding = Finding::at(place, format!("{} holds no key", path.display()));
        reader.scope.report(finding.help("give a file with a public key, as ssh-keygen writes it"));
    }
    lines.into_iter().filter_map(|line| public_key(line, place, reader)).collect()
}

fn private_key(place: &Place) -> Finding {
    let finding = Finding::at(place, "this is a private key").label("must stay secret");
    finding.help("give the public half, the file with .pub at its end")
}

/// Checks that a line is a public key as in `authorized_keys` (sshd(8)). The text itself is never shown: it may be a
/// piece of a private key.
fn public_key(line: &str, place: &Place, reader: &Reader<'_>) -> Option<String> {
    let kinds = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"];
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_key = |pair: &[&str]| kinds.iter().any(|kind| pair[0].starts_with(kind)) && pair[1].starts_with("AAAA");
    if line.contains(PRIVATE) {
        reader.scope.report(private_key(place));
    } else if line.contains(char::is_control) || !words.windows(2).any(is_key) {
        let finding = Finding::at(place, format!("this is no public key for {}", reader.what));
        let help =
            "a key is one line as in authorized_keys: a type, the key, a comment, as `ssh-ed25519 AAAA… me@here`";
        reader.scope.report(finding.help(help));
    } else {
        return Some(line.to_owned());
    }
    None
}

fn user_data(reader: &mut Reader<'_>) -> Option<PathBuf> {
    let path = reader.path("user_data")?;
    if !path.value.is_file() {
        let finding = Finding::at(&path.place, format!("there is no file {}", path.value.display()));
        reader.scope.report(finding.help("a path is relative to the inventory's folder"));
    }
    reader.scope.input(&path.value);
    Some(path.value)
}

fn on_change(reader: &mut Reader<'_>) -> OnChange {
    let Some(given): Option<At<String>> = reader.optional("on_change") else { return OnChange::default() };
    match given.value.as_str() {
        "reapply" => OnChange::Reapply,
        "restart" => OnChange::Restart,
        "recreate" => OnChange::Recreate,
        other => {
            let finding = Finding::at(&given.place, format!("`on_change` of {} is '{other}'", reader.what));
            let help = "write \"reapply\" (cloud-init runs again), \"restart\" (the guest reboots) or \"recreate\" \
                        (the guest is made anew)";
            reader.scope.report(finding.label("unknown").help(help));
            OnChange::default()
        }
    }
}

/// The longest serial number of a virtio disk (virtio 1.2, 5.2.6.2, `VIRTIO_BLK_T_GET_ID`).
const SERIAL: usize = 20;

fn data_disk(name: &Name, reader: &mut Reader<'_>) -> Option<DataDisk> {
    if name.as_str().len() > SERIAL {
        let finding = Finding::at(&reader.table.place, format!("the name of {} is too long", reader.what));
        let help = format!("the guest finds the disk by its serial number, which has up to {SERIAL} characters");
        reader.scope.report(finding.help(help));
    }
    let vmid = vmid(reader);
    let size = size(reader, "size", "`size = \"8G\"`", 1 << 20);
    let mount = reader.optional("mount");
    Some(DataDisk { vmid: vmid?, size: size?, mount })
}

fn pci(reader: &mut Reader<'_>) -> Option<Vec<String>> {
    if reader.entry("pci").is_none() {
        return Some(Vec::new());
    }
    let given: Vec<At<String>> = reader.optional("pci")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let shape = "a mapping's name in the cluster's resource mappings: letters, digits, '-' and '_'";
    let check = |name: At<String>| {
        let good = name.value.bytes().all(plain);
        accept(name, good, "a PCI mapping", shape, reader.scope)
    };
    given.into_iter().map(check).collect()
}
