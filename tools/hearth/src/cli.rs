//! The command line of `hearth`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use converge::cli::{Common, Consent, EXIT_HELP, Session};
use converge::{Events, Quiet, stop};

use crate::forward::{self, Used};
use crate::images::{self, Pins};
use crate::{difference, gc, generations, rollback, secrets, status, trust};

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
    Plan {
        /// Write the plan to this file too, for `run --plan`.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Build, observe, make the changes stage by stage, verify, report.
    Run {
        /// Do exactly this plan; refuse where reality has moved since.
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Tell what the last run came to.
    Status,
    /// List the generations: when each was applied, how that ended, and which the site runs.
    Generations,
    /// Tell what differs between two generations, or between one and the inventory as it is; ends with 2 where something does.
    Diff {
        /// The generation to compare from, by its number.
        #[arg(value_name = "A")]
        before: u64,
        /// The generation to compare with; without it, the inventory as it is.
        #[arg(value_name = "B")]
        after: Option<u64>,
    },
    /// Make a generation real again: exports, mounts, virtual machines and stacks together.
    Rollback {
        /// The generation's number; without it, the last that was applied well before the newest run's.
        number: Option<u64>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Forget old generations and remove what nothing reaches from the store.
    Gc {
        /// How many of the newest generations stay; what the site runs, and would go back to, stays too.
        #[arg(long, value_name = "N", default_value_t = 5)]
        keep: usize,
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// List, check and change the site's secrets. Reaches no host.
    Secrets {
        #[command(subcommand)]
        verb: secrets::Verb,
    },
    /// Show what hosts prove themselves with, ask, and pin it in pipeline.lock: the first contact.
    Trust(trust::Wish),
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
    if let Verb::Secrets { verb } = &cli.verb {
        return secrets::run(verb, cli.common.site.as_deref(), events);
    }
    stop::listen()?;
    let session = Session::open(cli.common.site.as_deref())?;
    let used = Used::open(&session)?;
    let (json, mut out) = (cli.common.json, std::io::stdout());
    match &cli.verb {
        Verb::Build { image, .. } if image.is_empty() => forward::build_all(&session, &used, events),
        Verb::Build { image, path: true, .. } => images::paths(&session.context(&Quiet, &[]), image),
        Verb::Build { image, check: true, .. } => images::check(&session.context(events, &[]), image),
        Verb::Build { image, .. } => images::build(&session.context(events, &[]), image),
        Verb::Lock { update: true, .. } => images::lock(&session.context(events, &[]), Pins::Update),
        Verb::Lock { refresh: true, .. } => images::lock(&session.context(events, &[]), Pins::Refresh),
        Verb::Lock { .. } => images::lock(&session.context(events, &[]), Pins::Keep),
        Verb::Plan { out } => forward::plan(&session, &used, &cli.common.only, out.as_deref(), events),
        Verb::Run { plan, consent } => {
            forward::run(&session, &used, &cli.common.only, (plan.as_deref(), consent), events)
        }
        Verb::Status => status::print(&session.site, json, &mut out),
        Verb::Generations => generations::print(&session.site, json, &mut out),
        Verb::Diff { before, after } => difference::print(&session, &used, (*before, *after), json, &mut out),
        Verb::Rollback { number, consent } => rollback::run(&session, *number, &cli.common.only, consent, events),
        // Done above: secrets can be made before the site that names them is whole.
        Verb::Secrets { .. } => Ok(converge::exit::OK),
        Verb::Gc { keep, dry_run } => gc::collect(&session, *keep, *dry_run, json, events),
        Verb::Trust(wish) => trust::trust(&session, wish, events),
    }
}
