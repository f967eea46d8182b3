//! The command line of `hearth`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use converge::cli::{Common, Consent, EXIT_HELP, Session};
use converge::{Event, Events, Lock, Quiet, Tool, exit};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::build::{self, Built};
use crate::images::{self, Pins};
use crate::journal::Journal;
use crate::pipeline::Pipeline;
use crate::record::{Outcome, Run};
use crate::run::{self, Crew, Look};
use crate::{report, status, tools};

#[derive(Parser, Debug)]
#[command(name = "hearth", version, about, after_help = EXIT_HELP)]
/// Turns one inventory into a running, verified Proxmox homelab, and does it again.
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Build the generation: every artifact and every tool's desired state. Reaches no host.
    Build {
        /// Build only this image (a name in `images/`) and print where it is.
        #[arg(long, value_name = "NAME")]
        image: Vec<String>,
        /// Print nothing but the path of each image's file, for a script.
        #[arg(long, requires = "image")]
        path: bool,
        /// Build the image again and compare; fail with the first file that differs.
        #[arg(long, requires = "image", conflicts_with = "path")]
        check: bool,
    },
    /// Observe the whole site and print the changes that are needed; ends with 2 where there are some.
    Plan,
    /// Build, observe, make the changes stage by stage, verify, report.
    Run {
        #[command(flatten)]
        consent: Consent,
    },
    /// Tell what the last run came to.
    Status,
    /// Pin the Debian packages that the images are made of, in pipeline.lock.
    Lock {
        /// Move every pin to the newest version.
        #[arg(long)]
        update: bool,
        /// Move the pins whose packages can't be had any more.
        #[arg(long, conflicts_with = "update")]
        refresh: bool,
    },
}

/// Runs the command line from the process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return converge::cli::usage(&error),
    };
    let events = converge::cli::events(cli.common.json);
    match dispatch(&cli, events.as_ref()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => converge::cli::fail(events.as_ref(), &error),
    }
}

fn dispatch(cli: &Cli, events: &dyn Events) -> Result<u8> {
    let session = Session::open(cli.common.site.as_deref())?;
    let used = Used::open(&session)?;
    match &cli.verb {
        Verb::Build { image, .. } if image.is_empty() => build_all(&session, &used, events),
        Verb::Build { image, path: true, .. } => images::paths(&session.context(&Quiet, &[]), image),
        Verb::Build { image, check: true, .. } => images::check(&session.context(events, &[]), image),
        Verb::Build { image, .. } => images::build(&session.context(events, &[]), image),
        Verb::Lock { update: true, .. } => images::lock(&session.context(events, &[]), Pins::Update),
        Verb::Lock { refresh: true, .. } => images::lock(&session.context(events, &[]), Pins::Refresh),
        Verb::Lock { .. } => images::lock(&session.context(events, &[]), Pins::Keep),
        Verb::Plan => plan(cli, &session, &used, events),
        Verb::Run { consent } => run(cli, &session, &used, consent, events),
        Verb::Status => status::print(&session.site, cli.common.json, &mut std::io::stdout().lock()),
    }
}

/// The manifest and the tools that it names.
struct Used {
    pipeline: Pipeline,
    tools: Vec<Box<dyn Tool>>,
}

impl Used {
    fn open(session: &Session) -> Result<Self> {
        let tools = tools::all();
        let names: Vec<&str> = tools.iter().map(|tool| tool.name()).collect();
        let pipeline = Pipeline::load(&session.site.project, &names)?;
        Ok(Self { pipeline, tools })
    }

    fn api_calls(&self) -> u64 {
        self.tools.iter().map(|tool| tool.api_calls()).sum()
    }
}

fn build_all(session: &Session, used: &Used, events: &dyn Events) -> Result<u8> {
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

fn plan(cli: &Cli, session: &Session, used: &Used, events: &dyn Events) -> Result<u8> {
    let begin = Instant::now();
    let mut cx = session.context(events, &cli.common.only);
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

fn run(cli: &Cli, session: &Session, used: &Used, consent: &Consent, events: &dyn Events) -> Result<u8> {
    let begin = Instant::now();
    let begun = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let _lock = Lock::take(&session.site.project, session.site.name.as_str())?;
    let journal = Journal::begin(&session.site.project, &begun, events)?;
    let mut cx = session.context(&journal, &cli.common.only);
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
        cx: &session.context(&journal, &cli.common.only),
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
