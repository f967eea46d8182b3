use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::Method;

use crate::client::{Client, patiently};
use crate::error::Error;
use crate::form::{Form, escape};

/// How many of a failed task's last lines an error shows.
const LINES: usize = 5;

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    exitstatus: String,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    t: String,
}

/// Starts a task by a call and waits for its end; starts it again where only a lock file was in its way.
///
/// Some calls answer with null where they were done at once.
pub(crate) fn run(client: &Client, method: &Method, path: &str, form: &Form, deadline: Duration) -> Result<(), Error> {
    let begin = Instant::now();
    patiently(begin, deadline, || {
        let upid: Option<String> = client.call(method, path, form)?;
        match upid {
            Some(upid) => wait(client, &upid, deadline.saturating_sub(begin.elapsed())),
            None => Ok(()),
        }
    })
}

/// Waits for a task to stop; asks after 50 ms, then less and less often, every 500 ms in the end.
pub(crate) fn wait(client: &Client, upid: &str, deadline: Duration) -> Result<(), Error> {
    let [node, kind, what] = parts(upid);
    let path = format!("/nodes/{node}/tasks/{}", escape(upid));
    let begin = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let status: Status = client.get(&format!("{path}/status"), &Form::new())?;
        if status.status == "stopped" {
            // A task with warnings did its work.
            if status.exitstatus == "OK" || status.exitstatus.starts_with("WARNINGS") {
                return Ok(());
            }
            let log = log(client, &path);
            return Err(Error::Task { kind: kind.to_owned(), what: what.to_owned(), exit: status.exitstatus, log });
        }
        if begin.elapsed() + pause > deadline {
            let what = format!("the Proxmox task {kind} of {what}");
            return Err(Error::Deadline { what, seconds: deadline.as_secs() });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// Returns the end of a task's log. It only adds to an error that is there already, so it may fail.
fn log(client: &Client, path: &str) -> Vec<String> {
    let lines: Vec<Line> = client.get(&format!("{path}/log"), &Form::new().set("limit", 500)).unwrap_or_default();
    let text = lines.into_iter().map(|line| line.t).filter(|line| !line.is_empty());
    // The last line repeats the exit status.
    let mut text: Vec<String> = text.filter(|line| !line.starts_with("TASK ERROR")).collect();
    text.split_off(text.len().saturating_sub(LINES))
}

/// Returns node, kind and id of `UPID:NODE:PID:PSTART:TIME:KIND:ID:USER:`.
fn parts(upid: &str) -> [&str; 3] {
    let at = |n| upid.split(':').nth(n).unwrap_or_default();
    [at(1), at(5), at(6)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_told_by_its_id() {
        let upid = "UPID:pve1:0000ABCD:00112233:65A0B0C0:qmcreate:101:root@pam!hearth:";
        assert_eq!(parts(upid), ["pve1", "qmcreate", "101"]);
    }
}
