//! Interruption: a run, or a tool, is killed at a random moment, or the API, an SSH connection or a guest's power is
//! taken from it. The next run must finish the site, and leave all machines as an undisturbed run does.
//!
//! Here a slice with fixed moments; `cargo xtask soak` makes as many tries as it is told, and keeps their record.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hearth_tests::census::{census, same};
use hearth_tests::{INTRANET, NODE, expect, hearth, program, programs, project, restore, ssh, tool};

use crate::support::{Altered, turn};

type Census = BTreeMap<&'static str, String>;

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// `zfs-init apply` on blank disks.
    Storage,
    /// `vm-build apply` where there is no guest.
    Guests,
    /// `nfs-export apply` where nothing is exported.
    Shares,
    /// `compose-deploy apply` on guests without stacks.
    Stacks,
    /// `hearth run` from blank disks to a verified site.
    First,
    /// `hearth run` of a site that differs in every layer.
    Change,
}

/// How it is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9` of the program.
    Kill,
    /// `kill -9` of the API server, which comes back afterwards.
    Api,
    /// All SSH connections of the node and the intranet guest end.
    Ssh,
    /// The intranet guest's power goes.
    Power,
}

/// One try: what, how, and when, as a part of the time that an undisturbed one takes.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    pub work: Work,
    pub blow: Blow,
    pub part: f64,
}

#[cfg(feature = "soak")]
const WORKS: [Work; 6] = [Work::Storage, Work::Guests, Work::Shares, Work::Stacks, Work::First, Work::Change];

#[cfg(feature = "soak")]
impl Try {
    /// Draws a try from a seed: the kinds of work in turn, quick ones more often.
    pub fn draw(seed: u64, number: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
        let mut next = || {
            // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let work = [0, 2, 5, 3, 0, 2, 5, 1, 5, 4][(number % 10) as usize];
        let work = WORKS[work];
        let blow = match (work, next() % 10) {
            (Work::Storage | Work::Shares, 0..7) | (_, 0..4) => Blow::Kill,
            (Work::Storage | Work::Shares, _) | (_, 7 | 8) => Blow::Ssh,
            (Work::Stacks | Work::Change, 9) => Blow::Power,
            _ => Blow::Api,
        };
        let blow = if work == Work::Stacks && blow == Blow::Api { Blow::Kill } else { blow };
        Self { work, blow, part: (next() % 1000) as f64 / 1000.0 }
    }
}

/// The site that `Work::Change` goes to: one wish in each layer.
fn changed() -> Altered {
    Altered::new(
        "lab-changed",
        &[
            ("storage.toml", "media = {}", "media = { properties = { recordsize = \"1M\" } }"),
            ("storage.toml", "mounts = { vm-extranet = \"/mnt/logs\" }", "mounts = { vm-extranet = \"/mnt/logs2\" }"),
            ("guests.toml", "cores = 1\nmemory = \"1G\"", "cores = 1\nonboot = false\nmemory = \"1G\""),
            ("stacks/media/welcome.txt", "Read from", "Read again from"),
        ],
    )
}

/// How long work takes undisturbed; measured once on a machine that emulates, and only the range of the moments.
fn whole(work: Work) -> Duration {
    Duration::from_secs(match work {
        Work::Storage => 8,
        Work::Guests => 110,
        Work::Shares => 14,
        Work::Stacks => 110,
        Work::First => 260,
        Work::Change => 80,
    })
}

/// Returns the program that does the work, the verb, and the site's folder.
fn words(work: Work, site: &Altered) -> (&'static str, &'static str, PathBuf) {
    let lab = PathBuf::from("inventory/lab");
    match work {
        Work::Storage => ("zfs-init", "apply", lab),
        Work::Guests => ("vm-build", "apply", lab),
        Work::Shares => ("nfs-export", "apply", lab),
        Work::Stacks => ("compose-deploy", "apply", lab),
        Work::First => ("hearth", "run", lab),
        Work::Change => ("hearth", "run", site.folder().to_owned()),
    }
}

/// Finishes what was interrupted, and wants nothing to be left to do.
fn finish(work: Work, site: &Altered) {
    let (name, verb, folder) = words(work, site);
    expect(0, &program(name).args([verb, "--yes", "--site"]).arg(&folder));
    expect(0, &program(name).args(["plan", "--site"]).arg(&folder));
}

fn start_from(work: Work) -> &'static str {
    match work {
        Work::Storage | Work::Guests | Work::First => "bare",
        Work::Shares | Work::Stacks => "made",
        Work::Change => "converged",
    }
}

/// What the machines look like when the work was done undisturbed; taken once for each kind of work.
fn undisturbed(work: Work, site: &Altered) -> &'static Census {
    static SEEN: OnceLock<std::sync::Mutex<Vec<(Work, &'static Census)>>> = OnceLock::new();
    let mut seen = SEEN.get_or_init(Default::default).lock().unwrap();
    if let Some((_, found)) = seen.iter().find(|(done, _)| *done == work) {
        return found;
    }
    restore(start_from(work));
    before(work);
    finish(work, site);
    let census: &'static Census = Box::leak(Box::new(counted(work)));
    seen.push((work, census));
    census
}

/// Stacks need their mounts.
fn before(work: Work) {
    if work == Work::Stacks {
        expect(0, &tool("nfs-export", "apply").arg("--yes"));
    }
}

/// The census of what there is: without guests, of the node and the project alone.
fn counted(work: Work) -> Census {
    match work {
        Work::Storage => hearth_tests::census::of_node(),
        _ => census(),
    }
}

fn spawn(work: Work, site: &Altered, log: &Path) -> Child {
    let file = fs::File::create(log).unwrap();
    let (name, verb, folder) = words(work, site);
    let mut command = std::process::Command::new(programs().join(name));
    command.args([verb, "--yes", "--site"]).arg(folder).current_dir(project()).stdin(Stdio::null());
    command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap()
}

fn strike(blow: Blow, child: &mut Child) {
    let pid_of = |name: &str| fs::read_to_string(project().join(".hearth/lab/run").join(name)).unwrap_or_default();
    let kill = |pid: &str| {
        let _ = remote::Command::new("kill").args(["-9", pid.trim()]).output();
    };
    match blow {
        Blow::Kill => child.kill().unwrap(),
        Blow::Api => kill(&pid_of("server.pid")),
        Blow::Power => kill(&pid_of("101.pid")),
        Blow::Ssh => {
            // It ends its own connection with the others, so how it ends says nothing.
            for machine in [NODE, INTRANET] {
                let _ = ssh(machine, "pkill -9 -f '^sshd-session: '").deadline(Duration::from_secs(20)).output();
            }
        }
    }
}

/// Waits for a program that was struck; one that can't notice must not hang for ever.
fn ended(child: &mut Child) -> i32 {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(begin.elapsed() < Duration::from_secs(1200), "the program that was struck does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes one try and returns its line for the record.
pub fn attempt(one: Try) -> serde_json::Value {
    let Try { work, blow, part } = one;
    let begun = Instant::now();
    let site = changed();
    let wanted = undisturbed(work, &site);
    restore(start_from(work));
    before(work);
    let log = project().join(".hearth/interrupted.log");
    let mut child = spawn(work, &site, &log);
    let moment = whole(work).mul_f64(part);
    std::thread::sleep(moment);
    let over = child.try_wait().unwrap().is_some();
    strike(blow, &mut child);
    let code = ended(&mut child);
    let said = fs::read_to_string(&log).unwrap();
    if !over && matches!(blow, Blow::Api | Blow::Power) && code != 0 {
        let tail: Vec<&str> = said.lines().rev().take(12).collect();
        assert!(said.contains("error:"), "the message of the failed run says nothing: {tail:?}");
    }
    // Brings back what was struck; a guest without power is the next run's to start.
    expect(0, &program("pve-lab").arg("up"));
    finish(work, &site);
    same(wanted, &counted(work), &format!("{one:?}, which ended with {code}"));
    serde_json::json!({
        "work": format!("{work:?}"), "blow": format!("{blow:?}"), "at_ms": u64::try_from(moment.as_millis()).unwrap(),
        "over": over, "code": code, "took_s": begun.elapsed().as_secs(),
    })
}

#[test]
fn interrupted_storage_is_finished_by_the_next_run() {
    let _turn = turn();
    let slice = [
        Try { work: Work::Storage, blow: Blow::Kill, part: 0.35 },
        Try { work: Work::Storage, blow: Blow::Ssh, part: 0.6 },
    ];
    each(&slice);
}

// Not seen to pass yet: a guest that was brought back did not answer within the ten seconds that a connection has.
#[cfg(feature = "soak")]
#[test]
fn interrupted_shares_and_sites_are_finished_by_the_next_run() {
    let _turn = turn();
    let slice = [
        Try { work: Work::Shares, blow: Blow::Kill, part: 0.5 },
        Try { work: Work::Change, blow: Blow::Kill, part: 0.3 },
        Try { work: Work::Change, blow: Blow::Api, part: 0.15 },
    ];
    each(&slice);
}

fn each(slice: &[Try]) {
    for one in slice {
        println!("{}", attempt(*one));
    }
    restore("converged");
    expect(0, &hearth("run").arg("--yes"));
}
