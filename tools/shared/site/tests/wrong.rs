//! Every wrong inventory in `bad` gives exactly the text beside it. `HEARTH_BLESS=1` writes those texts anew.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic as the test itself may")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn write(path: &Path, text: &str) {
    store::files::write_atomic(path, text, 0o644).unwrap();
}

/// Makes a project in which the base site is good.
fn project() -> tempfile::TempDir {
    let project = tempfile::tempdir().unwrap();
    for path in [
        "pipeline.toml",
        "images/debian-13.toml",
        "images/http.toml",
        "site/stacks/site/compose.yaml",
        "site/secrets/db-password.age",
    ] {
        write(&project.path().join(path), "");
    }
    // Made up: no key has these letters.
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nbWFkZSB1cA\n-----END OPENSSH PRIVATE KEY-----\n";
    write(&project.path().join("keys/private"), private);
    write(&project.path().join("keys/empty.pub"), "# none\n");
    project
}

fn copy(from: &Path, project: &Path, name: &str) {
    write(&project.join("site").join(name), &fs::read_to_string(from).unwrap());
}

/// Loads a case: a file beside the base site, or a folder by itself.
fn load(case: &Path) -> Result<hearth_site::Site, hearth_site::Errors> {
    let project = project();
    if case.is_dir() {
        for file in fs::read_dir(case).unwrap() {
            let file = file.unwrap();
            copy(&file.path(), project.path(), file.file_name().to_str().unwrap());
        }
    } else {
        copy(&folder().join("base.toml"), project.path(), "base.toml");
        copy(case, project.path(), "wrong.toml");
    }
    hearth_site::load(&project.path().join("site"))
}

/// Takes the temporary folder's name out of a text.
fn plain(errors: &hearth_site::Errors) -> String {
    let temporary = std::env::temp_dir().canonicalize().unwrap();
    let text = errors.render(false);
    let mut plain = String::new();
    for (index, piece) in text.split(&format!("{}/", temporary.display())).enumerate() {
        let rest = if index == 0 { piece } else { piece.split_once('/').map_or("", |(_, rest)| rest) };
        plain += rest;
    }
    plain + "\n"
}

fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join("bad")).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        entries.filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "toml")).collect();
    cases.sort();
    cases
}

#[test]
fn each_wrong_inventory_gives_its_text() {
    let bless = std::env::var_os("HEARTH_BLESS").is_some();
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let mut different = Vec::new();
    for case in &cases {
        let errors = load(case).expect_err(&case.display().to_string());
        let (text, golden) = (plain(&errors), case.with_extension("txt"));
        if bless {
            write(&golden, &text);
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(text.as_str()) {
            different.push(format!("{}:\n{text}", case.display()));
        }
    }
    assert!(different.is_empty(), "not as the golden texts say:\n{}", different.join("\n"));
}

#[test]
fn the_base_of_all_cases_is_good() {
    let project = project();
    copy(&folder().join("base.toml"), project.path(), "base.toml");
    let site = hearth_site::load(&project.path().join("site")).unwrap();
    assert_eq!(site.guests["web"].ssh.key_file, site.folder.join("id_ed25519"));
    assert_eq!(site.guests["web"].ssh.known_hosts_file, site.project.join(".hearth/known_hosts"));
    assert_eq!(site.hosts["pve1"].api.url, "https://192.168.1.100:8006");
    assert_eq!(site.shares["data"].mount_options, ["defaults", "_netdev"]);
    assert_eq!((site.stacks["site"].deadline, site.guests["web"].cores, site.guests["web"].onboot), (300, 1, true));
}

#[test]
fn programs_get_every_error_with_its_place() {
    let errors = load(&folder().join("bad/much-at-once.toml")).unwrap_err();
    let problems = errors.problems();
    let of = |text: &str| problems.iter().find(|problem| problem.message.contains(text)).unwrap();
    assert_eq!(problems.len(), 8);
    assert_eq!((of("pve2").line, of("pve2").column), (Some(3), Some(8)));
    assert_eq!((of("colour").line, of("colour").column), (Some(10), Some(1)));
    assert!(problems.iter().all(|problem| problem.file.as_ref().is_some_and(|file| file.ends_with("site/wrong.toml"))));
    assert!(of("sdb").help.as_ref().is_some_and(|help| help.contains("/dev/disk/by-id")));
}

#[test]
fn a_folder_that_is_no_site_is_told_so() {
    let project = project();
    let load = |path: &str| hearth_site::load(&project.path().join(path)).unwrap_err().problems().remove(0);
    assert!(load("nowhere").message.contains("can't open the site"));
    assert!(load("images/../site").message.contains("there is no TOML file in"));
    fs::remove_file(project.path().join("pipeline.toml")).unwrap();
    assert!(load("site").message.contains("there is no pipeline.toml above the site"));
}

/// An editor that is killed, a full disk: whatever is left of a file, the answer is an error or a site.
#[test]
fn half_a_file_is_told_from_a_whole_one() {
    let project = project();
    let (base, path) = (fs::read_to_string(folder().join("base.toml")).unwrap(), project.path().join("site/base.toml"));
    let mut wrong = 0;
    for length in (0..base.len()).step_by(5) {
        // Written in place: a sync for each of the cuts would take seconds.
        fs::File::create(&path).unwrap().write_all(&base.as_bytes()[..length]).unwrap();
        if let Err(errors) = hearth_site::load(&project.path().join("site")) {
            assert!(errors.render(true).contains("error"), "cut at {length}");
            wrong += 1;
        }
    }
    assert!(wrong > 100, "only {wrong} cuts were errors");
}

#[test]
fn secrets_may_be_named_before_they_are_made_by_who_makes_them() {
    let project = project();
    copy(&folder().join("base.toml"), project.path(), "base.toml");
    let text = "[stacks.more]\nguest = \"web\"\nfolder = \"stacks/site\"\nsecrets = [\"db-password\", \"to-come\"]\n";
    write(&project.path().join("site/more.toml"), text);
    let folder = project.path().join("site");
    assert_eq!(hearth_site::load(&folder).unwrap_err().problems()[0].message, "there is no secret 'to-come'");
    let site = hearth_site::load_before_secrets(&folder).unwrap();
    assert!(site.secret_file(&site.stacks["more"].secrets[1].secret).ends_with("site/secrets/to-come.age"));
    write(&folder.join("secrets/to-come.age"), "");
    assert_eq!(hearth_site::load(&folder).unwrap().stacks["more"].secrets.len(), 2);
}
