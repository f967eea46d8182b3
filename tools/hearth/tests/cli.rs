//! `hearth` as its user meets it, where no host is reached: environment cleared, home and project in a folder of its own.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use hearth_tests::contract::SITE;
use tempfile::TempDir;

const PIPELINE: &str = "site = \"inventory/home\"\n[stages.storage]\ntool = \"zfs-init\"\n";

fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("inventory/home");
    fs::create_dir_all(&site).unwrap();
    fs::create_dir_all(folder.path().join("images")).unwrap();
    put(&site.join("site.toml"), SITE);
    put(&folder.path().join("pipeline.toml"), PIPELINE);
    folder
}

fn put(path: &Path, text: &str) {
    store::files::write_atomic(path, text, 0o600).unwrap();
}

fn hearth(project: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command
        .args(args)
        .current_dir(project)
        .env_clear()
        .env("HOME", project)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*project.to_string_lossy(), "PROJECT");
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn build_saves_a_generation_and_a_second_build_finds_it() {
    let project = project();
    let (code, first, error) = hearth(project.path(), &["build"]);
    assert_eq!((code, &*error), (0, ""), "{first}");
    assert!(first.starts_with("generation 1 ("), "{first}");
    let (code, second, _) = hearth(project.path(), &["build"]);
    assert_eq!(code, 0);
    assert_eq!(first.split(':').next(), second.split(':').next());
    assert!(project.path().join(".hearth/generations/1/SHA256SUMS").exists());
}

#[test]
fn build_names_an_image_that_is_not_there() {
    let project = project();
    let (code, _, error) = hearth(project.path(), &["build", "--image", "debian-14"]);
    assert_ne!(code, 0);
    assert!(error.contains("debian-14"), "{error}");
}

#[test]
fn run_and_plan_say_that_the_network_is_not_there() {
    let project = project();
    for args in [&["plan"][..], &["run", "--yes"]] {
        let (code, _, error) = hearth(project.path(), args);
        assert_eq!(code, 69, "{error}");
        assert!(error.contains("network namespace 'hearth-no-such-namespace' is not there"), "{error}");
        assert!(error.contains("hint: bring the lab up first: pve-lab up"), "{error}");
    }
}

#[test]
fn status_without_a_run_fails_and_says_how_to_begin() {
    let project = project();
    let (code, _, error) = hearth(project.path(), &["status"]);
    assert_eq!(code, 1);
    assert_eq!(error, "error: there has been no run of site 'home' in PROJECT\n  hint: begin with: hearth run\n");
}

#[test]
fn status_shows_the_newest_record_and_fails_with_it() {
    let project = project();
    let sample = include_str!("../src/report/sample.json").replace("\"site\": \"lab\"", "\"site\": \"home\"");
    put(&project.path().join(".hearth/runs/2026-11-20T07-00-00Z/run.json"), &sample);
    let (code, text, error) = hearth(project.path(), &["status"]);
    assert_eq!((code, &*error), (1, ""));
    assert!(
        text.starts_with("site home, run of 2026-11-20T07:00:00Z: failed\ngeneration 3 (e3b0c44298fc)\n"),
        "{text}"
    );
    assert!(text.contains("1 checks passed, 1 failed"), "{text}");
}

#[test]
fn a_wrong_manifest_ends_with_78_and_its_line() {
    let project = project();
    put(&project.path().join("pipeline.toml"), &PIPELINE.replace("zfs-init", "zfs-int"));
    for verb in ["build", "plan", "status"] {
        let (code, _, error) = hearth(project.path(), &[verb]);
        assert_eq!(code, 78, "{error}");
        assert!(error.contains("pipeline.toml:3: stage 'storage' names the tool 'zfs-int'"), "{error}");
    }
}

#[test]
fn a_typo_in_the_inventory_ends_with_78_and_its_line() {
    let project = project();
    put(&project.path().join("inventory/home/site.toml"), &SITE.replace("address", "adress"));
    let (code, _, error) = hearth(project.path(), &["run", "--yes"]);
    assert_eq!(code, 78, "{error}");
    assert!(error.contains("site.toml:7") && error.contains("adress"), "{error}");
}

#[test]
fn wrong_words_end_with_64() {
    let project = project();
    for args in [&["rnu"][..], &["run", "--yse"], &[], &["lock", "--update", "--refresh"], &["plan", "--only"]] {
        assert_eq!(hearth(project.path(), args).0, 64, "{args:?}");
    }
    assert_eq!(hearth(project.path(), &["--help"]).0, 0);
}
