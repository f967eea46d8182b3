//! A guest's NoCloud seed: what cloud-init reads at the first boot, and again when its instance-id changes.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use site::{Guest, Name, Network};
use store::Digest;

use crate::cloud_config;

/// The three files of a seed (cloud-init's NoCloud data source).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Users, keys and what the site adds.
    pub user_data: String,
    /// The instance-id, which is the digest of the two others and the name.
    pub meta_data: String,
    /// The static address (version 2).
    pub network_config: String,
    digest: Digest,
}

impl Seed {
    /// Writes a guest's seed.
    ///
    /// # Errors
    /// Where the guest's own cloud-config can't be read or is none.
    pub fn of(name: &Name, guest: &Guest, network: &Network) -> Result<Self> {
        let user_data = format!("#cloud-config\n{}", yaml(&user_data(name, guest, network)?)?);
        let network_config = yaml(&network_config(guest, network))?;
        let digest = Digest::of(format!("{name}\n{user_data}\n{network_config}"));
        let meta_data = yaml(&json!({"instance-id": digest.to_string(), "local-hostname": name}))?;
        Ok(Self { user_data, meta_data, network_config, digest })
    }

    /// Returns the digest that is its instance-id.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the digest of the network's configuration alone, short: what a running guest can't take up.
    pub fn network(&self) -> String {
        Digest::of(&self.network_config).short()
    }

    /// Writes the volume that the guest finds it on. The same seed gives the same bytes.
    pub fn iso(&self) -> Vec<u8> {
        let files = [
            ("meta-data", self.meta_data.as_bytes()),
            ("network-config", self.network_config.as_bytes()),
            ("user-data", self.user_data.as_bytes()),
        ];
        image::iso9660::write("cidata", &files)
    }
}

fn yaml(value: &Value) -> Result<String> {
    // Files within it are written as blocks; a long key is not folded, so that it can be searched for.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: true, folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options).context("can't write a seed as YAML")
}

fn user_data(name: &Name, guest: &Guest, network: &Network) -> Result<Value> {
    let mut fqdn = name.to_string();
    if let Some(domain) = &network.domain {
        fqdn += &format!(".{domain}");
    }
    let mut data = json!({
        "hostname": name,
        "fqdn": fqdn,
        "users": [{
            "name": guest.ssh.user,
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": true,
            "ssh_authorized_keys": guest.authorized_keys,
        }],
        "ssh_pwauth": false,
        // A changed seed is a new instance to cloud-init, which would give it new host keys: the pinned ones would be
        // refused from then on. An image has none of its own, so the first boot makes them in any case.
        "ssh_deletekeys": false,
        "growpart": {"mode": "auto", "devices": ["/"]},
        "resize_rootfs": true,
        // What a guest consists of is pinned in its image; nothing is fetched at boot.
        "package_update": false,
        "package_upgrade": false,
    });
    let Some(table) = data.as_object_mut() else { return Ok(data) };
    if guest.ssh.user == "root" {
        table.insert("disable_root".into(), json!(false));
    }
    if let Some(path) = &guest.user_data {
        merge(table, cloud_config::read(path)?);
    }
    Ok(data)
}

/// Lays the site's keys over Hearth's. `users` are added: without Hearth's own nobody could log in to set up the rest.
fn merge(table: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (table.get_mut(&key), value) {
            (Some(Value::Array(users)), Value::Array(further)) if key == "users" => users.extend(further),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

fn network_config(guest: &Guest, network: &Network) -> Value {
    // By its name's first letter: the card is eth0, ens18 or enp0s18 with the machine's type, containers' are not.
    let mut card = json!({
        "match": {"name": "e*"},
        "addresses": [format!("{}/{}", guest.address, network.prefix)],
    });
    if let Some(gateway) = &network.gateway {
        // Not `default`: cloud-init's own renderers learnt that word late.
        card["routes"] = json!([{"to": "0.0.0.0/0", "via": gateway}]);
    }
    let mut names = Map::new();
    if !network.nameservers.is_empty() {
        names.insert("addresses".into(), json!(network.nameservers));
    }
    if let Some(domain) = &network.domain {
        names.insert("search".into(), json!([domain]));
    }
    if !names.is_empty() {
        card["nameservers"] = names.into();
    }
    json!({"version": 2, "ethernets": {"lan": card}})
}
