//! The seed that a guest gets: its texts, and that the same guest gets the same bytes.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use site::{Guest, Network};
use support::{name, site};
use vm_build::seed::Seed;

const USER_DATA: &str = r#"#cloud-config
hostname: vm-intranet
fqdn: vm-intranet.home.example
users:
- name: hearth
  shell: /bin/bash
  sudo: ALL=(ALL) NOPASSWD:ALL
  lock_passwd: true
  ssh_authorized_keys:
  - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7k7Fz0 lab: the key # of the lab"
ssh_pwauth: false
ssh_deletekeys: false
growpart:
  mode: auto
  devices:
  - /
resize_rootfs: true
package_update: false
package_upgrade: false
"#;

const NETWORK_CONFIG: &str = r#"version: 2
ethernets:
  lan:
    match:
      name: e*
    addresses:
    - 192.168.1.101/24
    routes:
    - to: 0.0.0.0/0
      via: "192.168.1.1"
    nameservers:
      addresses:
      - "192.168.1.1"
      search:
      - home.example
"#;

fn lab() -> (Guest, Network, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let site = site("https://localhost:8006", folder.path());
    (site.guests[&name("vm-intranet")].clone(), site.network, folder)
}

fn seed(guest: &Guest, network: &Network) -> Seed {
    Seed::of(&name("vm-intranet"), guest, network).unwrap()
}

#[test]
fn a_seed_holds_the_login_and_the_address() {
    let (guest, network, _folder) = lab();
    let seed = seed(&guest, &network);
    assert_eq!(seed.user_data, USER_DATA);
    assert_eq!(seed.network_config, NETWORK_CONFIG);
    let meta_data = seed.meta_data.replace('"', "");
    assert_eq!(meta_data, format!("instance-id: {}\nlocal-hostname: vm-intranet\n", seed.digest()));
}

#[test]
fn the_same_guest_gets_the_same_bytes_and_another_instance_id_when_anything_changes() {
    let (mut guest, network, _folder) = lab();
    let before = seed(&guest, &network);
    assert_eq!(before.iso(), seed(&guest, &network).iso());
    guest.address = [192, 168, 1, 102].into();
    let after = seed(&guest, &network);
    assert_ne!(before.digest(), after.digest());
    assert_ne!(before.iso(), after.iso());
}

#[test]
fn the_sites_own_cloud_config_is_laid_over_and_its_users_are_added() {
    let (mut guest, network, folder) = lab();
    let path = folder.path().join("more.yaml");
    let more = "#cloud-config\nssh_pwauth: true\nusers: [{name: anna}]\nwrite_files:\n- path: /etc/motd\n  \
                permissions: 0644\n  content: |\n    one\n    two\n";
    store::files::write_atomic(&path, more, 0o600).unwrap();
    guest.user_data = Some(path);
    let text = seed(&guest, &network).user_data;
    assert!(text.contains("ssh_pwauth: true\n") && text.contains("- name: hearth\n"), "{text}");
    assert!(text.contains("- name: anna\n") && text.contains("permissions: 420\n"), "{text}");
    assert!(text.ends_with("  content: |\n    one\n    two\n"), "{text}");
}

#[test]
fn a_cloud_config_that_is_none_is_an_error_of_configuration() {
    let (mut guest, network, folder) = lab();
    let path = folder.path().join("more.yaml");
    guest.user_data = Some(path.clone());
    for (text, why) in [("- a\n", "a table of keys"), ("a: [", "line 1"), ("a: 1\na: 2\n", "duplicate")] {
        store::files::write_atomic(&path, text, 0o600).unwrap();
        let error = Seed::of(&name("vm-intranet"), &guest, &network).unwrap_err();
        assert_eq!(converge::reason(&error), converge::Reason::Config, "{error:#}");
        assert!(format!("{error:#}").contains(why) && format!("{error:#}").contains("more.yaml"), "{error:#}");
    }
}
