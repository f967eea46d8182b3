//! A `zpool create` that is cut off, at script level: real shell, the host's programs pretended.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeMap;

use converge::{Context, Facts, HostFacts, Quiet, Step, Tool};
use remote::{Command, Fleet, Output};
use site::Site;
use zfs_init::{Action, ZfsInit};

const SITE: &str = include_str!("data/site.toml");
const BLANK: &str = include_str!("data/blank.facts");
const DISK: &str = "/dev/disk/by-id/virtio-HEARTH-HDD";

/// A host's programs: what they see is in files beside them, what they do is done to those.
const PROGRAMS: [(&str, &str); 7] = [
    (
        "wipefs",
        "case $1 in --all) : >disk; : >parts; echo wiped >>log ;; *) shift 4; case $1 in *1|*9|*2) cat inside ;; *) cat disk ;; esac ;; esac",
    ),
    (
        "lsblk",
        "case $2 in SERIAL) cat serial ;; MOUNTPOINTS) cat mounts ;; TYPE) echo disk; sed 's/.*/part/' parts ;;\n\
         *) echo /dev/vdb disk; sed 's/$/ part/' parts ;; esac",
    ),
    ("blockdev", "cat bytes"),
    ("blkid", "cat types"),
    ("zdb", "exec test -e label"),
    (
        "zpool",
        "case $1 in list) exit 0 ;; esac\nprintf 'PMBR\\ngpt\\n' >disk; printf '/dev/vdb1\\n/dev/vdb9\\n' >parts\n\
         case $(cat ends) in killed) kill -9 $PPID ;; late) echo cannot label >&2; exit 1 ;; *) echo made >>log ;; esac",
    ),
    ("udevadm", "exit 0"),
];

struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (name, script) in PROGRAMS {
            let script = format!("#!/bin/sh\ncd {}\n{script}\n", host.0.path().display());
            store::files::write_atomic(&host.0.path().join("bin").join(name), script, 0o755).unwrap();
        }
        let zfs = "6a898cc3-1dd2-11b2-99a6-080020736631\n";
        let files = [
            ("disk", ""),
            ("parts", ""),
            ("inside", ""),
            ("mounts", "\n\n"),
            ("types", zfs),
            ("serial", "HEARTH-HDD\n"),
        ];
        for (name, text) in
            files.into_iter().chain([("bytes", "10737418240\n"), ("ends", "well"), ("log", ""), ("vdb", "")])
        {
            host.put(name, text);
        }
        host
    }

    fn put(&self, name: &str, text: &str) {
        store::files::write_atomic(&self.0.path().join(name), text, 0o644).unwrap();
    }

    fn see(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }

    /// The note of the pool; empty where there is none.
    fn note(&self) -> String {
        self.see("notes/zpool-create/tank-hdd")
    }

    fn run(&self, script: &str) -> Output {
        let here = self.0.path();
        let script = script
            .replace("/var/lib/hearth", &here.join("notes").to_string_lossy())
            .replace(DISK, &here.join("vdb").to_string_lossy());
        let path = format!("{}:/usr/bin:/bin", here.join("bin").display());
        Command::new("sh").args(["-euc", &script]).env("PATH", path).output().unwrap()
    }

    /// Asks what is on the disk and plans; none where that is refused.
    fn plan(&self, site: &Site) -> Option<Action> {
        let here = self.0.path().join("vdb");
        with(site, |cx| {
            let probe = ZfsInit.probes(cx).unwrap().into_iter().find(|probe| probe.id == "found").unwrap();
            let found = self.run(&probe.script);
            assert_eq!(found.status, 0, "{}", String::from_utf8_lossy(&found.stderr));
            let found = found.text().replace(&*here.to_string_lossy(), DISK);
            let children: Vec<String> = self
                .see("parts")
                .lines()
                .map(|part| format!("{{\"kname\":\"{}\", \"path\":\"{part}\", \"type\":\"part\", \"size\":1, \"serial\":null, \"fstype\":null, \"mountpoints\":[null]}}", &part[5..]))
                .collect();
            let last = "\"fstype\":null, \"mountpoints\":[null]}\n]}";
            let with_parts = last.replacen("[null]", &format!("[null], \"children\": [{}]", children.join(", ")), 1);
            let text = BLANK.replace(last, &with_parts).replace(&format!("== {DISK}\n"), &found);
            let steps = ZfsInit.plan(cx, &facts(&text));
            let steps: Vec<Step> = match steps {
                Ok(steps) => steps,
                Err(error) => {
                    assert_eq!(converge::reason(&error), converge::Reason::Refused, "{error:#}");
                    return None;
                }
            };
            let step = steps.into_iter().find(|step| step.change.address.as_str() == "zfs/pve1/tank-hdd").unwrap();
            Some(serde_json::from_value(step.action).unwrap())
        })
    }
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("pipeline.toml", ""), ("site.toml", SITE)] {
        store::files::write_atomic(&folder.path().join(name), text, 0o600).unwrap();
    }
    site::load(folder.path()).unwrap()
}

fn with<T>(site: &Site, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(folder.path()).unwrap();
    let fleet = Fleet::new(site);
    work(&Context { site, store: &store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() })
}

fn facts(text: &str) -> Facts {
    let mut answers = BTreeMap::new();
    for section in text.split("### ").skip(1) {
        let (head, body) = section.split_once('\n').unwrap();
        let id = head.split(' ').next().unwrap().to_owned();
        answers.insert(id.clone(), Output { command: id, status: 0, stdout: body.into(), stderr: Vec::new() });
    }
    Facts::new([("pve1".parse().unwrap(), HostFacts::Answers(answers))])
}

fn is_leftover(action: Option<&Action>) -> bool {
    matches!(action, Some(Action::CreatePool { leftover: true, .. }))
}

/// Cuts a first try off, as a kill or a slow udev does.
fn cut(how: &str) -> (Host, Site) {
    let (host, site) = (Host::new(), site());
    let first = host.plan(&site).unwrap();
    assert!(!is_leftover(Some(&first)));
    host.put("ends", how);
    assert_ne!(host.run(&first.script()).status, 0);
    assert_eq!(host.note(), "lab tank-hdd HEARTH-HDD 10737418240\n");
    host.put("ends", "well");
    (host, site)
}

#[test]
fn a_try_that_was_cut_off_is_finished_by_the_next_run() {
    for how in ["killed", "late"] {
        let (host, site) = cut(how);
        let next = host.plan(&site);
        assert!(is_leftover(next.as_ref()), "{how}");
        let output = host.run(&next.unwrap().script());
        assert_eq!(output.status, 0, "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((host.see("log").as_str(), host.note().as_str()), ("wiped\nmade\n", ""));
    }
}

#[test]
fn a_try_that_ends_well_leaves_no_note() {
    let (host, site) = (Host::new(), site());
    assert_eq!(host.run(&host.plan(&site).unwrap().script()).status, 0);
    assert_eq!((host.see("log").as_str(), host.note().as_str()), ("made\n", ""));
}

#[test]
fn what_may_be_somebody_elses_is_never_wiped() {
    let cases: [(&str, &str, &str); 9] = [
        ("another disk", "serial", "OTHER\n"),
        ("a disk without a number", "serial", "\n"),
        ("a disk of another size", "bytes", "512\n"),
        ("a file system in a partition", "inside", "ext4\n"),
        ("a file system beside the table", "disk", "PMBR\next4\ngpt\n"),
        ("a mount", "mounts", "\n/srv\n"),
        ("a partition of another kind", "types", "0fc63daf-8483-4772-8e79-3d69d8477de4\n"),
        ("one more partition", "parts", "/dev/vdb1\n/dev/vdb2\n/dev/vdb9\n"),
        ("a pool's label", "label", ""),
    ];
    for (what, file, text) in cases {
        let (host, site) = cut("late");
        let planned = host.plan(&site).unwrap();
        host.put(file, text);
        assert!(host.plan(&site).is_none(), "{what}");
        // It came after the plan was made.
        assert_ne!(host.run(&planned.script()).status, 0, "{what}");
        assert_eq!(host.see("log"), "", "{what}");
    }
    for note in ["", "home tank-hdd HEARTH-HDD 10737418240\n", "lab tank-ssd HEARTH-HDD 10737418240\n"] {
        let (host, site) = cut("late");
        host.put("notes/zpool-create/tank-hdd", note);
        assert!(host.plan(&site).is_none(), "{note}");
    }
}
