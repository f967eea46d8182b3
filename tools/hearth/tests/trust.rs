//! `hearth trust` against an API-only server and a real sshd, both of this machine.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use pve_lab::Release;
use pve_lab::testing::ApiOnly;
use tempfile::TempDir;

/// A host: a server of its API, and an sshd with a key of its own.
struct Host {
    project: TempDir,
    api: ApiOnly,
    sshd: Option<Child>,
    port: u16,
}

impl Host {
    fn start() -> Self {
        let project = tempfile::tempdir().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let api = ApiOnly::start_in(&project.path().join("api"), Release::default()).unwrap();
        let mut host = Self { project, api, sshd: None, port };
        host.put("pipeline.toml", "site = \"site\"\n[stages.storage]\ntool = \"zfs-init\"\n");
        host.put("token", &host.api.token);
        host.site();
        host.new_key();
        let key = host.project.path().join("ssh_host_key");
        fs::copy(key, host.project.path().join("key")).unwrap();
        host
    }

    fn put(&self, name: &str, text: &str) {
        store::files::write_atomic(&self.project.path().join(name), text, 0o600).unwrap();
    }

    fn site(&self) {
        let api = format!("api = {{ url = \"{}\", token_file = \"../token\" }}", self.api.url);
        let ssh = format!("ssh = {{ key_file = \"../key\", port = {} }}", self.port);
        let network = "[network]\nbridge = \"vmbr0\"\nprefix = 24\n";
        let text = format!("[site]\nname = \"home\"\n{network}[hosts.pve1]\naddress = \"127.0.0.1\"\n{api}\n{ssh}\n");
        self.put("site/site.toml", &text);
    }

    /// Gives the host another SSH key, and starts its sshd with it.
    fn new_key(&mut self) {
        self.end();
        let key = self.project.path().join("ssh_host_key");
        let _ = (fs::remove_file(&key), fs::remove_file(key.with_extension("pub")));
        remote::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).run().unwrap();
        // As root, sshd wants a folder that its service makes.
        let _ = fs::create_dir_all("/run/sshd");
        let port = self.port.to_string();
        let sshd = Process::new("/usr/sbin/sshd")
            .args([
                "-D",
                "-e",
                "-f",
                "/dev/null",
                "-o",
                "PidFile=none",
                "-o",
                "ListenAddress=127.0.0.1",
                "-p",
                &port,
                "-h",
            ])
            .arg(&key)
            .stderr(Stdio::null())
            .spawn();
        self.sshd = Some(sshd.expect("openssh-server is there (cargo xtask setup installs it)"));
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(30), "sshd does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn fingerprint(&self) -> String {
        let key = self.project.path().join("ssh_host_key.pub");
        let output = remote::Command::new("ssh-keygen").arg("-lf").arg(key).run().unwrap();
        output.text().split(' ').nth(1).unwrap().to_owned()
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.project.path().join("pipeline.lock")).unwrap_or_default()
    }

    fn hearth(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        let project: &Path = self.project.path();
        command.args(args).current_dir(project).env_clear().env("HOME", project).env("PATH", "/usr/bin:/bin");
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }

    fn end(&mut self) {
        if let Some(mut child) = self.sshd.take() {
            let _ = (child.kill(), child.wait());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

fn says(said: &(i32, String), code: i32, words: &[&str]) {
    assert_eq!(said.0, code, "{}", said.1);
    for word in words {
        assert!(said.1.contains(word), "'{word}' is not in:\n{}", said.1);
    }
}

#[test]
fn the_first_contact_is_shown_and_pinned_when_it_is_agreed_to() {
    let host = Host::start();
    let key = host.fingerprint();
    let compare = "compare on pve1: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub";
    let asked = host.hearth(&["trust"]);
    says(&asked, 64, &["pve1: API certificate, SHA-256 ", &key, compare, "pvenode cert info", "nobody to ask"]);
    assert_eq!(host.lock(), "");
    says(&host.hearth(&["trust", "--yes"]), 0, &["its API certificate is pinned in pipeline.lock"]);
    let lock = host.lock();
    assert!(lock.contains("[trust.home.pve1]") && lock.contains("host_keys = [\"ssh-ed25519 AAAA"), "{lock}");
    says(&host.hearth(&["trust"]), 0, &["nothing new to pin", "API certificate is pinned in pipeline.lock already"]);
    assert_eq!(host.lock(), lock);
}

#[test]
fn a_changed_key_is_refused_until_it_is_replaced() {
    let mut host = Host::start();
    says(&host.hearth(&["trust", "--yes"]), 0, &[]);
    let (old, lock) = (host.fingerprint(), host.lock());
    host.new_key();
    let new = host.fingerprint();
    let words = [&*old, &*new, "is pinned in pipeline.lock", "hearth trust pve1 --replace"];
    says(&host.hearth(&["trust", "--yes"]), 77, &words);
    assert_eq!(host.lock(), lock);
    says(&host.hearth(&["trust", "pve1", "--replace", "--yes"]), 0, &[&new]);
    assert_ne!(host.lock(), lock);
    says(&host.hearth(&["trust"]), 0, &["nothing new to pin"]);
}

#[test]
fn a_changed_certificate_is_refused_until_it_is_replaced() {
    let mut host = Host::start();
    says(&host.hearth(&["trust", "--yes"]), 0, &[]);
    host.api = ApiOnly::start_in(&host.project.path().join("other"), Release::default()).unwrap();
    host.site();
    let words = ["pve1 shows the API certificate ", "is pinned in pipeline.lock", "hearth trust pve1 --replace"];
    says(&host.hearth(&["trust", "--yes"]), 77, &words);
    says(&host.hearth(&["trust", "--replace", "--yes"]), 0, &["pve1: API certificate"]);
    says(&host.hearth(&["trust"]), 0, &["nothing new to pin"]);
}

#[test]
fn a_key_in_a_file_of_peoples_own_is_theirs_to_change() {
    let host = Host::start();
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIJ8S8ZyZ5Cgn7VjTBp1c4ZbSjVYtjJX3qfJtWf0j1kL";
    host.put(".hearth/known_hosts", &format!("[127.0.0.1]:{} {other}\n", host.port));
    let words = ["known_hosts pins SHA256:", "that file is yours"];
    says(&host.hearth(&["trust", "--replace", "--yes"]), 77, &words);
    assert_eq!(host.lock(), "");
}

#[test]
fn a_host_that_the_site_has_not_is_a_mistake_of_the_command_line() {
    let host = Host::start();
    says(&host.hearth(&["trust", "pve9"]), 64, &["site 'home' has no host or guest 'pve9'", "it has pve1"]);
    says(&host.hearth(&["trust", "--no-such"]), 64, &["--no-such"]);
}
