//! The sites of this repository load, and the lab's evaluation is as the golden file says. `HEARTH_BLESS=1` writes it
//! anew.

use std::fs;
use std::path::{Path, PathBuf};

use hearth_site::Site;

fn site(name: &str) -> Site {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../inventory").join(name);
    hearth_site::load(&folder).unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

#[test]
fn the_lab_is_as_its_golden_file() {
    let golden: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab.json");
    let mut lab = site("lab");
    // The lab's key is made on each machine.
    for guest in lab.guests.values_mut() {
        guest.authorized_keys.clear();
    }
    let text = serde_json::to_string_pretty(&lab).unwrap() + "\n";
    if std::env::var_os("HEARTH_BLESS").is_some() {
        store::files::write_atomic(&golden, &text, 0o644).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&golden).unwrap());
}

#[test]
fn a_guest_has_its_keys_or_says_which_are_to_come() {
    for (name, guest) in site("lab").guests {
        assert_eq!(guest.authorized_keys.len() + guest.pending_keys.len(), 1, "{name}");
    }
}

/// Exports and mounts of a site, in its order, as its host and guests will have them.
fn shares(site: &Site) -> Vec<String> {
    let line = |share: &hearth_site::Share| {
        let mounts = share.mounts.iter().map(|(guest, path)| format!("{}:{path}", site.guests[guest].address));
        let mounts: Vec<String> = mounts.collect();
        let (exports, options) = (share.export_options.join(","), share.mount_options.join(","));
        format!("{} {}({exports}) {options}", share.dataset, mounts.join(" "))
    };
    site.shares.values().map(line).collect()
}

#[test]
fn the_lab_shares_what_its_model_shares() {
    let model = site("media-server-home");
    assert_eq!(shares(&site("lab")), shares(&model));
    assert_eq!(
        shares(&model),
        [
            "tank-ssd/appdata 192.168.1.101:/mnt/appdata(rw,sync,no_subtree_check,no_root_squash) defaults,_netdev",
            "tank-ssd/postgres 192.168.1.101:/mnt/postgres(rw,sync,no_subtree_check,no_root_squash) defaults,_netdev",
            "tank-hdd/media 192.168.1.101:/mnt/media(rw,sync,no_subtree_check,no_root_squash) defaults,_netdev",
            "tank-hdd/photos 192.168.1.101:/mnt/photos(rw,sync,no_subtree_check,no_root_squash) defaults,_netdev",
            "tank-hdd/backups 192.168.1.101:/mnt/backups(rw,sync,no_subtree_check,no_root_squash) defaults,_netdev",
            "tank-hdd/logs 192.168.1.111:/mnt/logs(rw,sync,no_subtree_check,no_root_squash) defaults,_netdev",
        ]
    );
    assert_eq!(model.logical_volumes["pve/zfs-ssd"].size.to_string(), "15G");
}
