//! The API token's privileges: with those of the documented role everything works, and each of them is needed.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::Duration;

use converge::{Reason, Tool as _};
use pve_lab::Release;
use support::{Lab, name, vmid};
use vm_build::guests::told_key;
use vm_build::rights::{BRIDGE, STORAGE, VM};

fn role(release: Release) -> Vec<String> {
    let agent = if release == Release::V8 { "VM.Monitor" } else { "VM.GuestAgent.FileRead" };
    let all = VM.iter().chain(&STORAGE).chain([&BRIDGE, &agent]);
    all.map(|privilege| (*privilege).to_owned()).collect()
}

fn without(role: &[String], one: &str) -> Vec<String> {
    role.iter().filter(|privilege| *privilege != one).cloned().collect()
}

#[test]
fn a_token_that_lacks_a_privilege_is_told_of_in_the_plan() {
    for release in [Release::V8, Release::V9] {
        let lab = Lab::speaking(release);
        let role = role(release);
        for missing in &role {
            lab.grant(&without(&role, missing));
            let error = lab.plan().unwrap_err();
            assert_eq!(converge::reason(&error), Reason::Refused, "{missing}: {error:#}");
            let text = converge::describe(&error);
            assert!(text.contains("pve1: the API token hearth@pve!hearth lacks\n"), "{text}");
            assert!(text.contains(missing) && text.contains("hint: on the node: pveum role modify Hearth"), "{text}");
        }
        lab.grant(&role);
        assert!(lab.plan().is_ok());
    }
}

#[test]
fn the_plans_words_are_these() {
    let lab = Lab::start();
    lab.grant(&without(&role(Release::V9), "Datastore.AllocateTemplate"));
    let text = converge::describe(&lab.plan().unwrap_err());
    assert_eq!(
        text,
        "error: vm-build can't plan\n  because: pve1: the API token hearth@pve!hearth lacks\n    /storage/local: \
         Datastore.AllocateTemplate\n  hint: on the node: pveum role modify Hearth --append 1 --privs Datastore.AllocateTemplate\n        and, where \
         /storage/local has no such role yet: pveum acl modify /storage/local --roles Hearth --users hearth@pve --tokens \
         'hearth@pve!hearth'\n        (docs/trust.md has the role, the user and the token)"
    );
}

/// Plans with the whole role and applies with what is left of it, as when rights change in between: what the server
/// itself refuses is what it needs.
fn apply_with(lab: &Lab, whole: &[String], left: &[String]) -> anyhow::Result<()> {
    lab.with(|cx| {
        let tool = lab.tool();
        lab.grant(whole);
        let plan = converge::observe_plan(cx, &tool)?;
        assert!(!plan.steps.is_empty());
        lab.grant(left);
        let outcome = plan.steps.iter().try_for_each(|step| tool.apply(cx, step));
        lab.grant(whole);
        outcome
    })
}

/// From nothing to guests, then a change of all that can be changed.
fn story(lab: &mut Lab, whole: &[String], left: &[String]) -> anyhow::Result<()> {
    apply_with(lab, whole, left)?;
    let guest = &mut lab.site.guests[&name("vm-intranet")];
    guest.memory = "2G".parse().unwrap();
    guest.disk = "8G".parse().unwrap();
    guest.authorized_keys.push("ssh-ed25519 AAAAsecond".into());
    apply_with(lab, whole, left)?;
    lab.agent(101, "/etc/ssh/ssh_host_ed25519_key.pub", KEY);
    lab.grant(left);
    let client = lab.client();
    told_key(&client.node("pve1").vm(vmid(101)), &name("pve1"), &name("vm-intranet"), Duration::from_secs(5)).map(drop)
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIJ8S8ZyZ5Cgn7VjTBp1c4ZbSjVYtjJX3qfJtWf0j1kL root@vm-intranet\n";

#[test]
fn the_role_is_enough_and_each_of_its_privileges_is_needed() {
    for release in [Release::V8, Release::V9] {
        let role = role(release);
        story(&mut Lab::speaking(release), &role, &role).unwrap();
        for missing in &role {
            let error = story(&mut Lab::speaking(release), &role, &without(&role, missing));
            let Err(error) = error else { panic!("{release:?}: nothing needs {missing}") };
            let text = converge::describe(&error);
            // The real server does not name what creating a VM takes; a VM that may not be seen is not there.
            let named = text.contains(missing.as_str()) || *missing == "VM.Allocate";
            assert!(named && text.contains("403"), "{release:?} {missing}: {text}");
            println!("{release:?} without {missing}: {}", text.lines().next().unwrap_or_default());
        }
        println!("{release:?}: {} privileges, each needed", role.len());
    }
}

#[test]
fn a_guests_key_is_told_by_its_agent() {
    let lab = Lab::start();
    lab.apply(&[]).unwrap();
    let (client, guest) = (lab.client(), name("vm-intranet"));
    let ask =
        |seconds| told_key(&client.node("pve1").vm(vmid(101)), &name("pve1"), &guest, Duration::from_secs(seconds));
    let error = ask(2).unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Refused);
    assert_eq!(
        converge::describe(&error),
        "error: vm-intranet's agent has not told its SSH host key within 2 s: QEMU guest agent is not running\n  hint: no \
         other key is trusted; see that qemu-guest-agent runs in vm-intranet (`qm agent VMID ping` on the node), then run \
         again"
    );
    lab.agent(101, "/etc/ssh/ssh_host_ed25519_key.pub", KEY);
    let key = ask(2).unwrap();
    assert!(KEY.starts_with(&key.to_string()));
    lab.with(|cx| {
        assert_eq!(cx.fleet.pinned_keys(&guest).unwrap(), "");
        cx.fleet.pin_key(&guest, &key).unwrap();
        assert_eq!(cx.fleet.pinned_keys(&guest).unwrap(), key.fingerprint());
        cx.fleet.forget_key(&guest).unwrap();
        assert_eq!(cx.fleet.pinned_keys(&guest).unwrap(), "");
        assert!(cx.fleet.pin_key(&name("pve1"), &key).is_err(), "a node's key is pinned by people");
    });
}

#[test]
fn an_agent_whose_file_is_not_there_yet_is_asked_again() {
    let lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.agent(101, "/etc/other", KEY);
    let client = lab.client();
    let vm = client.node("pve1").vm(vmid(101));
    let error = told_key(&vm, &name("pve1"), &name("vm-intranet"), Duration::from_secs(2)).unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("within 2 s: Agent error: failed to open file: No such file or directory"), "{text}");
}
