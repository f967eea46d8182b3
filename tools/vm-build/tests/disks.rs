//! Data disks, growth, and what a changed user-data does.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::Duration;

use converge::Reason;
use pve::Form;
use site::{DataDisk, OnChange};
use support::{Lab, name, vmid};

const TASK: Duration = Duration::from_secs(20);
const DISK: &str = "disk/pve1/vm-extranet/data";

fn with_disk(lab: &mut Lab, size: &str) {
    let disk = DataDisk { vmid: vmid(901), size: size.parse().unwrap(), mount: Some("/srv/data".parse().unwrap()) };
    lab.site.guests[&name("vm-extranet")].disks.insert(name("data"), disk);
}

fn refusal(lab: &Lab) -> String {
    let error = lab.plan().unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Refused);
    converge::describe(&error)
}

#[test]
fn a_data_disk_is_added_to_a_running_guest() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.asked();
    with_disk(&mut lab, "8G");
    assert_eq!(
        lab.plan().unwrap(),
        format!(
            "+ {DISK}\n    name: vm-extranet-data\n    size: 8G\n    tags: hearth;hearth-site-lab\n    kept: true\n\
             ~ vm/pve1/vm-extranet\n    disks: {{}} → {{\"data\":\"8G at /srv/data\"}}\n"
        )
    );
    assert_eq!(lab.apply(&[]).unwrap(), 2);
    assert_eq!(lab.asked(), ["settle vm-extranet 6G data 8G"]);
    assert_eq!(lab.config(111)["virtio0"], "local:901/vm-901-disk-0.raw,serial=data,size=8G");
    let keeper = lab.config(901);
    assert_eq!((keeper["unused0"].as_str(), keeper["protection"].as_str()), ("local:901/vm-901-disk-0.raw", "1"));
    assert!(!keeper.contains_key("scsi0"), "{keeper:?}");
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn a_data_disk_outlives_its_guest() {
    let mut lab = Lab::start();
    with_disk(&mut lab, "8G");
    assert_eq!(lab.apply(&[]).unwrap(), 4);
    lab.asked();
    let volume = lab.server.dir.join("storage/local/images/901/vm-901-disk-0.raw");
    let made = std::fs::metadata(&volume).unwrap().modified().unwrap();
    let guest = &mut lab.site.guests[&name("vm-extranet")];
    guest.on_change = OnChange::Recreate;
    guest.authorized_keys.push("ssh-ed25519 AAAAsecond".into());
    let plan = lab.plan().unwrap();
    assert!(plan.ends_with("\n    LOSES DATA of the system disk of vm-extranet (6G)\n"), "{plan}");
    assert!(!plan.contains(DISK), "{plan}");
    assert_eq!(converge::reason(&lab.apply(&[]).unwrap_err()), Reason::Refused);
    assert_eq!(lab.apply(&["vm/pve1/vm-extranet"]).unwrap(), 1);
    assert_eq!(lab.asked(), ["forget vm-extranet", "settle vm-extranet 6G data 8G", "wait vm-extranet"]);
    assert_eq!(std::fs::metadata(&volume).unwrap().modified().unwrap(), made, "it is the same volume");
    assert!(lab.config(111)["virtio0"].starts_with("local:901/vm-901-disk-0.raw,"));
    assert_eq!(lab.plan().unwrap(), "");

    // By hand too: the guest is gone, its disk is not.
    lab.client().node("pve1").vm(vmid(111)).stop(TASK).unwrap();
    lab.client().node("pve1").vm(vmid(111)).delete(TASK).unwrap();
    assert!(lab.plan().unwrap().starts_with("+ vm/pve1/vm-extranet\n"));
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(std::fs::metadata(&volume).unwrap().modified().unwrap(), made, "it is the same volume");
    // And it can't be deleted by mistake.
    let error = lab.client().node("pve1").vm(vmid(901)).delete(TASK).unwrap_err();
    assert!(error.to_string().contains("protection mode enabled"), "{error}");
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn disks_grow_in_the_running_guest_and_never_shrink() {
    let mut lab = Lab::start();
    with_disk(&mut lab, "8G");
    lab.apply(&[]).unwrap();
    lab.asked();
    with_disk(&mut lab, "10G");
    lab.site.guests[&name("vm-extranet")].disk = "7G".parse().unwrap();
    assert_eq!(
        lab.plan().unwrap(),
        "~ vm/pve1/vm-extranet\n    disk: 6G → 7G\n    file_system: 6G → 7G\n    \
         disks: {\"data\":\"8G at /srv/data\"} → {\"data\":\"10G at /srv/data\"}\n"
    );
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.asked(), ["settle vm-extranet 7G data 10G"]);
    assert_eq!(lab.plan().unwrap(), "");
    with_disk(&mut lab, "9G");
    assert_eq!(
        refusal(&lab),
        format!(
            "error: vm-build can't plan\n  because: {DISK}: it has 10G, and 9G is wanted: a disk can't shrink\n  \
             hint: write size = \"10G\"; for a smaller one, add another data disk, copy the data, and take this one out"
        )
    );
    // Its size is known without its guest as well.
    lab.client().node("pve1").vm(vmid(111)).stop(TASK).unwrap();
    lab.client().node("pve1").vm(vmid(111)).delete(TASK).unwrap();
    assert!(refusal(&lab).contains("it has 10G, and 9G is wanted"));
    with_disk(&mut lab, "10G");
    lab.site.guests[&name("vm-extranet")].disk = "6G".parse().unwrap();
    lab.apply(&[]).unwrap();
    lab.site.guests[&name("vm-extranet")].disk = "5G".parse().unwrap();
    assert_eq!(
        refusal(&lab),
        "error: vm-build can't plan\n  \
         because: vm/pve1/vm-extranet: its disk has 6G, and 5G is wanted: a disk can't shrink\n  \
         hint: write disk = \"6G\"; for a smaller one, delete VM 111 yourself, and it is made anew"
    );
}

#[test]
fn a_data_disk_that_is_not_named_any_more_stays() {
    let mut lab = Lab::start();
    with_disk(&mut lab, "8G");
    lab.apply(&[]).unwrap();
    lab.site.guests[&name("vm-extranet")].disks.clear();
    assert_eq!(lab.plan().unwrap(), "");
    assert!(lab.config(111).contains_key("virtio0") && lab.config(901).contains_key("unused0"));
    with_disk(&mut lab, "8G");
    assert_eq!(lab.plan().unwrap(), "");
    let disk = lab.site.guests[&name("vm-extranet")].disks.shift_remove(&name("data")).unwrap();
    lab.site.guests[&name("vm-intranet")].disks.insert(name("data"), disk);
    let text = refusal(&lab);
    assert!(text.contains("VMID 901 is taken by VM 'vm-extranet-data'"), "{text}");
    assert!(text.contains("which owns another data disk of this site"), "{text}");
}

#[test]
fn new_user_data_does_what_the_site_says() {
    let cases = [
        (OnChange::Reapply, "restarts cloud-init in vm-extranet", &["reapply vm-extranet"][..]),
        (OnChange::Restart, "reboots vm-extranet", &["wait vm-extranet"]),
        (
            OnChange::Recreate,
            "LOSES DATA of the system disk of vm-extranet (6G)",
            &["forget vm-extranet", "wait vm-extranet"],
        ),
    ];
    for (on_change, impact, asked) in cases {
        let mut lab = Lab::start();
        lab.apply(&[]).unwrap();
        lab.asked();
        let before = lab.isos();
        let guest = &mut lab.site.guests[&name("vm-extranet")];
        guest.on_change = on_change;
        assert_eq!(lab.plan().unwrap(), "", "by itself it changes nothing");
        lab.site.guests[&name("vm-extranet")].authorized_keys.push("ssh-ed25519 AAAAsecond".into());
        let plan = lab.plan().unwrap();
        assert!(plan.contains("user_data: ") && plan.ends_with(&format!("\n    {impact}\n")), "{plan}");
        assert_eq!(lab.apply(&["vm/pve1/vm-extranet"]).unwrap(), 1);
        assert_eq!(lab.asked(), asked);
        let after = lab.isos();
        assert_eq!((after.len(), before.iter().filter(|iso| after.contains(iso)).count()), (2, 1), "{after:?}");
        assert_eq!(lab.plan().unwrap(), "");
    }
}

#[test]
fn another_address_is_taken_up_at_a_boot() {
    let mut lab = Lab::start();
    lab.site.guests[&name("vm-extranet")].on_change = OnChange::Reapply;
    lab.apply(&[]).unwrap();
    lab.asked();
    lab.site.guests[&name("vm-extranet")].address = [192, 168, 1, 112].into();
    let plan = lab.plan().unwrap();
    assert!(plan.contains("network: ") && plan.ends_with("reboots vm-extranet\n"), "{plan}");
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.asked(), ["wait vm-extranet"]);
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn what_somebody_left_waiting_is_taken_back() {
    let lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.asked();
    lab.client().node("pve1").vm(vmid(111)).set(Form::new().set("memory", 512).set("cpu", "host"), "").unwrap();
    assert_eq!(lab.plan().unwrap(), "~ vm/pve1/vm-extranet\n    waiting: [\"memory=512\"] → []\n");
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert!(lab.asked().is_empty(), "nothing restarts for it");
    assert_eq!(lab.plan().unwrap(), "");
    let pending = lab.client().node("pve1").vm(vmid(111)).pending().unwrap();
    let waits: Vec<&str> = pending.iter().filter(|one| one.pending.is_some()).map(|one| one.key.as_str()).collect();
    assert_eq!(waits, ["cpu"], "what is not ours is left alone");
}
