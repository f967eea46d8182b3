//! The classic texts against those that the described system has.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::path::Path;

use converge::{Context, Quiet, Tool};
use nfs_export::NfsExport;

fn render(only: &[String]) -> Vec<(String, String)> {
    let inventory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../inventory/media-server-home");
    let site = site::load(&inventory).unwrap_or_else(|errors| panic!("{errors}"));
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(folder.path()).unwrap();
    let fleet = remote::Fleet::new(&site);
    let cx = Context { site: &site, store: &store, fleet: &fleet, events: &Quiet, only, absent: Default::default() };
    NfsExport.render(&cx).unwrap().into_iter().map(|text| (text.place, text.text)).collect()
}

#[test]
fn exports_and_fstab_are_the_described_systems_to_the_byte() {
    let texts = render(&["classic".to_owned()]);
    let wanted = [
        ("classic/pve:/etc/exports", include_str!("data/seed.exports")),
        ("classic/vm-intranet:/etc/fstab", include_str!("data/seed.intranet.fstab")),
        ("classic/vm-extranet:/etc/fstab", include_str!("data/seed.extranet.fstab")),
    ];
    assert_eq!(texts, wanted.map(|(place, text)| (place.to_owned(), text.to_owned())));
}

#[test]
fn the_exports_file_holds_the_same_lines_below_its_header() {
    let texts = render(&["pve:/etc/exports.d".to_owned()]);
    let [(place, text)] = texts.as_slice() else { panic!("{texts:?}") };
    assert_eq!(place, "pve:/etc/exports.d/hearth-media-server-home.exports");
    let (header, lines) = text.split_once('\n').unwrap();
    assert_eq!(header, "# Made by Hearth for site media-server-home; changes are undone by the next run.");
    assert_eq!(lines, include_str!("data/seed.exports"));
}

#[test]
fn six_mounts_have_six_units() {
    let units = |guest: &str| render(&[guest.to_owned()]).len();
    assert_eq!((units("vm-intranet"), units("vm-extranet")), (6, 2));
}
