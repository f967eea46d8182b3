//! `hearth status`: what the last run of a site came to, from its record; no host is reached.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use converge::{Failure, Reason, exit, seconds};
use site::Site;

use crate::record::{Outcome, Run};

/// Prints the status; returns 0 where the last run ended well, else 1.
///
/// # Errors
/// Where there has been no run, or its record can't be read.
pub fn print(site: &Site, json: bool, out: &mut dyn Write) -> Result<u8> {
    let Some((folder, run)) = Run::newest(&site.project, site.name.as_str())? else {
        let message = format!("there has been no run of site '{}' in {}", site.name, site.project.display());
        return Err(Failure::new(Reason::Failed, message).hint("begin with: hearth run").into());
    };
    if json {
        writeln!(out, "{}", serde_json::to_string(&run)?)?;
    } else {
        people(&run, &folder, out)?;
    }
    Ok(if run.outcome == Outcome::Failed { exit::FAILED } else { exit::OK })
}

fn people(run: &Run, folder: &Path, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "site {}, run of {}: {}", run.site, run.begin, run.outcome.word())?;
    writeln!(out, "generation {} ({})", run.generation, &run.digest[..12.min(run.digest.len())])?;
    for stage in &run.stages {
        let checks = stage.checks.len();
        let failed = stage.checks.iter().filter(|check| check.failure.is_some()).count();
        let note = match (stage.changes.len(), checks) {
            (0, 0) => String::new(),
            (0, _) => format!("{} checks passed, {failed} failed", checks - failed),
            (n, _) => format!("{n} changes"),
        };
        writeln!(out, "  {:<12} {:<10} {:>10}  {note}", stage.name, stage.outcome.word(), seconds(stage.milliseconds))?;
        if let Some(error) = &stage.error {
            writeln!(out, "    {}", error.replace('\n', "\n    "))?;
        }
    }
    writeln!(out, "report: {}", folder.join("report.html").display())?;
    Ok(())
}
