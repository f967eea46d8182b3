//! Generations on the lab: a change of everything at once, gone back from in one go; snapshots before a change.

use std::fs;

use hearth_tests::{EXTRANET, NODE, expect, hearth, on, project, restore};

use crate::support::{Altered, repaired, turn};

/// The `[snapshots]` table is added to a file of its own table-free beginning.
const SNAPSHOTS: (&str, &str, &str) = (
    "storage.toml",
    "[pools.tank-ssd.datasets]",
    "[snapshots]\nbefore_apply = true\nkeep = 2\n\n[pools.tank-ssd.datasets]",
);

/// Returns the number of the generation that the site runs.
fn running() -> u64 {
    let text = expect(0, &hearth("generations").arg("--json")).text();
    let mut entries = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let running = entries.rfind(|entry| entry["running"] == true);
    running.and_then(|entry| entry["number"].as_u64()).unwrap_or_else(|| panic!("nothing runs:\n{text}"))
}

fn export_options() -> String {
    on(NODE, "exportfs -v | tr -d '\\n' | sed 's/\\t//g' | grep -o '/tank-hdd/logs[^)]*)'")
}

// Seen to go back; what it says of a dataset that stays was mended after, and its end has not been seen.
#[cfg(feature = "soak")]
#[test]
fn a_rollback_brings_exports_machines_and_stacks_back_together() {
    let _turn = turn();
    expect(0, &hearth("run").arg("--yes"));
    let (original, options) = (running(), export_options());
    let logs =
        "dataset = \"tank-hdd/logs\"\nexport_options = [\"rw\", \"sync\", \"no_subtree_check\", \"no_root_squash\"]";
    let squashed =
        "dataset = \"tank-hdd/logs\"\nexport_options = [\"rw\", \"sync\", \"no_subtree_check\", \"root_squash\"]";
    let site = Altered::new(
        "lab-altered",
        &[
            ("storage.toml", logs, squashed),
            ("storage.toml", "logs = {}\n", "logs = {}\nmore = {}\n"),
            ("guests.toml", "memory = \"1G\"\ndisk = \"6G\"", "memory = \"1G\"\nonboot = false\ndisk = \"7G\""),
            ("stacks/media/compose.yaml", "services:", "# gone back from\nservices:"),
            SNAPSHOTS,
        ],
    );
    let changed = expect(0, &site.hearth("run").arg("--yes")).text();
    println!("{changed}");
    assert!(changed.contains("snapshot before the change: pve1:tank-hdd/logs@hearth-"), "{changed}");
    assert_ne!(running(), original);
    assert_ne!(export_options(), options);
    let own = "zfs list -H -o name -t snapshot -d 1 tank-hdd/media | grep -c @hearth-";
    assert_eq!(on(NODE, own), "1");

    let number = original.to_string();
    let diff = expect(2, &hearth("diff").args([number.clone(), running().to_string()])).text();
    println!("{diff}");
    for wanted in ["inputs/site/storage.toml", "onboot", "root_squash", "disk", "stacks/media"] {
        assert!(diff.contains(wanted), "{wanted} is not in:\n{diff}");
    }

    let back = expect(0, &hearth("rollback").args([number.as_str(), "--yes"])).text();
    println!("{back}");
    for stays in [
        "stays as it is: vm/pve1/vm-extranet: its disk of 7G was 6G, and can't shrink",
        "stays as it is: zfs/pve1/tank-hdd/more: it was made later, and nothing is destroyed",
    ] {
        assert!(back.contains(stays), "{stays} is not in:\n{back}");
    }
    assert_eq!(running(), original);
    assert_eq!(export_options(), options);
    on(EXTRANET, "findmnt /mnt/logs");
    // All but the disk is as the inventory wants it: its plan is refused for that alone.
    let refused = hearth("plan").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("vm-extranet") && said.contains("can't shrink"), "{said}");
    let as_it_is = Altered::new("lab-grown", &[("guests.toml", "disk = \"6G\"", "disk = \"7G\"")]);
    expect(0, &as_it_is.hearth("plan"));
    drop(as_it_is);
    // A disk can't shrink, so the machines are put back.
    restore("converged");
    repaired();
}

#[test]
fn snapshots_are_taken_before_a_change_and_only_then() {
    let _turn = turn();
    on(NODE, "zfs snapshot tank-hdd/media@mine");
    let site = Altered::new("lab-snapshots", &[SNAPSHOTS]);
    let count = || on(NODE, "zfs list -H -o name -t snapshot -d 1 tank-hdd/media | grep -c @hearth- || :");
    let before = count();
    expect(0, &site.hearth("run").arg("--yes"));
    assert_eq!(count(), before, "nothing was changed");
    for _ in 0..3 {
        on(NODE, "zfs set atime=on tank-hdd/logs");
        println!("{}", expect(0, &site.hearth("run").arg("--yes")).text());
    }
    assert_eq!(count(), "2", "the rule keeps two");
    on(NODE, "zfs list tank-hdd/media@mine && zfs destroy tank-hdd/media@mine");
    let status = expect(0, &site.hearth("status")).text();
    let report = status.lines().find_map(|line| line.strip_prefix("report: ")).unwrap();
    assert!(fs::read_to_string(report).unwrap().contains("tank-hdd/media@hearth-"), "{report}");
    on(NODE, "zfs list -H -o name -t snapshot | grep @hearth- | xargs -r -n 1 zfs destroy");
    expect(0, &hearth("plan"));
}

#[test]
fn gc_leaves_what_the_site_runs() {
    let _turn = turn();
    println!("{}", expect(0, &hearth("gc").args(["--keep", "1"])).text());
    expect(0, &hearth("run").arg("--yes"));
    expect(0, &hearth("plan"));
    assert!(project().join(format!(".hearth/generations/{}/SHA256SUMS", running())).exists());
}
