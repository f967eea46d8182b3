//! Locks on the lab: two runs in one project, two projects on the same hosts, a holder that is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use hearth_tests::{NODE, expect, on, programs, project};
use remote::Command;

use crate::support::{repaired, turn};

/// Another clone of the project: the same site and keys, a `.hearth` of its own.
struct Clone(tempfile::TempDir);

impl Clone {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(project().parent().unwrap()).unwrap();
        for name in ["pipeline.toml", "pipeline.lock", "images", "inventory"] {
            let copy = Command::new("cp").arg("-r").arg(project().join(name)).arg(folder.path());
            expect(0, &copy);
        }
        let lab = folder.path().join(".hearth");
        fs::create_dir(&lab).unwrap();
        std::os::unix::fs::symlink(project().join(".hearth/lab"), lab.join("lab")).unwrap();
        Self(folder)
    }

    fn hearth(&self, verb: &str) -> Command {
        let command = Command::new(programs().join("hearth")).args([verb, "--site", "inventory/lab"]);
        command.folder(self.0.path()).deadline(Duration::from_secs(1500))
    }
}

/// Something to change on the node, and so a lock to hold.
fn drift() {
    on(NODE, "zfs set atime=on tank-hdd/logs");
}

/// A stage that waits, so that a run holds its locks for a while; it touches a file when it begins.
fn slow(folder: &Path) -> PathBuf {
    let begun = folder.join("begun");
    let text = format!("#!/bin/sh\ncase $1 in plan) touch {}; sleep 40 ;; esac\n", begun.display());
    store::files::write_atomic(&folder.join("slow.sh"), text, 0o755).unwrap();
    let manifest = folder.join("pipeline.toml");
    let stages = fs::read_to_string(&manifest).unwrap();
    assert!(stages.contains("needs = [\"stacks\"]"), "verify comes last");
    let stages = stages.replace("needs = [\"stacks\"]", "needs = [\"stacks\", \"slow\"]");
    let slow = "[stages.slow]\ncommand = [\"./slow.sh\"]\nneeds = [\"storage\"]\n";
    store::files::write_atomic(&manifest, format!("{stages}\n{slow}"), 0o644).unwrap();
    begun
}

fn wait_for(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < Duration::from_secs(300), "{} does not come", path.display());
        thread::sleep(Duration::from_millis(200));
    }
}

fn locked(command: &Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert_eq!(output.status, 75, "{said}{}", output.text());
    said
}

#[test]
fn a_second_clone_is_told_who_changes_the_host_until_the_holder_is_gone() {
    let _turn = turn();
    let (first, second) = (Clone::new(), Clone::new());
    let begun = slow(first.0.path());
    drift();
    thread::scope(|scope| {
        let run = scope.spawn(|| first.hearth("run").arg("--yes").output().unwrap());
        wait_for(&begun);
        // In the same project the second run ends before it reaches anybody.
        let said = locked(&first.hearth("run").arg("--yes"));
        assert!(
            said.contains("site 'lab' is locked by") && said.contains("`hearth run --site inventory/lab --yes`"),
            "{said}"
        );
        drift();
        let said = locked(&second.hearth("run").arg("--yes"));
        assert!(
            said.contains("pve1 is locked by") && said.contains("`hearth run --site inventory/lab --yes`"),
            "{said}"
        );
        let tool = Command::new(programs().join("zfs-init")).args(["apply", "--yes", "--site", "inventory/lab"]);
        let said = locked(&tool.folder(second.0.path()).deadline(Duration::from_secs(300)));
        assert!(said.contains("pve1 is locked by"), "{said}");
        // The holder is killed; the kernel of the node drops its lock.
        let holder = said.split("process ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        expect(0, &Command::new("kill").args(["-9", &holder]));
        assert_eq!(run.join().unwrap().status, 128 + 9);
    });
    let begin = Instant::now();
    loop {
        let output = second.hearth("run").arg("--yes").output().unwrap();
        if output.status == 0 {
            break;
        }
        assert_eq!(output.status, 75, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(begin.elapsed() < Duration::from_secs(60), "the dead holder's lock does not go");
    }
    println!("the lock of a killed holder was free after {:?}", begin.elapsed());
    let status = first.hearth("status").output().unwrap();
    assert!(status.text().contains("did not end"), "{}", status.text());
    repaired();
}

// Has not run yet.
#[cfg(feature = "soak")]
#[test]
fn a_run_with_nothing_to_change_needs_no_lock() {
    let _turn = turn();
    let (first, second) = (Clone::new(), Clone::new());
    let begun = slow(first.0.path());
    drift();
    thread::scope(|scope| {
        let run = scope.spawn(|| first.hearth("run").arg("--yes").output().unwrap());
        wait_for(&begun);
        let output = expect(0, &second.hearth("run").arg("--yes"));
        assert!(!output.text().contains("locked for this run"), "{}", output.text());
        assert_eq!(run.join().unwrap().status, 0);
    });
}

// Not seen to pass whole: its last but one assertion failed, and what it asks for was mended after.
#[cfg(feature = "soak")]
#[test]
fn ctrl_c_stops_at_the_next_safe_point_and_says_where() {
    let _turn = turn();
    let clone = Clone::new();
    let begun = slow(clone.0.path());
    drift();
    thread::scope(|scope| {
        let run = scope.spawn(|| clone.hearth("run").arg("--yes").output().unwrap());
        wait_for(&begun);
        let holder = locked(&clone.hearth("run").arg("--yes"));
        let process = holder.split("process ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        expect(0, &Command::new("kill").args(["-INT", &process]));
        let output = run.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status, 1, "{said}");
        assert!(said.contains("stopping at the next safe point"), "{said}");
        assert!(said.contains("stopped before the stages") && said.contains("verify"), "{said}");
    });
    assert!(clone.hearth("status").output().unwrap().text().contains("stopped before"));
    repaired();
}
