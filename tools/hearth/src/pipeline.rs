//! `pipeline.toml`: the stages and what each needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use converge::Failure;
use serde::Deserialize;
use toml::Spanned;

/// The manifest, checked: every need is a stage, and no stage needs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// The stages, in an order in which each comes after all that it needs.
    pub stages: Vec<Stage>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub work: Work,
    /// The stages that must have ended well before it starts.
    pub needs: Vec<String>,
}

/// What a stage runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Makes a tool's changes.
    Apply(String),
    /// Runs a tool's checks.
    Check(String),
    /// Runs a command that keeps the tools' contract.
    Command {
        /// The argument list; a program with a slash is relative to the manifest's folder.
        argv: Vec<String>,
        /// How long each call may take, in seconds.
        deadline: u64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[allow(dead_code, reason = "read by `site::discover`; named here so that it is a known key")]
    site: Option<String>,
    #[serde(default)]
    stages: BTreeMap<Spanned<String>, RawStage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    tool: Option<Spanned<String>>,
    verb: Option<Spanned<String>>,
    command: Option<Vec<String>>,
    deadline: Option<u64>,
    #[serde(default)]
    needs: Vec<Spanned<String>>,
}

/// A place in the manifest, for messages.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, span: &std::ops::Range<usize>, message: &str, mend: &str) -> anyhow::Error {
        let line = self.text[..span.start.min(self.text.len())].matches('\n').count() + 1;
        let shown = self.text.lines().nth(line - 1).unwrap_or_default().trim();
        let message = format!("{}:{line}: {message}\n  {line} | {shown}", self.path.display());
        Failure::config(message).hint(mend).into()
    }
}

impl Pipeline {
    /// Reads and checks the manifest of a project; `known` are the tools that a stage can name.
    ///
    /// # Errors
    /// What is wrong with it, with file, line, text and mend.
    pub fn load(project: &Path, known: &[&str]) -> Result<Self> {
        let path: PathBuf = project.join("pipeline.toml");
        let bytes = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let text = String::from_utf8(bytes).map_err(|_| {
            Failure::config(format!("{} is no UTF-8, which TOML is written in", path.display()))
                .hint("save it as UTF-8")
        })?;
        Self::parse(&path, &text, known)
    }

    /// Parses and checks a manifest's text.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn parse(path: &Path, text: &str, known: &[&str]) -> Result<Self> {
        let source = Source { path, text };
        let file: File = toml::from_str(text).map_err(|error| {
            source.error(
                &error.span().unwrap_or(0..0),
                error.message(),
                "see docs/pipeline.md for the keys of a manifest",
            )
        })?;
        let names: Vec<&str> = file.stages.keys().map(|name| name.get_ref().as_str()).collect();
        let mut stages = Vec::new();
        for (name, raw) in &file.stages {
            for need in &raw.needs {
                if !names.contains(&need.get_ref().as_str()) {
                    let message = format!("stage '{}' needs '{}', which is no stage", name.get_ref(), need.get_ref());
                    let mend = meant(need.get_ref(), &names, &format!("the stages are {}", names.join(", ")));
                    return Err(source.error(&need.span(), &message, &mend));
                }
            }
            stages.push(Stage {
                name: name.get_ref().clone(),
                work: work(&source, name, raw, known)?,
                needs: raw.needs.iter().map(|need| need.get_ref().clone()).collect(),
            });
        }
        let spans: BTreeMap<&str, _> = file.stages.keys().map(|name| (name.get_ref().as_str(), name.span())).collect();
        let stages = crate::graph::order(stages).map_err(|cycle| {
            let span = spans.get(cycle[0].as_str()).cloned().unwrap_or(0..0);
            let message = format!("stages need each other in a circle: {}", cycle.join(" → "));
            source.error(&span, &message, "remove one of these needs")
        })?;
        Ok(Self { stages })
    }
}

/// Names what a slip most likely stands for, before all that there is.
fn meant(word: &str, known: &[&str], all: &str) -> String {
    site::nearest(word, known.iter().copied()).map(|near| format!("did you mean '{near}'? ")).unwrap_or_default() + all
}

fn work(source: &Source<'_>, name: &Spanned<String>, raw: &RawStage, known: &[&str]) -> Result<Work> {
    let at = name.span();
    let stage = name.get_ref();
    match (&raw.tool, &raw.command) {
        (Some(tool), None) => {
            let named = tool.get_ref().clone();
            if !known.contains(&named.as_str()) {
                let message = format!("stage '{stage}' names the tool '{named}', which there is not");
                let all = format!("the tools are {}; any other program goes under `command`", known.join(", "));
                let mend = meant(&named, known, &all);
                return Err(source.error(&tool.span(), &message, &mend));
            }
            match raw.verb.as_ref().map(|verb| verb.get_ref().as_str()) {
                None | Some("apply") => Ok(Work::Apply(named)),
                Some("check") => Ok(Work::Check(named)),
                Some(other) => {
                    let span = raw.verb.as_ref().map_or(at, Spanned::span);
                    Err(source.error(
                        &span,
                        &format!("'{other}' is no verb of a stage"),
                        "a stage's verb is apply or check",
                    ))
                }
            }
        }
        (None, Some(argv)) if !argv.is_empty() => {
            if let Some(verb) = &raw.verb {
                let mend = "take `verb` out: a command is given `plan` and `apply --yes` by hearth itself";
                return Err(source.error(&verb.span(), &format!("stage '{stage}' has a verb for a command"), mend));
            }
            Ok(Work::Command { argv: argv.clone(), deadline: raw.deadline.unwrap_or(3600) })
        }
        _ => Err(source.error(
            &at,
            &format!("stage '{stage}' must have either a tool or a command"),
            "write tool = \"NAME\", or command = [\"PROGRAM\", …]",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["zfs-init", "verify"];

    fn error(text: &str) -> String {
        converge::describe(&Pipeline::parse(Path::new("pipeline.toml"), text, KNOWN).unwrap_err())
    }

    #[test]
    fn stages_come_after_what_they_need() {
        let text = "[stages.a]\ntool = 'verify'\nverb = 'check'\nneeds = ['b', 'c']\n[stages.b]\ncommand = ['sh', 'x.sh']\n\
                    needs = ['c']\n[stages.c]\ntool = 'zfs-init'\n";
        let pipeline = Pipeline::parse(Path::new("p"), text, KNOWN).unwrap();
        let names: Vec<_> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
        assert_eq!(names, ["c", "b", "a"]);
        assert_eq!(pipeline.stages[2].work, Work::Check("verify".into()));
    }

    #[test]
    fn a_need_that_is_no_stage_is_named_with_its_line() {
        assert_eq!(
            error("[stages.a]\ntool = 'verify'\nneeds = ['storge']\n[stages.storage]\ntool = 'zfs-init'\n"),
            "error: pipeline.toml:3: stage 'a' needs 'storge', which is no stage\n  3 | needs = ['storge']\n  \
             hint: did you mean 'storage'? the stages are a, storage"
        );
    }

    #[test]
    fn a_circle_is_shown_as_one() {
        let text = "[stages.a]\ntool = 'verify'\nneeds = ['b']\n[stages.b]\ntool = 'verify'\nneeds = ['a']\n";
        assert!(
            error(text).contains("pipeline.toml:1: stages need each other in a circle: a → b → a"),
            "{}",
            error(text)
        );
    }

    #[test]
    fn an_unknown_tool_verb_or_key_is_refused() {
        assert!(error("[stages.a]\ntool = 'zfs'\n").contains("the tools are zfs-init, verify"));
        assert!(error("[stages.a]\ntool = 'verify'\nverb = 'plan'\n").contains("pipeline.toml:3: 'plan' is no verb"));
        assert!(error("[stages.a]\ntol = 'verify'\n").contains("pipeline.toml:2: unknown field `tol`"));
        assert!(error("[stages.a]\n").contains("must have either a tool or a command"));
    }
}
