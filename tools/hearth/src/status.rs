//! `hearth status`: what the last run of a site came to, from its record; no host is reached.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use converge::{Failure, Lock, Reason, exit, seconds};
use serde_json::Value;
use site::Site;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::record::{self, Outcome, Run};

/// Prints the status; returns 0 where the last run ended well, else 1.
///
/// # Errors
/// Where there has been no run, or its record can't be read.
pub fn print(site: &Site, json: bool, out: &mut dyn Write) -> Result<u8> {
    let newest = Run::newest(&site.project, site.name.as_str())?;
    let open = Open::newest(site).filter(|open| newest.as_ref().is_none_or(|(folder, _)| open.folder > *folder));
    if let Some(open) = &open {
        open.print(site, json, out)?;
    }
    let Some((folder, run)) = newest else {
        if open.is_some() {
            return Ok(exit::FAILED);
        }
        let message = format!("there has been no run of site '{}' in {}", site.name, site.project.display());
        return Err(Failure::new(Reason::Failed, message).hint("begin with: hearth run").into());
    };
    if json {
        writeln!(out, "{}", serde_json::to_string(&run)?)?;
    } else {
        people(&run, &folder, out)?;
    }
    Ok(if open.is_some() || run.outcome == Outcome::Failed { exit::FAILED } else { exit::OK })
}

/// A run that has left a journal and no record: it goes on, it failed before its first stage, or it was killed.
struct Open {
    folder: PathBuf,
    events: Vec<Value>,
}

impl Open {
    fn newest(site: &Site) -> Option<Self> {
        record::folders(&site.project).into_iter().rev().find_map(|folder| {
            if folder.join("run.json").exists() {
                return None;
            }
            let text = std::fs::read_to_string(folder.join("journal.jsonl")).ok()?;
            // The last line of a run that was killed may be half a line.
            let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (events.first()?["site"] == site.name.as_str()).then_some(Self { folder, events })
        })
    }

    fn print(&self, site: &Site, json: bool, out: &mut dyn Write) -> Result<()> {
        let (word, what) = self.ended(site);
        let begin = self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let journal = self.folder.join("journal.jsonl");
        let (holder, last) = (&self.events[0]["holder"], when(&journal));
        if json {
            let site = site.name.as_str();
            let line = serde_json::json!({
                "site": site, "run": begin, "outcome": word, "what": what, "last": last, "by": holder,
            });
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(out, "site {}, run {begin}: {word}", site.name)?;
        writeln!(out, "  by {}", holder.as_str().unwrap_or("someone"))?;
        writeln!(out, "  {}", what.replace('\n', "\n  "))?;
        writeln!(out, "  its last word was at {last}; journal: {}", journal.display())?;
        Ok(())
    }

    fn ended(&self, site: &Site) -> (&'static str, String) {
        // The process is the same one where its words are, the time aside.
        let process = |holder: &str| holder.rsplit_once(", since ").map(|(process, _)| process.to_owned());
        let own = self.events[0]["holder"].as_str().and_then(process);
        let holder = Lock::holder(&site.project, site.name.as_str()).as_deref().and_then(process);
        if own.is_some() && own == holder {
            return ("going on", self.place());
        }
        match self.events.iter().rev().find(|event| event["event"] == "failed") {
            Some(failed) => ("failed", failed["message"].as_str().unwrap_or_default().to_owned()),
            None => ("did not end", format!("it was killed {}\nrun it again: it goes on from there", self.place())),
        }
    }

    /// Says where the run is, or was when it was killed: the changes and stages that began and did not end.
    fn place(&self) -> String {
        let still = |begin: &str, end: &str, key: &str| -> Vec<String> {
            let named = |kind: &str| self.events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
            let ended: Vec<&Value> = named(end).into_iter().map(|event| &event[key]).collect();
            let open = named(begin).into_iter().map(|event| &event[key]).filter(|name| !ended.contains(name));
            open.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let changes = still("applying", "applied", "address");
        let stages = still("stage-started", "stage-ended", "stage");
        let begun = self.events.iter().any(|event| event["event"] == "stage-ended");
        match (changes.is_empty(), stages.is_empty()) {
            (false, _) => format!("while it applied {}", changes.join(", ")),
            (true, false) => format!("in the stage {}, between changes", stages.join(", ")),
            (true, true) if begun => "between stages".to_owned(),
            (true, true) => "before its first stage".to_owned(),
        }
    }
}

fn when(path: &Path) -> String {
    let time = path.metadata().and_then(|file| file.modified()).map(OffsetDateTime::from);
    let time = time.ok().and_then(|time| time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok());
    time.unwrap_or_else(|| "a time unknown".to_owned())
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
    // What ended a run between its stages, as Ctrl-C does, is no stage's error.
    if let Some(error) = run.error.as_ref().filter(|_| run.stages.iter().all(|stage| stage.error.is_none())) {
        writeln!(out, "{error}")?;
    }
    writeln!(out, "report: {}", folder.join("report.html").display())?;
    Ok(())
}
