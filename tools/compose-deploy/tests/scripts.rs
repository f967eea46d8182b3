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
    for name in
        ["stack", "keep-stacks", "observe", "load", "deploy", "start", "poll", "outcome", "remove", "secrets", "forget"]
    {
        Command::new("sh").arg("-n").arg(script(&format!("{name}.sh"))).run().unwrap();
    }
}

/// Runs a script as a deployment would, with the guest's folders below one in memory, and a `systemd-creds` that turns
/// letters: it shows what would lie on the disk, and refuses what was encrypted under another name.
fn deployed(folder: &Path, script_name: &str, variables: &str, input: &[u8]) -> Output {
    let creds = "#!/bin/sh\nset -eu\nverb=$1; shift\nfor a in \"$@\"; do case $a in --name=*) name=${a#--name=} ;; \
        -*) [ \"$a\" = - ] && out=- ;; *) if [ -z \"${in:-}\" ]; then in=$a; else out=$a; fi ;; esac; done\n\
        if [ \"$verb\" = encrypt ]; then { echo \"$name\"; tr a-z b-za <\"$in\"; } >\"$out\"\n\
        elif [ \"$(head -n 1 \"$in\")\" != \"$name\" ]; then exit 1\n\
        elif [ \"$out\" = - ]; then tail -n +2 \"$in\" | tr b-za a-z\n\
        else tail -n +2 \"$in\" | tr b-za a-z >\"$out\"; fi\n";
    store::files::write_atomic(&folder.join("bin/systemd-creds"), creds, 0o755).unwrap();
    store::files::write_atomic(&folder.join("bin/chown"), "#!/bin/sh\nexit 0\n", 0o755).unwrap();
    let text = std::fs::read_to_string(script(script_name)).unwrap();
    let text = text.replace("/var/lib/hearth", &format!("{}/disk", folder.display()));
    let text = text.replace("/run/hearth", &format!("{}/memory", folder.display()));
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    let command = Command::new("sh").args(["-euc", &format!("{variables}\n{text}")]).env("PATH", path);
    command.stdin(input).output().unwrap()
}

fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// Packs files as a deployment sends them.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The user who runs the test, as whom its files are: `chown` is only pretended.
fn me() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap())
}

fn send(folder: &Path, text: &str, mark: &str) -> Output {
    let variables = format!("NAME=web WANTED='token {mark}@{}'", me());
    deployed(folder, "secrets.sh", &variables, &tar(&[("token", text), (".whole", "")]))
}

fn read(folder: &Path, path: &str) -> String {
    std::fs::read_to_string(folder.join(path)).unwrap_or_default()
}

/// What `observe.sh` says of the secrets.
fn seen(folder: &Path) -> String {
    let said = deployed(folder, "observe.sh", "", b"").text();
    said.lines().filter(|line| line.starts_with("secret|")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_secret_lies_in_memory_and_encrypted_on_the_disk() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let folder = in_memory();
    let folder = folder.path();
    let output = send(folder, "horse", "abc");
    assert_eq!(output.status, 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(read(folder, "memory/secrets/web/token"), "horse");
    assert_eq!(read(folder, "disk/secrets/web/token"), "hearth.web.token\nipstf");
    assert_eq!(read(folder, "disk/secrets/web/list"), format!("token abc@{}\n", me()));
    let meta = |path: &str| std::fs::metadata(folder.join(path)).unwrap();
    assert_eq!(meta("memory/secrets/web/token").permissions().mode() & 0o777, 0o600);
    assert_eq!(meta("memory/secrets/web").permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::read_dir(folder.join("memory/secrets/web")).unwrap().count(), 1, "nothing else stays");
    assert_eq!(seen(folder), format!("secret|web|token|abc@{}|ok", me()));

    // A rotated one is another file: what runs keeps the one that it was started with.
    let before = meta("memory/secrets/web/token").ino();
    assert_eq!(send(folder, "zebra", "def").status, 0);
    assert_ne!(meta("memory/secrets/web/token").ino(), before);
    assert_eq!(read(folder, "disk/secrets/web/list"), format!("token def@{}\n", me()));

    // An altered one is mended in place: what runs has this file open.
    let before = meta("memory/secrets/web/token").ino();
    std::fs::OpenOptions::new().write(true).open(folder.join("memory/secrets/web/token")).unwrap().set_len(2).unwrap();
    assert_eq!(seen(folder), format!("secret|web|token|def@{}|altered", me()));
    assert_eq!(send(folder, "zebra", "def").status, 0);
    assert_eq!(
        (meta("memory/secrets/web/token").ino(), read(folder, "memory/secrets/web/token")),
        (before, "zebra".into())
    );

    // A readable one is altered too, and one that is not there is missing.
    std::fs::set_permissions(folder.join("memory/secrets/web/token"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(seen(folder), format!("secret|web|token|def@{}|altered", me()));
    std::fs::remove_file(folder.join("memory/secrets/web/token")).unwrap();
    assert_eq!(seen(folder), format!("secret|web|token|def@{}|missing", me()));
}

#[test]
fn secrets_that_came_incomplete_or_to_a_disk_are_refused() {
    let folder = in_memory();
    let variables = "NAME=web WANTED='token abc@0'";
    let whole = tar(&[("token", "horse"), (".whole", "")]);
    for (input, said) in [(tar(&[("token", "horse")]), "the secrets came incomplete"), (whole[..600].to_vec(), "tar: ")]
    {
        let output = deployed(folder.path(), "secrets.sh", variables, &input);
        assert_ne!(output.status, 0);
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(read(folder.path(), "memory/secrets/web/token"), "");
        assert_eq!(read(folder.path(), "disk/secrets/web/list"), "");
    }
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = deployed(disk.path(), "secrets.sh", variables, &whole);
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not lie in memory (tmpfs)"));
    assert_eq!(output.status, 1);
    let grep = Command::new("grep").args(["-r", "horse"]).arg(disk.path()).output().unwrap();
    assert_eq!(grep.status, 1, "{}", grep.text());
}

#[test]
fn a_stack_finds_its_secrets_after_a_boot_and_tells_compose_their_marks() {
    let folder = in_memory();
    let folder = folder.path();
    bundle(folder);
    assert_eq!(send(folder, "horse", "abc").status, 0);
    std::fs::remove_dir_all(folder.join("memory")).unwrap();
    let docker = "#!/bin/sh\ncase $1 in\nps) echo 'x||running|Up' ;;\n*) echo \"mark $HEARTH_SECRET_TOKEN\" ;;\nesac\n";
    store::files::write_atomic(&folder.join("bin/docker"), docker, 0o755).unwrap();
    let wrong = folder.join("memory/secrets/web/token");
    std::fs::create_dir_all(&wrong).unwrap();
    let base = format!("mkdir -p {0}/disk; mv {0}/stacks {0}/disk/stacks; set -- up web 1", folder.display());
    let output = deployed(folder, "stack.sh", &base, b"");
    assert_eq!(output.status, 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.text(), format!("mark abc@{}\n", me()));
    assert_eq!(read(folder, "memory/secrets/web/token"), "horse");
    // On another machine the file says nothing, and the stack does not start without it.
    std::fs::remove_dir_all(folder.join("memory")).unwrap();
    store::files::write_atomic(&folder.join("disk/secrets/web/token"), "another\nipstf", 0o600).unwrap();
    assert_ne!(deployed(folder, "stack.sh", "set -- up web 1", b"").status, 0);
}

#[test]
fn a_secret_that_is_used_no_more_goes() {
    let folder = in_memory();
    let folder = folder.path();
    assert_eq!(send(folder, "horse", "abc").status, 0);
    assert_eq!(deployed(folder, "forget.sh", "NAME=web KEEP=' token '", b"").status, 0);
    assert_eq!(read(folder, "memory/secrets/web/token"), "horse");
    assert_eq!(deployed(folder, "forget.sh", "NAME=web KEEP=' other '", b"").status, 0);
    assert_eq!(seen(folder), "");
    assert!(!folder.join("memory/secrets/web/token").exists() && !folder.join("disk/secrets/web/token").exists());
    assert_eq!(deployed(folder, "forget.sh", "NAME=none KEEP=' '", b"").status, 0);
}
