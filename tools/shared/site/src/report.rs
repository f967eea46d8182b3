//! What is wrong with an inventory, and how it is shown.

use std::fmt;
use std::io::IsTerminal as _;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// A piece of a file: the file's index in the sources, and the bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Place {
    pub(crate) fn new(file: usize, span: Range<usize>) -> Self {
        Self { file, start: span.start, end: span.end }
    }
}

/// A file that was read: its path as people know it, and its text.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    place: Option<Place>,
    message: String,
    label: Option<String>,
    also: Vec<(Place, String)>,
    help: Option<String>,
}

impl Finding {
    pub(crate) fn at(place: &Place, message: impl Into<String>) -> Self {
        Self { place: Some(place.clone()), message: message.into(), label: None, also: Vec::new(), help: None }
    }

    /// A finding that no file's text shows.
    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self { place: None, message: message.into(), label: None, also: Vec::new(), help: None }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(crate) fn also(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.also.push((place.clone(), label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// One thing that is wrong, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file; none where it is no file's text that is wrong.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// All that is wrong with an inventory: for each, file, line, the text and the mend. `Display` writes it for people, in
/// colours on a terminal that wants them (`NO_COLOR`); [`Errors::problems`] gives it to programs.
#[derive(Debug)]
pub struct Errors {
    sources: Vec<Source>,
    findings: Vec<Finding>,
}

impl Errors {
    pub(crate) fn new(sources: Vec<Source>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| a.place.cmp(&b.place));
        findings.dedup();
        Self { sources, findings }
    }

    pub(crate) fn one(finding: Finding) -> Self {
        Self::new(Vec::new(), vec![finding])
    }

    /// Returns each thing that is wrong, in the order of the files.
    pub fn problems(&self) -> Vec<Problem> {
        self.findings.iter().map(|finding| self.problem(finding)).collect()
    }

    fn problem(&self, finding: &Finding) -> Problem {
        let source = finding.place.as_ref().and_then(|place| Some((self.sources.get(place.file)?, place.start)));
        let position = source.map(|(source, start)| position(&source.text, start));
        Problem {
            file: source.map(|(source, _)| source.path.clone()),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            message: finding.message.clone(),
            help: finding.help.clone(),
        }
    }

    /// Writes all of it for people, with or without colours.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let mut texts: Vec<String> =
            self.findings.iter().map(|finding| renderer.render(&[self.group(finding)])).collect();
        if self.findings.len() > 1 {
            texts.push(format!("{} errors in the inventory", self.findings.len()));
        }
        texts.join("\n\n")
    }

    fn group<'a>(&'a self, finding: &'a Finding) -> Group<'a> {
        let mut group = Group::with_title(Level::ERROR.primary_title(&finding.message));
        let mut files: Vec<usize> =
            finding.place.iter().chain(finding.also.iter().map(|(place, _)| place)).map(|p| p.file).collect();
        files.dedup();
        for file in files {
            let Some(source) = self.sources.get(file) else { continue };
            let mut snippet = Snippet::source(source.text.as_str()).path(source.path.as_str());
            if let Some(place) = finding.place.as_ref().filter(|place| place.file == file) {
                let mark = AnnotationKind::Primary.span(place.start..place.end);
                snippet = snippet.annotation(mark.label(finding.label.as_deref()));
            }
            for (place, label) in finding.also.iter().filter(|(place, _)| place.file == file) {
                snippet =
                    snippet.annotation(AnnotationKind::Context.span(place.start..place.end).label(label.as_str()));
            }
            group = group.element(snippet);
        }
        match &finding.help {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        }
    }
}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both, so that what goes through a pipe to a program has none.
        let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        f.write_str(&self.render(terminal && std::env::var_os("NO_COLOR").is_none()))
    }
}

/// Returns the line and the column in characters, both from 1, of a byte in a text.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[begin..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_portable<T: Send + Sync + 'static>() {}

    #[test]
    fn errors_fit_into_anyhow() {
        is_portable::<Errors>();
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(position("a = 1\nß = 2\n", 6), (2, 1));
        assert_eq!(position("a = 1\nß = 2\n", 8), (2, 2));
        assert_eq!(position("", 0), (1, 1));
    }
}
