//! Every wrong input in `tests/golden/bad` gives exactly the message and the exit code beside it.
//!
//! A case is one file: what is wrong, the command line, how the good project in `tests/golden/base` is made wrong, and what
//! that gives. `HEARTH_BLESS=1` writes the last anew. The same program is each of the tools, so that a case needs nothing
//! built but this test.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use remote::Command;

/// Says to this program which tool it is.
const TOOL: &str = "HEARTH_GOLDEN_TOOL";

fn main() -> ExitCode {
    match std::env::var(TOOL).as_deref() {
        Err(_) => cases(),
        Ok("zfs-init") => converge::cli::main(&zfs_init::ZfsInit),
        Ok("nfs-export") => converge::cli::main(&nfs_export::NfsExport),
        Ok("vm-build") => converge::cli::main(&vm_build::VmBuild::default()),
        Ok("compose-deploy") => converge::cli::main(&compose_deploy::ComposeDeploy::new()),
        Ok("verify") => converge::cli::main(&verify::Verify),
        Ok(other) => panic!("no tool is called {other}"),
    }
}

/// A wrong input.
struct Case {
    path: PathBuf,
    /// All before what it gives.
    head: String,
    /// The tool and its arguments.
    words: Vec<String>,
    /// A shell script that makes the project wrong.
    script: String,
    /// The exit code and the text.
    gives: String,
}

impl Case {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let (head, gives) = text
            .split_once("\n=== ")
            .map(|(head, gives)| (format!("{head}\n"), gives.to_owned()))
            .unwrap_or((text, String::new()));
        let command = head
            .lines()
            .find_map(|line| line.strip_prefix("$ "))
            .unwrap_or_else(|| panic!("{} has no command", path.display()));
        let words = command.split(' ').map(str::to_owned).collect();
        let script = head.split_once(&format!("$ {command}\n")).unwrap().1.to_owned();
        Self { path, head, words, script, gives }
    }

    /// Runs the command in a project of its own.
    fn run(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("home");
        let base = golden().join("base");
        Command::new("cp").arg("-r").arg(&base).arg(&project).run().unwrap();
        let change = format!("{HELP}{}", self.script);
        Command::new("bash")
            .args(["-euc", &change])
            .folder(&project)
            .run()
            .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        let (tool, arguments) = self.words.split_first().unwrap();
        let program = if tool == "hearth" {
            PathBuf::from(env!("CARGO_BIN_EXE_hearth"))
        } else {
            std::env::current_exe().unwrap()
        };
        let command = Command::new(program)
            .args(arguments)
            .clear_env()
            .env("HOME", &project)
            .env(TOOL, tool)
            .env("PATH", "/usr/bin:/bin")
            .folder(&project)
            .deadline(Duration::from_secs(60));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).replace(&*project.to_string_lossy(), "PROJECT");
        // The usage names the program by its file.
        let me = std::env::current_exe().unwrap();
        let text = text.replace(&*me.file_name().unwrap().to_string_lossy(), tool);
        format!("{}\n{text}", output.status)
    }
}

/// What the cases' scripts use: `edit FILE OLD NEW` replaces what must be there once, `more FILE TEXT` adds lines.
const HELP: &str = r#"
i=inventory/home
edit() {
    t=$(cat "$1"; echo x)
    case $t in *"$2"*"$2"*) echo "'$2' is in $1 twice" >&2; return 1 ;; *"$2"*) ;; *) echo "'$2' is not in $1" >&2; return 1 ;; esac
    t=${t/"$2"/"$3"}
    printf %s "${t%x}" >"$1"
}
more() { printf '%s\n' "$2" >>"$1"; }
"#;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").canonicalize().unwrap()
}

fn cases() -> ExitCode {
    let begin = Instant::now();
    let only = std::env::args().skip(1).find(|word| !word.starts_with('-')).unwrap_or_default();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let entries = fs::read_dir(golden().join("bad")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains(&only)).collect();
    paths.sort();
    let cases: Vec<Case> = paths.into_iter().map(Case::read).collect();
    assert!(!only.is_empty() || cases.len() >= 120, "only {} cases", cases.len());
    let (next, different) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let bless = std::env::var_os("HEARTH_BLESS").is_some();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let gives = case.run();
                    if bless {
                        store::files::write_atomic(&case.path, format!("{}=== {gives}", case.head), 0o644).unwrap();
                    } else if gives != case.gives {
                        different.lock().unwrap().push(format!(
                            "{}\nwanted {}\ngot {gives}",
                            case.path.display(),
                            case.gives
                        ));
                    }
                }
            });
        }
    });
    let different = different.into_inner().unwrap();
    println!(
        "{} wrong inputs, {} not as their files say, {} ms",
        cases.len(),
        different.len(),
        begin.elapsed().as_millis()
    );
    for text in &different {
        eprintln!("{text}");
    }
    if different.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
