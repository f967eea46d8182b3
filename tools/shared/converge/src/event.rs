use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::CheckResult;
use crate::change::Change;

/// One thing that happened; with `--json`, one line. The schema's version stands in every line as `"v":1`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A run began.
    RunStarted {
        /// The site.
        site: String,
        /// Who runs it: user, machine, process, command line and time.
        holder: String,
    },
    /// A stage began.
    StageStarted {
        /// Its name.
        stage: String,
    },
    /// A stage ended.
    StageEnded {
        /// Its name.
        stage: String,
        /// How it ended: `unchanged`, `changed`, `failed` or `skipped`.
        outcome: String,
        /// How many changes were applied.
        changes: usize,
        /// Its time in milliseconds.
        milliseconds: u64,
    },
    /// A change is needed.
    Planned {
        /// The stage or tool.
        stage: String,
        /// The change.
        change: Change,
    },
    /// A change is being applied.
    Applying {
        /// The stage or tool.
        stage: String,
        /// The change's address.
        address: String,
    },
    /// A change was applied, or failed.
    Applied {
        /// The stage or tool.
        stage: String,
        /// The change's address.
        address: String,
        /// Why it failed; none where it was applied.
        error: Option<String>,
        /// Its time in milliseconds.
        milliseconds: u64,
    },
    /// A check passed or failed.
    Checked {
        /// The stage or tool.
        stage: String,
        /// The outcome.
        #[serde(flatten)]
        result: CheckResult,
    },
    /// A longer piece of work goes on: what it is doing now.
    Progress {
        /// What works.
        stage: String,
        /// What it is doing.
        message: String,
    },
    /// Something that people should know.
    Note {
        /// The text.
        message: String,
    },
    /// The error that ended the run.
    Failed {
        /// The error, its causes and its hint.
        message: String,
    },
    /// The last line: what the run came to.
    Summary {
        /// The outcome in one line.
        message: String,
        /// What it cost: calls, sessions, round trips, bytes, process starts, milliseconds.
        cost: serde_json::Value,
    },
}

/// Where events go.
pub trait Events: Send + Sync {
    /// Takes one event.
    fn emit(&self, event: &Event);
}

/// Drops every event.
pub struct Quiet;

impl Events for Quiet {
    fn emit(&self, _: &Event) {}
}

/// Prints one JSON object a line.
pub struct JsonLines;

impl JsonLines {
    /// Writes an event as one line with the schema's version in front.
    pub fn line(event: &Event) -> String {
        let body = serde_json::to_string(event).unwrap_or_default();
        format!("{{\"v\":1,{}", body.strip_prefix('{').unwrap_or_default())
    }
}

impl Events for JsonLines {
    fn emit(&self, event: &Event) {
        let _ = writeln!(std::io::stdout().lock(), "{}", Self::line(event));
    }
}

/// Prints for people: bars for what is going on where standard error is a terminal, plain lines elsewhere.
pub struct Console {
    bars: MultiProgress,
    open: Mutex<Vec<(String, ProgressBar)>>,
    terminal: bool,
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

impl Console {
    /// Prepares to print.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        Self { bars: MultiProgress::new(), open: Mutex::new(Vec::new()), terminal }
    }

    fn line(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        });
    }

    fn begin(&self, key: &str, message: String) {
        if !self.terminal {
            return;
        }
        let Ok(mut open) = self.open.lock() else { return };
        if let Some((_, bar)) = open.iter().find(|(name, _)| name == key) {
            return bar.set_message(message);
        }
        let style = ProgressStyle::with_template("{spinner:.cyan} {elapsed:>4} {wide_msg}");
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message(message);
        open.push((key.to_owned(), bar));
    }

    fn end(&self, key: &str) {
        let Ok(mut open) = self.open.lock() else { return };
        if let Some(at) = open.iter().position(|(name, _)| name == key) {
            open.remove(at).1.finish_and_clear();
        }
    }
}

impl Events for Console {
    fn emit(&self, event: &Event) {
        match event {
            Event::RunStarted { .. } => {}
            Event::StageStarted { stage } => self.begin(stage, format!("{stage}: looking")),
            Event::StageEnded { stage, outcome, changes, milliseconds } => {
                self.end(stage);
                let what = match outcome.as_str() {
                    "changed" => format!("{changes} changed"),
                    other => other.to_owned(),
                };
                self.line(&format!("{stage:<12} {what:<14} {:>8}", seconds(*milliseconds)));
            }
            Event::Planned { change, .. } => self.line(&change.to_string()),
            Event::Applying { address, .. } => self.begin(address, address.clone()),
            Event::Applied { address, error, milliseconds, .. } => {
                self.end(address);
                let sign = if error.is_some() { "✗" } else { "✓" };
                self.line(&format!("  {sign} {address} ({})", seconds(*milliseconds)));
            }
            Event::Checked { result, .. } => match &result.failure {
                None => self.line(&format!("  ✓ {}", result.name)),
                Some(why) => self.line(&format!("  ✗ {}: {why}", result.name)),
            },
            Event::Progress { stage, message } if self.terminal => self.begin(stage, format!("{stage}: {message}")),
            Event::Progress { stage, message } => self.line(&format!("  {stage}: {message}")),
            Event::Note { message } | Event::Summary { message, .. } => self.line(message),
            Event::Failed { message } => {
                self.bars.suspend(|| {
                    let _ = writeln!(std::io::stderr().lock(), "{message}");
                });
            }
        }
    }
}

/// Writes a time for people: `12 ms`, `3.4 s`, `2 min 05 s`.
pub fn seconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..120_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => format!("{} min {:02} s", milliseconds / 60_000, milliseconds / 1000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_carries_the_schema_version() {
        let line = JsonLines::line(&Event::StageStarted { stage: "shares".into() });
        assert_eq!(line, r#"{"v":1,"event":"stage-started","stage":"shares"}"#);
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!([7, 1_250, 125_000].map(seconds), ["7 ms", "1.2 s", "2 min 05 s"]);
    }
}
