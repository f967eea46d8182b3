//! The whole way against an API-only server: from nothing to guests, changes, refusals, and runs that were killed.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::Duration;

use converge::{Reason, Tool as _};
use pve::Form;
use support::{Lab, name, vmid};
use vm_build::mark::Mark;

/// Keeps the notes that people would see.
#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<String>>);

impl converge::Events for Heard {
    fn emit(&self, event: &converge::Event) {
        if let converge::Event::Note { message } = event {
            self.0.lock().unwrap().push(message.clone());
        }
    }
}

const TASK: Duration = Duration::from_secs(20);

#[test]
fn from_nothing_to_running_guests_and_then_nothing_to_change() {
    let lab = Lab::start();
    let plan = lab.plan().unwrap();
    let addresses: Vec<&str> = plan.lines().filter_map(|line| line.strip_prefix("+ ")).collect();
    assert_eq!(addresses, ["template/pve1/debian-13", "vm/pve1/vm-intranet", "vm/pve1/vm-extranet"]);
    assert_eq!(lab.apply(&[]).unwrap(), 3);
    assert_eq!(lab.asked(), ["forget vm-extranet", "forget vm-intranet", "wait vm-extranet", "wait vm-intranet"]);

    let guest = lab.config(101);
    let of = |key: &str| guest[key].as_str();
    assert_eq!((of("name"), of("memory"), of("cores"), of("onboot")), ("vm-intranet", "1024", "2", "1"));
    assert_eq!(of("tags"), "hearth;hearth-site-lab");
    assert!(of("scsi0").contains("base-9001-disk-0") && of("scsi0").ends_with("size=6G"), "{}", of("scsi0"));
    assert!(of("ide2").starts_with("local:iso/hearth-seed-101-vm-intranet-"), "{}", of("ide2"));
    assert_eq!(lab.config(9001)["template"], "1");

    assert_eq!(lab.plan().unwrap(), "");
    assert_eq!(lab.apply(&[]).unwrap(), 0);
    assert!(lab.asked().is_empty());
}

#[test]
fn the_older_release_is_spoken_too() {
    let mut lab = Lab::speaking(pve_lab::Release::V8);
    assert_eq!(lab.apply(&[]).unwrap(), 3);
    lab.site.guests[&name("vm-intranet")].memory = "2G".parse().unwrap();
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn looking_takes_one_call_a_vm_and_three_more() {
    let lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.with(|cx| {
        let tool = lab.tool();
        assert!(converge::observe_plan(cx, &tool).unwrap().steps.is_empty());
        assert_eq!(tool.api_calls(), 6);
    });
}

#[test]
fn more_memory_reboots_that_guest_only() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.asked();
    let guest = &mut lab.site.guests[&name("vm-intranet")];
    guest.memory = "2G".parse().unwrap();
    guest.disk = "8G".parse().unwrap();
    assert_eq!(
        lab.plan().unwrap(),
        "~ vm/pve1/vm-intranet\n    memory: 1G → 2G\n    disk: 6G → 8G\n    file_system: 6G → 8G\n    reboots vm-intranet\n"
    );
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.asked(), ["settle vm-intranet 8G", "wait vm-intranet"]);
    assert_eq!(lab.config(101)["memory"], "2048");
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn what_needs_no_reboot_does_none() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.asked();
    lab.site.guests[&name("vm-intranet")].onboot = false;
    lab.client().node("pve1").vm(vmid(111)).set(Form::new().set("tags", "mine"), "").unwrap();
    lab.client().node("pve1").vm(vmid(9001)).set(Form::new().set("name", "other"), "").unwrap();
    let plan = lab.plan().unwrap();
    assert!(plan.contains("onboot: true → false") && plan.contains("tags: mine → hearth;hearth-site-lab"), "{plan}");
    assert!(!plan.contains("reboots"), "{plan}");
    assert_eq!(lab.apply(&[]).unwrap(), 3);
    assert!(lab.asked().is_empty());
    assert_eq!(lab.config(111)["tags"], "hearth;hearth-site-lab;mine", "people's own tags stay");
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn a_changed_seed_takes_the_place_of_the_old_one() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    let before = lab.isos();
    lab.site.guests[&name("vm-intranet")].authorized_keys.push("ssh-ed25519 AAAAsecond".into());
    let plan = lab.plan().unwrap();
    assert!(plan.contains("user_data: ") && plan.contains("reboots vm-intranet"), "{plan}");
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    let after = lab.isos();
    assert_eq!((before.len(), after.len()), (2, 2));
    assert_eq!(before.iter().filter(|file| after.contains(file)).count(), 1, "{before:?} {after:?}");
}

#[test]
fn a_seed_that_was_left_behind_goes_with_the_next_change() {
    let mut lab = Lab::start();
    *lab.log.sick.lock().unwrap() = Some(name("vm-intranet"));
    lab.apply(&[]).unwrap_err();
    for key in ["ssh-ed25519 AAAAsecond", "ssh-ed25519 AAAAthird"] {
        lab.site.guests[&name("vm-intranet")].authorized_keys.push(key.into());
        lab.apply(&[]).unwrap_err();
        assert_eq!(lab.isos().len(), 2, "{:?}", lab.isos());
    }
}

#[test]
fn a_guest_that_is_not_named_any_more_stays_and_is_told_of() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.site.guests.shift_remove(&name("vm-extranet"));
    assert_eq!(lab.plan().unwrap(), "");
    assert_eq!(lab.client().node("pve1").vm(vmid(111)).power().unwrap().status, "running");
    lab.with(|cx| {
        let heard = Heard::default();
        let cx = converge::Context { events: &heard, absent: Default::default(), ..*cx };
        converge::observe_plan(&cx, &lab.tool()).unwrap();
        let told = "pve1: 111 'vm-extranet' was made by this site, which does not name it any more; \
                    it stays until you delete it";
        assert_eq!(*heard.0.lock().unwrap(), [told]);
    });
}

#[test]
fn a_stopped_guest_is_started() {
    let lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.asked();
    lab.client().node("pve1").vm(vmid(111)).stop(TASK).unwrap();
    lab.with(|cx| {
        let tool = lab.tool();
        let plan = converge::observe_plan(cx, &tool).unwrap();
        assert_eq!(plan.steps[0].change.to_string(), "~ vm/pve1/vm-extranet\n    power: stopped → running");
        assert_eq!(tool.makes(&plan.steps), [name("vm-extranet")].into());
    });
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.asked(), ["wait vm-extranet"]);
}

#[test]
fn a_number_that_is_somebody_elses_is_refused_and_left_alone() {
    let lab = Lab::start();
    let form = Form::new().set("name", "nas").set("tags", "prod").set("memory", 64);
    lab.client().node("pve1").create(vmid(101), form.clone(), TASK).unwrap();
    lab.client().node("pve1").create(vmid(9001), form, TASK).unwrap();
    let before = lab.config(101);
    let error = lab.apply(&[]).unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Refused);
    let text = converge::describe(&error);
    let wanted =
        "template/pve1/debian-13: VMID 9001 is taken by VM 'nas' on node pve1 (tags prod), not made by this site";
    assert!(text.contains(wanted), "{text}");
    assert!(text.contains("vm/pve1/vm-intranet: VMID 101 is taken by VM 'nas'"), "{text}");
    assert_eq!(lab.config(101), before);
    assert!(lab.isos().is_empty());
}

#[test]
fn another_sites_guest_is_somebody_elses() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.site.name = name("other");
    assert_eq!(converge::reason(&lab.plan().unwrap_err()), Reason::Refused);
}

#[test]
fn a_run_killed_after_the_clone_is_finished() {
    let lab = Lab::start();
    lab.with(|cx| {
        let tool = lab.tool();
        let plan = converge::observe_plan(cx, &tool).unwrap();
        tool.apply(cx, &plan.steps[0]).unwrap();
    });
    let image = lab.disks.lock().unwrap()[&name("debian-13")].file.sha256.to_string();
    let mark = Mark::Guest {
        template: image,
        user_data: "x".into(),
        ready: String::new(),
        network: String::new(),
        filled: String::new(),
        disks: Default::default(),
    };
    let form = Form::new().set("name", "vm-intranet").set("description", mark.describe(&name("lab")));
    lab.client().node("pve1").vm(vmid(9001)).clone_to(vmid(101), form, TASK).unwrap();
    let plan = lab.plan().unwrap();
    assert!(plan.contains("~ vm/pve1/vm-intranet") && !plan.contains("reboots"), "{plan}");
    assert_eq!(lab.apply(&[]).unwrap(), 2);
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn a_run_killed_before_the_template_was_one_is_finished() {
    let lab = Lab::start();
    let image = lab.disks.lock().unwrap()[&name("debian-13")].file.sha256.to_string();
    let description = Mark::Template { image }.describe(&name("lab"));
    let form = Form::new().set("name", "half").set("description", description).set("scsi0", "local:2");
    lab.client().node("pve1").create(vmid(9001), form, TASK).unwrap();
    let plan = lab.plan().unwrap();
    assert!(plan.contains("template: false → true"), "{plan}");
    assert_eq!(lab.apply(&[]).unwrap(), 3);
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn a_guest_that_did_not_get_well_is_not_done() {
    let lab = Lab::start();
    *lab.log.sick.lock().unwrap() = Some(name("vm-extranet"));
    let error = lab.apply(&[]).unwrap_err();
    assert!(format!("{error:#}").contains("vm-extranet: cloud-init said: no"), "{error:#}");
    assert_eq!(lab.plan().unwrap(), "~ vm/pve1/vm-extranet\n    ready: false → true\n    file_system: 0 → 6G\n");
    *lab.log.sick.lock().unwrap() = None;
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn a_new_image_replaces_a_template_only_without_clones() {
    let mut lab = Lab::start();
    let guests = std::mem::take(&mut lab.site.guests);
    lab.apply(&[]).unwrap();
    lab.image("debian-13", b"two");
    assert_eq!(lab.apply(&[]).unwrap(), 1);
    assert_eq!(lab.plan().unwrap(), "");
    lab.site.guests = guests;
    lab.apply(&[]).unwrap();
    lab.image("debian-13", b"three");
    let error = lab.plan().unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Refused);
    let text = converge::describe(&error);
    assert!(text.contains("guests are linked clones of") && text.contains("a template of its own"), "{text}");
}

#[test]
fn a_guest_moves_to_another_template_only_with_consent() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.asked();
    lab.image("debian-14", b"fourteen");
    let mut template = lab.site.templates[&name("debian-13")].clone();
    (template.vmid, template.image) = (vmid(9002), name("debian-14"));
    lab.site.templates.insert(name("debian-14"), template);
    lab.site.guests[&name("vm-extranet")].template = name("debian-14");
    assert!(lab.plan().unwrap().contains("LOSES DATA of the system disk of vm-extranet (6G)"));
    assert_eq!(converge::reason(&lab.apply(&[]).unwrap_err()), Reason::Refused);
    assert_eq!(lab.apply(&["vm/pve1/vm-extranet"]).unwrap(), 2);
    assert_eq!(lab.asked(), ["forget vm-extranet", "wait vm-extranet"]);
    assert!(lab.config(111)["scsi0"].contains("base-9002-"));
    assert_eq!(lab.plan().unwrap(), "");
}

#[test]
fn a_disk_does_not_shrink() {
    let mut lab = Lab::start();
    lab.apply(&[]).unwrap();
    lab.site.guests[&name("vm-intranet")].disk = "4G".parse().unwrap();
    let error = lab.plan().unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Refused);
    assert!(format!("{error:#}").contains("its disk has 6G, and 4G is wanted"), "{error:#}");
    lab.site.guests[&name("vm-intranet")].disk = "1G".parse().unwrap();
    let error = lab.plan().unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Config);
}

#[test]
fn a_guest_without_a_key_is_not_made() {
    let mut lab = Lab::start();
    lab.site.guests[&name("vm-intranet")].pending_keys.push("id_ed25519.pub".into());
    assert_eq!(converge::reason(&lab.plan().unwrap_err()), Reason::Refused);
    lab.with(|cx| assert!(!lab.tool().render(cx).unwrap().is_empty()));
}

#[test]
fn a_server_that_is_not_there_or_not_the_pinned_one_says_so() {
    let mut lab = Lab::start();
    let other = Lab::start();
    lab.site.hosts[&name("pve1")].api.url = other.server.url.clone();
    let error = lab.plan().unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Refused, "{error:#}");
    drop(other);
    let error = lab.plan().unwrap_err();
    assert_eq!(converge::reason(&error), Reason::Unreachable, "{error:#}");
}
