//! `hearth secrets` as its user meets it: a success, a failure and a usage error of each sub-command.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use hearth_tests::contract::SITE;
use tempfile::TempDir;

/// Made for these tests with age-keygen.
const IDENTITY: &str = "AGE-SECRET-KEY-1CW02CE83R4J6V4VL7KJ6HURDL2EHFZCW8Z7Y2H0ZSTY3WKYY2YKQUNQM4U";
const RECIPIENT: &str = "age1q7p898ew2ezwc8r8xk5k04ctj0gq4zyecnjujcnqc49537jww4cs2qrwum";
const OTHER_IDENTITY: &str = "AGE-SECRET-KEY-13F4CRJGCDKPCVK8XJH3N3GRK8JX00UN6GRT5075QHNEVQZNQCCQSZMGKXV";
const OTHER_RECIPIENT: &str = "age14qfjv5a0a6vp6scmz9nfcsxlys508femkkkuk33jumvhgv2xesqsw08yla";

fn put(path: &Path, text: &str, mode: u32) {
    store::files::write_atomic(path, text, mode).unwrap();
}

fn recipients(project: &Path, names: &[&str]) {
    let list: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let text = format!("[secrets]\nrecipients = [{}]\nidentity_files = [\"key\"]\n", list.join(", "));
    put(&project.join("inventory/home/secrets.toml"), &text, 0o644);
}

fn project() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    put(&at("inventory/home/site.toml"), SITE, 0o644);
    put(&at("pipeline.toml"), "site = \"inventory/home\"\n", 0o644);
    recipients(folder.path(), &[RECIPIENT]);
    folder
}

/// A stack that uses a secret, whether there is one or not.
fn stack(project: &Path) {
    let text = "[templates.t]\nhost = \"pve1\"\nvmid = 9001\nimage = \"base\"\n[guests.vm]\nhost = \"pve1\"\nvmid = 101\n\
        template = \"t\"\naddress = \"192.0.2.2\"\nmemory = \"1G\"\ndisk = \"4G\"\nuser = \"me\"\n\
        authorized_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey me@here\"]\n\
        [stacks.web]\nguest = \"vm\"\nsecrets = { token = \"web-token\" }\n";
    put(&project.join("inventory/home/stacks.toml"), text, 0o644);
    put(&project.join("inventory/home/stacks/web/compose.yaml"), "services: {}\n", 0o644);
    put(&project.join("images/base.toml"), "", 0o644);
}

struct Ended {
    code: i32,
    out: String,
    error: String,
}

fn run(project: &Path, args: &[&str], env: &[(&str, &str)], input: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
    command
        .arg("secrets")
        .args(args)
        .current_dir(project)
        .env_clear()
        .env("HOME", project)
        .env("PATH", "/usr/bin:/bin");
    let output = command.envs(env.iter().copied()).write_stdin(input).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*project.to_string_lossy(), "PROJECT");
    let ended = Ended { code: output.status.code().unwrap(), out: text(&output.stdout), error: text(&output.stderr) };
    for printed in [&ended.out, &ended.error] {
        assert!(!printed.contains("horse") && !printed.contains("AGE-SECRET-KEY"), "{printed}");
    }
    ended
}

const KEY: [(&str, &str); 1] = [("HEARTH_AGE_KEY", IDENTITY)];

fn set(project: &Path, name: &str, text: &str) {
    let ended = run(project, &["set", name], &[], text);
    assert_eq!((ended.code, &*ended.error), (0, ""), "{}", ended.out);
}

fn file(project: &Path, name: &str) -> String {
    fs::read_to_string(project.join(format!("inventory/home/secrets/{name}.age"))).unwrap_or_default()
}

/// Opens a secret with an editor that copies it elsewhere.
fn plain(project: &Path, name: &str) -> String {
    let copy = project.join("copy");
    let editor = format!("cp -T -- \"$1\" {} #", copy.display());
    assert_eq!(run(project, &["edit", name], &[KEY[0], ("EDITOR", &editor)], "").code, 0);
    fs::read_to_string(copy).unwrap()
}

#[test]
fn set_writes_what_the_recipient_can_open_and_says_who_uses_it() {
    let project = project();
    let project = project.path();
    stack(project);
    let ended = run(project, &["set", "web-token"], &[], "horse battery\n");
    assert_eq!((ended.code, &*ended.error), (0, ""));
    assert_eq!(ended.out, "web-token: made, for 1 recipients; used by stack web as token\n");
    assert!(file(project, "web-token").starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
    assert_eq!(plain(project, "web-token"), "horse battery");
    assert!(run(project, &["set", "web-token", "--raw"], &[], "horse\n").out.contains("replaced"));
    assert_eq!(plain(project, "web-token"), "horse\n");
}

#[test]
fn set_refuses_nothing_and_nobody() {
    let project = project();
    let project = project.path();
    let empty = run(project, &["set", "db"], &[], "\n");
    assert_eq!((empty.code, &*empty.error), (78, "error: the secret db would be empty, so nothing was written\n"));
    fs::remove_file(project.join("inventory/home/secrets.toml")).unwrap();
    let nobody = run(project, &["set", "db"], &[], "horse");
    assert_eq!(nobody.code, 78);
    assert_eq!(
        nobody.error,
        "error: the site names no recipients, so that nobody could open what is written\n  \
         hint: add a table [secrets] with `recipients = [\"age1…\"]`\n"
    );
    assert_eq!(file(project, "db"), "");
}

#[test]
fn list_names_secrets_and_users_and_what_is_to_come() {
    let project = project();
    let project = project.path();
    assert_eq!(run(project, &["list"], &[], "").out, "there are no secrets in PROJECT/inventory/home/secrets\n");
    stack(project);
    set(project, "other", "horse");
    assert_eq!(
        run(project, &["list"], &[], "").out,
        "other: used by nobody\nweb-token: used by stack web as token; there is no file of it yet\n"
    );
    put(&project.join("inventory/home/secrets/A_B.age"), "", 0o644);
    let ended = run(project, &["list"], &[], "");
    assert_eq!(ended.code, 78);
    assert!(ended.error.starts_with("error: 'A_B.age' can't be a secret: a name has 1 to 63"), "{}", ended.error);
}

#[test]
fn check_opens_all_and_fails_loudly() {
    let project = project();
    let project = project.path();
    set(project, "db", "horse");
    set(project, "token", "horse");
    let ended = run(project, &["check"], &KEY, "");
    assert_eq!((ended.code, &*ended.error), (0, ""));
    assert_eq!(
        ended.out,
        "✓ db: opens; for 1 age keys and 0 SSH keys\n✓ token: opens; for 1 age keys and 0 SSH keys\n"
    );
    put(&project.join("key"), "", 0o600);
    let none = run(project, &["check"], &[], "");
    assert_eq!(none.code, 78);
    assert!(
        none.error.contains("looked for $HEARTH_AGE_KEY, $HEARTH_AGE_KEY_FILE, PROJECT/inventory/home/key"),
        "{}",
        none.error
    );
    let wrong = run(project, &["check"], &[("HEARTH_AGE_KEY", OTHER_IDENTITY)], "");
    assert_eq!((wrong.code, &*wrong.error), (78, "error: 2 of 2 secrets are wrong\n"));
    assert!(wrong.out.contains("db.age is not encrypted for the identities that are here ($HEARTH_AGE_KEY)"));

    recipients(project, &[RECIPIENT, OTHER_RECIPIENT]);
    let whole = file(project, "token");
    put(&project.join("inventory/home/secrets/token.age"), &whole[..whole.len() - 60], 0o644);
    let ended = run(project, &["check"], &KEY, "");
    assert_eq!((ended.code, &*ended.error), (78, "error: 2 of 2 secrets are wrong\n"));
    assert!(
        ended.out.starts_with(
            "✗ db: it opens, but it is for 1 age keys, and the site names 2\n  hint: run: hearth secrets rekey db\n\
             ✗ token: PROJECT/inventory/home/secrets/token.age is truncated or was altered: "
        ),
        "{}",
        ended.out
    );
    stack(project);
    let ended = run(project, &["check"], &KEY, "");
    assert!(ended.out.contains("✗ web-token: there is no secret file "), "{}", ended.out);
}

#[test]
fn edit_keeps_what_is_unchanged_and_leaves_no_plain_text() {
    let project = project();
    let project = project.path();
    set(project, "db", "horse");
    let before = file(project, "db");
    let edit = |editor: &str| run(project, &["edit", "db"], &[KEY[0], ("EDITOR", editor)], "");
    let place = project.join("place");
    let ended = edit(&format!("f() {{ echo \"$1\" >{}; stat -c %a \"$1\" >&2; }}; f", place.display()));
    assert_eq!((ended.code, &*ended.out), (0, "db: unchanged, so it was not written\n"));
    assert_eq!(ended.error, "600\n");
    assert_eq!(file(project, "db"), before);
    let place = fs::read_to_string(place).unwrap();
    assert!(place.starts_with("/dev/shm/hearth-secret.") || place.starts_with("/run/"), "{place}");
    assert!(!Path::new(place.trim()).exists());
    let ended = edit("sed -i s/horse/horse2/");
    assert_eq!((ended.code, &*ended.out), (0, "db: replaced, for 1 recipients; used by nobody\n"));
    assert_ne!(file(project, "db"), before);
    assert_eq!(plain(project, "db"), "horse2");
}

#[test]
fn edit_that_fails_writes_nothing() {
    let project = project();
    let project = project.path();
    set(project, "db", "horse");
    let before = file(project, "db");
    let failed = run(project, &["edit", "db"], &[KEY[0], ("EDITOR", "f() { echo x >\"$1\"; false; }; f")], "");
    assert_eq!(failed.code, 1);
    assert!(failed.error.contains("nothing was written"), "{}", failed.error);
    let none = run(project, &["edit", "db"], &KEY, "");
    assert_eq!(
        (none.code, &*none.error),
        (78, "error: neither VISUAL nor EDITOR names an editor\n  hint: export EDITOR=nano\n")
    );
    let empty = run(project, &["edit", "db"], &[KEY[0], ("EDITOR", "f() { : >\"$1\"; }; f")], "");
    assert_eq!(empty.code, 78);
    let wrong = [("HEARTH_AGE_KEY", OTHER_IDENTITY), ("EDITOR", "false")];
    assert_eq!(run(project, &["edit", "db"], &wrong, "").code, 78);
    assert_eq!(file(project, "db"), before);
}

#[test]
fn rekey_lets_those_in_who_joined_and_keeps_those_out_who_left() {
    let project = project();
    let project = project.path();
    set(project, "db", "horse");
    set(project, "token", "battery");
    recipients(project, &[OTHER_RECIPIENT]);
    let ended = run(project, &["rekey", "db"], &KEY, "");
    assert_eq!((ended.code, &*ended.out), (0, "db: replaced, for 1 recipients; used by nobody\n"));
    let other = [("HEARTH_AGE_KEY", OTHER_IDENTITY)];
    let wrong = run(project, &["rekey"], &other, "");
    assert_eq!(wrong.code, 78);
    assert!(wrong.error.contains("token.age is not encrypted for"), "{}", wrong.error);
    // The identity can lie in the file that the inventory names, too.
    put(&project.join("inventory/home/key"), &format!("{IDENTITY}\n{OTHER_IDENTITY}\n"), 0o600);
    assert_eq!(run(project, &["rekey"], &[], "").code, 0);
    fs::remove_file(project.join("inventory/home/key")).unwrap();
    assert_eq!(run(project, &["check"], &other, "").code, 0);
    assert_eq!(run(project, &["check"], &KEY, "").code, 78);
    assert_eq!(run(project, &["rekey", "gone"], &other, "").code, 78);
}

#[test]
fn wrong_words_end_with_64() {
    let project = project();
    let wrong: [&[&str]; 7] =
        [&[], &["show"], &["list", "x"], &["check", "x"], &["edit"], &["set", "A_B"], &["rekey", "--all"]];
    for args in wrong {
        let ended = run(project.path(), args, &[], "");
        assert_eq!(ended.code, 64, "{args:?}: {}", ended.error);
    }
}
