//! The checks that a site adds.

use std::time::Duration;

use remote::{Output, quote};
use site::{Check, Name, Probe};

use crate::http;
use crate::judge::{self, Verdict};

/// Returns a check's name among the results.
pub fn full_name(name: &Name) -> String {
    format!("check/{name}")
}

/// Writes the script that tries a check on a host; [`judge_answer`] reads what it prints.
pub fn script(check: &Check) -> String {
    let seconds = check.timeout;
    match &check.probe {
        Probe::Http { url, host, .. } => {
            let header = host.as_ref().map(|host| format!(" --header {}", quote(&format!("Host: {host}"))));
            format!(
                "curl --silent --show-error --globoff --max-time {seconds} --write-out '\\n%{{http_code}}'{} {}\n",
                header.unwrap_or_default(),
                quote(url)
            )
        }
        Probe::Tcp { address } => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            format!("exec timeout {seconds} bash -c {} 2>&1\n", quote(&format!("</dev/tcp/{host}/{port}")))
        }
        Probe::Command { command, .. } | Probe::Denied { command, .. } => {
            format!("exec timeout {seconds} sh -c {} 2>&1\n", quote(command))
        }
    }
}

/// Judges what [`script`] printed on a host.
///
/// # Errors
/// Why the check failed.
pub fn judge_answer(check: &Check, output: &Output) -> Verdict {
    match &check.probe {
        Probe::Http { status, contains, .. } => {
            let text = judge::text(output)?;
            let (body, code) = text.rsplit_once('\n').ok_or("curl said nothing")?;
            let code = code.parse().map_err(|_| format!("curl gave the status '{code}'"))?;
            answered(code, body.as_bytes(), *status, contains.as_deref())
        }
        Probe::Tcp { address } => match output.status {
            0 => Ok(format!("{address} accepts connections")),
            124 => Err(format!("{address} did not answer within {} s", check.timeout)),
            _ => Err(format!("{address}: {}", last_line(output))),
        },
        Probe::Command { contains, .. } => {
            if output.status == 124 {
                return Err(format!("it did not end within {} s", check.timeout));
            }
            if output.status != 0 {
                return Err(format!("it ended with {}: {}", output.status, said(output)));
            }
            holds(output, contains.as_deref())
        }
        Probe::Denied { contains, .. } => {
            // A time-out is no refusal: what is tried could have worked a second later.
            if output.status == 124 {
                return Err(format!("it was not denied, but did not end within {} s", check.timeout));
            }
            if output.status == 0 {
                return Err(format!("it was not denied: {}", said(output)));
            }
            holds(output, Some(contains)).map_err(|why| format!("it failed for another reason: {why}"))
        }
    }
}

fn answered(found: u16, body: &[u8], wanted: u16, contains: Option<&str>) -> Verdict {
    let body = String::from_utf8_lossy(body);
    if found != wanted {
        return Err(format!("the status is {found}, not {wanted}: {}", clip(&body)));
    }
    match contains {
        Some(text) if !body.contains(text) => Err(format!("the body does not hold '{text}': {}", clip(&body))),
        _ => Ok(format!("status {found}, {} bytes", body.len())),
    }
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    clip(&String::from_utf8_lossy(&both))
}

fn last_line(output: &Output) -> String {
    said(output).lines().last().unwrap_or("it is closed").to_owned()
}

fn holds(output: &Output, wanted: Option<&str>) -> Verdict {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let both = String::from_utf8_lossy(&both);
    match wanted {
        Some(text) if !both.contains(text) => Err(format!("it does not say '{text}': {}", clip(&both))),
        _ => Ok(clip(&both)),
    }
}

/// Shortens a text for a message.
fn clip(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(300) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Tries a check from this machine.
///
/// # Errors
/// Why the check failed.
pub fn try_here(check: &Check) -> Verdict {
    let deadline = Duration::from_secs(check.timeout);
    match &check.probe {
        Probe::Http { url, host, status, contains } => {
            let answer = http::get(url, host.as_deref(), deadline)?;
            answered(answer.status, &answer.body, *status, contains.as_deref())
        }
        Probe::Tcp { address } => http::connect(address, deadline).map(|_| format!("{address} accepts connections")),
        Probe::Command { .. } | Probe::Denied { .. } => {
            // The command's own time-out ends it with 124; this deadline is for what does not end then either.
            let shell = remote::Command::new("sh").args(["-c", &script(check)]);
            let output = shell.deadline(deadline + Duration::from_secs(10)).output();
            judge_answer(check, &output.map_err(|error| error.to_string())?)
        }
    }
}

#[cfg(test)]
mod tests;
