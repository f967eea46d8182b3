//! The command line of `hearth`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use converge::cli::{Common, Consent, EXIT_HELP, Session};
use converge::{Events, Quiet};

use crate::forward::{self, Used};
use crate::images::{self, Pins};
use crate::status;

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
        Verb::Build { image, .. } if image.is_empty() => forward::build_all(&session, &used, events),
        Verb::Build { image, path: true } => images::paths(&session.context(&Quiet, &[]), image),
        Verb::Build { image, path: false } => images::build(&session.context(events, &[]), image),
        Verb::Lock { update: true, .. } => images::lock(&session.context(events, &[]), Pins::Update),
        Verb::Lock { refresh: true, .. } => images::lock(&session.context(events, &[]), Pins::Refresh),
        Verb::Lock { .. } => images::lock(&session.context(events, &[]), Pins::Keep),
        Verb::Plan => forward::plan(&session, &used, &cli.common.only, events),
        Verb::Run { consent } => forward::run(&session, &used, &cli.common.only, consent, events),
        Verb::Status => status::print(&session.site, cli.common.json, &mut std::io::stdout().lock()),
    }
}
