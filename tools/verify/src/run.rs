//! Asks the hosts, tries the site's own checks, and tries again what may come right in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use converge::{Address, CheckResult, Context};
use remote::{Answers, Probe};
use site::{Check, Name};

use crate::derive::{Asked, Derived};
use crate::judge::Verdict;
use crate::site_checks::{full_name, judge_answer, script, try_here};

/// How long is waited before a failed check is tried again.
const PAUSE: Duration = Duration::from_secs(2);

type Hosts = BTreeMap<Name, Result<Answers, remote::Error>>;

/// Runs what `--only` lets through; results come in the order of the inventory.
pub fn run(cx: &Context<'_>, mut derived: Derived) -> Vec<CheckResult> {
    let selected = |name: &str| cx.selects(&Address::new([name]));
    derived.checks.retain(|check| selected(&check.name));
    let needed: BTreeSet<(Name, &str)> = derived.checks.iter().map(|check| (check.host.clone(), check.probe)).collect();
    derived.probes.retain(|probe| needed.contains(&(probe.host.clone(), probe.id.as_str())));
    let added: Vec<_> = cx.site.checks.iter().filter(|(name, _)| selected(&full_name(name))).collect();
    let (there, here): (Vec<_>, Vec<_>) = added.iter().copied().partition(|(_, check)| check.from.is_some());

    let results = Mutex::new(BTreeMap::new());
    let keep = |name: &Name, result| {
        if let Ok(mut results) = results.lock() {
            results.insert(name.clone(), result);
        }
    };
    let mut all = Vec::new();
    thread::scope(|scope| {
        for (name, check) in &here {
            let keep = &keep;
            scope.spawn(move || keep(name, until_good(&full_name(name), check.retry, || try_here(check))));
        }
        let begin = Instant::now();
        let mut probes = derived.probes;
        probes.extend(there.iter().filter_map(|(name, check)| probe(name, check)));
        let answers = cx.fleet.ask(&probes);
        let milliseconds = millis(begin);
        all.extend(derived.checks.iter().map(|check| asked(check, &answers, milliseconds)));
        for (name, result) in again(cx, &there, answers, begin) {
            keep(&name, result);
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    all.extend(added.iter().map(|(name, _)| {
        let missing = || result(full_name(name), Err("it was not tried".to_owned()), 0);
        results.remove(*name).unwrap_or_else(missing)
    }));
    all
}

fn result(name: String, verdict: Verdict, milliseconds: u64) -> CheckResult {
    match verdict {
        Ok(seen) => CheckResult { name, failure: None, seen, milliseconds },
        Err(why) => CheckResult { name, failure: Some(why), seen: String::new(), milliseconds },
    }
}

fn millis(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Tries a check until it passes or its time to try again is over; the time is that of all tries.
fn until_good(name: &str, retry: u64, attempt: impl Fn() -> Verdict) -> CheckResult {
    let begin = Instant::now();
    loop {
        let verdict = attempt();
        if verdict.is_ok() || begin.elapsed() + PAUSE > Duration::from_secs(retry) {
            return result(name.to_owned(), verdict, millis(begin));
        }
        thread::sleep(PAUSE);
    }
}

fn probe(name: &Name, check: &Check) -> Option<Probe> {
    Some(Probe { host: check.from.clone()?, id: full_name(name), script: script(check) })
}

/// Returns a probe's answer.
fn answer<'a>(answers: &'a Hosts, host: &Name, id: &str) -> Result<&'a remote::Output, String> {
    match answers.get(host) {
        None => Err(format!("{host} was not asked")),
        Some(Err(error)) => Err(chain(error)),
        Some(Ok(answers)) => answers.get(id).ok_or_else(|| format!("{host} did not answer")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

/// Judges what follows from the inventory. Answers come together, so only the first question carries their time.
fn asked(check: &Asked, answers: &Hosts, milliseconds: u64) -> CheckResult {
    let verdict = answer(answers, &check.host, check.probe).and_then(|output| (check.judge)(output));
    result(check.name.clone(), verdict, if check.probe == "alive" { milliseconds } else { 0 })
}

/// Judges the checks that run on hosts, and asks again, in one round trip a host, for those that may come right yet.
fn again(cx: &Context<'_>, checks: &[(&Name, &Check)], mut answers: Hosts, begin: Instant) -> Vec<(Name, CheckResult)> {
    let mut left: Vec<_> = checks.to_vec();
    let mut results = Vec::new();
    loop {
        let mut failed = Vec::new();
        for (name, check) in left {
            let Some(host) = &check.from else { continue };
            let verdict = answer(&answers, host, &full_name(name)).and_then(|output| judge_answer(check, output));
            if verdict.is_err() && begin.elapsed() + PAUSE <= Duration::from_secs(check.retry) {
                failed.push((name, check));
            } else {
                results.push((name.clone(), result(full_name(name), verdict, millis(begin))));
            }
        }
        if failed.is_empty() {
            return results;
        }
        left = failed;
        thread::sleep(PAUSE);
        let probes: Vec<_> = left.iter().filter_map(|(name, check)| probe(name, check)).collect();
        answers = cx.fleet.ask(&probes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_check_is_tried_again_only_while_it_may_be() {
        let tries = AtomicU32::new(0);
        let fail = || {
            tries.fetch_add(1, Ordering::Relaxed);
            Err("no".to_owned())
        };
        let result = until_good("check/a", 0, fail);
        assert_eq!((result.failure.as_deref(), tries.load(Ordering::Relaxed)), (Some("no"), 1));
        let later = || if tries.fetch_add(1, Ordering::Relaxed) < 2 { Err("no".to_owned()) } else { Ok("yes".into()) };
        let result = until_good("check/a", 30, later);
        assert_eq!((result.failure, result.seen.as_str()), (None, "yes"));
        assert!(result.milliseconds >= 2_000);
    }

    #[test]
    fn a_host_that_is_not_there_fails_its_checks() {
        let host: Name = "vm-a".parse().unwrap();
        let check = Asked {
            name: "vm/pve1/vm-a".into(),
            host: host.clone(),
            probe: "alive",
            judge: Box::new(|_| Ok(String::new())),
        };
        let error = remote::Error::Unreachable {
            host: "vm-a".into(),
            address: "192.168.1.101:22".into(),
            source: std::io::Error::other("timed out"),
        };
        let result = asked(&check, &[(host.clone(), Err(error))].into(), 5);
        assert_eq!(result.failure.as_deref(), Some("can't reach vm-a at 192.168.1.101:22: timed out"));
        let result = asked(&check, &Hosts::new(), 5);
        assert_eq!(result.failure.as_deref(), Some("vm-a was not asked"));
        let result = asked(&check, &[(host, Ok(Answers::new()))].into(), 5);
        assert_eq!(result.failure.as_deref(), Some("vm-a did not answer"));
    }
}
