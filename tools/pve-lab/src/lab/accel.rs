//! Acceleration: whether KVM boots a kernel here. The device file alone proves nothing, so it is found out by booting.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use remote::local::Command;
use rustix::process::{Signal, kill_process};

use crate::layout::Layout;
use crate::process;

/// How long a kernel may take until it says its version.
const FIRST_WORDS: Duration = Duration::from_secs(12);

/// How QEMU runs a guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// On the processor itself.
    Kvm,
    /// By emulation: some twenty times slower.
    Tcg,
}

impl Accel {
    /// Returns QEMU's arguments.
    pub(crate) fn args(self) -> Vec<String> {
        let words = match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Without five-level paging every walk of the page tables, which is emulated, is a level shorter.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
        };
        words.map(str::to_owned).to_vec()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Returns this boot of the machine, which a finding is good for.
fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Returns what was found out in this boot; emulation, which works everywhere, if nothing was.
pub(crate) fn known(layout: &Layout) -> io::Result<Accel> {
    Ok(cached(layout)?.unwrap_or(Accel::Tcg))
}

fn cached(layout: &Layout) -> io::Result<Option<Accel>> {
    let Ok(text) = fs::read_to_string(layout.run("accel")) else { return Ok(None) };
    let (name, boot) = text.trim().split_once(' ').unwrap_or_default();
    let all = [Accel::Kvm, Accel::Tcg];
    let current = boot == boot_id()?;
    Ok(all.into_iter().find(|accel| accel.name() == name).filter(|_| current))
}

/// Finds out whether KVM boots the image's kernel, once a boot of the machine.
pub(crate) fn probe(layout: &Layout, image: &Path) -> io::Result<Accel> {
    if let Some(known) = cached(layout)? {
        return Ok(known);
    }
    let works = Path::new("/dev/kvm").exists() && boots(layout, image)?;
    let accel = if works { Accel::Kvm } else { Accel::Tcg };
    store::files::write_atomic(&layout.run("accel"), format!("{} {}\n", accel.name(), boot_id()?), 0o644)?;
    Ok(accel)
}

fn boots(layout: &Layout, image: &Path) -> io::Result<bool> {
    let (pid, serial) = (layout.run("probe.pid"), layout.run("probe.log"));
    let works = speaks(&pid, &serial, image);
    if let Some(process) = process::of_pid_file(&pid) {
        kill_process(process, Signal::KILL)?;
    }
    for path in [pid, serial] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    works
}

/// Boots the image, whose disk stays as it is, until its kernel says its version.
fn speaks(pid: &Path, serial: &Path, image: &Path) -> io::Result<bool> {
    store::files::write_atomic(serial, "", 0o644)?;
    let drive = format!("file={},format=qcow2,if=virtio,snapshot=on", image.display().to_string().replace(',', ",,"));
    let command = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512"])
        .args(["-display", "none", "-daemonize", "-pidfile"])
        .arg(pid)
        .args(["-drive", &drive, "-serial", &format!("file:{}", serial.display())]);
    // A refusal is an answer too: there is no KVM for this user, or in this QEMU.
    if command.run().is_err() {
        return Ok(false);
    }
    let begin = Instant::now();
    while begin.elapsed() < FIRST_WORDS && process::of_pid_file(pid).is_some() {
        std::thread::sleep(Duration::from_millis(200));
        if String::from_utf8_lossy(&fs::read(serial)?).contains("Linux version") {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_of_another_boot_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        assert_eq!(known(&layout).unwrap(), Accel::Tcg);
        store::files::write_atomic(&layout.run("accel"), "kvm another-boot\n", 0o644).unwrap();
        assert_eq!(cached(&layout).unwrap(), None);
        store::files::write_atomic(&layout.run("accel"), format!("kvm {}\n", boot_id().unwrap()), 0o644).unwrap();
        assert_eq!(known(&layout).unwrap(), Accel::Kvm);
    }
}
