//! Virtual machines: what is done to them by hand, growth without a reboot, new user-data, data disks.

use std::time::{Duration, Instant};

use hearth_tests::api::api;
use hearth_tests::{EXTRANET, expect, hearth, on, project, ssh};

use crate::support::{Altered, repaired, turn};

const VM: &str = "/nodes/pve1/qemu/111";

fn planned(wanted: &[&str]) -> String {
    let plan = expect(2, &hearth("plan")).text();
    println!("{plan}");
    for text in wanted {
        assert!(plan.contains(text), "{text} is not in:\n{plan}");
    }
    plan
}

fn boot_id() -> String {
    on(EXTRANET, "cat /proc/sys/kernel/random/boot_id")
}

/// Waits until the guest lets us in.
fn up() {
    let begin = Instant::now();
    while ssh(EXTRANET, "true").output().map_or(1, |output| output.status) != 0 {
        assert!(begin.elapsed() < Duration::from_secs(600), "vm-extranet does not come up");
        std::thread::sleep(Duration::from_secs(3));
    }
}

#[test]
fn memory_changed_by_hand_is_named_and_repaired() {
    let _turn = turn();
    let before = boot_id();
    api("PUT", &format!("{VM}/config"), &[("memory", "1152")]);
    let plan = planned(&["~ vm/pve1/vm-extranet", "waiting: [\"memory=1152\"] → []"]);
    assert!(!plan.contains("reboots vm-extranet"), "{plan}");
    repaired();
    assert_eq!(boot_id(), before, "it waited only, so nothing reboots");
    api("PUT", &format!("{VM}/config"), &[("memory", "1152")]);
    api("POST", &format!("{VM}/status/reboot"), &[]);
    up();
    planned(&["memory: 1152M → 1G", "reboots vm-extranet"]);
    repaired();
    assert_ne!(boot_id(), before);
}

#[test]
fn a_guest_stopped_or_deleted_by_hand_comes_back() {
    let _turn = turn();
    api("POST", &format!("{VM}/status/stop"), &[]);
    planned(&["~ vm/pve1/vm-extranet", "power: stopped → running"]);
    repaired();
    api("POST", &format!("{VM}/status/stop"), &[]);
    api("DELETE", VM, &[]);
    planned(&["+ vm/pve1/vm-extranet"]);
    repaired();
    on(EXTRANET, "findmnt /mnt/logs");
}

const GUEST: &str = "vmid = 111\n";

#[test]
fn a_data_disk_comes_grows_and_outlives_its_guest() {
    let _turn = turn();
    let disk = |size: &str, rest: &str| {
        format!(
            "{rest}[guests.vm-extranet.disks.data]\nvmid = 911\nsize = \"{size}\"\nmount = \"/srv/data\"\n\n[guests.vm-extranet]"
        )
    };
    let site = |name: &str, size: &str, more: &[(&str, &str, &str)]| {
        let with = disk(size, "");
        let mut edits = vec![("guests.toml", "[guests.vm-extranet]", with.as_str())];
        edits.extend_from_slice(more);
        Altered::new(name, &edits)
    };
    let before = boot_id();
    expect(0, &site("vms-disk", "1G", &[]).hearth("run").arg("--yes"));
    on(EXTRANET, "findmnt -M /srv/data; echo precious >/srv/data/file; sync");
    {
        let larger = site("vms-grown", "2G", &[("guests.toml", "disk = \"6G\"", "disk = \"7G\"")]);
        let plan = expect(2, &larger.hearth("plan")).text();
        println!("{plan}");
        assert!(plan.contains("file_system: 6G → 7G") && !plan.contains("reboots"), "{plan}");
        expect(0, &larger.hearth("run").arg("--yes"));
        expect(0, &larger.hearth("plan"));
    }
    let kib = |path: &str| on(EXTRANET, &format!("df -k --output=size {path} | tail -1")).parse::<u64>().unwrap();
    assert!(kib("/") > 6 << 20 && kib("/srv/data") > 19 << 16, "{} {}", kib("/"), kib("/srv/data"));
    assert_eq!(boot_id(), before, "growing takes no reboot");
    let smaller = expect(77, &site("vms-small", "1G", &[]).hearth("plan"));
    println!("{}", String::from_utf8_lossy(&smaller.stderr));

    let more = [
        ("guests.toml", "disk = \"6G\"", "disk = \"7G\""),
        ("guests.toml", GUEST, "vmid = 111\non_change = \"recreate\"\nuser_data = \"more.yaml\"\n"),
    ];
    let anew = site("vms-anew", "2G", &more);
    store::files::write_atomic(&anew.folder().join("more.yaml"), "timezone: Etc/UTC\n", 0o644).unwrap();
    let plan = expect(2, &anew.hearth("plan")).text();
    assert!(plan.contains("LOSES DATA of the system disk of vm-extranet (7G)"), "{plan}");
    expect(77, &anew.hearth("run").arg("--yes"));
    expect(64, &anew.hearth("run").args(["--yes", "--allow", "vm/pve1/vm-extrnet"]));
    expect(0, &anew.hearth("run").args(["--yes", "--allow", "vm/pve1/vm-extranet"]));
    assert_eq!(on(EXTRANET, "cat /srv/data/file"), "precious");

    // Back to the lab's own site, by hand where Hearth rightly refuses.
    for path in [VM, "/nodes/pve1/qemu/911"] {
        api("POST", &format!("{path}/status/stop"), &[]);
        if path.ends_with("911") {
            api("PUT", &format!("{path}/config"), &[("protection", "0")]);
        }
        api("DELETE", path, &[]);
    }
    repaired();
}

#[test]
fn new_user_data_is_reapplied_or_taken_up_by_a_restart() {
    let _turn = turn();
    let told = |name: &str, on_change: &str| {
        let text = format!("vmid = 111\non_change = \"{on_change}\"\nuser_data = \"more.yaml\"\n");
        let site = Altered::new(name, &[("guests.toml", GUEST, &text)]);
        let file = format!("write_files:\n  - path: /etc/hearth-test\n    content: {name}\n");
        store::files::write_atomic(&site.folder().join("more.yaml"), file, 0o644).unwrap();
        site
    };
    let before = boot_id();
    let reapply = told("vms-reapply", "reapply");
    assert!(expect(2, &reapply.hearth("plan")).text().contains("restarts cloud-init in vm-extranet"));
    expect(0, &reapply.hearth("run").arg("--yes"));
    assert_eq!(on(EXTRANET, "cat /etc/hearth-test"), "vms-reapply");
    assert_eq!(boot_id(), before, "cloud-init ran again without a reboot");
    let restart = told("vms-restart", "restart");
    assert!(expect(2, &restart.hearth("plan")).text().contains("reboots vm-extranet"));
    expect(0, &restart.hearth("run").arg("--yes"));
    assert_eq!(on(EXTRANET, "cat /etc/hearth-test; rm /etc/hearth-test"), "vms-restart");
    assert_ne!(boot_id(), before);
    repaired();
}

#[test]
fn a_plan_that_reality_has_left_is_refused_with_what_moved() {
    let _turn = turn();
    let file = project().join(".hearth/vms-plan.json");
    api("PUT", &format!("{VM}/config"), &[("name", "other")]);
    expect(2, &hearth("plan").arg("--out").arg(&file));
    api("PUT", &format!("{VM}/config"), &[("name", "another")]);
    let refused = expect(77, &hearth("run").arg("--plan").arg(&file));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &refused.text();
    assert!(said.contains("vm/pve1/vm-extranet: name was other, and is another now"), "{said}");
    expect(2, &hearth("plan").arg("--out").arg(&file));
    expect(0, &hearth("run").arg("--plan").arg(&file));
    expect(0, &hearth("plan"));
    std::fs::remove_file(file).unwrap();
}
