//! Tasks, as clients poll them.

use serde_json::{Value, json};

use super::Handler;
use crate::access::extra::owns;
use crate::error::{ApiError, Result};
use crate::server::Call;
use crate::tasks::{Task, is_upid};

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/nodes/{node}/tasks", list),
    ("GET", "/nodes/{node}/tasks/{upid}/status", status),
    ("GET", "/nodes/{node}/tasks/{upid}/log", log),
    ("DELETE", "/nodes/{node}/tasks/{upid}", stop),
];

fn list(call: &Call) -> Result<Value> {
    let params = &call.params;
    let source = params.get("source").unwrap_or("archive");
    let ended = |task: &Task| task.exitstatus.is_some();
    let status = |task: &Task| match task.exitstatus.as_deref() {
        Some("OK") => "ok",
        Some(text) if text.starts_with("WARNINGS") => "warning",
        Some(_) => "error",
        None => "unknown",
    };
    let node = format!("/nodes/{}", params.text("node"));
    let all = call.server.access.has_any(&call.who.name(), &node, &["Sys.Audit"]);
    let wanted = |task: &Task| {
        let by_source = match source {
            "archive" => ended(task),
            "active" => !ended(task),
            _ => true,
        };
        (all || owns(&call.who, task))
            && by_source
            && params.get("vmid").is_none_or(|id| task.id == id)
            && params.get("typefilter").is_none_or(|kind| task.kind == kind)
            && params.get("userfilter").is_none_or(|user| task.user.contains(user))
            && params.number("since").is_none_or(|since| task.starttime >= since)
            && params.number("until").is_none_or(|until| task.starttime <= until)
            && (!params.flag("errors") || status(task) == "error")
            && params.get("statusfilter").is_none_or(|filter| filter.split([',', ';', ' ']).any(|f| f == status(task)))
    };
    let number =
        |name: &str, default: usize| params.number(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
    let all = call.server.tasks.list();
    let all: Vec<&Task> = all.iter().filter(|task| wanted(task)).collect();
    call.total.set(Some(all.len()));
    let limit = number("limit", 50);
    Ok(all.into_iter().skip(number("start", 0)).take(limit).map(Task::entry).collect())
}

fn find(call: &Call) -> Result<Option<Task>> {
    let upid = call.params.text("upid");
    if !is_upid(upid) {
        return Err(ApiError::parameter("upid", "unable to parse worker upid"));
    }
    Ok(call.server.tasks.get(upid))
}

fn status(call: &Call) -> Result<Value> {
    find(call)?.map(|task| task.status()).ok_or_else(|| ApiError::parameter("upid", "no such task"))
}

fn log(call: &Call) -> Result<Value> {
    let lines = find(call)?.map(|task| task.log);
    let lines = lines.unwrap_or_else(|| vec!["unable to open file - No such file or directory".into()]);
    let number =
        |name: &str, default: usize| call.params.number(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
    let limit = match number("limit", 50) {
        0 => usize::MAX,
        limit => limit,
    };
    call.total.set(Some(lines.iter().flat_map(|text| text.lines()).count()));
    let numbered = lines.iter().flat_map(|text| text.lines()).enumerate().skip(number("start", 0)).take(limit);
    Ok(numbered.map(|(n, text)| json!({"n": n + 1, "t": text})).collect())
}

/// Stopping what has ended is fine. A running task of the lab can't be stopped: its work has no safe place to break off.
fn stop(call: &Call) -> Result<Value> {
    match find(call)? {
        Some(task) if task.exitstatus.is_none() => {
            Err(ApiError::not_implemented("stopping a running task not implemented in pve-lab"))
        }
        _ => Ok(Value::Null),
    }
}
