//! The way forward: build, plan, run.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use converge::cli::{Consent, Session};
use converge::saved::{self, SitePlan};
use converge::{Event, Events, Failure, Lock, Tool, exit, stop};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::build::{self, Built};
use crate::journal::Journal;
use crate::pipeline::Pipeline;
use crate::record::{Outcome, Run};
use crate::run::{self, Crew, Look};
use crate::{report, secrets, tools};

/// The manifest and the tools that it names.
pub struct Used {
    /// The manifest.
    pub pipeline: Pipeline,
    /// Every tool that it can name.
    pub tools: Vec<Box<dyn Tool>>,
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

/// Tells what was built.
pub fn note_built(built: &Built, events: &dyn Events) {
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

pub fn plan(session: &Session, used: &Used, only: &[String], out: Option<&Path>, events: &dyn Events) -> Result<u8> {
    let begin = Instant::now();
    let mut cx = session.context(events, only);
    note_built(&build::build(&cx, &used.tools, &session.site.project)?, events);
    session.enter_network()?;
    let mut look = run::look(&mut cx, &used.pipeline, &used.tools)?;
    if let Some(path) = out {
        saved::write(path, &look.saved(&session.site)?)?;
    }
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

/// Runs the site's pipeline.
///
/// # Errors
/// Whatever the build, the first look or a stage fails with.
pub fn run(
    session: &Session,
    used: &Used,
    only: &[String],
    (file, consent): (Option<&Path>, &Consent),
    events: &dyn Events,
) -> Result<u8> {
    let begin = Instant::now();
    let begun = now()?;
    let _lock = Lock::take(&session.site.project, session.site.name.as_str())?;
    let journal = journal(session, &begun, events)?;
    let work = || -> Result<u8> {
        let built = build::build(&session.context(&journal, only), &used.tools, &session.site.project)?;
        note_built(&built, &journal);
        Forward { session, used, only, consent, file, journal: &journal, begin }.go(built, Vec::new(), &begun)
    };
    noted(&journal, work())
}

/// Returns the time in RFC 3339, to the second.
///
/// # Errors
/// A clock that is out of range.
pub fn now() -> Result<String> {
    Ok(OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?)
}

/// Begins the journal of a run with who runs it and on what.
///
/// # Errors
/// Whatever the file system fails with.
pub fn journal<'e>(session: &Session, begun: &str, events: &'e dyn Events) -> Result<Journal<'e>> {
    let journal = Journal::begin(&session.site.project, begun, events)?;
    journal.emit(&Event::RunStarted { site: session.site.name.to_string(), holder: converge::holder() });
    Ok(journal)
}

/// Notes in the journal how a run ended that left no record, so that nobody takes it for one that was killed.
pub fn noted(journal: &Journal<'_>, result: Result<u8>) -> Result<u8> {
    if let Err(error) = &result {
        journal.write(&Event::Failed { message: converge::describe(error) });
    }
    result
}

/// A run, once its generation is built.
pub struct Forward<'a> {
    /// The site, the store and the sessions.
    pub session: &'a Session,
    /// The manifest and the tools.
    pub used: &'a Used,
    /// The addresses that the run is limited to.
    pub only: &'a [String],
    /// What may be done without asking.
    pub consent: &'a Consent,
    /// The file with the plan that was agreed to, where one was given.
    pub file: Option<&'a Path>,
    /// The journal.
    pub journal: &'a Journal<'a>,
    /// The run's begin.
    pub begin: Instant,
}

impl Forward<'_> {
    /// Looks, asks, locks, runs the stages, and leaves the record and the report.
    ///
    /// # Errors
    /// Whatever the first look or a stage fails with.
    pub fn go(&self, built: Built, stays: Vec<String>, begun: &str) -> Result<u8> {
        let Self { session, used, only, journal, begin, .. } = *self;
        stop::safe_point("the first look")?;
        session.enter_network()?;
        let looking = Instant::now();
        let look = self.look()?;
        let look_milliseconds = run::millis(looking);
        let plan = self.saved(&look)?;
        let look = self.agreed(look)?;
        secrets::ready(&self.session.site, &look)?;
        let snapshots = self.snapshots(&look, &built)?;
        let cx = session.context(journal, only);
        let allow = &self.consent.allow;
        let agreed = plan.as_ref();
        let crew = Crew { pipeline: &used.pipeline, tools: &used.tools, cx: &cx, journal, allow, agreed, begin };
        let (stages, error) = run::stages(&crew, look);
        let error = error.or_else(|| run::stopped(&stages));
        let changed = stages.iter().any(|stage| stage.outcome == Outcome::Changed);
        let record = Run {
            site: session.site.name.to_string(),
            begin: begun.to_owned(),
            outcome: match (&error, changed) {
                (Some(_), _) => Outcome::Failed,
                (None, true) => Outcome::Changed,
                (None, false) => Outcome::Unchanged,
            },
            only: only.to_vec(),
            stays,
            snapshots,
            error: error.as_ref().map(converge::describe),
            generation: built.number,
            digest: built.digest.to_string(),
            build_milliseconds: built.milliseconds,
            look_milliseconds,
            stages,
            artifacts: built.generation.artifacts,
            cost: converge::cli::cost(&session.fleet, used.api_calls(), begin),
        };
        finish(&record, journal.folder(), journal)?;
        error.map_or(Ok(exit::OK), Err)
    }

    fn look(&self) -> Result<Look> {
        let mut cx = self.session.context(self.journal, self.only);
        run::look(&mut cx, &self.used.pipeline, &self.used.tools)
    }

    /// Reads the plan that was agreed to, and refuses where it is not what would be planned now.
    fn saved(&self, look: &Look) -> Result<Option<SitePlan>> {
        if look.plans.values().all(Result::is_ok) {
            saved::known(&self.consent.allow, look.planned().map(|(_, plan)| plan))?;
        }
        let Some(path) = self.file else { return Ok(None) };
        let plan: SitePlan = saved::read(path)?;
        saved::site_unmoved(path, &plan, &look.saved(&self.session.site)?)?;
        Ok(Some(plan))
    }

    /// Asks for consent where there is something to change, then locks the nodes and looks again: what was seen before the
    /// lock may have changed. A run with nothing to change locks nothing.
    fn agreed(&self, look: Look) -> Result<Look> {
        let decided = self.consent.yes && self.file.is_none();
        if !self.consent.yes && self.file.is_none() {
            ask(&look, self.journal)?;
        }
        stop::safe_point("the first change")?;
        let cx = self.session.context(self.journal, self.only);
        let mut held = false;
        for (_, plan) in look.planned() {
            held |= converge::hold(&cx, plan)?;
        }
        if !held {
            return Ok(look);
        }
        let again = self.look()?;
        let digests = |look: &Look| look.planned().map(|(_, plan)| plan.digest()).collect::<Vec<_>>();
        if !decided && digests(&look) != digests(&again) {
            let message = "somebody changed the site while this run looked at it";
            return Err(Failure::refused(message).hint("run it again, and read what it finds now").into());
        }
        Ok(again)
    }

    /// Takes the snapshots that the site asks for, where something is going to change.
    fn snapshots(&self, look: &Look, built: &Built) -> Result<Vec<String>> {
        if look.planned().all(|(_, plan)| plan.steps.is_empty()) {
            return Ok(Vec::new());
        }
        let cx = self.session.context(self.journal, self.only);
        let snapshots = zfs_init::snapshot(&cx, &built.digest.short())?;
        for name in &snapshots {
            self.journal.emit(&Event::Note { message: format!("snapshot before the change: {name}") });
        }
        Ok(snapshots)
    }
}

/// Shows what the first look found and asks; says nothing where there is nothing to change.
fn ask(look: &Look, events: &dyn Events) -> Result<()> {
    if look.planned().all(|(_, plan)| plan.steps.is_empty()) {
        return Ok(());
    }
    for (stage, plan) in look.planned() {
        for step in &plan.steps {
            events.emit(&Event::Planned { stage: stage.to_owned(), change: step.change.clone() });
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
