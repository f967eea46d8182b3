//! Development tasks: `cargo xtask demo` walks from an empty folder to a verified lab site, `cargo xtask test` runs every
//! check and test that there is.
//!
//! In: a clean clone. Out: a running lab, or a verdict. It is built on its own, from few crates, so that it can install
//! what the rest needs to build.

#![allow(clippy::disallowed_methods, reason = "xtask is built before the crates that the lint points to can be")]

mod demo;
mod packages;
mod steps;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of Hearth")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, make the lab, run the pipeline on inventory/lab, verify.
    Demo {
        /// Stop the lab instead: leave nothing running and nothing mounted.
        #[arg(long)]
        down: bool,
    },
    /// Run everything: format, lints, unit, golden, command-line and lab tests.
    Test {
        /// Leave out what needs the lab; says so at the end.
        #[arg(long)]
        quick: bool,
    },
    /// Try what takes longer than CI has: kill runs at random moments, and finish them. Resumes from its record in docs/soak.
    Soak {
        /// How many tries in all, those of the record included.
        #[arg(long, default_value_t = 50)]
        tries: u64,
        /// Where the moments are drawn from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Install the Debian packages that building and the lab need; where it may not, list them.
    Setup,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo { down: false } => demo::up(),
        Task::Demo { down: true } => demo::down(),
        Task::Test { quick } => test::all(quick),
        Task::Soak { tries, seed } => test::soak(tries, seed),
        Task::Setup => packages::install(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
