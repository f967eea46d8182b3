//! The cloud-init drive that Proxmox makes from a guest's options: its texts, and the volume with them.

use std::fs;
use std::net::Ipv4Addr;

use remote::local::Command;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::config::{self, Config};
use super::{Guest, drives};
use crate::error::{ApiError, Result, host};
use crate::schema::{Release, split_properties};
use crate::server::{Mode, Server};
use crate::storage::{Volume, bytes};

/// The options that `GET cloudinit` lists.
const LISTED: [&str; 7] = ["cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys"];

/// Returns one of the drive's texts.
pub(crate) fn dump(release: Release, vmid: u32, config: &Config, kind: &str) -> Result<String> {
    match kind {
        "user" => Ok(user(vmid, config)),
        "network" => network(release, config),
        _ => meta(release, vmid, config),
    }
}

/// Shows the cloud-init options that are and that will be.
pub(crate) fn show(release: Release, guest: &Guest) -> Value {
    let all = config::show_pending(release, guest);
    let listed = |entry: &&Value| entry["key"].as_str().is_some_and(|key| LISTED.contains(&key) && key != "ciupgrade");
    Value::Array(all.as_array().into_iter().flatten().filter(listed).cloned().collect())
}

fn user(vmid: u32, config: &Config) -> String {
    let get = |key: &str| config.get(key).map(String::as_str).filter(|text| !text.is_empty());
    let name = config.get("name").cloned().unwrap_or_else(|| format!("VM{vmid}"));
    let domain = get("searchdomain").and_then(|text| text.split(' ').next());
    let (hostname, fqdn) = match name.split_once('.') {
        Some((short, _)) => (short.to_owned(), name.clone()),
        None => (name.clone(), domain.map_or_else(|| name.clone(), |domain| format!("{name}.{domain}"))),
    };
    let mut out = format!("#cloud-config\nhostname: {hostname}\nmanage_etc_hosts: true\nfqdn: {fqdn}\n");
    if let Some(user) = get("ciuser") {
        out += &format!("user: {user}\n");
        if user == "root" {
            out += "disable_root: False\n";
        }
    }
    if let Some(password) = get("cipassword") {
        out += &format!("password: {password}\n");
    }
    if let Some(keys) = get("sshkeys") {
        out += "ssh_authorized_keys:\n";
        let text = crate::http::percent::decode(keys, false);
        for key in text.lines().map(str::trim).filter(|key| !key.is_empty()) {
            out += &format!("  - {key}\n");
        }
    }
    out += "chpasswd:\n  expire: False\nusers:\n  - default\n";
    if get("ciupgrade") != Some("0") {
        out += "package_upgrade: true\n";
    }
    out
}

fn network(release: Release, config: &Config) -> Result<String> {
    let mut out = String::from("version: 1\nconfig:\n");
    for number in 0..32 {
        let key = format!("net{number}");
        let Some(text) = config.get(&key) else { continue };
        let card = config::card(release, &key, text)?;
        let mac = card.get("macaddr").map(|mac| mac.to_lowercase()).unwrap_or_default();
        out += &format!("    - type: physical\n      name: eth{number}\n      mac_address: '{mac}'\n      subnets:\n");
        out += &subnets(config.get(&format!("ipconfig{number}")).map_or("ip=dhcp", String::as_str));
    }
    let words =
        |key: &str| config.get(key).map_or(Vec::new(), |text| text.split([' ', ',']).map(str::to_owned).collect());
    let (servers, domains) = (words("nameserver"), words("searchdomain"));
    // The real server falls back on its own resolver; the lab's wire has none.
    if !servers.is_empty() || !domains.is_empty() {
        out += "    - type: nameserver\n";
        for (name, values) in [("address", servers), ("search", domains)] {
            if !values.is_empty() {
                out += &format!("      {name}:\n");
            }
            values.iter().for_each(|value| out += &format!("      - '{value}'\n"));
        }
    }
    Ok(out)
}

fn subnets(text: &str) -> String {
    let mut out = String::new();
    let options = split_properties(text);
    let get = |name: &str| options.iter().find(|(key, _)| *key == Some(name)).map(|(_, value)| *value);
    for (ip, gateway, dhcp) in [("ip", "gw", "dhcp4"), ("ip6", "gw6", "dhcp6")] {
        match get(ip) {
            Some("dhcp") => out += &format!("      - type: {dhcp}\n"),
            Some("auto") => out += "      - type: ipv6_slaac\n",
            Some("manual") | None => {}
            Some(address) if ip == "ip6" => {
                out += &format!("      - type: static6\n        address: '{address}'\n");
            }
            Some(cidr) => {
                let (address, length) = cidr.split_once('/').unwrap_or((cidr, "32"));
                let bits = length.parse::<u32>().unwrap_or(32).min(32);
                let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - bits).unwrap_or(0));
                out += &format!("      - type: static\n        address: '{address}'\n        netmask: '{mask}'\n");
            }
        }
        if let Some(gateway) = get(gateway) {
            out += &format!("        gateway: '{gateway}'\n");
        }
    }
    out
}

fn meta(release: Release, vmid: u32, config: &Config) -> Result<String> {
    let text = format!("{}{}", user(vmid, config), network(release, config)?);
    let digest: String = Sha256::digest(text).iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("instance-id: {digest}\n"))
}

/// Writes the texts into the guest's cloud-init drive, if it has one; returns whether it has.
pub(crate) fn write_drive(server: &Server, vmid: u32, guest: &Guest) -> Result<bool> {
    let drives = drives::all(server, &guest.config);
    let Some((_, drive)) = drives.into_iter().find(|(_, drive)| drive.is_cloudinit()) else { return Ok(false) };
    if server.mode == Mode::ApiOnly {
        return Ok(true);
    }
    let config = &guest.config;
    let custom = |name: &str| custom(server, config, name);
    let text = |name: &str| -> Result<Vec<u8>> {
        match custom(name)? {
            Some(bytes) => Ok(bytes),
            None if name == "vendor" => Ok(Vec::new()),
            None => dump(server.release, vmid, config, name).map(String::into_bytes),
        }
    };
    let (user, network, meta, vendor) = (text("user")?, text("network")?, text("meta")?, text("vendor")?);
    let files: [(&str, &[u8]); 4] =
        [("user-data", &user), ("network-config", &network), ("meta-data", &meta), ("vendor-data", &vendor)];
    let mut iso = image::iso9660::write("cidata", &files);
    let size = bytes("4M", 1).and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
    iso.resize(iso.len().max(size), 0);
    let volume = drive.volume().ok_or_else(|| ApiError::failed("the cloud-init drive has no volume"))?;
    let raw = server.layout.run(&format!("{vmid}.cloudinit"));
    store::files::write_atomic(&raw, &iso, 0o600).map_err(host(format!("can't write {}", raw.display())))?;
    let to = server.storages.path(&volume);
    let result = server.storages.disks.convert(&raw, &to, volume.format());
    fs::remove_file(&raw).map_err(host(format!("can't remove {}", raw.display())))?;
    result.map(|()| true)
}

/// Reads a text that `cicustom` puts in the place of a generated one.
fn custom(server: &Server, config: &Config, name: &str) -> Result<Option<Vec<u8>>> {
    let options = split_properties(config.get("cicustom").map_or("", String::as_str));
    let Some((_, volid)) = options.into_iter().find(|(key, _)| *key == Some(name)) else { return Ok(None) };
    let missing = || ApiError::failed(format!("volume '{volid}' does not exist"));
    let (storage, file) = volid.split_once(":snippets/").ok_or_else(missing)?;
    let plain = Volume::parse(&format!("{storage}:iso/{file}")).map_err(|_| missing())?;
    let path = server.storages.folder(&plain.storage, "snippets").join(&plain.file);
    fs::read(path).map(Some).map_err(|_| missing())
}

/// Hashes a password as `PUT` does before it keeps it; a text that is hashed already stays.
pub(crate) fn hash_password(plain: &str) -> Result<String> {
    if plain.starts_with('$') {
        return Ok(plain.to_owned());
    }
    let command = Command::new("openssl").args(["passwd", "-5", "-stdin"]).stdin(format!("{plain}\n"));
    let output = command.run().map_err(host("can't hash the password"))?;
    Ok(output.text().trim().to_owned())
}

/// Rewrites the drive, as PUT cloudinit does.
pub(crate) fn regenerate(server: &Server, vmid: u32) -> Result<Value> {
    let lock = server.guests.lock(vmid);
    let _held = lock.take()?;
    let mut guest = server.guests.load(vmid)?;
    guest.check_lock()?;
    super::update::settle(server, vmid, &mut guest, false)?;
    server.guests.save(vmid, &guest)?;
    write_drive(server, vmid, &guest)?;
    Ok(json!(null))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_user_text_is_the_real_servers() {
        let config = config(&[
            ("name", "cloud-1"),
            ("ciuser", "deploy"),
            ("sshkeys", "ssh-ed25519%20AAAA%20a%40b%0A"),
            ("searchdomain", "example.org"),
        ]);
        assert_eq!(
            user(100, &config),
            "#cloud-config\nhostname: cloud-1\nmanage_etc_hosts: true\nfqdn: cloud-1.example.org\nuser: deploy\n\
             ssh_authorized_keys:\n  - ssh-ed25519 AAAA a@b\nchpasswd:\n  expire: False\nusers:\n  - default\n\
             package_upgrade: true\n"
        );
    }

    #[test]
    fn the_network_text_is_the_real_servers() {
        let config = config(&[
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("ipconfig0", "ip=192.0.2.10/24,gw=192.0.2.1,ip6=auto"),
            ("nameserver", "192.0.2.53 192.0.2.54"),
            ("searchdomain", "example.org"),
        ]);
        assert_eq!(
            network(Release::V9, &config).unwrap(),
            "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      mac_address: 'bc:24:11:00:00:01'\n      \
             subnets:\n      - type: static\n        address: '192.0.2.10'\n        netmask: '255.255.255.0'\n        \
             gateway: '192.0.2.1'\n      - type: ipv6_slaac\n    - type: nameserver\n      address:\n      - \
             '192.0.2.53'\n      - '192.0.2.54'\n      search:\n      - 'example.org'\n"
        );
    }
}
