//! Tasks: background work with a UPID, a log and an exit status that clients poll, kept over a restart of the server.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::auth::Identity;
use crate::error::{ApiError, Result};
use crate::random;

/// One task, running or ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) upid: String,
    pub(crate) node: String,
    pub(crate) pid: u32,
    pub(crate) pstart: u64,
    pub(crate) starttime: u64,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) tokenid: Option<String>,
    pub(crate) endtime: Option<u64>,
    pub(crate) exitstatus: Option<String>,
    pub(crate) log: Vec<String>,
}

/// All tasks of a lab.
pub(crate) struct Tasks {
    folder: PathBuf,
    node: String,
    next: AtomicU64,
    all: Mutex<BTreeMap<String, Task>>,
}

/// A running task's log.
#[derive(Clone)]
pub(crate) struct Log {
    tasks: Arc<Tasks>,
    upid: String,
}

impl Log {
    /// Adds a line.
    pub(crate) fn say(&self, line: impl Into<String>) {
        let line = line.into();
        if let Some(task) = self.tasks.lock().get_mut(&self.upid) {
            task.log.push(line);
        }
    }
}

impl Task {
    /// Returns the entry of a task list; a running task has neither end nor status.
    pub(crate) fn entry(&self) -> Value {
        let mut out = self.facts();
        if let (Some(end), Some(status)) = (self.endtime, &self.exitstatus) {
            out["endtime"] = json!(end);
            out["status"] = json!(status);
        }
        out
    }

    /// Returns what `status` answers.
    pub(crate) fn status(&self) -> Value {
        let mut out = self.facts();
        out["status"] = json!(if self.exitstatus.is_some() { "stopped" } else { "running" });
        if let Some(status) = &self.exitstatus {
            out["exitstatus"] = json!(status);
        }
        out
    }

    fn facts(&self) -> Value {
        let mut out = json!({
            "upid": self.upid, "node": self.node, "pid": self.pid, "pstart": self.pstart, "starttime": self.starttime,
            "type": self.kind, "id": self.id, "user": self.user,
        });
        if let Some(token) = &self.tokenid {
            out["tokenid"] = json!(token);
        }
        out
    }
}

impl Tasks {
    /// Reads the tasks of earlier runs. One that was running then ended with the server that ran it.
    pub(crate) fn open(folder: PathBuf, node: &str) -> io::Result<Arc<Self>> {
        let mut all = BTreeMap::new();
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let bytes = fs::read(entry?.path())?;
            let Ok(mut task) = serde_json::from_slice::<Task>(&bytes) else { continue };
            if task.exitstatus.is_none() {
                task.exitstatus = Some("interrupted: the server ended before the task did".into());
                task.endtime = Some(task.starttime);
            }
            all.insert(task.upid.clone(), task);
        }
        // In hundredths of a second, as the kernel counts a process's start; unique within one run of the server.
        let uptime = fs::read_to_string("/proc/uptime")?;
        let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an uptime is small and positive")]
        let next = AtomicU64::new((seconds * 100.0) as u64);
        Ok(Arc::new(Self { folder, node: node.to_owned(), next, all: Mutex::new(all) }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts work in the background and returns its UPID.
    pub(crate) fn spawn<W>(self: &Arc<Self>, who: &Identity, kind: &str, id: &str, work: W) -> Result<String>
    where
        W: FnOnce(&Log) -> Result<()> + Send + 'static,
    {
        let task = self.enter(who, kind, id)?;
        let log = Log { tasks: Arc::clone(self), upid: task.upid.clone() };
        let tasks = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(kind.to_owned()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&log)));
            let ended = match result {
                Ok(ended) => ended,
                Err(_) => Err(ApiError::failed("the task panicked; this is a fault of pve-lab")),
            };
            tasks.end(&log.upid, ended.map_err(|error| error.line()));
        });
        if let Err(error) = spawned {
            self.end(&task.upid, Err(format!("can't start a thread: {error}")));
        }
        Ok(task.upid)
    }

    fn enter(&self, who: &Identity, kind: &str, id: &str) -> Result<Task> {
        let (pid, starttime) = (std::process::id(), random::now());
        let pstart = self.next.fetch_add(1, Ordering::Relaxed);
        let head = format!("UPID:{}:{pid:08X}:{pstart:08X}:{starttime:08X}", self.node);
        let upid = format!("{head}:{kind}:{id}:{}:", who.name());
        let task = Task {
            upid: upid.clone(),
            node: self.node.clone(),
            pid,
            pstart,
            starttime,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: who.user.clone(),
            tokenid: who.token.clone(),
            endtime: None,
            exitstatus: None,
            log: Vec::new(),
        };
        self.save(&task).map_err(crate::error::host(format!("can't record task {upid}")))?;
        self.lock().insert(upid, task.clone());
        Ok(task)
    }

    fn end(&self, upid: &str, result: std::result::Result<(), String>) {
        let mut all = self.lock();
        let Some(task) = all.get_mut(upid) else { return };
        task.endtime = Some(random::now());
        match result {
            Ok(()) => {
                task.log.push("TASK OK".into());
                task.exitstatus = Some("OK".into());
            }
            Err(error) => {
                task.log.push(format!("TASK ERROR: {error}"));
                task.exitstatus = Some(error);
            }
        }
        let task = task.clone();
        drop(all);
        if let Err(error) = self.save(&task) {
            eprintln!("pve-lab: can't record the end of task {upid}: {error}");
        }
    }

    fn save(&self, task: &Task) -> io::Result<()> {
        let name = task.upid.replace('/', "_");
        let bytes = serde_json::to_vec(task)?;
        store::files::write_atomic(&self.folder.join(name), bytes, 0o600)
    }

    /// Returns a task.
    pub(crate) fn get(&self, upid: &str) -> Option<Task> {
        self.lock().get(upid).cloned()
    }

    /// Returns all tasks, the newest first.
    pub(crate) fn list(&self) -> Vec<Task> {
        let mut all: Vec<Task> = self.lock().values().cloned().collect();
        all.sort_by_key(|task| std::cmp::Reverse((task.starttime, task.pstart)));
        all
    }

    /// Waits until no task runs any more, or the deadline is over.
    pub(crate) fn wait_idle(&self, deadline: std::time::Duration) {
        let begin = std::time::Instant::now();
        while begin.elapsed() < deadline && self.lock().values().any(|task| task.exitstatus.is_none()) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits a short while for a task, and returns how it ended if it did.
    pub(crate) fn wait(&self, upid: &str, deadline: std::time::Duration) -> Option<String> {
        let begin = std::time::Instant::now();
        loop {
            let status = self.get(upid).and_then(|task| task.exitstatus);
            if status.is_some() || begin.elapsed() >= deadline {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Returns whether a text has a UPID's form.
pub(crate) fn is_upid(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let hex = |part: &str| part.len() >= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 9 && parts[0] == "UPID" && parts[2..5].iter().all(|part| hex(part)) && parts[8].is_empty()
}
