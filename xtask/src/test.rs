//! Every check and test that there is.

use anyhow::{Result, bail};

use crate::demo;
use crate::packages;
use crate::steps::{Steps, cargo, program};

/// Runs format, lints, the quick tests and, unless `quick`, the lab's.
///
/// # Errors
/// The first that fails.
pub fn all(quick: bool) -> Result<()> {
    let mut steps = Steps::begin();
    steps.time("Debian packages", |_| packages::install())?;
    steps.show("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    steps.show(
        "lints",
        &mut cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    )?;
    steps.show("quick tests", &mut cargo(&["test", "--workspace"]))?;
    if quick {
        steps.summary();
        println!("the lab's tests were left out (--quick)");
        return Ok(());
    }
    if !packages::is_root() {
        bail!("the lab's tests need root; without it: cargo xtask test --quick");
    }
    on_the_lab(&mut steps, "lab tests", "lab", &[], &[])?;
    steps.summary();
    Ok(())
}

/// Tries what takes longer than CI has, as often as is asked for.
///
/// # Errors
/// The first step's failure; a try that finds something is a line of the record.
pub fn soak(tries: u64, seed: u64) -> Result<()> {
    if !packages::is_root() {
        bail!("the lab needs root");
    }
    let mut steps = Steps::begin();
    steps.time("Debian packages", |_| packages::install())?;
    let env = [("HEARTH_SOAK_TRIES", tries.to_string()), ("HEARTH_SOAK_SEED", seed.to_string())];
    on_the_lab(&mut steps, "soak", "soak", &["soak::"], &env)?;
    steps.summary();
    println!("the record: docs/soak/interruption.jsonl");
    Ok(())
}

/// Builds what the lab needs, brings it up, runs tests on it, and stops it.
fn on_the_lab(steps: &mut Steps, name: &str, feature: &str, only: &[&str], env: &[(&str, String)]) -> Result<()> {
    steps.run("build the tools", &mut cargo(&["build", "--workspace", "--bins"]))?;
    demo::images(steps)?;
    demo::lab(steps)?;
    let args = ["test", "-p", "hearth-tests", "--features", feature, "--test", "lab", "--"];
    let mut command = cargo(&[&args, only, &["--nocapture", "--test-threads=1"]].concat());
    command.envs(env.iter().map(|(key, value)| (key, value)));
    let lab = steps.show(name, &mut command);
    let down = steps.show("stop the lab", &mut program("pve-lab", &["down"]));
    lab.and(down)
}
