//! The way forward: build, plan, run.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use converge::cli::{Consent, Session};
use converge::{Event, Events, Lock, Tool, exit};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::build::{self, Built};
use crate::journal::Journal;
use crate::pipeline::Pipeline;
use crate::record::{Outcome, Run};
use crate::run::{self, Crew, Look};
use crate::{report, tools};

/// The manifest and the tools that it names.
pub struct Used {
    pipeline: Pipeline,
    tools: Vec<Box<dyn Tool>>,
}

impl Used {
    pub fn open(session: &Session) -> Result<Self> {
        let tools = tools::all();
        let names: Vec<&str> = tools.iter().map(|tool| tool.name()).collect();
        let pipeline = Pipeline::load(&session.site.project, &names)?;
        Ok(Self { pipeline, tools })
    }

    fn api_calls(&self) -> u64 {
        self.tools.iter().map(|tool| tool.api_calls()).sum()
    }
}

pub fn build_all(session: &Session, used: &Used, events: &dyn Events) -> Result<u8> {
    let cx = session.context(events, &[]);
    let built = build::build(&cx, &used.tools, &session.site.project)?;
    note_built(&built, events);
    Ok(exit::OK)
}

fn note_built(built: &Built, events: &dyn Events) {
    let artifacts = built.generation.artifacts.values();
    let mib = artifacts.clone().map(|artifact| artifact.size).sum::<u64>() >> 20;
    let message = format!(
        "generation {} ({}): {} artifacts, {mib} MiB, {}",
        built.number,
        built.digest.short(),
        artifacts.len(),
        converge::seconds(built.milliseconds)
    );
    events.emit(&Event::Note { message });
}

pub fn plan(session: &Session, used: &Used, only: &[String], events: &dyn Events) -> Result<u8> {
    let begin = Instant::now();
    let mut cx = session.context(events, only);
    note_built(&build::build(&cx, &used.tools, &session.site.project)?, events);
    session.enter_network()?;
    let mut look = run::look(&mut cx, &used.pipeline, &used.tools)?;
    let mut changes = 0;
    for stage in &used.pipeline.stages {
        let Some(plan) = look.plans.remove(&stage.name) else { continue };
        let plan = plan.map_err(|error| error.context(format!("stage '{}' can't plan", stage.name)))?;
        changes += plan.steps.len();
        for step in plan.steps {
            events.emit(&Event::Planned { stage: stage.name.clone(), change: step.change });
        }
    }
    let cost = converge::cli::cost(&session.fleet, used.api_calls(), begin);
    let message = match changes {
        0 => "nothing to change".to_owned(),
        n => format!("{n} changes"),
    };
    events.emit(&Event::Summary { message: format!("{message}; {}", converge::cli::cost_line(&cost)), cost });
    Ok(if changes == 0 { exit::OK } else { exit::CHANGES_PENDING })
}

pub fn run(session: &Session, used: &Used, only: &[String], consent: &Consent, events: &dyn Events) -> Result<u8> {
    let begin = Instant::now();
    let begun = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let _lock = Lock::take(&session.site.project, session.site.name.as_str())?;
    let journal = Journal::begin(&session.site.project, &begun, events)?;
    let mut cx = session.context(&journal, only);
    let built = build::build(&cx, &used.tools, &session.site.project)?;
    note_built(&built, &journal);
    session.enter_network()?;
    let looking = Instant::now();
    let look = run::look(&mut cx, &used.pipeline, &used.tools)?;
    let look_milliseconds = run::millis(looking);
    if !consent.yes {
        ask(&look, events)?;
    }
    let crew = Crew {
        pipeline: &used.pipeline,
        tools: &used.tools,
        cx: &session.context(&journal, only),
        journal: &journal,
        allow: &consent.allow,
        begin,
    };
    let (stages, error) = run::stages(&crew, look);
    let changed = stages.iter().any(|stage| stage.outcome == Outcome::Changed);
    let record = Run {
        site: session.site.name.to_string(),
        begin: begun,
        outcome: match (&error, changed) {
            (Some(_), _) => Outcome::Failed,
            (None, true) => Outcome::Changed,
            (None, false) => Outcome::Unchanged,
        },
        error: error.as_ref().map(converge::describe),
        generation: built.number,
        digest: built.digest.to_string(),
        build_milliseconds: built.milliseconds,
        look_milliseconds,
        stages,
        artifacts: built.generation.artifacts,
        cost: converge::cli::cost(&session.fleet, used.api_calls(), begin),
    };
    finish(&record, journal.folder(), &journal)?;
    match error {
        Some(error) => Err(error),
        None => Ok(exit::OK),
    }
}

/// Shows what the first look found and asks; says nothing where there is nothing to change.
fn ask(look: &Look, events: &dyn Events) -> Result<()> {
    let steps = || look.plans.iter().filter_map(|(stage, plan)| Some((stage, plan.as_ref().ok()?)));
    if steps().all(|(_, plan)| plan.steps.is_empty()) {
        return Ok(());
    }
    for (stage, plan) in steps() {
        for step in &plan.steps {
            events.emit(&Event::Planned { stage: stage.clone(), change: step.change.clone() });
        }
    }
    converge::cli::confirm()
}

fn finish(record: &Run, folder: &Path, journal: &Journal<'_>) -> Result<()> {
    record.save(folder)?;
    let report = folder.join("report.html");
    store::files::write_atomic(&report, report::html(record), 0o644)?;
    let changes: usize = record.stages.iter().map(|stage| stage.changes.len()).sum();
    let checks = record.stages.iter().flat_map(|stage| &stage.checks);
    let failed = checks.clone().filter(|check| check.failure.is_some()).count();
    let line = converge::cli::cost_line(&record.cost);
    let message = format!(
        "run {}: {changes} changes, {} checks passed, {failed} failed; {line}\nreport: {}",
        record.outcome.word(),
        checks.count() - failed,
        report.display()
    );
    journal.emit(&Event::Summary { message, cost: record.cost.clone() });
    Ok(())
}
