//! Bad deploys: whatever is wrong with a new bundle, the one before keeps serving or is back by itself, and the run says
//! so.

use hearth_tests::{INTRANET, expect, hearth, on};
use remote::{Command, Output};

use crate::support::{Altered, turn};

pub const BASE: &str = "/var/lib/hearth/stacks/media";
pub const COMPOSE: &str = "stacks/media/compose.yaml";
/// What the health check of the one service that stays asks for.
pub const HEALTHY: &str = "http://127.0.0.1:8080/welcome.txt";
pub const NEVER: &str = "http://127.0.0.1:9/";
const RUNS: &str = "command: [\"-f\", \"-p\", \"8080\", \"-h\", \"/media\"]";
const IMAGES: &str = "images = { welcome = \"http\", http = \"http\" }";
const FETCH: &str = "curl -sf -m 20 -H 'Host: media.home.lab' http://127.0.0.1/welcome.txt";

/// Asks for the service's page by its name all the time, on the guest itself, and counts.
pub struct Client;

impl Client {
    pub fn start() -> Self {
        let ask = format!("while true; do if {FETCH} >/dev/null; then echo ok; else echo failed; fi; sleep 0.5; done");
        on(INTRANET, &format!("systemd-run --quiet --collect --unit=asks sh -c \"{ask} >/run/asked\""));
        Self
    }

    /// Returns how many requests failed, and of how many.
    pub fn stop(self) -> (u32, u32) {
        let said = on(INTRANET, "systemctl stop asks; grep -c failed /run/asked || true; wc -l </run/asked");
        let mut numbers = said.lines().map(|line| line.trim().parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}

pub fn bundle() -> String {
    on(INTRANET, &format!("readlink {BASE}/current"))
}

/// The site with another `media` stack, which has two minutes to get healthy.
pub fn altered(name: &str, edit: (&str, &str, &str)) -> Altered {
    let deadline = format!("{IMAGES}\ndeadline = 120");
    Altered::new(name, &[("stacks.toml", &format!("{IMAGES}\ndeadline = 600"), &deadline), edit])
}

pub fn apply(site: &Altered) -> Command {
    site.tool("compose-deploy", "apply").args(["--yes", "--only", "stack/vm-intranet/media"])
}

fn said(output: &Output) -> String {
    output.text() + &String::from_utf8_lossy(&output.stderr)
}

/// Asserts that the bundle before serves, that the change is still to be made, and that the good site needs nothing.
pub fn still_serves(case: &str, old: &str, site: &Altered, asked: (u32, u32)) {
    println!("{case}: {} of {} requests failed", asked.0, asked.1);
    assert_eq!(bundle(), old, "{case}");
    on(INTRANET, FETCH);
    let left = on(INTRANET, &format!("ls -A {BASE} {BASE}/bundles /var/lib/hearth"));
    assert!(!left.contains("trial") && !left.contains("incoming"), "{case}: {left}");
    let plan = expect(2, &site.tool("compose-deploy", "plan")).text();
    assert!(plan.contains("stack/vm-intranet/media"), "{case}: {plan}");
    expect(0, &hearth("plan"));
}

#[test]
fn bad_bundles_leave_the_one_before_serving() {
    let _turn = turn();
    let cases = [
        ("refused by compose", ("read_only: true", "read_only: perhaps"), "what runs on vm-intranet was not touched"),
        ("ends at once", (RUNS, "command: [\"--no-such-option\"]"), "is back and healthy"),
        ("never healthy", (HEALTHY, NEVER), "is back and healthy"),
    ];
    let old = bundle();
    for (case, (from, to), why) in cases {
        let site = altered("lab-bad-deploy", (COMPOSE, from, to));
        let client = Client::start();
        // The whole pipeline says it too.
        let run = if case == "ends at once" { site.hearth("run").arg("--yes") } else { apply(&site) };
        let output = expect(1, &run);
        let asked = client.stop();
        assert!(said(&output).contains(why), "{case}: {}", said(&output));
        if why.ends_with("not touched") {
            assert_eq!(asked.0, 0, "{case}");
        }
        still_serves(case, &old, &site, asked);
    }
    expect(0, &hearth("run").arg("--yes"));
}

#[test]
fn a_full_disk_on_the_guest_stops_nothing_that_runs() {
    let _turn = turn();
    let old = bundle();
    let site = altered("lab-full-disk", ("stacks/media/welcome.txt", "Read", "Reread"));
    let client = Client::start();
    on(INTRANET, "fallocate -l $(($(df --output=avail -B1 / | tail -n 1) - 20000000)) /fill");
    let output = apply(&site).output().unwrap();
    on(INTRANET, "rm -f /fill");
    let asked = client.stop();
    assert_eq!(output.status, 1, "{}", said(&output));
    assert!(said(&output).contains("MiB free at"), "{}", said(&output));
    assert_eq!(asked.0, 0);
    still_serves("no room", &old, &site, asked);
}
