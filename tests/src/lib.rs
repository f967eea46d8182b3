//! Whole-site scenarios: helpers to run the built programs against the lab, as a user would.
//!
//! In: command lines. Out: what they printed and how they ended. Every failure panics with all of it.

pub mod api;
pub mod census;
pub mod contract;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use remote::{Command, Output};

/// Returns the project's folder.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Returns the folder of the built programs, which is two above the test's own.
///
/// # Panics
/// Where the test's own program has no such folder.
pub fn programs() -> PathBuf {
    let me = std::env::current_exe().expect("a test knows its own program");
    me.ancestors().nth(2).expect("a test lies in target/debug/deps").to_owned()
}

/// Begins a command line of one of the workspace's programs, run in the project's folder.
pub fn program(name: &str) -> Command {
    Command::new(programs().join(name)).folder(project()).deadline(Duration::from_secs(1500))
}

/// Runs a command and wants this exit code.
///
/// # Panics
/// Where it ends with another.
pub fn expect(code: i32, command: &Command) -> Output {
    let output = command.output().expect("the program starts and ends in time");
    assert_eq!(
        output.status,
        code,
        "{}\n{}\n{}",
        output.command,
        output.text(),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a shell command on a machine of the lab, as root, and wants exit code 0; returns what it printed.
///
/// # Panics
/// Where it fails.
pub fn on(machine: &str, script: &str) -> String {
    expect(0, &ssh(machine, script)).text().trim().to_owned()
}

/// Begins a shell command on a machine of the lab, as root: the node lets root log in, a guest its user with sudo.
pub fn ssh(machine: &str, script: &str) -> Command {
    let quoted = format!("'{}'", script.replace('\'', "'\\''"));
    let (user, sudo) = if machine == NODE { ("root", "") } else { ("hearth", "sudo -n ") };
    program("pve-lab")
        .args(["exec", "--", "ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-i"])
        .arg(project().join(".hearth/lab/id_ed25519"))
        .arg(format!("{user}@{machine}"))
        .arg(format!("{sudo}sh -euc {quoted}"))
}

/// The node's address.
pub const NODE: &str = "192.168.1.100";
/// The address of `vm-intranet`.
pub const INTRANET: &str = "192.168.1.101";
/// The address of `vm-extranet`.
pub const EXTRANET: &str = "192.168.1.111";

/// Brings the lab up and converges the lab site, once a test run. A lab that is new is saved on its way there: `bare`, with
/// blank disks and no guest; `made`, with pools and guests; `converged`.
///
/// # Panics
/// Where either fails.
pub fn lab() {
    static LAB: OnceLock<()> = OnceLock::new();
    LAB.get_or_init(|| {
        println!("{}", expect(0, &program("pve-lab").arg("up")).text());
        if !saved("converged").exists() {
            if project().join(".hearth/lab/state/qemu").read_dir().is_ok_and(|mut guests| guests.next().is_some()) {
                anew();
            }
            save("bare");
            expect(0, &tool("zfs-init", "apply").arg("--yes"));
            expect(0, &tool("vm-build", "apply").arg("--yes"));
            save("made");
            println!("{}", expect(0, &hearth("run").arg("--yes")).text());
            save("converged");
        }
        println!("{}", expect(0, &hearth("run").arg("--yes")).text());
    });
}

fn saved(name: &str) -> PathBuf {
    project().join(".hearth/lab/saved").join(name)
}

fn save(name: &str) {
    println!("{}", expect(0, &program("pve-lab").args(["save", name])).text());
}

/// Begins the lab again, with blank disks.
fn anew() {
    let image = expect(0, &hearth("build").args(["--image", "lab-node", "--path"])).text();
    expect(0, &program("pve-lab").args(["down", "--wipe"]));
    println!("{}", expect(0, &program("pve-lab").args(["up", "--image-node", image.trim()])).text());
}

/// Brings the lab back as it was saved: memory, disks, the API's state.
///
/// # Panics
/// Where it was not saved under this name.
pub fn restore(name: &str) {
    println!("{}", expect(0, &program("pve-lab").args(["restore", name])).text());
    if name != "bare" {
        // Emulated machines take a while to find their feet.
        for guest in [INTRANET, EXTRANET] {
            let answers =
                || ssh(guest, "true").deadline(Duration::from_secs(30)).output().is_ok_and(|output| output.status == 0);
            assert!((0..10).any(|_| answers()), "{guest} does not answer after it was brought back");
        }
    }
}

/// Begins `hearth VERB` on the lab site.
pub fn hearth(verb: &str) -> Command {
    tool("hearth", verb)
}

/// Begins `TOOL VERB` on the lab site.
pub fn tool(name: &str, verb: &str) -> Command {
    program(name).args([verb, "--site", "inventory/lab"])
}

/// Returns the last line of JSON events of this kind.
///
/// # Panics
/// Where there is none.
pub fn event(output: &Output, kind: &str) -> serde_json::Value {
    let text = output.text();
    let events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    events.rev().find(|event| event["event"] == kind).unwrap_or_else(|| panic!("no '{kind}' in:\n{text}"))
}
