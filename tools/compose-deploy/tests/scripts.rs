//! The scripts that run on guests, run here against a pretended `docker`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests")]

use std::path::{Path, PathBuf};

use remote::{Command, Output};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guest").join(name)
}

/// Runs `stack` with a `docker` that prints these containers for `docker ps`, and says what else it was asked.
fn stack(folder: &Path, containers: &str, arguments: &[&str]) -> Output {
    let docker =
        format!("#!/bin/sh\ncase $1 in\nps) cat <<'END'\n{containers}\nEND\n;;\n*) echo \"docker $*\" >&2 ;;\nesac\n");
    store::files::write_atomic(&folder.join("bin/docker"), docker, 0o755).unwrap();
    // The script's own folder is the guest's; the same text with another root can be run by anybody.
    let text = std::fs::read_to_string(script("stack.sh")).unwrap();
    let text = text.replace("/var/lib/hearth", folder.to_str().unwrap());
    let text = text.replace("/run/hearth", folder.join("run").to_str().unwrap());
    let program = folder.join("stack");
    store::files::write_atomic(&program, text, 0o755).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    Command::new("sh").arg(&program).args(arguments).env("PATH", path).output().unwrap()
}

fn bundle(folder: &Path) {
    for name in ["compose.yaml", "hearth-stack.service"] {
        store::files::write_atomic(&folder.join("stacks/web/bundles/abc").join(name), "", 0o644).unwrap();
    }
    std::os::unix::fs::symlink("bundles/abc", folder.join("stacks/web/current")).unwrap();
}

#[test]
fn a_stack_is_up_when_all_its_containers_are_well() {
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path());
    let well = "http||running|Up 3 seconds (healthy)\nplain||running|Up 3 seconds\nfirst|yes|exited|Exited (0) now";
    let output = stack(folder.path(), well, &["up", "web", "1"]);
    assert_eq!(output.status, 0, "{}", String::from_utf8_lossy(&output.stderr));
    let asked = String::from_utf8_lossy(&output.stderr).into_owned();
    let here = folder.path().join("stacks/web/bundles/abc");
    let wanted = format!("--project-name web --project-directory {} --file compose.yaml", here.display());
    assert!(asked.contains(&wanted), "{asked}");
    assert!(!asked.contains("--force-recreate"), "{asked}");
}

#[test]
fn a_stack_is_not_up_while_one_of_its_containers_is_not_well() {
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path());
    for (line, left) in [
        ("http||running|Up 3 seconds (health: starting)", "wait http: Up 3 seconds (health: starting)"),
        ("http||running|Up 3 seconds (unhealthy)", "wait http: Up 3 seconds (unhealthy)"),
        ("http||created|Created", "wait http: created"),
        ("http||exited|Exited (0) 1 second ago", "bad http: Exited (0) 1 second ago"),
        ("first|yes|exited|Exited (2) 1 second ago", "bad first: Exited (2) 1 second ago"),
    ] {
        let output = stack(folder.path(), line, &["up", "web", "0"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status, 1, "{said}");
        assert!(said.ends_with(&format!("stack web is not healthy:\n{left}\n")), "{said}");
    }
}

#[test]
fn what_is_dead_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    bundle(folder.path());
    let begin = std::time::Instant::now();
    let lines = "a||running|Up (health: starting)\nb||exited|Exited (1) 1 second ago";
    assert_eq!(stack(folder.path(), lines, &["up", "web", "600"]).status, 1);
    assert!(begin.elapsed().as_secs() < 60);
}

#[test]
fn a_stack_without_a_bundle_does_not_start_and_a_wrong_verb_is_usage() {
    let folder = tempfile::tempdir().unwrap();
    assert_ne!(stack(folder.path(), "", &["up", "web", "0"]).status, 0);
    assert_eq!(stack(folder.path(), "", &["fly", "web"]).status, 64);
}

#[test]
fn every_script_is_posix_shell() {
    for name in ["stack", "keep-stacks", "observe", "load", "deploy", "start", "poll", "outcome", "remove"] {
        Command::new("sh").arg("-n").arg(script(&format!("{name}.sh"))).run().unwrap();
    }
}
