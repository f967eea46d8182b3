//! A tool that is stopped after any of its changing calls: the next run leaves what an undisturbed one leaves.
//!
//! The client's way to the server leads over a gate that counts the calls that change something and is shut after the
//! wanted number: what comes later is never sent, as with a process that was killed.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeMap;

use site::{DataDisk, OnChange};
use support::{Lab, name, vmid};

type Edit = fn(&mut Lab);

fn nothing(_: &mut Lab) {}

fn key(lab: &mut Lab, on_change: OnChange) {
    let guest = &mut lab.site.guests[&name("vm-extranet")];
    guest.on_change = on_change;
    guest.authorized_keys.push("ssh-ed25519 AAAAsecond".into());
}

fn disk(lab: &mut Lab, size: &str) {
    let disk = DataDisk { vmid: vmid(901), size: size.parse().unwrap(), mount: None };
    lab.site.guests[&name("vm-extranet")].disks.insert(name("data"), disk);
}

fn one_guest(lab: &mut Lab) {
    lab.site.guests.shift_remove(&name("vm-intranet"));
}

/// Brings a lab to the state before, then to the state after; in the second, calls from the given one on are not sent.
fn run(before: Option<Edit>, after: Edit, cut: Option<u64>) -> (BTreeMap<String, String>, u64, bool) {
    let mut lab = Lab::start();
    one_guest(&mut lab);
    if let Some(before) = before {
        before(&mut lab);
        lab.apply(&[]).unwrap();
    }
    after(&mut lab);
    let gate = lab.server.gate();
    gate.shut_after(cut);
    let allow = ["vm/pve1/vm-extranet"];
    let outcome = lab.apply(&allow);
    let calls = gate.changes();
    gate.shut_after(None);
    let stopped = outcome.is_err();
    if stopped {
        lab.apply(&allow).unwrap();
    }
    assert_eq!(lab.plan().unwrap(), "");
    (lab.census(), calls, stopped)
}

fn survives(what: &str, before: Option<Edit>, after: Edit) {
    let (undisturbed, calls, stopped) = run(before, after, None);
    assert!(!stopped && calls > 1, "{what}: {calls}");
    for cut in 0..calls {
        let (left, _, stopped) = run(before, after, Some(cut));
        assert!(stopped, "{what}: the run was to be stopped after {cut} of {calls} calls");
        assert_eq!(left, undisturbed, "{what}, stopped after {cut} of {calls} calls");
    }
    println!("{what}: stopped after each of {calls} changing calls");
}

#[test]
fn making_everything() {
    survives("template, guest and data disk", None, |lab| disk(lab, "1G"));
}

#[test]
fn a_template_of_another_image() {
    let bare: Edit = |lab| drop(std::mem::take(&mut lab.site.guests));
    survives("a template's new image", Some(bare), |lab| lab.image("debian-13", b"two"));
}

#[test]
fn more_memory_and_a_larger_disk() {
    survives("memory and disk", Some(nothing), |lab| {
        let guest = &mut lab.site.guests[&name("vm-extranet")];
        guest.memory = "2G".parse().unwrap();
        guest.disk = "7G".parse().unwrap();
    });
}

#[test]
fn new_user_data_each_way() {
    survives("reapply", Some(nothing), |lab| key(lab, OnChange::Reapply));
    survives("restart", Some(nothing), |lab| key(lab, OnChange::Restart));
    survives("recreate", Some(|lab| disk(lab, "1G")), |lab| key(lab, OnChange::Recreate));
}

#[test]
fn a_data_disk_that_comes_and_grows() {
    survives("a data disk", Some(nothing), |lab| disk(lab, "1G"));
    survives("a data disk's growth", Some(|lab| disk(lab, "1G")), |lab| disk(lab, "2G"));
}
