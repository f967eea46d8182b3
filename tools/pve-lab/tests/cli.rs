//! The command line: what it prints, and its exit codes. Nothing here needs root, QEMU or a lab.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use remote::local::{Command, Output};
use rustix::process::{Pid, Signal, kill_process};

fn command(dir: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let command = Command::new(env!("CARGO_BIN_EXE_pve-lab")).clear_env().env("PATH", path).env("HOME", dir);
    command.arg("--dir").arg(dir.join("lab")).args(["--namespace", "no-such-namespace"])
}

fn run(words: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = command(folder.path()).args(words).output().expect("the program starts");
    (output, folder)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_command_lines_end_64() {
    for words in [
        &[][..],
        &["fly"],
        &["up", "--image"],
        &["down", "now"],
        &["status", "x"],
        &["serve", "--listen", "x"],
        &["exec"],
        &["save"],
        &["restore"],
    ] {
        let (output, _folder) = run(words);
        assert_eq!(output.status, 64, "{words:?}: {}", errors(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn help_ends_0_and_goes_to_standard_output() {
    let (output, _folder) = run(&["--help"]);
    assert_eq!((output.status, output.stderr.len()), (0, 0));
    assert!(output.text().contains("A Proxmox VE API over real QEMU guests"));
}

#[test]
fn what_is_not_there_can_be_neither_saved_nor_brought_back() {
    let (output, folder) = run(&["save", "first"]);
    assert_eq!((output.status, output.stdout.len()), (1, 0));
    assert_eq!(errors(&output), "pve-lab: only a lab that is up can be saved: pve-lab up\n");
    assert!(!folder.path().join("lab/saved").exists());
    let (output, folder) = run(&["restore", "first"]);
    assert_eq!((output.status, output.stdout.len()), (1, 0));
    let place = folder.path().join("lab/saved/first/machines.json");
    assert!(errors(&output).starts_with(&format!("pve-lab: can't read {}: No such file", place.display())));
    let (output, _folder) = run(&["restore", "../x"]);
    assert_eq!(output.status, 1);
    assert_eq!(errors(&output), "pve-lab: '../x' is no name for a saved lab: letters, digits and - make one\n");
}

#[test]
fn a_lab_that_is_not_there_is_down() {
    let (output, _folder) = run(&["status"]);
    assert_eq!(output.status, 1);
    assert_eq!(output.text(), "network  -\nserver   -\nnode     -\n");
    let (output, _folder) = run(&["down"]);
    assert_eq!((output.status, output.text()), (0, "the lab was down already\n".to_owned()));
    let (output, folder) = run(&["down", "--wipe"]);
    assert_eq!(output.status, 0);
    assert!(!folder.path().join("lab").exists());
}

#[test]
fn exec_needs_a_lab() {
    let (output, _folder) = run(&["exec", "--", "true"]);
    assert_eq!(output.status, 1);
    assert_eq!(errors(&output), "pve-lab: the lab is not up: there is no namespace no-such-namespace\n");
}

#[test]
fn up_fails_by_name_and_leaves_no_network() {
    let (output, _folder) = run(&["up"]);
    assert_eq!(output.status, 1);
    let text = errors(&output);
    // Which of the two depends on what is installed here.
    let expected = ["the first `up` needs the node's image: --image-node FILE", "the lab needs "];
    assert!(expected.iter().any(|words| text.contains(words)), "{text}");
    assert!(!Path::new("/run/netns/no-such-namespace").exists());
}

#[test]
fn two_at_once_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("lab/run");
    fs::create_dir_all(&run).unwrap();
    let lock = fs::File::create(run.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let output = command(folder.path()).arg("down").output().unwrap();
    assert_eq!(output.status, 75, "{}", errors(&output));
}

#[test]
fn serve_says_where_it_listens_and_ends_on_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let words = ["serve", "--api-only", "--listen", "127.0.0.1:0", "--print-port", "--pid-file"];
    let command = command(folder.path()).args(words).arg(&pid_file).deadline(Duration::from_secs(30));
    let server = std::thread::spawn(move || command.output());
    let begin = Instant::now();
    let pid = loop {
        match fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw) {
            Some(pid) => break pid,
            None => assert!(begin.elapsed() < Duration::from_secs(20), "no pid file"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    kill_process(pid, Signal::TERM).unwrap();
    let output = server.join().unwrap().unwrap();
    assert_eq!(output.status, 0, "{}", errors(&output));
    assert!(output.text().starts_with("listening 127.0.0.1:"), "{}", output.text());
    assert!(!pid_file.exists());
    let token = fs::metadata(folder.path().join("lab/token")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&token.permissions()) & 0o777, 0o600);
}

#[test]
fn serve_fails_where_it_can_make_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("lab")).unwrap();
    let output = command(folder.path()).args(["serve", "--api-only", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(output.status, 1);
    assert!(errors(&output).starts_with("pve-lab: can't serve "), "{}", errors(&output));
}
