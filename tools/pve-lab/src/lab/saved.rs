//! The whole lab, kept under a name and brought back: memory of every machine, disks, the API's state.
//!
//! Machines are stopped at one moment, so that what they hold of each other (NFS, TCP) fits together afterwards. Files
//! that are never written again (images, seeds, bases of templates) are linked, all others copied.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use remote::local::Command;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::files::write_atomic;

use super::{Error, Lab, UpOptions, file, net};
use crate::error::ApiError;
use crate::process;
use crate::vm::qmp::Qmp;

/// How long a machine's memory may take to be written or read.
const MEMORY: Duration = Duration::from_secs(300);
/// How long copying the disks may take.
const COPY: Duration = Duration::from_secs(600);
/// How long a machine may take to set itself up before it reads its memory.
const LAUNCH: Duration = Duration::from_secs(60);

/// A machine as it was when the lab was saved.
#[derive(Debug, Serialize, Deserialize)]
struct Machine {
    /// The name of its pid file: `node`, or a VMID.
    name: String,
    /// Its QEMU's command line.
    argv: Vec<String>,
}

/// Where a saved lab lies.
struct Saved {
    folder: PathBuf,
}

impl Saved {
    fn list(&self) -> PathBuf {
        self.folder.join("machines.json")
    }

    fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    fn memory(&self, machine: &str) -> PathBuf {
        self.folder.join(format!("{machine}.memory"))
    }
}

fn monitor(what: &str, machine: &str) -> impl FnOnce(ApiError) -> Error {
    let doing = format!("{what} {machine}");
    move |error| Error::State(format!("can't {doing}: {}", error.line()))
}

impl Lab {
    /// Keeps the lab as it is at this moment under a name, in place of an earlier one of that name. It goes on running.
    ///
    /// # Errors
    /// A lab that is not up, a machine that does not write its memory, or what the file system says.
    pub fn save(&self, name: &str) -> Result<(), Error> {
        let _lock = self.lock()?;
        if !self.status().is_up() {
            return Err(Error::State("only a lab that is up can be saved: pve-lab up".into()));
        }
        let saved = self.saved(name)?;
        let new = Saved { folder: self.layout().dir().join("saved").join(".new") };
        remove(&new.folder)?;
        fs::create_dir_all(new.files()).map_err(file(format!("make {}", new.folder.display())))?;
        let machines = self.machines()?;
        let outcome = self.freeze(&machines).and_then(|()| self.write(&new, &machines));
        // Whatever came of it, nothing stays stopped.
        let going = self.thaw(&machines);
        outcome.and(going)?;
        remove(&saved.folder)?;
        fs::rename(&new.folder, &saved.folder).map_err(file(format!("write {}", saved.folder.display())))
    }

    /// Brings the lab back as it was when it was saved: whatever runs now is ended at once, and all files are replaced.
    ///
    /// # Errors
    /// A name that nothing was saved under, a machine that does not come back, or what the file system says.
    pub fn restore(&self, name: &str, options: &UpOptions) -> Result<(), Error> {
        let _lock = self.lock()?;
        let saved = self.saved(name)?;
        let list = fs::read(saved.list()).map_err(file(format!("read {}", saved.list().display())))?;
        let machines: Vec<Machine> = serde_json::from_slice(&list)
            .map_err(|error| Error::State(format!("{}: {error}", saved.list().display())))?;
        self.end_all()?;
        self.clear()?;
        copy(&saved.files(), self.layout().dir())?;
        if !net::exists(self.namespace_name()) {
            net::make(self.namespace_name())?;
        }
        for machine in &machines {
            self.start(&saved, machine)?;
        }
        machines.iter().try_for_each(|machine| self.settle(machine))?;
        self.start_server(options)?;
        self.wait_for_server()?;
        self.thaw(&machines)?;
        write_atomic(&self.layout().run("ready"), "", 0o644).map_err(file("note that the lab is up"))
    }

    fn saved(&self, name: &str) -> Result<Saved, Error> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if name.is_empty() || !plain {
            return Err(Error::State(format!("'{name}' is no name for a saved lab: letters, digits and - make one")));
        }
        Ok(Saved { folder: self.layout().dir().join("saved").join(name) })
    }

    fn machines(&self) -> Result<Vec<Machine>, Error> {
        let status = self.status();
        let guests = status.guests.iter().map(|(vmid, pid)| (vmid.to_string(), *pid));
        let all = status.node.map(|pid| ("node".to_owned(), pid)).into_iter().chain(guests);
        all.map(|(name, pid)| {
            let path = format!("/proc/{pid}/cmdline");
            let line = fs::read(&path).map_err(file(format!("read {path}")))?;
            let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            let mut argv: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            // A machine that was itself brought back was told where its memory is.
            if let Some(at) = argv.iter().position(|word| word == "-incoming") {
                argv.drain(at..(at + 2).min(argv.len()));
            }
            Ok(Machine { name, argv })
        })
        .collect()
    }

    fn qmp(&self, machine: &Machine) -> Result<Qmp, Error> {
        Qmp::connect(&self.layout().run(&format!("{}.qmp", machine.name))).map_err(monitor("reach", &machine.name))
    }

    fn freeze(&self, machines: &[Machine]) -> Result<(), Error> {
        let stop =
            |machine: &Machine| self.qmp(machine)?.run("stop", &Value::Null).map_err(monitor("stop", &machine.name));
        machines.iter().try_for_each(|machine| stop(machine).map(drop))
    }

    fn thaw(&self, machines: &[Machine]) -> Result<(), Error> {
        let go = |machine: &Machine| {
            self.qmp(machine)?.run("cont", &Value::Null).map_err(monitor("go on with", &machine.name))
        };
        machines.iter().try_for_each(|machine| go(machine).map(drop))
    }

    fn write(&self, saved: &Saved, machines: &[Machine]) -> Result<(), Error> {
        for machine in machines {
            let failed = |error| monitor("write the memory of", &machine.name)(error);
            let mut qmp = self.qmp(machine)?;
            qmp.run("migrate-set-parameters", &json!({"max-bandwidth": 1_u64 << 40})).map_err(failed)?;
            let uri = format!("file:{}", saved.memory(&machine.name).display());
            qmp.run("migrate", &json!({"uri": uri})).map_err(failed)?;
            until(&machine.name, "write its memory", || {
                let answer = qmp.run("query-migrate", &Value::Null).map_err(failed)?;
                match answer["status"].as_str() {
                    Some("completed") => Ok(true),
                    Some("failed" | "cancelled") => {
                        Err(Error::State(format!("{} can't write its memory: {}", machine.name, answer["error-desc"])))
                    }
                    _ => Ok(false),
                }
            })?;
        }
        // QEMU has let go of the disks now, until it goes on.
        copy(self.layout().dir(), &saved.files())?;
        let list = serde_json::to_vec_pretty(machines).map_err(|error| Error::State(error.to_string()))?;
        write_atomic(&saved.list(), list, 0o600).map_err(file(format!("write {}", saved.list().display())))
    }

    fn start(&self, saved: &Saved, machine: &Machine) -> Result<(), Error> {
        for word in &machine.argv {
            let name =
                word.split(',').find_map(|part| part.strip_prefix("ifname=")).filter(|_| word.starts_with("tap,"));
            if let Some(name) = name {
                net::tap(self.namespace_name(), name)?;
            }
        }
        let command = Command::new("ip").args(["netns", "exec", self.namespace_name()]).args(&machine.argv);
        let memory = format!("file:{}", saved.memory(&machine.name).display());
        command.args(["-incoming", &memory]).deadline(LAUNCH).run()?;
        Ok(())
    }

    /// Waits until a machine has read its memory.
    fn settle(&self, machine: &Machine) -> Result<(), Error> {
        until(&machine.name, "read its memory", || {
            if process::of_pid_file(&self.layout().run(&format!("{}.pid", machine.name))).is_none() {
                return Err(Error::State(format!("{} ended while it read its memory", machine.name)));
            }
            let status = self.qmp(machine)?.run("query-status", &Value::Null);
            let status = status.map_err(monitor("ask", &machine.name))?;
            Ok(status["status"] != "inmigrate")
        })
    }

    /// Ends every process of the lab at once.
    fn end_all(&self) -> Result<(), Error> {
        let status = self.status();
        let guests = status.guests.iter().map(|(_, pid)| *pid);
        let all: Vec<i32> = guests.chain(status.server).chain(status.node).collect();
        for number in &all {
            if let Some(pid) = Pid::from_raw(*number) {
                match kill_process(pid, Signal::KILL) {
                    Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                    Err(error) => return Err(file(format!("stop process {number}"))(error.into())),
                }
            }
        }
        until("what runs of the lab", "end", || Ok(all.iter().all(|number| process::has_ended(*number))))
    }

    /// Removes the lab's files, but not what is saved, nor the lock that is held.
    fn clear(&self) -> Result<(), Error> {
        let dir = self.layout().dir();
        for entry in fs::read_dir(dir).map_err(file(format!("list {}", dir.display())))?.flatten() {
            if entry.file_name() != "saved" && entry.file_name() != "run" {
                remove(&entry.path())?;
            }
        }
        let run = self.layout().run("");
        for entry in fs::read_dir(&run).map_err(file(format!("list {}", run.display())))?.flatten() {
            if entry.file_name() != "lock" {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn until(who: &str, what: &str, mut done: impl FnMut() -> Result<bool, Error>) -> Result<(), Error> {
    let begin = Instant::now();
    while !done()? {
        if begin.elapsed() > MEMORY {
            return Err(Error::State(format!("{who} did not {what} within {} s", MEMORY.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    outcome.map_err(file(format!("remove {}", path.display())))
}

/// Copies a lab's files. What is never written again is linked: uploads, seeds, and the disks of templates.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    const SCRIPT: &str = r#"
cd "$1"
find . \( -path ./saved -o -name '*.pid' -o -path ./run/lock \) -prune -o -type d -print | (cd "$2" && xargs -r mkdir -p)
find . -path ./saved -prune -o -type f \( -path '*/import/*' -o -path '*/iso/*' -o -name 'base-*' \) -print0 |
    xargs -0 -r cp -alf --parents -t "$2"
find . -path ./saved -prune -o \( -type f -o -type l \) ! -name '*.pid' ! -path ./run/lock ! -path '*/import/*' \
    ! -path '*/iso/*' ! -name 'base-*' -print0 | xargs -0 -r cp -a --sparse=always --reflink=auto --parents -t "$2"
"#;
    Command::new("sh").args(["-euc", SCRIPT, "sh"]).arg(from).arg(to).deadline(COPY).run()?;
    Ok(())
}
