//! Processes known by a pid file.

use std::fs;
use std::path::Path;

use rustix::process::Pid;

/// Returns the process that a pid file names, if it runs and its command line names that very file. Numbers are used
/// again after a process has ended, so the number alone proves nothing.
pub(crate) fn of_pid_file(path: &Path) -> Option<Pid> {
    let number: i32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let line = fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let wanted = path.display().to_string();
    let names_it = line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes());
    Pid::from_raw(number).filter(|_| names_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_another_process_has_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("100.pid");
        store::files::write_atomic(&path, std::process::id().to_string(), 0o600).unwrap();
        assert_eq!(of_pid_file(&path), None);
        assert_eq!(of_pid_file(&folder.path().join("none")), None);
    }
}
