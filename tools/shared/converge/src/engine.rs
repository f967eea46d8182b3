//! Observe, plan, apply, observe again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use remote::Probe;

use crate::change::{Impact, Plan, Step};
use crate::context::{Context, Facts, HostFacts};
use crate::event::Event;
use crate::failure::{self, Failure};
use crate::{CheckResult, Tool, stop};

/// What an apply came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// How many changes were made.
    pub changes: usize,
}

/// Asks the hosts all the questions of several tools, one round trip a host; returns the answers by tool.
///
/// # Errors
/// Where a tool can't say what it wants to know. A host that can't be reached is in the facts.
pub fn collect(cx: &Context<'_>, tools: &[&dyn Tool]) -> Result<BTreeMap<&'static str, Facts>> {
    let mut asked = Vec::new();
    for tool in tools {
        for probe in tool.probes(cx).with_context(|| format!("{} can't say what to ask", tool.name()))? {
            asked.push((tool.name(), probe));
        }
    }
    let joined = |tool: &str, id: &str| format!("{tool} {id}");
    let probes: Vec<Probe> = asked
        .iter()
        .filter(|(_, probe)| !cx.absent.contains(&probe.host))
        .map(|(tool, probe)| Probe { id: joined(tool, &probe.id), ..probe.clone() })
        .collect();
    let answers = cx.fleet.ask(&probes);
    let mut facts: BTreeMap<_, BTreeMap<_, HostFacts>> =
        tools.iter().map(|tool| (tool.name(), BTreeMap::new())).collect();
    for (tool, probe) in asked {
        let hosts = facts.entry(tool).or_default();
        let here = hosts.entry(probe.host.clone()).or_insert_with(|| match answers.get(&probe.host) {
            None => HostFacts::Absent,
            Some(Ok(_)) => HostFacts::Answers(BTreeMap::new()),
            Some(Err(error)) => failed(error),
        });
        let output = answers.get(&probe.host).and_then(|host| host.as_ref().ok()?.get(&joined(tool, &probe.id)));
        if let (HostFacts::Answers(map), Some(output)) = (here, output) {
            map.insert(probe.id, output.clone());
        }
    }
    Ok(facts.into_iter().map(|(tool, hosts)| (tool, Facts::new(hosts))).collect())
}

fn failed(error: &remote::Error) -> HostFacts {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message += &format!(": {inner}");
        cause = inner.source();
    }
    if let Some(hint) = failure::key_hint(error) {
        message += &format!("\n  hint: {hint}");
    }
    let reason = match error {
        remote::Error::HostKey { .. } | remote::Error::UnknownKey { .. } => crate::Reason::Refused,
        remote::Error::Unreachable { .. } => crate::Reason::Unreachable,
        remote::Error::Locked { .. } => crate::Reason::Locked,
        _ => crate::Reason::Failed,
    };
    HostFacts::Failed(reason, message)
}

/// Observes for one tool and compares; `--only` is applied to the outcome.
///
/// # Errors
/// Whatever the tool's own comparison fails with.
pub fn observe_plan(cx: &Context<'_>, tool: &dyn Tool) -> Result<Plan> {
    let facts = collect(cx, &[tool])?;
    let none = Facts::default();
    plan_from(cx, tool, facts.get(tool.name()).unwrap_or(&none))
}

/// Compares desired with facts that are there already; `--only` is applied to the outcome.
///
/// # Errors
/// Whatever the tool's own comparison fails with.
pub fn plan_from(cx: &Context<'_>, tool: &dyn Tool, facts: &Facts) -> Result<Plan> {
    let mut steps = tool.plan(cx, facts).with_context(|| format!("{} can't plan", tool.name()))?;
    steps.retain(|step| cx.selects(&step.change.address));
    Ok(Plan { tool: tool.name().to_owned(), site: cx.site.name.to_string(), steps })
}

/// Applies a plan, wave after wave and a wave's lanes at the same time, then observes again: the plan must be empty then.
///
/// # Errors
/// A refusal where data would be lost without consent, before anything is done; the first step's error of each lane,
/// and no further wave; a failure where something still differs afterwards; where it was asked to stop, what was done
/// until then and what was not.
pub fn apply(cx: &Context<'_>, tool: &dyn Tool, stage: &str, plan: &Plan, allow: &[String]) -> Result<Applied> {
    consent(plan, allow)?;
    if plan.steps.is_empty() {
        return Ok(Applied { changes: 0 });
    }
    let done = Mutex::default();
    for lanes in waves(&plan.steps).values() {
        apply_wave(cx, tool, stage, lanes, &done)?;
    }
    stopped(tool, plan, &done.into_inner().unwrap_or_default())?;
    let left = observe_plan(cx, tool)
        .with_context(|| format!("{} applied its changes but can't observe them", tool.name()))?;
    if left.steps.is_empty() {
        return Ok(Applied { changes: plan.steps.len() });
    }
    let text = left.steps.iter().map(|step| step.change.to_string()).collect::<Vec<_>>().join("\n");
    anyhow::bail!("{} applied {} changes, but this still differs:\n{text}", tool.name(), plan.steps.len())
}

type Lanes<'a> = BTreeMap<&'a str, Vec<&'a Step>>;

/// Sorts steps by wave and lane; within a lane they keep their order.
fn waves(steps: &[Step]) -> BTreeMap<u32, Lanes<'_>> {
    let mut waves: BTreeMap<u32, Lanes<'_>> = BTreeMap::new();
    for step in steps {
        waves.entry(step.wave).or_default().entry(&step.lane).or_default().push(step);
    }
    waves
}

/// Says where it stopped, where it did: what was done, and what was not.
fn stopped(tool: &dyn Tool, plan: &Plan, done: &[String]) -> Result<()> {
    let left: Vec<&str> = plan.steps.iter().map(|step| step.change.address.as_str()).collect();
    let left: Vec<&str> = left.into_iter().filter(|address| !done.iter().any(|one| one == address)).collect();
    let Some(next) = left.first() else { return Ok(()) };
    let made = if done.is_empty() { "nothing".to_owned() } else { done.join(", ") };
    let message = format!(
        "{} stopped before {next}, as it was asked to: {} of {} changes were made\n  made: {made}\n  not made: {}",
        tool.name(),
        done.len(),
        plan.steps.len(),
        left.join(", ")
    );
    Err(stop::failure(message).into())
}

/// Applies the lanes of one wave at the same time and waits for all of them.
fn apply_wave(
    cx: &Context<'_>,
    tool: &dyn Tool,
    stage: &str,
    lanes: &Lanes<'_>,
    done: &Mutex<Vec<String>>,
) -> Result<()> {
    let errors = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for steps in lanes.values() {
            scope.spawn(|| {
                if let Err(error) = apply_lane(cx, tool, stage, steps, done)
                    && let Ok(mut errors) = errors.lock()
                {
                    errors.push(error);
                }
            });
        }
    });
    let mut errors = errors.into_inner().unwrap_or_default();
    for further in errors.iter().skip(1) {
        cx.events.emit(&Event::Failed { message: failure::describe(further) });
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(0)) }
}

fn consent(plan: &Plan, allow: &[String]) -> Result<()> {
    for Step { change, .. } in &plan.steps {
        if let Impact::DataLoss(what) = &change.impact
            && !allow.iter().any(|address| address == change.address.as_str())
        {
            let message = format!("{} would lose the data of {}", change.address, what.join(", "));
            return Err(Failure::refused(message)
                .hint(format!("if that is wanted: --allow {}", change.address))
                .into());
        }
    }
    Ok(())
}

/// Applies the steps of a lane; between them is where it can be stopped.
fn apply_lane(
    cx: &Context<'_>,
    tool: &dyn Tool,
    stage: &str,
    steps: &[&Step],
    done: &Mutex<Vec<String>>,
) -> Result<()> {
    for step in steps {
        if stop::asked() {
            return Ok(());
        }
        let address = step.change.address.to_string();
        cx.events.emit(&Event::Applying { stage: stage.to_owned(), address: address.clone() });
        let begin = Instant::now();
        let outcome = tool.apply(cx, step).with_context(|| format!("can't apply {address}"));
        let error = outcome.as_ref().err().map(failure::describe);
        let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        cx.events.emit(&Event::Applied { stage: stage.to_owned(), address: address.clone(), error, milliseconds });
        outcome?;
        if let Ok(mut done) = done.lock() {
            done.push(address);
        }
    }
    Ok(())
}

/// Checks a tool's work by its plan: one check for each thing that differs, or one that nothing does.
pub(crate) fn check_by_plan<T: Tool + ?Sized>(tool: &T, cx: &Context<'_>) -> Result<Vec<CheckResult>> {
    let begin = Instant::now();
    let probes = tool.probes(cx)?;
    let asked: Vec<Probe> = probes.into_iter().filter(|probe| !cx.absent.contains(&probe.host)).collect();
    let hosts = cx.fleet.ask(&asked).into_iter().map(|(host, answers)| match answers {
        Ok(answers) => (host, HostFacts::Answers(answers)),
        Err(error) => {
            let facts = failed(&error);
            (host, facts)
        }
    });
    let steps = tool.plan(cx, &Facts::new(hosts))?;
    let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let result = |name: String, failure| CheckResult { name, failure, seen: String::new(), milliseconds };
    let differing = steps.iter().filter(|step| cx.selects(&step.change.address));
    let mut results: Vec<_> =
        differing.map(|step| result(step.change.address.to_string(), Some(step.change.to_string()))).collect();
    if results.is_empty() {
        results.push(result(format!("{}/as-desired", tool.name()), None));
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Change, Kind};

    #[test]
    fn waves_come_in_order_and_lanes_keep_theirs() {
        let step = |wave, lane: &str, name: &str| Step {
            change: Change {
                address: Address::new([name]),
                kind: Kind::Create,
                before: serde_json::Value::Null,
                after: serde_json::Value::Null,
                impact: Impact::None,
            },
            wave,
            lane: lane.to_owned(),
            action: serde_json::Value::Null,
        };
        let steps = [step(1, "b", "3"), step(0, "z", "1"), step(1, "a", "2"), step(1, "b", "4")];
        let waves = waves(&steps);
        let names = |wave: u32, lane: &str| -> Vec<&str> {
            waves[&wave][lane].iter().map(|step| step.change.address.as_str()).collect()
        };
        assert_eq!(waves.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(names(0, "z"), ["1"]);
        assert_eq!(names(1, "a"), ["2"]);
        assert_eq!(names(1, "b"), ["3", "4"]);
    }
}
