//! What a run leaves behind: `run.json`, from which the report and the status are made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use converge::{Change, CheckResult};
use serde::{Deserialize, Serialize};

/// One run, as it stands in `.hearth/runs/<begin>/run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The site.
    pub site: String,
    /// When it began, in RFC 3339, UTC.
    pub begin: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The addresses that it was limited to; none for the whole site.
    #[serde(default)]
    pub only: Vec<String>,
    /// What it could not take back, for a run that went back.
    #[serde(default)]
    pub stays: Vec<String>,
    /// The snapshots that were taken before its changes, as `pve1:tank/media@hearth-…-1`.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// The error that ended it, where it failed.
    pub error: Option<String>,
    /// The generation's number.
    pub generation: u64,
    /// The generation's digest.
    pub digest: String,
    /// How long building took, in milliseconds.
    pub build_milliseconds: u64,
    /// How long the first look at the whole site took, in milliseconds.
    #[serde(default)]
    pub look_milliseconds: u64,
    /// The stages, in the order in which they began.
    pub stages: Vec<StageRun>,
    /// The generation's artifacts.
    pub artifacts: BTreeMap<String, store::Artifact>,
    /// What the run cost.
    pub cost: serde_json::Value,
}

/// How a stage or a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// There was nothing to change, or all checks passed.
    Unchanged,
    /// Changes were made.
    Changed,
    /// It failed.
    Failed,
    /// It did not begin, since something that it needs failed.
    Skipped,
}

impl Outcome {
    /// Returns the word for people and for events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One stage of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRun {
    /// Its name.
    pub name: String,
    /// The tool or command.
    pub tool: String,
    /// What it needed.
    pub needs: Vec<String>,
    /// When it began, in milliseconds since the run's begin.
    pub begin: u64,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The error, where it failed.
    pub error: Option<String>,
    /// The changes that it planned, with how long each took to apply.
    pub changes: Vec<ChangeRun>,
    /// The checks that it made.
    pub checks: Vec<CheckResult>,
}

/// One change of a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangeRun {
    /// The change.
    pub change: Change,
    /// How long it took to apply, in milliseconds; none where it was not applied.
    pub milliseconds: Option<u64>,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

impl Run {
    /// Writes the record into the run's folder.
    ///
    /// # Errors
    /// Whatever the file system fails with.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("run.json");
        let text = serde_json::to_vec_pretty(self)?;
        store::files::write_atomic(&path, text, 0o644).with_context(|| format!("can't write {}", path.display()))
    }

    /// Tells whether it made all of its generation real.
    pub fn applied(&self) -> bool {
        self.only.is_empty() && matches!(self.outcome, Outcome::Changed | Outcome::Unchanged)
    }

    /// Reads the newest record of a project's site, with its folder; none where no run has ended.
    ///
    /// # Errors
    /// Where a record can't be read.
    pub fn newest(project: &Path, site: &str) -> Result<Option<(PathBuf, Self)>> {
        Ok(Self::all(project, site)?.pop())
    }

    /// Reads all records of a project's site, oldest first, with their folders. A run that did not end has none.
    ///
    /// # Errors
    /// Where a record can't be read.
    pub fn all(project: &Path, site: &str) -> Result<Vec<(PathBuf, Self)>> {
        let mut all = Vec::new();
        for folder in folders(project) {
            let path = folder.join("run.json");
            let Ok(text) = std::fs::read(&path) else { continue };
            let record: Self =
                serde_json::from_slice(&text).with_context(|| format!("{} is no record of a run", path.display()))?;
            if record.site == site {
                all.push((folder, record));
            }
        }
        Ok(all)
    }
}

/// Lists the folders of a project's runs, oldest first.
pub fn folders(project: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(project.join(".hearth/runs")) else { return Vec::new() };
    let mut runs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    runs.sort();
    runs
}

/// The number of the generation that a site runs, as its records have it: reality may have moved since.
pub fn running(runs: &[(PathBuf, Run)]) -> Option<u64> {
    runs.iter().rev().find(|(_, run)| run.applied()).map(|(_, run)| run.generation)
}
