//! Steps applied on a guest.

use std::io::Cursor;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use converge::{Context, Failure, Reason};
use remote::{Host, quote};
use site::Name;
use store::Digest;

use crate::bundle::Bundle;
use crate::diff::RUNTIME;
use crate::{paths, transfer};

const MINUTES: Duration = Duration::from_secs(300);
/// How often a unit is asked whether it has come up.
const PAUSE: Duration = Duration::from_secs(3);
/// How `deploy.sh` ends where the guest lacks the programs or an image.
const LACKS: i32 = 3;

/// Writes the programs and the keeper's unit, and starts it.
///
/// # Errors
/// Where the guest fails to.
pub fn runtime(host: &Host) -> Result<()> {
    // All in one round trip, for each costs a second in an emulated guest.
    let mut script = String::from("umask 022\n");
    for (path, text, executable) in RUNTIME {
        let (path, mode) = (quote(path), if executable { 755 } else { 644 });
        script += &format!(
            "mkdir -p \"$(dirname {path})\"\nprintf %s {} >{path}.new\nchmod {mode} {path}.new\nsync {path}.new\n\
             mv -T {path}.new {path}\n",
            quote(text)
        );
    }
    script += &format!(
        "# This has systemd read its units anew as well.\nsystemctl --quiet enable {unit}\nsystemctl restart {unit}\n",
        unit = paths::KEEPER_UNIT
    );
    host.run(&script, MINUTES).with_context(|| format!("can't install {}", paths::KEEPER_UNIT))?;
    Ok(())
}

/// Sends a bundle, has it checked, switches to it and waits until the stack is healthy; else goes back.
///
/// # Errors
/// What the check said, with nothing switched; why the stack is not healthy, and to which bundle it went back.
pub fn deploy(cx: &Context<'_>, guest: &Name, host: &Host, bundle: &Bundle) -> Result<()> {
    let name = bundle.stack.as_str();
    let tags: Vec<_> = bundle.images.values().map(|image| image.tag.as_str()).collect();
    let script = format!(
        "NAME={} DIGEST={} SUMS={} TAGS={}\n{}",
        quote(name),
        bundle.digest.short(),
        Digest::of(bundle.sums()),
        quote(&tags.join(" ")),
        include_str!("guest/deploy.sh")
    );
    let tar = bundle.tar()?;
    let mut sent = host.feed(&script, &mut Cursor::new(&tar), MINUTES);
    if let Err(remote::Error::Status { status: LACKS, .. }) = sent {
        // With `--only` on one stack, the steps before were not applied.
        runtime(host)?;
        for image in bundle.images.values() {
            transfer::send(cx, guest, host, image)?;
        }
        sent = host.feed(&script, &mut Cursor::new(&tar), MINUTES);
    }
    sent.with_context(|| format!("stack {name}: the new bundle did not pass; what runs was not touched"))?;
    let Err(why) = start(host, bundle) else { return Ok(()) };
    let message = format!("stack {name} did not get healthy: {why:#}");
    let logs = logs(host, name);
    let back = go_back(host, bundle).unwrap_or_else(|error| format!("going back failed: {error:#}"));
    Err(Failure::new(Reason::Failed, format!("{message}; {back}\n{logs}")).into())
}

fn named(name: &str, script: &str) -> String {
    format!("NAME={}\n{script}", quote(name))
}

/// Has systemd bring the stack to its current bundle, and waits for it.
fn start(host: &Host, bundle: &Bundle) -> Result<()> {
    let name = bundle.stack.as_str();
    host.run(&named(name, include_str!("guest/start.sh")), MINUTES).context("can't start its unit")?;
    wait(host, name, Duration::from_secs(bundle.deadline + 180))
}

/// Waits until a stack's unit has come up. The unit itself waits for the containers' health, until its own deadline.
fn wait(host: &Host, name: &str, deadline: Duration) -> Result<()> {
    let unit = paths::unit(name);
    let script = format!("unit={unit}\n{}", include_str!("guest/poll.sh"));
    let begin = Instant::now();
    loop {
        let answer = host.run(&script, Duration::from_secs(60))?.text();
        match settled(&answer) {
            Some(true) => return Ok(()),
            Some(false) => anyhow::bail!("{unit} failed"),
            None if begin.elapsed() > deadline => {
                anyhow::bail!("{unit} did not come up within {} s", deadline.as_secs())
            }
            None => thread::sleep(PAUSE),
        }
    }
}

/// Tells whether a unit came up, from its properties; none while it is on its way.
fn settled(properties: &str) -> Option<bool> {
    let of = |key: &str| {
        let value = properties.lines().find_map(|line| line.split_once('=').filter(|(name, _)| *name == key));
        value.map(|(_, value)| value).unwrap_or_default()
    };
    let job = !matches!(of("Job"), "" | "0");
    match (of("ActiveState"), of("SubState")) {
        // systemd tries again by itself, and may succeed later; this deployment did not.
        ("failed", _) | (_, "auto-restart") => Some(false),
        ("activating", _) if !matches!(of("NRestarts"), "" | "0") => Some(false),
        _ if job => None,
        ("active", _) => Some(of("Result") == "success" && matches!(of("ReloadResult"), "" | "success")),
        ("inactive", _) => Some(false),
        _ => None,
    }
}

/// Returns what the containers that are not well, and the unit, said last.
fn logs(host: &Host, name: &str) -> String {
    let script = format!(
        "{} logs {}\njournalctl --unit={} --lines=15 --output=cat --no-pager\n",
        paths::PROGRAM,
        quote(name),
        paths::unit(name)
    );
    match host.run(&script, Duration::from_secs(120)) {
        Ok(output) => output.text().trim_end().to_owned(),
        Err(error) => format!("its logs can't be read: {error}"),
    }
}

/// Switches to the bundle before, and says how that went.
fn go_back(host: &Host, bundle: &Bundle) -> Result<String> {
    let name = bundle.stack.as_str();
    let old = host.run(&named(name, include_str!("guest/back.sh")), MINUTES)?.text();
    let old = old.trim();
    if old.is_empty() {
        return Ok("there is no bundle before this one to go back to, so it was left as it is".to_owned());
    }
    match start(host, bundle) {
        Ok(()) => Ok(format!("the stack is back at the bundle {old}, which is healthy")),
        Err(error) => Ok(format!("the stack is back at the bundle {old}, which is not healthy either: {error:#}")),
    }
}

/// Takes a stack away.
///
/// # Errors
/// Where its containers can't be removed.
pub fn remove(host: &Host, name: &str) -> Result<()> {
    host.run(&named(name, include_str!("guest/remove.sh")), MINUTES)
        .with_context(|| format!("can't take stack {name} away"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_come_up_when_its_job_is_over_and_nothing_failed() {
        let up = "ActiveState=active\nSubState=exited\nResult=success\nReloadResult=success\n";
        assert_eq!(settled(up), Some(true));
        assert_eq!(settled(&format!("{up}Job=17\n")), None);
        assert_eq!(settled(&up.replace("ReloadResult=success", "ReloadResult=exit-code")), Some(false));
        assert_eq!(settled("ActiveState=reloading\nSubState=reload\nResult=success\n"), None);
        assert_eq!(settled("ActiveState=activating\nSubState=start\nResult=success\nJob=3\n"), None);
        assert_eq!(settled("ActiveState=activating\nSubState=auto-restart\nResult=exit-code\n"), Some(false));
        let starting = "ActiveState=activating\nSubState=start\nResult=success\nJob=3\n";
        assert_eq!(settled(&format!("{starting}NRestarts=0\n")), None);
        assert_eq!(settled(&format!("{starting}NRestarts=1\n")), Some(false));
        assert_eq!(settled("ActiveState=failed\nSubState=failed\nResult=exit-code\n"), Some(false));
        assert_eq!(settled("ActiveState=inactive\nSubState=dead\nResult=success\n"), Some(false));
    }
}
