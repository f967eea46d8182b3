//! The journal of a run: every event, one line of JSON each, written as it happens.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use converge::{Event, Events, JsonLines};

use crate::record::ChangeRun;

/// Writes events to the journal and passes them on.
pub struct Journal<'a> {
    folder: PathBuf,
    file: Mutex<File>,
    next: &'a dyn Events,
    seen: Mutex<Vec<(String, ChangeRun)>>,
}

impl<'a> Journal<'a> {
    /// Makes the folder of a run and begins its journal.
    ///
    /// # Errors
    /// Whatever the file system fails with.
    pub fn begin(project: &Path, begin: &str, next: &'a dyn Events) -> Result<Self> {
        let runs = project.join(".hearth/runs");
        let name = begin.replace(':', "-");
        // Two runs can begin in one second; the later one's name sorts behind.
        let names = std::iter::once(name.clone()).chain((1..100).map(|number| format!("{name}-{number:02}")));
        let free = names.map(|name| runs.join(name)).find(|folder| !folder.exists());
        let folder = free.with_context(|| format!("{} has too many runs of {begin}", runs.display()))?;
        std::fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let path = folder.join("journal.jsonl");
        let file = File::options().create(true).append(true).open(&path);
        let file = Mutex::new(file.with_context(|| format!("can't open {}", path.display()))?);
        Ok(Self { folder, file, next, seen: Mutex::new(Vec::new()) })
    }

    /// Returns the run's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the changes of a stage that were announced, and how applying each went.
    pub fn changes(&self, stage: &str) -> Vec<ChangeRun> {
        let seen = self.seen.lock();
        let Ok(seen) = seen else { return Vec::new() };
        seen.iter().filter(|(name, _)| name == stage).map(|(_, change)| change.clone()).collect()
    }

    /// Writes an event to the journal alone.
    pub fn write(&self, event: &Event) {
        if let Ok(mut file) = self.file.lock() {
            // A journal that can't be written must not end a run that changes machines; people still see the event.
            let _ = writeln!(file, "{}", JsonLines::line(event));
        }
    }

    /// Notes that a stage begins.
    pub fn emit_stage(&self, stage: &str) {
        self.emit(&Event::StageStarted { stage: stage.to_owned() });
    }

    fn note(&self, event: &Event) {
        let Ok(mut seen) = self.seen.lock() else { return };
        match event {
            Event::Planned { stage, change } => {
                seen.push((stage.clone(), ChangeRun { change: change.clone(), milliseconds: None, error: None }));
            }
            Event::Applied { stage, address, error, milliseconds } => {
                let found =
                    seen.iter_mut().rev().find(|(name, run)| name == stage && run.change.address.as_str() == address);
                if let Some((_, run)) = found {
                    run.milliseconds = Some(*milliseconds);
                    run.error.clone_from(error);
                }
            }
            _ => {}
        }
    }
}

impl Events for Journal<'_> {
    fn emit(&self, event: &Event) {
        self.write(event);
        self.note(event);
        self.next.emit(event);
    }
}
