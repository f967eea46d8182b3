//! Secrets on the lab: a rotated one restarts what reads it and nothing else, and none is anywhere in the clear.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hearth_tests::{EXTRANET, INTRANET, NODE, expect, hearth, on, program, project};
use remote::Command;

use crate::support::{Altered, repaired, turn};

const SECRETS: [&str; 2] = ["database-password", "restic-password"];

/// Returns a secret's plain text, through an editor that copies it in memory.
fn plain(name: &str) -> String {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let copy = folder.path().join("copy");
    let editor = format!("cp -T -- \"$1\" {} #", copy.display());
    expect(0, &program("hearth").args(["secrets", "edit", name, "--site", "inventory/lab"]).env("EDITOR", editor));
    fs::read_to_string(copy).unwrap()
}

/// Start times of all containers by name.
fn starts() -> BTreeMap<String, String> {
    let listed = on(INTRANET, "docker ps -aq | xargs docker inspect --format '{{.Name}} {{.State.StartedAt}}'");
    listed.lines().filter_map(|line| line.split_once(' ')).map(|(name, at)| (name.to_owned(), at.to_owned())).collect()
}

/// Tells whether the database takes a password over TCP; it goes to the guest over standard input.
fn lets_in(password: &str) -> bool {
    let ask = "docker exec -i photos-postgres-1 sh -c 'IFS= read -r PGPASSWORD; export PGPASSWORD; \
               exec psql -h 127.0.0.1 -U postgres -Atc \"select 1\"'";
    let command = hearth_tests::ssh(INTRANET, ask).stdin(format!("{password}\n"));
    command.output().unwrap().status == 0
}

fn rotated(before: &BTreeMap<String, String>) -> Vec<String> {
    let now = starts();
    assert_eq!(before.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
    now.into_iter().filter(|(name, at)| before[name] != *at).map(|(name, _)| name).collect()
}

#[test]
fn a_rotated_password_restarts_the_one_container_that_reads_it() {
    let _turn = turn();
    let old = plain("database-password");
    assert!(lets_in(&old) && !lets_in("another"));
    let before = starts();
    let site = Altered::new("lab-rotated", &[]);
    let set = program("hearth").args(["secrets", "set", "database-password", "--site"]).arg(site.folder());
    expect(0, &set.stdin("rotated-5b1cc7a9d2e0"));

    let plan = expect(2, &site.hearth("plan")).text();
    println!("{plan}");
    let changes: Vec<_> = plan.lines().filter(|line| line.starts_with(['+', '~', '-'])).collect();
    assert_eq!(changes, ["~ stack/vm-intranet/photos"]);
    assert!(plan.contains("    restarts vm-intranet/photos/postgres\n"), "{plan}");
    expect(0, &site.hearth("run").arg("--yes"));
    assert_eq!(rotated(&before), ["/photos-postgres-1"]);
    assert!(lets_in("rotated-5b1cc7a9d2e0") && !lets_in(&old));
    expect(0, &site.hearth("plan"));

    let before = starts();
    repaired();
    assert_eq!(rotated(&before), ["/photos-postgres-1"]);
    assert!(lets_in(&old) && !lets_in("rotated-5b1cc7a9d2e0"));
}

#[test]
fn a_secret_that_is_missing_or_altered_on_the_guest_is_seen_and_mended() {
    let _turn = turn();
    let before = starts();
    let file = "/run/hearth/secrets/photos/database-password";
    for (harm, word) in [(format!("rm {file}"), "missing"), (format!("echo x >{file}"), "altered")] {
        on(INTRANET, &harm);
        let plan = expect(2, &hearth("plan")).text();
        assert!(plan.contains("~ stack/vm-intranet/photos") && plan.contains(word), "{plan}");
        assert!(!plan.contains("restarts"), "{plan}");
        repaired();
        assert_eq!(on(INTRANET, &format!("stat -c '%a %u' {file}")), "600 0");
    }
    assert_eq!(rotated(&before), Vec::<String>::new());
    assert!(lets_in(&plain("database-password")));
}

/// The forms in which a text may be found again, but for those that contain another of them.
fn forms(text: &str) -> Vec<String> {
    let base64 = |skip: usize| {
        // What stands in front of the text shifts it; letters that depend on the neighbours are left out.
        let padded = [vec![0; skip], text.as_bytes().to_vec()].concat();
        let encoded = encode(&padded);
        let whole = padded.len() / 3 * 4;
        encoded[[0, 2, 3][skip]..whole].to_owned()
    };
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let url: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let reversed: String = text.chars().rev().collect();
    vec![text.to_owned(), base64(0), base64(1), base64(2), hex.to_uppercase(), hex, url, reversed]
}

fn encode(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().chain([0, 0].iter()).take(3).fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        for place in 0..=chunk.len() {
            text.push(char::from(LETTERS[number >> (18 - 6 * place) & 63]));
        }
    }
    text
}

/// Writes patterns into a file in memory, one a line: on no command line, for the lists of processes are searched too.
struct Patterns(tempfile::NamedTempFile);

impl Patterns {
    fn new(texts: &[String]) -> Self {
        let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let lines: Vec<_> = texts.iter().flat_map(|text| forms(text)).collect();
        std::io::Write::write_all(&mut file, lines.join("\n").as_bytes()).unwrap();
        Self(file)
    }

    /// Returns the patterns that a file, a folder or a device has, each once.
    fn here(&self, paths: &[&Path]) -> Vec<String> {
        let grep = "export LC_ALL=C; f=$1; shift; grep -raohF -f \"$f\" -- \"$@\" 2>/dev/null | sort -u || true";
        let command = Command::new("sh").args(["-c", grep, "grep"]).arg(self.0.path()).args(paths);
        let output = command.deadline(std::time::Duration::from_secs(900)).output().unwrap();
        output.text().lines().map(str::to_owned).collect()
    }

    /// Returns the patterns that a disk has. Zeros become line ends: a line as long as an empty disk would not fit in memory.
    fn disk(&self, path: &Path) -> Vec<String> {
        let grep = "export LC_ALL=C; tr '\\0' '\\n' <\"$2\" | grep -aohF -f \"$1\" | sort -u";
        let command = Command::new("sh").args(["-c", grep, "grep"]).arg(self.0.path()).arg(path);
        let output = expect(0, &command.deadline(std::time::Duration::from_secs(900)));
        output.text().lines().map(str::to_owned).collect()
    }

    /// Runs a shell command on a machine and returns the patterns in what it prints. The patterns stay here.
    fn on(&self, machine: &str, script: &str) -> Vec<String> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let output = hearth_tests::ssh(machine, script).deadline(std::time::Duration::from_secs(900)).output().unwrap();
        store::files::write_atomic(file.path(), &output.stdout, 0o600).unwrap();
        assert!(!output.stdout.is_empty(), "{machine}: {script}: {}", String::from_utf8_lossy(&output.stderr));
        self.here(&[file.path()])
    }
}

/// All that processes were started with, on the machine where it runs.
const PROCESSES: &str = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true";
/// What Docker and the journal tell.
const TOLD: &str = "docker ps -aq | xargs docker inspect; docker ps -aq | xargs -n 1 docker logs 2>&1; journalctl --no-pager -o export; \
                    cat /var/lib/hearth/stacks/*/current/*";

/// The files that are disks of the lab's machines: the node's, and those of the guests.
fn disks() -> Vec<std::path::PathBuf> {
    let list = "find .hearth/lab/disks .hearth/lab/storage -type f \\( -name '*.qcow2' -o -name '*.raw' -o -name '*.img' \\) -size +1M";
    let output = expect(0, &Command::new("sh").args(["-c", list]).folder(project()));
    let disks: Vec<_> = output.text().lines().map(|path| project().join(path)).collect();
    assert!(disks.len() >= 4, "{disks:?}");
    disks
}

#[test]
fn the_plain_text_is_nowhere_and_would_be_found() {
    let _turn = turn();
    let secrets = Patterns::new(&SECRETS.map(plain));
    let nothing: Vec<String> = Vec::new();
    // A canary of each run, so that what an earlier one left is not taken for this one's.
    let word = format!("canary{:x}q{}", std::process::id(), std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let canary = Patterns::new(std::slice::from_ref(&word));
    let lines = forms(&word).join("\n");
    let all = forms(&word).into_iter().collect::<std::collections::BTreeSet<_>>().len();

    // On this machine: store, generations, journals, reports, the lab's logs.
    let kept = [".hearth/store", ".hearth/generations", ".hearth/runs"].map(|path| project().join(path));
    let kept: Vec<&Path> = kept.iter().map(AsRef::as_ref).collect();
    assert_eq!(secrets.here(&kept), nothing);
    for folder in &kept {
        let planted = folder.join("canary.txt");
        store::files::write_atomic(&planted, &lines, 0o600).unwrap();
        assert_eq!(canary.here(&[folder]).len(), all, "{}", folder.display());
        fs::remove_file(planted).unwrap();
    }

    // Lists of processes, at rest, and what Docker and journals tell; a process that has the canary is found.
    let local = Command::new("sh").args(["-c", PROCESSES]).env("CANARY", &word).output().unwrap();
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    store::files::write_atomic(file.path(), &local.stdout, 0o600).unwrap();
    assert_eq!(secrets.here(&[file.path()]), nothing);
    assert!(canary.here(&[file.path()]).contains(&word));
    for machine in [NODE, INTRANET, EXTRANET] {
        assert_eq!(secrets.on(machine, PROCESSES), nothing, "{machine}");
        let planted = format!("sh -c 'sleep 30; :' {word} & {PROCESSES}; kill $!");
        assert!(canary.on(machine, &planted).contains(&word), "{machine}");
    }
    assert_eq!(secrets.on(INTRANET, TOLD), nothing);
    let planted = format!("echo {word} | systemd-cat; sleep 2; journalctl --sync; {TOLD}");
    assert!(canary.on(INTRANET, &planted).contains(&word));
    // In the containers the secret is where it belongs, so that the search had something to find.
    let inside = "cat /run/hearth/secrets/photos/database-password";
    assert_eq!(secrets.on(INTRANET, inside), [plain("database-password")]);

    // The disks as the lab keeps them, after all that is in memory was written to them.
    let plant = format!("d=$1; mkdir -p $d; printf '%s\\n' '{}' >$d/canary; sync", lines.replace('\n', "' '"));
    for (machine, folder) in [(NODE, "/root/canary"), (INTRANET, "/root/canary"), (EXTRANET, "/root/canary")] {
        on(machine, &format!("set -- {folder}; {plant}"));
    }
    on(NODE, &format!("set -- /tank-hdd/logs/canary; {plant}; set -- /tank-ssd/appdata/canary; {plant}; zpool sync"));
    let disks = disks();
    let mut found = 0;
    for disk in &disks {
        assert_eq!(secrets.disk(disk), nothing, "{}", disk.display());
        let forms = canary.disk(disk).len();
        println!("{}: {forms} of {all} forms of the canary", disk.display());
        found += usize::from(forms == all);
    }
    on(NODE, "rm -r /root/canary /tank-hdd/logs/canary /tank-ssd/appdata/canary");
    on(INTRANET, "rm -r /root/canary");
    on(EXTRANET, "rm -r /root/canary");
    assert!(found >= 4, "the canary was found whole on {found} disks of {}", disks.len());
    repaired();
}
