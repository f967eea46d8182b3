//! Trials that nobody watches: the run is killed, or the guest dies, while a bundle is on trial.

use std::fs;
use std::thread;
use std::time::Duration;

use hearth_tests::{INTRANET, expect, ssh};
use remote::Command;

use crate::deploys::{BASE, COMPOSE, Client, HEALTHY, NEVER, altered, apply, bundle, still_serves};
use crate::support::{Altered, repaired, turn, wait_until};

#[test]
fn the_guest_ends_a_trial_whose_run_was_killed() {
    let _turn = turn();
    let old = bundle();
    let site = altered("lab-killed-trial", (COMPOSE, HEALTHY, NEVER));
    let client = Client::start();
    killed_in_the_trial(&site);
    wait_until(INTRANET, "the trial is settled", &format!("! test -L {BASE}/trial"));
    let asked = client.stop();
    still_serves("run killed", &old, &site, asked);
}

#[test]
fn a_guest_that_dies_in_a_trial_boots_the_bundle_before() {
    let _turn = turn();
    let old = bundle();
    let site = altered("lab-dead-trial", (COMPOSE, HEALTHY, NEVER));
    killed_in_the_trial(&site);
    // No sync, no stop of anything; the connection does not survive it.
    let _ = ssh(INTRANET, "echo b >/proc/sysrq-trigger").deadline(Duration::from_secs(10)).output();
    thread::sleep(Duration::from_secs(5));
    // `is-active` is content with one of many.
    let up = "for s in photos media monitoring proxy backup; do systemctl is-active --quiet hearth-stack-$s; done";
    wait_until(INTRANET, "the stacks are up", up);
    still_serves("guest died", &old, &site, (0, 0));
    repaired();
}

/// Applies the bad bundle, and kills the program as soon as the guest tries it.
fn killed_in_the_trial(site: &Altered) {
    let command = apply(site);
    let run = thread::spawn(move || command.output().unwrap());
    let trial = "systemctl show --property=ActiveState --value hearth-trial@media.service | grep -qx activating";
    wait_until(INTRANET, "the trial runs", trial);
    let folder = site.folder().display().to_string();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("compose-deploy\0apply") && line.contains(&folder) {
            expect(0, &Command::new("kill").arg("-9").arg(entry.file_name()));
        }
    }
    assert_eq!(run.join().unwrap().status, 137);
}
