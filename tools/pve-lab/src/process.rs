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

/// Returns whether a process has ended and let go of all its files. One that is ending has no command line any more, but
/// holds its taps and disks until its memory is given back.
pub(crate) fn has_ended(number: i32) -> bool {
    // The state is the first word behind the name in brackets (proc_pid_stat(5)); a zombie has no files.
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_when_it_is_gone_or_a_zombie() {
        assert!(!has_ended(i32::try_from(std::process::id()).unwrap()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        while !has_ended(number) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(has_ended(number));
    }

    #[test]
    fn a_number_that_another_process_has_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("100.pid");
        store::files::write_atomic(&path, std::process::id().to_string(), 0o600).unwrap();
        assert_eq!(of_pid_file(&path), None);
        assert_eq!(of_pid_file(&folder.path().join("none")), None);
    }
}
