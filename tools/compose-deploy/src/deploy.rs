//! Steps applied on a guest.

use std::io::Cursor;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use converge::{Context, Event, Failure, Reason};
use remote::{Host, quote};
use site::Name;
use store::Digest;

use crate::bundle::Bundle;
use crate::diff::RUNTIME;
use crate::{paths, transfer};

const MINUTES: Duration = Duration::from_secs(300);
/// A trial of a run before may have to be ended first, and its way back waited for.
const SWITCH: Duration = Duration::from_secs(1200);
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

/// Sends a bundle and has it checked; then the guest tries it, and keeps it once it is healthy, or goes back by itself.
///
/// # Errors
/// What the check said, with nothing touched; why the stack is not healthy; and each time which bundle runs now.
pub fn deploy(cx: &Context<'_>, guest: &Name, host: &Host, bundle: &Bundle, again: &[String]) -> Result<()> {
    let name = bundle.stack.as_str();
    let short = bundle.digest.short();
    let said = receive(cx, guest, host, bundle, again).with_context(|| {
        format!("stack {name}: bundle {short} was not put on trial; what runs on {guest} was not touched")
    })?;
    let Some(since) = said.trim().strip_prefix("trial ") else {
        return restart(host, bundle);
    };
    let say = |message: String| {
        cx.events.emit(&Event::Progress { stage: "compose-deploy".to_owned(), message });
    };
    say(format!("{guest}: bundle {short} of stack {name} is on trial"));
    let away = || {
        let message = format!("stack {name}: {guest} can't be asked how the trial of bundle {short} went");
        let hint = "the guest itself keeps the bundle if it gets healthy, and else goes back, after a restart of the guest \
                    too: plan again to see which one runs";
        Failure::new(Reason::Failed, message).hint(hint)
    };
    // The trial may wait for one before it, and the way back has a deadline like the one there.
    let deadline = Duration::from_secs(3 * bundle.deadline + 300);
    poll(host, &paths::trial(name), deadline, ended).with_context(away)?;
    let script = format!("SINCE={}\n{}", quote(since), include_str!("guest/outcome.sh"));
    let outcome = host.run(&named(name, &script), MINUTES).with_context(away)?.text();
    let outcome = Outcome::read(&outcome);
    if outcome.current == Some(short.as_str()) {
        let deadline = Duration::from_secs(bundle.deadline + 180);
        poll(host, &paths::unit(name), deadline, started).with_context(|| {
            format!("stack {name}: bundle {short} is healthy and stays, but its unit did not come up")
        })?;
        say(format!("{guest}: bundle {short} of stack {name} is healthy and stays"));
        return Ok(());
    }
    let now = outcome.now();
    say(format!("{guest}: bundle {short} of stack {name} was not healthy; {now}"));
    let message = format!("stack {name} did not get healthy with bundle {short} on {guest}; {now}\n{}", outcome.said);
    Err(Failure::new(Reason::Failed, message.trim_end()).into())
}

/// Sends a bundle, and what the guest lacks for it; returns what `deploy.sh` printed.
fn receive(cx: &Context<'_>, guest: &Name, host: &Host, bundle: &Bundle, again: &[String]) -> Result<String> {
    let tags: Vec<_> = bundle.images.values().map(|image| image.tag.as_str()).collect();
    let script = format!(
        "NAME={} DIGEST={} SUMS={} TAGS={} AGAIN={}\n{}",
        quote(bundle.stack.as_str()),
        bundle.digest.short(),
        Digest::of(bundle.sums()),
        quote(&tags.join(" ")),
        quote(&again.join(" ")),
        include_str!("guest/deploy.sh")
    );
    let tar = bundle.tar()?;
    let mut sent = host.feed(&script, &mut Cursor::new(&tar), SWITCH);
    if let Err(remote::Error::Status { status: LACKS, .. }) = sent {
        // With `--only` on one stack, the steps before were not applied.
        runtime(host)?;
        for image in bundle.images.values() {
            transfer::send(cx, guest, host, image)?;
        }
        sent = host.feed(&script, &mut Cursor::new(&tar), SWITCH);
    }
    Ok(sent?.text())
}

/// How a trial ended.
struct Outcome<'a> {
    /// The bundle that is the current one now.
    current: Option<&'a str>,
    /// Whether the trial is not settled: the way back did not succeed yet.
    open: bool,
    /// What the trial said.
    said: &'a str,
}

impl<'a> Outcome<'a> {
    fn read(text: &'a str) -> Self {
        let mut lines = text.splitn(3, '\n');
        let mut link = |key: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(key)).unwrap_or_default();
            line.strip_prefix("bundles/").map(str::trim_end)
        };
        let (current, trial) = (link("current="), link("trial="));
        Self { current, open: trial.is_some(), said: lines.next().unwrap_or_default().trim_end() }
    }

    /// Says what runs now.
    fn now(&self) -> String {
        match (self.current, self.open) {
            (Some(old), false) => format!("bundle {old} is back and healthy"),
            (Some(old), true) => {
                format!("bundle {old} is to come back and is not healthy yet: its unit goes on trying")
            }
            (None, false) => "it was the stack's first bundle, so nothing of the stack runs now".to_owned(),
            (None, true) => "it was the stack's first bundle, and could not be taken away yet".to_owned(),
        }
    }
}

fn named(name: &str, script: &str) -> String {
    format!("NAME={}\n{script}", quote(name))
}

/// Has systemd bring the stack to its current bundle, which is the wanted one, and waits for it.
fn restart(host: &Host, bundle: &Bundle) -> Result<()> {
    let (name, short) = (bundle.stack.as_str(), bundle.digest.short());
    let script = named(name, include_str!("guest/start.sh"));
    let begun = host.run(&script, MINUTES).map(drop).context("can't start its unit");
    let Err(why) =
        begun.and_then(|()| poll(host, &paths::unit(name), Duration::from_secs(2 * bundle.deadline + 180), settled))
    else {
        return Ok(());
    };
    let message = format!("stack {name} did not get healthy with bundle {short}, which was healthy before: {why:#}");
    Err(Failure::new(Reason::Failed, format!("{message}\n{}", logs(host, name)).trim_end()).into())
}

/// Asks for a unit's properties until they tell that all is well, or not.
fn poll(host: &Host, unit: &str, deadline: Duration, judge: impl Fn(&str) -> Option<bool>) -> Result<()> {
    let script = format!("unit={}\n{}", quote(unit), include_str!("guest/poll.sh"));
    let begin = Instant::now();
    loop {
        match judge(&host.run(&script, Duration::from_secs(60))?.text()) {
            Some(true) => return Ok(()),
            Some(false) => anyhow::bail!("{unit} failed"),
            None if begin.elapsed() > deadline => {
                anyhow::bail!("{unit} was not done within {} s", deadline.as_secs())
            }
            None => thread::sleep(PAUSE),
        }
    }
}

/// Returns the value of a property.
fn property<'a>(properties: &'a str, key: &str) -> &'a str {
    let value = properties.lines().find_map(|line| line.split_once('=').filter(|(name, _)| *name == key));
    value.map(|(_, value)| value).unwrap_or_default()
}

/// Tells whether a unit that ends by itself has ended, however.
fn ended(properties: &str) -> Option<bool> {
    let of = |key| property(properties, key);
    let over = matches!(of("ActiveState"), "inactive" | "failed") && matches!(of("Job"), "" | "0");
    over.then_some(true)
}

/// As [`settled`], where no reload was asked for: how the last one ended does not matter.
fn started(properties: &str) -> Option<bool> {
    let lines: Vec<_> = properties.lines().filter(|line| !line.starts_with("ReloadResult=")).collect();
    settled(&lines.join("\n"))
}

/// Tells whether a unit came up, from its properties; none while it is on its way.
fn settled(properties: &str) -> Option<bool> {
    let of = |key| property(properties, key);
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

    #[test]
    fn a_trial_is_over_when_both_its_programs_are() {
        assert_eq!(ended("ActiveState=activating\nSubState=start\nJob=5\n"), None);
        assert_eq!(ended("ActiveState=deactivating\nSubState=stop-post\n"), None);
        assert_eq!(ended("ActiveState=inactive\nSubState=dead\nJob=5\n"), None);
        assert_eq!(ended("ActiveState=failed\nSubState=failed\nResult=exit-code\n"), Some(true));
        assert_eq!(ended("ActiveState=inactive\nSubState=dead\nJob=0\n"), Some(true));
        let active = "ActiveState=active\nSubState=exited\nResult=success\nReloadResult=exit-code\n";
        assert_eq!((settled(active), started(active)), (Some(false), Some(true)));
    }

    #[test]
    fn a_trial_s_end_says_which_bundle_runs_now() {
        let now = |text: &str| Outcome::read(text).now();
        let back = "current=bundles/0123456789ab\ntrial=\nstack web is not healthy:\nbad http: Exited (1)\n";
        assert_eq!(Outcome::read(back).current, Some("0123456789ab"));
        assert_eq!(Outcome::read(back).said, "stack web is not healthy:\nbad http: Exited (1)");
        assert_eq!(now(back), "bundle 0123456789ab is back and healthy");
        assert_eq!(
            now("current=bundles/0123456789ab\ntrial=bundles/x\n"),
            "bundle 0123456789ab is to come back and is not healthy yet: its unit goes on trying"
        );
        assert_eq!(now("current=\ntrial=\n"), "it was the stack's first bundle, so nothing of the stack runs now");
        assert_eq!(
            now("current=\ntrial=bundles/x\n"),
            "it was the stack's first bundle, and could not be taken away yet"
        );
    }
}
