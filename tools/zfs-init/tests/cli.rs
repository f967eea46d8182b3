//! The command line: what each sub-command prints and how it ends.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use remote::{Command, Output};

const TOOL: &str = env!("CARGO_BIN_EXE_zfs-init");

/// Runs the tool with nothing in its environment but a home, in a folder that holds a site.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        store::files::write_atomic(&folder.path().join(name), text, 0o600).unwrap();
    };
    write("pipeline.toml", "site = \"site\"\n");
    write("images/debian-13.toml", "");
    write("site/site.toml", include_str!("data/site.toml"));
    let command = Command::new(TOOL).args(arguments).clear_env().env("HOME", folder.path()).folder(folder.path());
    let Output { status, stdout, stderr, .. } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&folder.path().display().to_string(), "DIR");
    (status, text(stdout), text(stderr))
}

#[test]
fn render_prints_what_would_be_deployed() {
    let (status, stdout, stderr) = run(&["render"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("### pve1:sh\n"), "{stdout}");
    let (status, stdout, _) = run(&["render", "--json"]);
    assert_eq!(status, 0);
    assert!(stdout.starts_with("{\"place\":\"pve1:"), "{stdout}");
}

#[test]
fn an_inventory_that_is_not_there_is_an_error_of_configuration() {
    for verb in ["render", "plan", "apply", "check"] {
        let (status, stdout, stderr) = run(&[verb, "--site", "nowhere"]);
        assert_eq!((status, stdout.as_str()), (78, ""), "{verb}: {stderr}");
        assert!(stderr.contains("can't open the site nowhere"), "{stderr}");
    }
}

#[test]
fn a_key_that_is_not_there_keeps_every_host_out_of_reach() {
    for arguments in [&["plan"][..], &["apply", "--yes"], &["check"]] {
        let (status, _, stderr) = run(arguments);
        assert_eq!(status, 69, "{arguments:?}: {stderr}");
        assert!(stderr.contains("pve1 at 192.168.1.100:22: can't read the key DIR/"), "{stderr}");
    }
}

#[test]
fn a_wrong_word_is_a_usage_error() {
    for arguments in [&["destroy"][..], &[], &["plan", "--yes"], &["render", "--out", "x"], &["check", "--plan", "x"]] {
        let (status, stdout, stderr) = run(arguments);
        assert_eq!((status, stdout.as_str()), (64, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("Usage: zfs-init"), "{stderr}");
    }
}
