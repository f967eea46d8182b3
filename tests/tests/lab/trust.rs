//! Trust on the wire: keys and certificates that changed, an agent that is away, a token that may do less. Each is refused
//! with 77 and the words, mended by an explicit command, and the lab is left as it was found.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_tests::api::api;
use hearth_tests::{INTRANET, event, expect, hearth, on, program, project, tool};

use crate::support::{Altered, turn};

fn lab_file(name: &str) -> PathBuf {
    project().join(".hearth/lab").join(name)
}

/// Runs `hearth VERB` and wants a refusal that says all of this.
fn refused(command: &remote::Command, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert_eq!(output.status, 77, "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in:\n{said}");
    }
    said
}

/// A file that is put back when dropped.
struct Kept(PathBuf, Vec<u8>);

impl Kept {
    fn new(path: PathBuf) -> Self {
        let bytes = fs::read(&path).unwrap();
        Self(path, bytes)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = store::files::write_atomic(&self.0, &self.1, 0o600);
    }
}

#[test]
fn a_guests_changed_key_is_refused_until_it_is_replaced_by_name() {
    let _turn = turn();
    let keys = "/etc/ssh/ssh_host_ed25519_key";
    let restart = "systemctl restart ssh";
    on(
        INTRANET,
        &format!(
            "mkdir -p /root/kept; cp -p {keys} {keys}.pub /root/kept/; rm {keys} {keys}.pub; \
        ssh-keygen -q -t ed25519 -N '' -f {keys}; {restart}"
        ),
    );
    let new = on(INTRANET, &format!("ssh-keygen -lf {keys}.pub")).split(' ').nth(1).unwrap().to_owned();
    refused(
        &hearth("plan"),
        &["vm-intranet shows the SSH host key", &new, "is pinned in", "hearth trust vm-intranet --replace"],
    );
    refused(&hearth("trust").args(["vm-intranet", "--yes"]), &[&new, "--replace"]);
    expect(0, &hearth("trust").args(["vm-intranet", "--replace", "--yes"]));
    expect(0, &hearth("plan"));
    on(INTRANET, &format!("cp -p /root/kept/* /etc/ssh/; rm -r /root/kept; {restart}"));
    expect(0, &hearth("trust").args(["vm-intranet", "--replace", "--yes"]));
    expect(0, &hearth("plan"));
}

#[test]
fn an_agent_that_is_away_vouches_for_nothing() {
    let _turn = turn();
    let _pins = Kept::new(lab_file("known_hosts"));
    let text = fs::read_to_string(lab_file("known_hosts")).unwrap();
    let without: String = text.split_inclusive('\n').filter(|line| !line.starts_with(INTRANET)).collect();
    assert_ne!(text, without, "vm-intranet has a pin");
    store::files::write_atomic(&lab_file("known_hosts"), &without, 0o600).unwrap();
    on(INTRANET, "systemctl stop qemu-guest-agent");
    refused(&hearth("plan"), &["vm-intranet shows the SSH host key", "none is pinned", "hearth trust vm-intranet"]);
    let away = hearth("trust").args(["vm-intranet", "--yes"]).output();
    on(INTRANET, "systemctl start qemu-guest-agent");
    let away = away.unwrap();
    let said = format!("{}{}", away.text(), String::from_utf8_lossy(&away.stderr));
    assert!(away.status == 77 && said.contains("QEMU guest agent is not running"), "{}: {said}", away.status);
    expect(0, &hearth("trust").args(["vm-intranet", "--yes"]));
    assert_eq!(fs::read_to_string(lab_file("known_hosts")).unwrap().lines().count(), text.lines().count());
    expect(0, &hearth("plan"));
}

/// Ends the API server and lets `pve-lab up` start another; guests and node run on.
fn restart_server() {
    let pid = fs::read_to_string(lab_file("run/server.pid")).unwrap();
    expect(0, &remote::Command::new("kill").arg(pid.trim()));
    let begin = Instant::now();
    while lab_file("run/server.pid").exists() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the server does not end");
        std::thread::sleep(Duration::from_millis(100));
    }
    expect(0, &program("pve-lab").arg("up"));
}

#[test]
fn another_certificate_is_refused() {
    let _turn = turn();
    // Pinned by the authority as the lab's site does it, and by fingerprint in the lock file, by `hearth trust`.
    let pinned = Altered::new("lab-pinned", &[("site.toml", "ca_file = \"../../.hearth/lab/ca.pem\"\n", "")]);
    let lock = Kept::new(project().join("pipeline.lock"));
    refused_as_unpinned(&pinned);
    expect(0, &pinned.hearth("trust").arg("--yes"));
    expect(0, &pinned.tool("vm-build", "plan"));

    let names = ["ca.pem", "state/server.key", "state/server.pem"];
    let own: Vec<Kept> = names.iter().map(|name| Kept::new(lab_file(name))).collect();
    let ca = fs::read(lab_file("ca.pem")).unwrap();
    names.iter().for_each(|name| fs::remove_file(lab_file(name)).unwrap());
    restart_server();
    let other = fs::read(lab_file("ca.pem")).unwrap();
    store::files::write_atomic(&lab_file("ca.pem"), &ca, 0o644).unwrap();
    refused(&hearth("plan"), &["is not to be trusted", "compare it there (pvenode cert info)"]);
    refused(&pinned.tool("vm-build", "plan"), &["its SHA-256 is", "is pinned", "hearth trust pve1 --replace"]);
    refused(&pinned.hearth("trust").arg("--yes"), &["API certificate", "is pinned in pipeline.lock", "--replace"]);
    expect(0, &pinned.hearth("trust").args(["pve1", "--replace", "--yes"]));
    expect(0, &pinned.tool("vm-build", "plan"));
    assert_ne!(ca, other);

    drop((own, lock));
    restart_server();
    expect(0, &hearth("plan"));
}

fn refused_as_unpinned(site: &Altered) {
    let output = site.tool("vm-build", "plan").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status, 78, "{said}");
    assert!(said.contains("no certificate is pinned") && said.contains("hearth trust pve1"), "{said}");
}

#[test]
fn a_token_that_may_do_less_is_told_what_it_lacks() {
    let _turn = turn();
    let role = api("GET", "/access/roles/Hearth", &[]);
    let all: Vec<&str> = role.as_object().unwrap().keys().map(String::as_str).collect();
    let set = |privileges: &[&str]| api("PUT", "/access/roles/Hearth", &[("privs", &privileges.join(","))]);
    let less: Vec<&str> = all.iter().copied().filter(|name| *name != "VM.Config.Memory").collect();
    set(&less);
    let plan = tool("vm-build", "plan").output();
    let run = hearth("run").arg("--yes").output();
    set(&all);
    for output in [plan.unwrap(), run.unwrap()] {
        let said = format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status, 77, "{said}");
        assert!(said.contains("/vms/101: VM.Config.Memory") && said.contains("pveum role modify Hearth"), "{said}");
    }
    let output = expect(0, &hearth("run").args(["--yes", "--json"]));
    println!("with {} privileges: {}", all.len(), event(&output, "summary")["cost"]);
}
