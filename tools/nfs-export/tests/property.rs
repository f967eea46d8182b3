//! From any state to any site: what is planned, done and planned again comes to nothing, or is refused whole. The machines
//! are a model that answers the probes in the formats of the real programs, and does what the actions' scripts do.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use converge::{Context, Facts, HostFacts, Quiet, Reason, Step, Tool};
use nfs_export::{Action, NfsExport};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use remote::{Fleet, Output, Probe};
use serde_json::json;
use site::Site;

const HEAD: &str = r#"
[site]
name = "lab"
[hosts.pve1]
address = "192.168.1.100"
api = { token_file = "token", ca_file = "ca.pem" }
ssh = { key_file = "key" }
[pools.tank]
host = "pve1"
disk_id = "virtio-DATA"
[pools.tank.datasets]
a = {}
b = { properties = { mountpoint = "/srv/b" } }
"b/c" = {}
[templates.debian]
host = "pve1"
vmid = 9001
image = "debian-13"
"#;
const UNITS: &str = "/etc/systemd/system/";
const FOREIGN_EXPORT: &str = "/srv/other 10.0.0.9(ro,sync)\n";
const FOREIGN_UNIT: &str = "[Mount]\nWhat=/dev/vdb\nWhere=/mnt/other\n";

fn guest(name: &str, number: u32) -> String {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIJ8S8ZyZ5Cgn7VjTBp1c4ZbSjVYtjJX3qfJtWf0j1kL me";
    format!(
        "[guests.{name}]\nhost = \"pve1\"\nvmid = {number}\ntemplate = \"debian\"\naddress = \"192.168.1.{number}\"\n\
         memory = \"1G\"\ndisk = \"4G\"\nuser = \"hearth\"\nauthorized_keys = [\"{key}\"]\n"
    )
}

/// A site of up to three shares, each mounted in one or two guests.
fn inventory() -> impl Strategy<Value = String> {
    let exports = select(vec![
        vec!["rw"],
        vec!["ro"],
        vec!["rw", "sync", "no_subtree_check"],
        vec!["rw", "async", "no_root_squash"],
        vec!["ro", "all_squash", "insecure"],
    ]);
    let options = select(vec![vec!["defaults", "_netdev"], vec!["ro", "_netdev"], vec!["rw", "vers=4.2"]]);
    let targets = (0..4_usize, 0..4_usize, select(vec![vec!["web"], vec!["play"], vec!["web", "play"]]));
    let share = (exports, options, targets);
    (subsequence(vec!["a", "b", "b/c"], 0..=3), prop::collection::vec(share, 3)).prop_map(|(datasets, shares)| {
        let mut text = HEAD.to_owned() + &guest("web", 101) + &guest("play", 102);
        let mut taken = BTreeSet::new();
        for (dataset, (exports, options, (first, second, guests))) in datasets.into_iter().zip(shares) {
            let places = ["/mnt/x", "/mnt/my-data", "/mnt/deep/er", "/mnt/z"];
            let free = guests.into_iter().zip([first, second]).filter(|(guest, at)| taken.insert((*guest, *at))).collect::<Vec<_>>();
            let mounts: Vec<String> = free.iter().map(|(guest, at)| format!("{guest} = \"{}\"", places[*at])).collect();
            if !mounts.is_empty() {
                text += &format!("[shares.s-{}]\ndataset = \"tank/{dataset}\"\nexport_options = {exports:?}\nmount_options = {options:?}\nmounts = {{ {} }}\n", dataset.replace('/', "-"), mounts.join(", "));
            }
        }
        text
    })
}

fn load(folder: &Path, text: &str) -> Site {
    std::fs::create_dir_all(folder.join("images")).unwrap();
    for (name, text) in [("pipeline.toml", ""), ("images/debian-13.toml", ""), ("site.toml", text)] {
        File::create(folder.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }
    site::load(folder).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

/// One machine, server or guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Machine {
    /// All files that matter, by path.
    files: BTreeMap<String, String>,
    /// Lines of `exportfs -s`, by path and client.
    active: BTreeMap<(String, String), String>,
    /// Active and enabled units.
    running: BTreeSet<String>,
    enabled: BTreeSet<String>,
    /// Source and options by mount point.
    mounts: BTreeMap<String, (String, String)>,
}

/// All machines by name.
type World = BTreeMap<&'static str, Machine>;

fn world() -> World {
    let mut host = Machine::default();
    host.files.insert("/etc/exports".into(), FOREIGN_EXPORT.into());
    host.sync();
    let mut guest = Machine::default();
    guest.files.insert(format!("{UNITS}mnt-other.mount"), FOREIGN_UNIT.into());
    guest.mounts.insert("/mnt/other".into(), ("/dev/vdb".into(), "rw".into()));
    [("pve1", host), ("web", guest.clone()), ("play", guest)].into()
}

fn line<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

impl Machine {
    /// Does what `exportfs -ra` does.
    fn sync(&mut self) {
        self.active.clear();
        for (_, text) in self.files.iter().filter(|(path, _)| path.starts_with("/etc/exports")) {
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (path, client) = line.split_once(' ').unwrap();
                let (client, options) = client.trim_end_matches(')').split_once('(').unwrap();
                self.active.insert((path.into(), client.into()), expanded(options));
            }
        }
    }

    fn answer(&self, probe: &Probe) -> String {
        if probe.script.is_empty() {
            return String::new();
        }
        let shown = |wanted: &dyn Fn(&str) -> bool| -> String {
            let files = self.files.iter().filter(|(path, _)| wanted(path));
            files.map(|(path, text)| format!("== {} {path}\n{text}", text.len())).collect()
        };
        match probe.id.as_str() {
            "server-files" => shown(&|path| path.starts_with("/etc/exports") || path.contains("nfs-server.service.d")),
            "exportfs" => {
                self.active.iter().map(|((path, client), options)| format!("{path}  {client}({options})\n")).collect()
            }
            "nfs-server" => self.state("nfs-server.service"),
            "unit-files" => shown(&|path| path.ends_with(".mount") || path.ends_with("retry@.service")),
            "units" => {
                let (_, names) = probe.script.rsplit_once(" -- ").unwrap();
                names.split_whitespace().map(|name| self.state(name.trim_matches('\''))).collect()
            }
            "mounts" => {
                let row = |(target, (source, options)): (&String, &(String, String))| json!({"target": target, "source": source, "options": options});
                json!({"filesystems": self.mounts.iter().map(row).collect::<Vec<_>>()}).to_string()
            }
            "stale" => String::new(),
            "fstab" => "UUID=1 / ext4 defaults 0 1\n/dev/vdc /mnt/old ext4 defaults 0 2\n".into(),
            other => panic!("nobody answers {other}"),
        }
    }

    fn state(&self, unit: &str) -> String {
        let path = format!("{UNITS}{unit}");
        let file = if self.files.contains_key(&path) { path.as_str() } else { "" };
        let active = if self.running.contains(unit) { "active" } else { "inactive" };
        let enabled = if self.enabled.contains(unit) { "enabled" } else { "disabled" };
        format!(
            "Id={unit}\nActiveState={active}\nFragmentPath={file}\nUnitFileState={enabled}\nNeedDaemonReload=no\n\n"
        )
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Serve { file, text } => {
                self.files.insert(file.clone(), text.clone());
                self.running.insert("nfs-server.service".into());
                self.enabled.insert("nfs-server.service".into());
            }
            Action::Export { file, text, paths } => {
                assert!(!paths.is_empty());
                self.files.insert(file.clone(), text.clone());
                self.sync();
            }
            Action::Unexport { files } => {
                self.files.retain(|path, _| !files.contains(path));
                self.sync();
            }
            Action::Retry { file, text } => drop(self.files.insert(file.clone(), text.clone())),
            Action::Mount { unit, text, remount } => {
                self.files.insert(format!("{UNITS}{unit}"), text.clone());
                self.enabled.insert(unit.clone());
                // A unit that is active is not started again.
                if self.running.insert(unit.clone()) || *remount {
                    let options =
                        if line(text, "Options").split(',').any(|option| option == "ro") { "ro" } else { "rw" };
                    self.mounts.insert(line(text, "Where").into(), (line(text, "What").into(), options.into()));
                }
            }
            Action::Remove { unit } => self.remove(unit),
            #[allow(unreachable_patterns, reason = "an action to come must be modelled")]
            other => panic!("{other:?} is not modelled"),
        }
    }

    fn remove(&mut self, unit: &str) {
        let text = self.files.remove(&format!("{UNITS}{unit}")).unwrap();
        self.running.remove(unit);
        self.enabled.remove(unit);
        self.mounts.remove(line(&text, "Where"));
    }
}

/// Writes options as `exportfs -s` prints them: what is not named is at its default (exports(5)).
fn expanded(options: &str) -> String {
    let given: Vec<&str> = options.split(',').collect();
    let pairs = [
        ("sync", "async"),
        ("ro", "rw"),
        ("secure", "insecure"),
        ("root_squash", "no_root_squash"),
        ("no_all_squash", "all_squash"),
        ("no_subtree_check", "subtree_check"),
    ];
    let all: Vec<&str> =
        pairs.iter().map(|(default, other)| if given.contains(other) { *other } else { *default }).collect();
    format!("wdelay,hide,sec=sys,{}", all.join(","))
}

fn plan(site: &Site, world: &World) -> anyhow::Result<Vec<Step>> {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(folder.path()).unwrap();
    let fleet = Fleet::new(site);
    let cx = Context { site, store: &store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() };
    let mut hosts: BTreeMap<site::Name, BTreeMap<String, Output>> = BTreeMap::new();
    for probe in NfsExport.probes(&cx)? {
        let text = world[probe.host.as_str()].answer(&probe);
        let output = Output { command: probe.id.clone(), status: 0, stdout: text.into(), stderr: Vec::new() };
        hosts.entry(probe.host).or_default().insert(probe.id, output);
    }
    NfsExport.plan(&cx, &Facts::new(hosts.into_iter().map(|(host, answers)| (host, HostFacts::Answers(answers)))))
}

fn converge(site: &Site, world: &mut World) -> Result<bool, TestCaseError> {
    let mut steps = match plan(site, world) {
        Ok(steps) => steps,
        Err(error) => {
            prop_assert_eq!(converge::reason(&error), Reason::Refused, "{:#}", error);
            return Ok(false);
        }
    };
    steps.sort_by_key(|step| step.wave);
    for step in steps {
        let action: Action = serde_json::from_value(step.action).unwrap();
        world.get_mut(step.lane.as_str()).unwrap().apply(&action);
    }
    let left = plan(site, world).map_err(|error| TestCaseError::fail(format!("the second plan: {error:#}")))?;
    let left: Vec<String> = left.iter().map(|step| step.change.to_string()).collect();
    prop_assert!(left.is_empty(), "this still differs:\n{}", left.join("\n"));
    for (name, machine) in &*world {
        let foreign = machine.files.get(&format!("{UNITS}mnt-other.mount")).is_none_or(|text| text == FOREIGN_UNIT);
        let mounted = *name == "pve1" || machine.mounts.contains_key("/mnt/other");
        let exported =
            *name != "pve1" || machine.active.contains_key(&("/srv/other".to_owned(), "10.0.0.9".to_owned()));
        prop_assert!(foreign && mounted && exported, "{} lost what is not Hearth's", name);
    }
    Ok(true)
}

/// What a person does behind Hearth's back, to the one of the things that a number picks.
fn damage(world: &mut World, deed: u8, at: usize) {
    let host = world.get_mut("pve1").unwrap();
    match deed {
        0 => drop(
            host.active
                .keys()
                .filter(|(path, _)| path != "/srv/other")
                .nth(at % 3)
                .cloned()
                .map(|key| host.active.remove(&key)),
        ),
        1 => drop(host.running.remove("nfs-server.service")),
        2 => drop(host.files.remove("/etc/exports.d/hearth-lab.exports")),
        _ => {
            let guest = world.get_mut(["web", "play"][at % 2]).unwrap();
            let Some(unit) = guest.enabled.iter().nth(at / 2 % 3).cloned() else { return };
            let text = guest.files.get_mut(&format!("{UNITS}{unit}")).unwrap();
            let place = line(text, "Where").to_owned();
            match deed {
                3 => {
                    guest.running.remove(&unit);
                    guest.mounts.remove(&place);
                }
                4 => drop(guest.enabled.remove(&unit)),
                5 => *text = text.replace("Options=", "Options=soft,"),
                6 => *text = text.replace("What=192", "What=10"),
                _ => guest.remove(&unit),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn from_one_site_to_any_other_the_second_plan_is_empty(first in inventory(), second in inventory()) {
        let folder = tempfile::tempdir().unwrap();
        let mut world = world();
        prop_assert!(converge(&load(folder.path(), &first), &mut world)?);
        prop_assert!(converge(&load(folder.path(), &second), &mut world)?);
    }

    #[test]
    fn what_people_do_is_undone(text in inventory(), deeds in prop::collection::vec((0..8_u8, any::<usize>()), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let site = load(folder.path(), &text);
        let mut world = world();
        converge(&site, &mut world)?;
        for (deed, at) in deeds {
            damage(&mut world, deed, at);
        }
        prop_assert!(converge(&site, &mut world)?);
    }
}
