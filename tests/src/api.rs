//! The lab's API as its root uses it by hand: what people do behind Hearth's back in the tests.

use std::time::{Duration, Instant};

use remote::Command;
use serde_json::Value;

use crate::{NODE, expect, project, ssh};

const URL: &str = "https://192.168.1.1:8006/api2/json";

/// Calls a method of the API as `root@pam` and returns its `data`; a task is waited for and must end well.
///
/// The node's curl does it, so that the building machine needs none.
///
/// # Panics
/// Where the API refuses, or the task fails.
pub fn api(method: &str, path: &str, form: &[(&str, &str)]) -> Value {
    let password = std::fs::read_to_string(project().join(".hearth/lab/password")).expect("the lab has a password");
    let login = call("POST", "/access/ticket", &[("username", "root@pam"), ("password", password.trim())], None);
    let word = |key: &str| login[key].as_str().unwrap_or_default().to_owned();
    let ticket = (word("ticket"), word("CSRFPreventionToken"));
    let data = call(method, path, form, Some(&ticket));
    match data.as_str() {
        Some(upid) if upid.starts_with("UPID:") => ended(upid, &ticket),
        _ => data,
    }
}

fn ended(upid: &str, ticket: &(String, String)) -> Value {
    let begin = Instant::now();
    loop {
        let task = call("GET", &format!("/nodes/pve1/tasks/{upid}/status"), &[], Some(ticket));
        if task["status"] == "stopped" {
            let exit = task["exitstatus"].as_str().unwrap_or_default();
            assert!(exit == "OK" || exit.starts_with("WARNINGS"), "{upid} ended with {exit}");
            return task;
        }
        assert!(begin.elapsed() < Duration::from_secs(600), "{upid} does not end");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn call(method: &str, path: &str, form: &[(&str, &str)], ticket: Option<&(String, String)>) -> Value {
    let mut lines = format!("url = \"{URL}{path}\"\nrequest = {method}\n");
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    for (key, value) in form {
        lines += &format!("data-urlencode = \"{key}={}\"\n", quoted(value));
    }
    if method == "GET" || method == "DELETE" {
        lines += "get\n";
        lines += &format!("request = {method}\n");
    }
    if let Some((ticket, csrf)) = ticket {
        lines += &format!("cookie = \"PVEAuthCookie={}\"\nheader = \"CSRFPreventionToken: {csrf}\"\n", quoted(ticket));
    }
    // By standard input: what is on a command line can be read by everybody.
    let command: Command =
        ssh(NODE, "exec curl --silent --show-error --insecure --max-time 60 --fail-with-body --config -");
    let output = expect(0, &command.stdin(lines));
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{method} {path}: {error}: {}", output.text()));
    answer["data"].clone()
}
