//! The contract that every tool's command line keeps, as far as no host is needed: a success, a failure and a usage error
//! of each sub-command.

use std::path::Path;

use remote::{Command, Output};

/// A site with one host in a network namespace that there is not: it renders, and can't be reached.
pub const SITE: &str = r#"
[site]
name = "home"
network_namespace = "hearth-no-such-namespace"

[hosts.pve1]
address = "192.0.2.1"
api = { token_file = "token", ca_file = "ca.pem" }
ssh = { key_file = "key", known_hosts_file = "known_hosts" }
"#;

/// A recipe that nobody builds.
const IMAGE: &str = "kind = \"url\"\nurl = \"https://192.0.2.1/debian-13.qcow2\"\n\
    sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n";

/// How a command line ended; the project's folder is written as `DIR` in what it printed.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Runs a tool in a project of its own with this text as its site, and nothing in the environment but a home.
///
/// # Panics
/// Where the project can't be written or the program can't be started.
pub fn run(program: &str, site: &str, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let write = |name: &str, text: &str| {
        store::files::write_atomic(&folder.path().join(name), text, 0o600).expect("a file can be written");
    };
    write("pipeline.toml", "site = \"site\"\n");
    write("images/debian-13.toml", IMAGE);
    write("site/site.toml", site);
    let command = Command::new(program).args(arguments).clear_env().env("HOME", folder.path()).folder(folder.path());
    let Output { status, stdout, stderr, .. } = command.output().expect("the tool starts and ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*path(folder.path()), "DIR");
    Ended { status, stdout: text(&stdout), stderr: text(&stderr) }
}

fn path(folder: &Path) -> std::borrow::Cow<'_, str> {
    folder.to_string_lossy()
}

/// Panics where a tool's command line does not keep the contract.
///
/// # Panics
/// With what the tool printed.
pub fn holds(program: &str, name: &str) {
    renders(program);
    names_its_inventorys_errors(program);
    can_reach_nobody(program);
    knows_its_words(program, name);
}

/// Panics where a tool that asks hosts does not say that it has no key for them, or prints no text for `pve1` first.
///
/// # Panics
/// With what the tool printed.
pub fn asks_hosts(program: &str, site: &str, first: &str) {
    let rendered = run(program, site, &["render"]);
    assert_eq!((rendered.status, rendered.stderr.as_str()), (0, ""), "{rendered:?}");
    assert!(rendered.stdout.starts_with(&format!("### {first}\n")), "{rendered:?}");
    let json = run(program, site, &["render", "--json"]);
    assert_eq!(json.status, 0, "{json:?}");
    assert!(json.stdout.starts_with(&format!("{{\"place\":\"{first}\"")), "{json:?}");
    for arguments in [&["plan"][..], &["apply", "--yes"], &["check"]] {
        let ended = run(program, site, arguments);
        assert_eq!(ended.status, 69, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("pve1 at 192.168.1.100:22: can't read the key DIR/"), "{ended:?}");
    }
}

fn renders(program: &str) {
    let help = run(program, SITE, &["--help"]);
    assert_eq!(help.status, 0, "{help:?}");
    assert!(help.stdout.contains("Exit codes: 0 done"), "{help:?}");
    let rendered = run(program, SITE, &["render"]);
    assert_eq!((rendered.status, rendered.stderr.as_str()), (0, ""), "{rendered:?}");
}

fn names_its_inventorys_errors(program: &str) {
    for verb in ["render", "plan", "apply", "check"] {
        let nowhere = run(program, SITE, &[verb, "--site", "nowhere"]);
        assert_eq!((nowhere.status, nowhere.stdout.as_str()), (78, ""), "{verb}: {nowhere:?}");
        assert!(nowhere.stderr.contains("can't open the site nowhere"), "{nowhere:?}");
        let typo = run(program, &SITE.replace("address", "adress"), &[verb]);
        assert_eq!(typo.status, 78, "{verb}: {typo:?}");
        assert!(typo.stderr.contains("site.toml:7:1") && typo.stderr.contains("did you mean `address`"), "{typo:?}");
    }
}

fn can_reach_nobody(program: &str) {
    for arguments in [&["plan"][..], &["apply", "--yes"], &["check"]] {
        let ended = run(program, SITE, arguments);
        assert_eq!(ended.status, 69, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("network namespace 'hearth-no-such-namespace' is not there"), "{ended:?}");
        let json = run(program, SITE, &[arguments, &["--json"]].concat());
        let line = json.stdout.lines().last().unwrap_or_default();
        assert!(line.starts_with("{\"v\":1,\"event\":\"failed\""), "{json:?}");
    }
}

fn knows_its_words(program: &str, name: &str) {
    for arguments in [&["destroy"][..], &[], &["plan", "--yes"], &["render", "--out", "x"], &["check", "--plan", "x"]] {
        let ended = run(program, SITE, arguments);
        assert_eq!((ended.status, ended.stdout.as_str()), (64, ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(&format!("Usage: {name}")), "{ended:?}");
    }
}
