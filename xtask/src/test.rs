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
    steps.show("lints", &mut cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]))?;
    steps.show("quick tests", &mut cargo(&["test", "--workspace"]))?;
    if quick {
        steps.summary();
        println!("the lab's tests were left out (--quick)");
        return Ok(());
    }
    if !packages::is_root() {
        bail!("the lab's tests need root; without it: cargo xtask test --quick");
    }
    steps.run("build the tools", &mut cargo(&["build", "--workspace", "--bins"]))?;
    demo::images(&mut steps)?;
    demo::lab(&mut steps)?;
    let args = ["test", "-p", "hearth-tests", "--features", "lab", "--", "--nocapture", "--test-threads=1"];
    let lab = steps.show("lab tests", &mut cargo(&args));
    let down = steps.show("stop the lab", &mut program("pve-lab", &["down"]));
    lab.and(down)?;
    steps.summary();
    Ok(())
}
