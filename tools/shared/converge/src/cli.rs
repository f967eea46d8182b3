//! The command line that all tools share.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use remote::Fleet;
use serde_json::json;
use site::Site;

use crate::change::Plan;
use crate::context::Context;
use crate::event::{Console, Event, Events, JsonLines};
use crate::failure::{self, Failure, Reason};
use crate::lock::Lock;
use crate::{Tool, engine, exit, hold, saved, stop};

/// The options that every sub-command of every tool takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The site: a folder of TOML files. Without it, $HEARTH_SITE, else `site` in the nearest pipeline.toml.
    #[arg(long, value_name = "DIR", env = "HEARTH_SITE", global = true)]
    pub site: Option<PathBuf>,
    /// Only what has this address or lies below it, as zfs/pve1/tank-hdd. Can be given more than once.
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub only: Vec<String>,
    /// One JSON object a line instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The options that allow an apply.
#[derive(Args, Clone, Debug, Default)]
pub struct Consent {
    /// Apply without asking.
    #[arg(long)]
    pub yes: bool,
    /// Let the change with exactly this address lose data. Can be given more than once.
    #[arg(long, value_name = "ADDRESS")]
    pub allow: Vec<String>,
}

#[derive(Parser, Debug)]
#[command(version, after_help = EXIT_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

/// The exit codes, as every `--help` shows them.
pub const EXIT_HELP: &str = "Exit codes: 0 done, 1 failed or stopped, 2 changes pending (plan), 64 usage, 69 unreachable, \
    75 locked, 77 refused for safety, 78 configuration, 130 ended at once by a second Ctrl-C.";

#[derive(Subcommand, Debug)]
enum Verb {
    /// Print what would be deployed.
    Render,
    /// Print the changes that are needed; ends with 2 where there are some.
    Plan {
        /// Write the plan to this file too, for `apply --plan`.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make the changes, then observe again.
    Apply {
        /// Do exactly this plan; refuse where reality has moved since.
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Check that what the tool made is there and works; changes nothing.
    Check,
}

/// Runs a tool's command line from the process's arguments.
pub fn main(tool: &dyn Tool) -> ExitCode {
    let command = Cli::command().name(tool.name()).about(tool.about());
    let cli = match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let events = events(cli.common.json);
    match stop::listen().and_then(|()| run(tool, &cli, events.as_ref())) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(events.as_ref(), &error),
    }
}

/// Prints clap's message and maps it to an exit code: help and version are no failures.
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
}

/// Prints an error once and maps it to its exit code.
pub fn fail(events: &dyn Events, error: &anyhow::Error) -> ExitCode {
    events.emit(&Event::Failed { message: failure::describe(error) });
    ExitCode::from(failure::reason(error).code())
}

/// Picks where events go.
pub fn events(json: bool) -> Box<dyn Events> {
    if json { Box::new(JsonLines) } else { Box::new(Console::new()) }
}

/// What a run holds from its beginning: the site and what it works with.
pub struct Session {
    /// The site, evaluated.
    pub site: Site,
    /// The store below the project.
    pub store: store::Store,
    /// The sessions.
    pub fleet: Fleet,
}

impl Session {
    /// Evaluates the site and opens the store. Reaches no host.
    ///
    /// # Errors
    /// All that is wrong with the inventory, or a store that can't be opened.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let site = site::load(&site::discover(folder)?)?;
        let store =
            store::Store::open(&site.project.join(".hearth/store"))?.with_cache(&cache_folder()?.join("store"))?;
        let fleet = Fleet::new(&site);
        Ok(Self { site, store, fleet })
    }

    /// Returns a session for another evaluation of the site, with the same store and sessions of its own.
    pub fn with_site(&self, site: Site) -> Self {
        let fleet = Fleet::new(&site);
        Self { site, store: self.store.clone(), fleet }
    }

    /// Returns the context that tools work with.
    pub fn context<'a>(&'a self, events: &'a dyn Events, only: &'a [String]) -> Context<'a> {
        Context { site: &self.site, store: &self.store, fleet: &self.fleet, events, only, absent: Default::default() }
    }

    /// Moves this thread, and those it starts from now on, into the site's network namespace, where it has one.
    ///
    /// Builds come before this: they fetch from the real network.
    ///
    /// # Errors
    /// Where the namespace is not there or may not be entered.
    pub fn enter_network(&self) -> Result<()> {
        let Some(name) = &self.site.network_namespace else { return Ok(()) };
        let path = Path::new("/run/netns").join(name);
        let file = std::fs::File::open(&path).map_err(|error| {
            Failure::new(Reason::Unreachable, format!("the site's network namespace '{name}' is not there: {error}"))
                .hint("bring the lab up first: pve-lab up")
        })?;
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
            .with_context(|| format!("can't enter the network namespace '{name}' (this takes root)"))
    }
}

fn run(tool: &dyn Tool, cli: &Cli, events: &dyn Events) -> Result<u8> {
    let begin = Instant::now();
    let session = Session::open(cli.common.site.as_deref())?;
    let cx = session.context(events, &cli.common.only);
    let code = match &cli.verb {
        Verb::Render => return render(tool, &cx, cli.common.json),
        Verb::Plan { out } => {
            prepare(tool, &session, &cx)?;
            plan(tool, &cx, out.as_deref())?
        }
        Verb::Apply { plan, consent } => {
            // Before any host is asked: what is wrong with it is known at once.
            let saved = plan.as_deref().map(|path| saved(tool, &session.site, path)).transpose()?;
            let _lock = Lock::take(&session.site.project, session.site.name.as_str())?;
            prepare(tool, &session, &cx)?;
            apply(tool, &cx, plan.as_deref().zip(saved.as_ref()), consent)?
        }
        Verb::Check => {
            prepare(tool, &session, &cx)?;
            check(tool, &cx)?
        }
    };
    let cost = cost(&session.fleet, tool.api_calls(), begin);
    events.emit(&Event::Summary { message: cost_line(&cost), cost });
    Ok(code)
}

/// Builds what is missing, outside the site's network, then enters it.
fn prepare(tool: &dyn Tool, session: &Session, cx: &Context<'_>) -> Result<()> {
    tool.artifacts(cx)?;
    session.enter_network()
}

/// Returns the folder that big downloads and builds are kept in across projects: `$HEARTH_CACHE`, else
/// `~/.cache/hearth`.
///
/// # Errors
/// Where neither variable is set.
pub fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("HEARTH_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither HEARTH_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/hearth"))
}

/// Counts what a run has cost.
pub fn cost(fleet: &Fleet, api_calls: u64, begin: Instant) -> serde_json::Value {
    let counts = fleet.counts();
    json!({
        "api_calls": api_calls,
        "ssh_sessions": counts.sessions,
        "round_trips": counts.round_trips,
        "bytes_sent": counts.sent,
        "bytes_received": counts.received,
        "process_starts": remote::local::process_starts(),
        "milliseconds": u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// Writes the cost as one line for people.
pub fn cost_line(cost: &serde_json::Value) -> String {
    let of = |key: &str| cost[key].as_u64().unwrap_or_default();
    format!(
        "{} API calls, {} SSH sessions, {} round trips, {} KiB sent, {} KiB received, {} processes started, {}",
        of("api_calls"),
        of("ssh_sessions"),
        of("round_trips"),
        of("bytes_sent") / 1024,
        of("bytes_received") / 1024,
        of("process_starts"),
        crate::event::seconds(of("milliseconds")),
    )
}

fn render(tool: &dyn Tool, cx: &Context<'_>, json: bool) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    for rendered in tool.render(cx)? {
        if json {
            writeln!(out, "{}", serde_json::to_string(&rendered)?)?;
        } else {
            writeln!(out, "### {}\n{}", rendered.place, rendered.text.trim_end())?;
        }
    }
    Ok(exit::OK)
}

fn plan(tool: &dyn Tool, cx: &Context<'_>, out: Option<&Path>) -> Result<u8> {
    let plan = engine::observe_plan(cx, tool)?;
    announce(cx, &plan);
    if let Some(path) = out {
        saved::write(path, &plan)?;
    }
    Ok(if plan.steps.is_empty() { exit::OK } else { exit::CHANGES_PENDING })
}

fn announce(cx: &Context<'_>, plan: &Plan) {
    for step in &plan.steps {
        cx.events.emit(&Event::Planned { stage: plan.tool.clone(), change: step.change.clone() });
    }
    let message = match plan.steps.len() {
        0 => format!("{}: nothing to change", plan.tool),
        1 => format!("{}: 1 change", plan.tool),
        n => format!("{}: {n} changes", plan.tool),
    };
    cx.events.emit(&Event::Note { message });
}

fn apply(tool: &dyn Tool, cx: &Context<'_>, file: Option<(&Path, &Plan)>, consent: &Consent) -> Result<u8> {
    let plan = engine::observe_plan(cx, tool)?;
    if let Some((path, saved)) = file {
        saved::unmoved(path, saved, &plan)?;
    }
    announce(cx, &plan);
    saved::known(&consent.allow, [&plan])?;
    if plan.steps.is_empty() {
        return Ok(exit::OK);
    }
    if file.is_none() && !consent.yes {
        confirm()?;
    }
    stop::safe_point("the first change")?;
    if hold(cx, &plan)? {
        unchanged(&plan, &engine::observe_plan(cx, tool)?)?;
    }
    engine::apply(cx, tool, tool.name(), &plan, &consent.allow)?;
    Ok(exit::OK)
}

/// Reads a saved plan, which must be this tool's and this site's.
fn saved(tool: &dyn Tool, site: &Site, path: &Path) -> Result<Plan> {
    let make = format!("make one with: {} plan --out {}", tool.name(), path.display());
    let text = std::fs::read(path)
        .map_err(|error| Failure::config(format!("can't read the plan {}: {error}", path.display())).hint(&make))?;
    let saved: Plan = serde_json::from_slice(&text)
        .map_err(|error| Failure::config(format!("{} is not a plan: {error}", path.display())).hint(&make))?;
    if saved.tool == tool.name() && saved.site == site.name.as_str() {
        return Ok(saved);
    }
    let message = format!(
        "{} is a plan of {} for site '{}', and this is {} for site '{}'",
        path.display(),
        saved.tool,
        saved.site,
        tool.name(),
        site.name
    );
    Err(Failure::config(message).hint(make).into())
}

/// Refuses where the hosts were changed between the look and the lock: what was agreed to is not what would be done.
fn unchanged(agreed: &Plan, now: &Plan) -> Result<()> {
    if agreed.digest() == now.digest() {
        return Ok(());
    }
    let message = format!("{}: somebody changed the site while this run looked at it", agreed.tool);
    Err(Failure::refused(message).hint("plan again, read it, apply that").into())
}

/// Asks the person at the terminal.
///
/// # Errors
/// Where there is no terminal, or the answer is not yes.
pub fn confirm() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let failure = Failure::new(Reason::Usage, "there are changes, and nobody to ask");
        return Err(failure.hint("give --yes to apply them, or plan first").into());
    }
    eprint!("Apply these changes? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Reason::Failed, "not applied").into())
}

fn check(tool: &dyn Tool, cx: &Context<'_>) -> Result<u8> {
    let results = tool.check(cx)?;
    let failed = results.iter().filter(|result| result.failure.is_some()).count();
    for result in &results {
        cx.events.emit(&Event::Checked { stage: tool.name().to_owned(), result: result.clone() });
    }
    let message = format!("{}: {} checks passed, {failed} failed", tool.name(), results.len() - failed);
    cx.events.emit(&Event::Note { message });
    Ok(if failed == 0 { exit::OK } else { exit::FAILED })
}
