//! `hearth generations`: what there is to go back to.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use converge::{Failure, Reason, exit};
use serde::Serialize;
use site::Site;
use store::Generations;

use crate::record::{self, Outcome, Run};

/// A generation, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: String,
    /// When the newest run of it began; none where no run has ended with it.
    pub applied: Option<String>,
    /// How that run ended.
    pub outcome: Option<Outcome>,
    /// How many artifacts it has.
    pub artifacts: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Whether it is what the site runs, as the records have it.
    pub running: bool,
}

/// Lists a site's generations, lowest number first.
///
/// # Errors
/// Where a generation or a record can't be read.
pub fn list(site: &Site, runs: &[(PathBuf, Run)]) -> Result<Vec<Entry>> {
    let generations = Generations::open(&site.project.join(".hearth/generations"))?;
    let running = record::running(runs);
    let mut entries = Vec::new();
    for number in generations.numbers()? {
        let generation = generations.load(number)?;
        if generation.site != site.name.as_str() {
            continue;
        }
        let run = runs.iter().rev().map(|(_, run)| run).find(|run| run.generation == number);
        entries.push(Entry {
            number,
            digest: generation.digest().to_string(),
            applied: run.map(|run| run.begin.clone()),
            outcome: run.map(|run| run.outcome),
            artifacts: generation.artifacts.len(),
            bytes: generation.artifacts.values().map(|artifact| artifact.size).sum(),
            running: running == Some(number),
        });
    }
    Ok(entries)
}

/// Prints the generations.
///
/// # Errors
/// As [`list`], and where there is none.
pub fn print(site: &Site, json: bool, out: &mut dyn Write) -> Result<u8> {
    let entries = list(site, &Run::all(&site.project, site.name.as_str())?)?;
    if entries.is_empty() {
        let message = format!("site '{}' has no generation in {}", site.name, site.project.display());
        return Err(Failure::new(Reason::Failed, message).hint("begin with: hearth build").into());
    }
    for entry in &entries {
        if json {
            writeln!(out, "{}", serde_json::to_string(entry)?)?;
            continue;
        }
        let applied = match (&entry.applied, entry.outcome) {
            (Some(begin), Some(outcome)) => format!("{begin} {}", outcome.word()),
            _ => "never run".to_owned(),
        };
        let running = if entry.running { "  running" } else { "" };
        let line = format!(
            "{:>4}  {}  {applied:<30}  {} artifacts, {} MiB{running}",
            entry.number,
            &entry.digest[..12],
            entry.artifacts,
            entry.bytes >> 20
        );
        writeln!(out, "{line}")?;
    }
    Ok(exit::OK)
}

/// Finds the generation to go back to: the last that was applied well before the one of the newest run.
///
/// # Errors
/// Where there is none.
pub fn before_the_last(runs: &[(PathBuf, Run)]) -> Result<u64> {
    let last = runs.last().map(|(_, run)| run.generation).context("there has been no run to go back from")?;
    let before = runs.iter().rev().map(|(_, run)| run).find(|run| run.applied() && run.generation != last);
    before
        .map(|run| run.generation)
        .with_context(|| format!("no generation but {last} was applied well, so there is none to go back to"))
}
