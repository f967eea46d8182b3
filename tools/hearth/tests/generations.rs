//! Generations on the command line: listed, compared, gone back to, collected. No host is reached: the site wants nothing.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

const SITE: &str = r#"
[site]
name = "home"

[hosts.pve1]
address = "192.0.2.1"
api = { token_file = "token", ca_file = "ca.pem" }
ssh = { key_file = "../../keys/key", known_hosts_file = "known_hosts" }
"#;
const PIPELINE: &str = "site = \"inventory/home\"\n[stages.storage]\ntool = \"zfs-init\"\n";

fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("images")).unwrap();
    put(&folder.path().join("inventory/home/site.toml"), SITE);
    put(&folder.path().join("inventory/home/token"), "hearth@pve!t=plain-secret-of-the-token");
    put(&folder.path().join("pipeline.toml"), PIPELINE);
    folder
}

fn put(path: &Path, text: &str) {
    store::files::write_atomic(path, text, 0o600).unwrap();
}

/// Runs `hearth`; times, digests and what a run costs are left out of what it printed.
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

fn well(project: &Path, args: &[&str]) -> String {
    let (code, text, error) = hearth(project, args);
    assert_eq!((code, error.as_str()), (0, ""), "{args:?}: {text}");
    text
}

/// A project with two generations that were run: the second has a comment more.
fn two() -> TempDir {
    let project = project();
    well(project.path(), &["run", "--yes"]);
    put(&project.path().join("inventory/home/site.toml"), &format!("# a comment\n{SITE}"));
    well(project.path(), &["run", "--yes"]);
    project
}

/// Returns the numbers of the listed generations, the running one with a star.
fn listed(project: &Path) -> Vec<String> {
    let text = well(project, &["generations", "--json"]);
    let entry = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{}{}", entry["number"], if entry["running"] == true { "*" } else { "" })
    };
    text.lines().map(entry).collect()
}

#[test]
fn generations_are_listed_with_what_became_of_them() {
    let project = two();
    put(&project.path().join("inventory/home/site.toml"), &format!("# another\n{SITE}"));
    well(project.path(), &["build"]);
    assert_eq!(listed(project.path()), ["1", "2*", "3"]);
    let text = well(project.path(), &["generations"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with("3 artifacts, 0 MiB") && lines[0].contains("Z unchanged"), "{text}");
    assert!(lines[1].ends_with("3 artifacts, 0 MiB  running"), "{text}");
    assert!(lines[2].contains("  never run  "), "{text}");
}

#[test]
fn without_a_generation_there_is_nothing_to_list_compare_or_go_back_to() {
    let project = project();
    let (code, _, error) = hearth(project.path(), &["generations"]);
    assert_eq!(
        (code, error.as_str()),
        (1, "error: site 'home' has no generation in PROJECT\n  hint: begin with: hearth build\n")
    );
    let (code, _, error) = hearth(project.path(), &["diff", "1"]);
    assert_eq!((code, error.as_str()), (1, "error: there is no generation 1 in PROJECT/.hearth/generations\n"));
    let (code, _, error) = hearth(project.path(), &["rollback", "--yes"]);
    assert_eq!((code, error.as_str()), (1, "error: there has been no run to go back from\n"));
    well(project.path(), &["run", "--yes"]);
    let (code, _, error) = hearth(project.path(), &["rollback", "--yes"]);
    let none = "error: no generation but 1 was applied well, so there is none to go back to\n";
    assert_eq!((code, error.as_str()), (1, none));
    let (code, _, error) = hearth(project.path(), &["rollback", "7", "--yes"]);
    assert_eq!((code, error.as_str()), (1, "error: there is no generation 7 in PROJECT/.hearth/generations\n"));
}

#[test]
fn what_differs_is_named_and_equal_generations_are_said_to_be_so() {
    let project = two();
    let (code, text, error) = hearth(project.path(), &["diff", "1", "2"]);
    assert_eq!((code, error.as_str()), (2, ""));
    let expected = "from generation 1 to generation 2: 1 differences\nartifacts\n  ~ inputs/site/site.toml: ";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(well(project.path(), &["diff", "2"]), "generation 2 and the inventory as it is are the same\n");
    let (code, text, _) = hearth(project.path(), &["diff", "1", "--json"]);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, line["of"].as_str(), line["key"].as_str()),
        (2, Some("artifacts"), Some("inputs/site/site.toml"))
    );
}

#[test]
fn a_rollback_runs_the_generations_own_inputs_and_the_next_run_goes_forward_again() {
    let project = two();
    let text = well(project.path(), &["rollback", "--yes"]);
    assert!(text.starts_with("generation 1 ("), "{text}");
    assert_eq!(listed(project.path()), ["1*", "2"]);
    assert_eq!(fs::read_dir(project.path().join(".hearth/views")).unwrap().count(), 0);
    well(project.path(), &["run", "--yes"]);
    assert_eq!(listed(project.path()), ["1", "2*"]);
    well(project.path(), &["rollback", "1", "--yes"]);
    well(project.path(), &["rollback", "--yes"]);
    assert_eq!(listed(project.path()), ["1", "2*"]);
}

#[test]
fn a_generation_holds_its_inputs_by_content_and_no_secret() {
    let project = two();
    let inputs = project.path().join(".hearth/generations/1/inputs");
    assert_eq!(fs::read_to_string(inputs.join("site/site.toml")).unwrap(), SITE);
    assert_eq!(fs::read_to_string(inputs.join("pipeline.toml")).unwrap(), PIPELINE);
    for entry in fs::read_dir(project.path().join(".hearth/store")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("plain-secret-of-the-token"));
    }
    // Another folder, another user's mask: the same digest.
    let other = self::project();
    let site = other.path().join("inventory/home/site.toml");
    fs::set_permissions(&site, std::os::unix::fs::PermissionsExt::from_mode(0o664)).unwrap();
    let line = |project: &Path| well(project, &["build"]).split(':').next().unwrap().to_owned();
    put(&project.path().join("inventory/home/site.toml"), SITE);
    assert_eq!(line(project.path()), line(other.path()));
}

#[test]
fn an_input_that_is_altered_or_not_held_ends_a_rollback_before_it_begins() {
    let project = two();
    let path = fs::canonicalize(project.path().join(".hearth/generations/1/inputs/site/site.toml")).unwrap();
    fs::remove_file(&path).unwrap();
    fs::remove_file(project.path().join(".cache/hearth/store").join(path.file_name().unwrap())).unwrap();
    put(&path, "[site]\nname = \"evil\"\n");
    let (code, _, error) = hearth(project.path(), &["rollback", "--yes"]);
    assert_eq!(code, 1);
    assert!(
        error.starts_with(
            "error: generation 1 can't be evaluated again\n  because: its input site/site.toml is not to be had\n"
        ),
        "{error}"
    );
    assert!(error.contains("is altered: its content has the digest"), "{error}");
    // The present inventory has it again, so a build puts it back.
    put(&project.path().join("inventory/home/site.toml"), SITE);
    well(project.path(), &["build"]);
    put(&project.path().join("inventory/home/site.toml"), &format!("# a comment\n{SITE}"));
    well(project.path(), &["rollback", "--yes"]);
}

#[test]
fn gc_forgets_old_generations_and_leaves_what_is_run_and_what_would_be_gone_back_to() {
    let project = two();
    let site = project.path().join("inventory/home/site.toml");
    for number in 3..6 {
        put(&site, &format!("# {number}\n{SITE}"));
        well(project.path(), &["build"]);
    }
    let text = well(project.path(), &["gc", "--keep", "1", "--dry-run"]);
    assert!(text.starts_with("would forget 2 generations (3, 4); would remove 2 artifacts, 0 MiB"), "{text}");
    assert!(text.contains("the cache PROJECT/.cache/hearth is shared by projects and was left as it is"), "{text}");
    assert_eq!(listed(project.path()), ["1", "2*", "3", "4", "5"]);
    let text = well(project.path(), &["gc", "--keep", "1", "--json"]);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((line["forgotten"].to_string().as_str(), line["artifacts"].as_u64()), ("[3,4]", Some(2)));
    assert_eq!(listed(project.path()), ["1", "2*", "5"]);
    well(project.path(), &["rollback", "--yes"]);
    let held = store::Store::open(&project.path().join(".hearth/store")).unwrap();
    let (code, _, error) = hearth(project.path(), &["gc"]);
    let in_use = "error: a run or a build is using PROJECT/.hearth/store\n";
    assert_eq!((code, error.as_str()), (75, in_use));
    drop(held);
}

#[test]
fn a_run_that_was_killed_is_told_by_status_with_its_place() {
    let project = two();
    let run = project.path().join(".hearth/runs/2099-01-01T00-00-00Z/journal.jsonl");
    let events = "{\"v\":1,\"event\":\"run-started\",\"site\":\"home\",\"holder\":\"me@here, process 1 (`hearth run`), since then\"}\n\
         {\"v\":1,\"event\":\"stage-started\",\"stage\":\"storage\"}\n\
         {\"v\":1,\"event\":\"applying\",\"stage\":\"storage\",\"address\":\"zfs/pve1/tank\"}\n{\"v\":1,\"ev";
    put(&run, events);
    let (code, text, _) = hearth(project.path(), &["status"]);
    assert_eq!(code, 1);
    assert!(
        text.starts_with(
            "site home, run 2099-01-01T00-00-00Z: did not end\n  by me@here, process 1 (`hearth run`), since then\n  \
             it was killed while it applied zfs/pve1/tank\n  run it again: it goes on from there\n"
        ),
        "{text}"
    );
    let failed = format!(
        "{}\n{{\"v\":1,\"event\":\"failed\",\"message\":\"error: no way\"}}\n",
        events.trim_end_matches("{\"v\":1,\"ev")
    );
    put(&run, &failed);
    let (code, text, _) = hearth(project.path(), &["status", "--json"]);
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((code, line["outcome"].as_str(), line["what"].as_str()), (1, Some("failed"), Some("error: no way")));
}

#[test]
fn wrong_words_end_with_64() {
    let project = project();
    for args in [
        &["diff"][..],
        &["diff", "one"],
        &["diff", "1", "2", "3"],
        &["rollback", "-1"],
        &["rollback", "1", "2"],
        &["gc", "--keep", "few"],
        &["gc", "5"],
        &["generations", "1"],
    ] {
        assert_eq!(hearth(project.path(), args).0, 64, "{args:?}");
    }
}
