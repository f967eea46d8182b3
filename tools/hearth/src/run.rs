//! A run: the first look, then the stages as a graph.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

use anyhow::Result;
use converge::saved::SitePlan;
use converge::{Context, Event, Facts, Failure, Plan, Tool, stop};
use site::Name;

use crate::journal::Journal;
use crate::pipeline::{Pipeline, Stage, Work};
use crate::record::{Outcome, StageRun};
use crate::stage::{self, Done, Order};

/// What the first look found: a plan for each stage that applies, and the guests that are still to be made.
#[derive(Default)]
pub struct Look {
    /// The plans, or why a stage could not plan, by stage.
    pub plans: BTreeMap<String, Result<Plan>>,
    /// Guests that a stage is going to make.
    pub absent: BTreeSet<Name>,
}

impl Look {
    /// Returns the plans of the stages that could plan.
    pub fn planned(&self) -> impl Iterator<Item = (&str, &Plan)> {
        self.plans.iter().filter_map(|(stage, plan)| Some((stage.as_str(), plan.as_ref().ok()?)))
    }

    /// Returns all plans, to be kept in a file.
    ///
    /// # Errors
    /// Why a stage could not plan.
    pub fn saved(&self, site: &site::Site) -> Result<SitePlan> {
        let mut stages = BTreeMap::new();
        for (stage, plan) in &self.plans {
            let plan = plan.as_ref().map_err(|error| {
                let why = converge::describe(error).trim_start_matches("error: ").to_owned();
                Failure::new(converge::reason(error), format!("stage '{stage}' can't plan\n  because: {why}"))
            })?;
            stages.insert(stage.clone(), plan.clone());
        }
        Ok(SitePlan { site: site.name.to_string(), stages })
    }
}

/// Observes the whole site once, one round trip a host, and plans every stage from that.
///
/// Tools that ask no host (the Proxmox API has the facts) come first: they know which guests can't be asked yet.
///
/// # Errors
/// Where a tool can't say what to ask.
pub fn look(cx: &mut Context<'_>, pipeline: &Pipeline, tools: &[Box<dyn Tool>]) -> Result<Look> {
    let mut look = Look::default();
    let mut asking = Vec::new();
    for stage in &pipeline.stages {
        let Some(tool) = applying(stage, tools) else { continue };
        if tool.probes(cx)?.is_empty() {
            let plan = converge::plan_from(cx, tool, &Facts::default());
            if let Ok(plan) = &plan {
                look.absent.extend(tool.makes(&plan.steps));
            }
            look.plans.insert(stage.name.clone(), plan);
        } else {
            asking.push((stage, tool));
        }
    }
    cx.absent = look.absent.clone();
    let facts = converge::collect(cx, &asking.iter().map(|(_, tool)| *tool).collect::<Vec<_>>())?;
    for (stage, tool) in asking {
        if let Some(facts) = facts.get(tool.name()) {
            look.plans.insert(stage.name.clone(), converge::plan_from(cx, tool, facts));
        }
    }
    Ok(look)
}

fn applying<'t>(stage: &Stage, tools: &'t [Box<dyn Tool>]) -> Option<&'t dyn Tool> {
    let Work::Apply(name) = &stage.work else { return None };
    named(name, tools)
}

fn named<'t>(name: &str, tools: &'t [Box<dyn Tool>]) -> Option<&'t dyn Tool> {
    tools.iter().map(AsRef::as_ref).find(|tool| tool.name() == name)
}

/// The stages that have ended, and how.
#[derive(Default)]
struct Board {
    ended: Mutex<BTreeMap<String, Outcome>>,
    changed: Condvar,
}

impl Board {
    /// Waits until all that a stage needs has ended; returns whether it may begin.
    fn wait(&self, needs: &[String]) -> bool {
        let Ok(mut ended) = self.ended.lock() else { return false };
        while !needs.iter().all(|need| ended.contains_key(need)) {
            let Ok(next) = self.changed.wait(ended) else { return false };
            ended = next;
        }
        !needs.iter().any(|need| matches!(ended[need], Outcome::Failed | Outcome::Skipped))
    }

    fn end(&self, stage: &str, outcome: Outcome) {
        if let Ok(mut ended) = self.ended.lock() {
            ended.insert(stage.to_owned(), outcome);
        }
        self.changed.notify_all();
    }

    /// Tells whether a stage that this one needs, directly or not, has changed something.
    fn moved(&self, stage: &Stage, pipeline: &Pipeline) -> bool {
        let Ok(ended) = self.ended.lock() else { return true };
        ancestors(stage, pipeline).iter().any(|need| ended.get(need.as_str()) != Some(&Outcome::Unchanged))
    }
}

fn ancestors<'p>(stage: &'p Stage, pipeline: &'p Pipeline) -> BTreeSet<&'p String> {
    let mut all = BTreeSet::new();
    let mut open: Vec<&String> = stage.needs.iter().collect();
    while let Some(need) = open.pop() {
        if all.insert(need)
            && let Some(stage) = pipeline.stages.iter().find(|stage| stage.name == *need)
        {
            open.extend(&stage.needs);
        }
    }
    all
}

/// What the stages of a run work with.
pub struct Crew<'a> {
    /// The manifest.
    pub pipeline: &'a Pipeline,
    /// The tools.
    pub tools: &'a [Box<dyn Tool>],
    /// The context of stages before which nothing is absent.
    pub cx: &'a Context<'a>,
    /// The journal.
    pub journal: &'a Journal<'a>,
    /// Addresses that may lose data.
    pub allow: &'a [String],
    /// The plan that was agreed to, where one was given.
    pub agreed: Option<&'a SitePlan>,
    /// The run's begin.
    pub begin: Instant,
}

/// Runs the stages, each when all that it needs has ended well; returns their records and the first error.
pub fn stages(crew: &Crew<'_>, look: Look) -> (Vec<StageRun>, Option<anyhow::Error>) {
    let board = Board::default();
    let plans = Mutex::new(look.plans);
    let records: Mutex<Vec<StageRun>> = Mutex::default();
    let first_error = Mutex::new(None);
    thread::scope(|scope| {
        for stage in &crew.pipeline.stages {
            let (board, plans, records, first_error) = (&board, &plans, &records, &first_error);
            scope.spawn(move || {
                let may = board.wait(&stage.needs) && !stop::asked();
                let from = millis(crew.begin);
                let plan = plans.lock().ok().and_then(|mut plans| plans.remove(&stage.name));
                let plan = if board.moved(stage, crew.pipeline) { None } else { plan };
                let result = may.then(|| guarded(crew, stage, plan));
                let (record, error) = record(crew, stage, from, result);
                let outcome = record.outcome;
                if let (Some(error), Ok(mut first)) = (error, first_error.lock()) {
                    first.get_or_insert(error);
                }
                if let Ok(mut records) = records.lock() {
                    records.push(record);
                }
                board.end(&stage.name, outcome);
            });
        }
    });
    let mut records = records.into_inner().unwrap_or_default();
    let place = |name: &str| crew.pipeline.stages.iter().position(|stage| stage.name == name);
    records.sort_by_key(|record| place(&record.name));
    (records, first_error.into_inner().unwrap_or_default())
}

/// Runs a stage; a panic in it is its failure, since the stages that need it wait to hear how it ended.
fn guarded(crew: &Crew<'_>, stage: &Stage, plan: Option<Result<Plan>>) -> Result<Done> {
    let work = std::panic::AssertUnwindSafe(|| one(crew, stage, plan));
    std::panic::catch_unwind(work).unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked; the message is above")))
}

fn one(crew: &Crew<'_>, stage: &Stage, plan: Option<Result<Plan>>) -> Result<Done> {
    crew.journal.emit_stage(&stage.name);
    let tool = match &stage.work {
        Work::Apply(name) | Work::Check(name) => named(name, crew.tools),
        Work::Command { .. } => None,
    };
    let plan = plan.transpose()?;
    let agreed = crew.agreed.and_then(|agreed| agreed.stages.get(&stage.name));
    stage::run(stage, Order { cx: crew.cx, tool, plan, allow: crew.allow, agreed })
}

fn record(
    crew: &Crew<'_>,
    stage: &Stage,
    from: u64,
    result: Option<Result<Done>>,
) -> (StageRun, Option<anyhow::Error>) {
    let mut run = StageRun {
        name: stage.name.clone(),
        tool: match &stage.work {
            Work::Apply(tool) | Work::Check(tool) => tool.clone(),
            Work::Command { argv, .. } => argv.join(" "),
        },
        needs: stage.needs.clone(),
        begin: from,
        milliseconds: millis(crew.begin) - from,
        outcome: Outcome::Skipped,
        error: None,
        changes: crew.journal.changes(&stage.name),
        checks: Vec::new(),
    };
    let mut error = None;
    match result {
        None => {}
        Some(Ok(done)) => {
            run.outcome = done.outcome;
            run.checks = done.checks;
            let failed = run.checks.iter().filter(|check| check.failure.is_some()).count();
            if failed > 0 {
                let all = run.checks.len();
                error = Some(anyhow::anyhow!("stage '{}': {failed} of {all} checks failed", stage.name));
            }
        }
        Some(Err(failure)) => error = Some(failure.context(format!("stage '{}' failed", stage.name))),
    }
    if let Some(error) = &error {
        run.outcome = Outcome::Failed;
        run.error = Some(converge::describe(error));
    }
    let applied = run.changes.iter().filter(|change| change.milliseconds.is_some()).count();
    converge::Events::emit(
        crew.journal,
        &Event::StageEnded {
            stage: stage.name.clone(),
            outcome: run.outcome.word().to_owned(),
            changes: applied,
            milliseconds: run.milliseconds,
        },
    );
    (run, error)
}

/// Returns the error of a run that was asked to stop and left stages out, none of which failed.
pub fn stopped(stages: &[StageRun]) -> Option<anyhow::Error> {
    let left: Vec<&str> =
        stages.iter().filter(|stage| stage.outcome == Outcome::Skipped).map(|stage| stage.name.as_str()).collect();
    if left.is_empty() {
        return None;
    }
    stop::safe_point(&format!("the stages {}", left.join(", "))).err()
}

/// Returns the milliseconds since an instant.
pub fn millis(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}
