//! What the scenarios share: whose turn it is, repairing, altered copies of the site.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hearth_tests::{expect, hearth, lab, program, project, restore, ssh};
use remote::Command;

/// One scenario at a time, on a lab that is up and converged. One that failed must not hide the others: after it the lab is
/// brought back to how it was saved.
pub fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    let guard = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    lab();
    if FAILED.swap(false, Ordering::Relaxed) {
        restore("converged");
    }
    Turn { _guard: guard }
}

static FAILED: AtomicBool = AtomicBool::new(false);

/// A scenario's turn; ends when dropped.
pub struct Turn {
    _guard: MutexGuard<'static, ()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if std::thread::panicking() {
            FAILED.store(true, Ordering::Relaxed);
        }
    }
}

/// A run that repairs what a test broke on purpose, and a plan with nothing to change.
pub fn repaired() {
    expect(0, &hearth("run").arg("--yes"));
    expect(0, &hearth("plan"));
}

/// Waits until a shell command succeeds on a machine of the lab, which may not be up yet.
///
/// # Panics
/// After a quarter of an hour.
pub fn wait_until(machine: &str, what: &str, script: &str) {
    let begin = Instant::now();
    while !ssh(machine, script).deadline(Duration::from_secs(60)).output().is_ok_and(|output| output.status == 0) {
        assert!(begin.elapsed() < Duration::from_secs(900), "not within 15 minutes: {what}");
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// A copy of the lab's site beside it, with texts replaced; gone when dropped.
pub struct Altered {
    folder: PathBuf,
}

impl Altered {
    /// Copies `inventory/lab` to `inventory/NAME` and replaces `(file, from, to)`. The site keeps its name, so the copy
    /// is the same site with another wish.
    pub fn new(name: &str, edits: &[(&str, &str, &str)]) -> Self {
        let folder = project().join("inventory").join(name);
        let copy = Command::new("cp").arg("-rT").arg(project().join("inventory/lab")).arg(&folder);
        copy.run().expect("the site can be copied");
        let site = Self { folder };
        for (file, from, to) in edits {
            let path = site.folder.join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "'{from}' is not in {}", path.display());
            store::files::write_atomic(&path, text.replace(from, to), 0o644).unwrap();
        }
        site
    }

    /// Returns the copy's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins `hearth VERB` on the copy.
    pub fn hearth(&self, verb: &str) -> Command {
        self.tool("hearth", verb)
    }

    /// Begins `TOOL VERB` on the copy.
    pub fn tool(&self, name: &str, verb: &str) -> Command {
        program(name).args([verb, "--site"]).arg(self.folder()).deadline(Duration::from_secs(1500))
    }
}

impl Drop for Altered {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
