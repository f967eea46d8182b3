//! What is gathered while an inventory is read: findings, references and claims.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::nearest::nearest;
use crate::report::{Finding, Place};
use crate::tree::{Table, Value};

/// What a reference can point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Host,
    LogicalVolume,
    Dataset,
    Share,
    Template,
    Guest,
    Stack,
    /// A file `secrets/NAME.age` of the inventory.
    Secret,
    /// A host or a guest.
    Machine,
    /// A file `images/NAME.toml` of the project.
    Image,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::LogicalVolume => "logical volume",
            Self::Dataset => "dataset",
            Self::Share => "share",
            Self::Template => "template",
            Self::Guest => "guest",
            Self::Stack => "stack",
            Self::Secret => "secret",
            Self::Machine => "host or guest",
            Self::Image => "image recipe",
        }
    }

    /// Says how one is added.
    fn mend(self, name: &str) -> String {
        match self {
            Self::Host => format!("add a table [hosts.{name}]"),
            Self::LogicalVolume => format!("add a table [logical_volumes.\"{name}\"]"),
            Self::Dataset => match name.split_once('/') {
                Some((pool, dataset)) => format!("add `{dataset} = {{}}` to [pools.{pool}.datasets]"),
                None => "name it with its pool in front, as tank-hdd/media".to_owned(),
            },
            Self::Share => format!("add a table [shares.{name}]"),
            Self::Template => format!("add a table [templates.{name}]"),
            Self::Guest => format!("add a table [guests.{name}]"),
            Self::Stack => format!("add a table [stacks.{name}]"),
            Self::Secret => format!("make it: hearth secrets set {name}"),
            Self::Machine => {
                format!("add a table [guests.{name}] or [hosts.{name}], or leave `from` out for this machine")
            }
            Self::Image => format!("add the file images/{name}.toml to the project"),
        }
    }
}

struct Reference {
    kind: Kind,
    name: String,
    place: Place,
}

/// A value that may be given once only.
struct Claim {
    what: &'static str,
    value: String,
    place: Place,
    holder: String,
    help: &'static str,
}

/// What reading an inventory needs and gathers.
pub(crate) struct Scope {
    /// The inventory's folder.
    pub(crate) folder: PathBuf,
    /// The project's folder.
    pub(crate) project: PathBuf,
    /// Where the inventory and its project really are, where this is a copy of what they were.
    original: Option<(PathBuf, PathBuf)>,
    inputs: RefCell<Vec<PathBuf>>,
    home: Option<PathBuf>,
    /// Whether secrets may be named that are not made yet.
    secrets_to_come: bool,
    findings: RefCell<Vec<Finding>>,
    references: RefCell<Vec<Reference>>,
    claims: RefCell<Vec<Claim>>,
}

impl Scope {
    pub(crate) fn new(folder: PathBuf, project: PathBuf, findings: Vec<Finding>) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let (references, claims) = (RefCell::default(), RefCell::default());
        let (original, inputs) = (None, RefCell::default());
        let (secrets_to_come, findings) = (false, RefCell::new(findings));
        Self { folder, project, original, inputs, home, secrets_to_come, findings, references, claims }
    }

    /// Says that secrets may be named that are not made yet.
    pub(crate) fn before_secrets(self) -> Self {
        Self { secrets_to_come: true, ..self }
    }

    /// Says that the inventory is a copy, and where the real one is: a path to a file that the copy does not have is the
    /// real one's.
    pub(crate) fn copy_of(self, folder: PathBuf, project: PathBuf) -> Self {
        Self { original: Some((folder, project)), ..self }
    }

    /// Notes a file or folder that the site is evaluated from. Never one that is secret: it is kept with the generation.
    pub(crate) fn input(&self, path: &Path) {
        self.inputs.borrow_mut().push(path.to_owned());
    }

    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        self.inputs.borrow().clone()
    }

    pub(crate) fn report(&self, finding: Finding) {
        self.findings.borrow_mut().push(finding);
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }

    /// Notes that something must be there; [`Scope::resolve`] checks it when everything is read.
    pub(crate) fn refer(&self, kind: Kind, name: &str, place: &Place) {
        self.references.borrow_mut().push(Reference { kind, name: name.to_owned(), place: place.clone() });
    }

    /// Takes a value that may be given once only; [`Scope::resolve`] checks it when everything is read.
    pub(crate) fn claim(&self, what: &'static str, value: &str, place: &Place, holder: &str, help: &'static str) {
        let (value, place, holder) = (value.to_owned(), place.clone(), holder.to_owned());
        self.claims.borrow_mut().push(Claim { what, value, place, holder, help });
    }

    /// Tells whether a file is one of those that Hearth's own tools make.
    pub(crate) fn is_made(&self, path: &Path) -> bool {
        let original = self.original.as_ref().map(|(_, project)| project);
        original.into_iter().chain([&self.project]).any(|project| path.starts_with(project.join(".hearth")))
    }

    /// Makes a path of the inventory absolute: `~/` is the home folder, all else is relative to the inventory's folder.
    pub(crate) fn path(&self, text: &str, place: &Place) -> Option<PathBuf> {
        let joined = match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (Some(_), None) => {
                let finding = Finding::at(place, "`~/` can't be resolved: the environment has no HOME");
                self.report(finding.help("set HOME, or write the whole path"));
                return None;
            }
            (None, _) => self.folder.join(text),
        };
        match &self.original {
            Some((folder, _)) if !joined.exists() => Some(normal(&folder.join(text))),
            _ => Some(normal(&joined)),
        }
    }

    /// Checks every reference against what is there, and that no value is given twice.
    pub(crate) fn resolve(&self, root: &Table) {
        self.resolve_claims();
        let references = self.references.take();
        for reference in &references {
            if reference.kind == Kind::Secret && self.secrets_to_come {
                continue;
            }
            let there = self.declared(reference.kind, root);
            if there.contains(&reference.name) {
                continue;
            }
            let noun = reference.kind.noun();
            let finding = Finding::at(&reference.place, format!("there is no {noun} '{}'", reference.name));
            let near = nearest(&reference.name, there.iter().map(String::as_str));
            self.report(match near {
                Some(near) => finding.label("not there").help(format!("did you mean '{near}'?")),
                None => finding.label("not there").help(reference.kind.mend(&reference.name)),
            });
        }
    }

    fn resolve_claims(&self) {
        let mut claims = self.claims.take();
        claims.sort_by(|a, b| a.place.cmp(&b.place));
        let mut taken: HashMap<(&str, &str), &Claim> = HashMap::new();
        for claim in &claims {
            let Some(first) = taken.get(&(claim.what, claim.value.as_str())) else {
                taken.insert((claim.what, claim.value.as_str()), claim);
                continue;
            };
            let (what, value) = (claim.what, &claim.value);
            let message = format!("{what} {value} is given twice: to {} and to {}", first.holder, claim.holder);
            let finding = Finding::at(&claim.place, message).label("taken already");
            self.report(finding.also(&first.place, format!("{} has it", first.holder)).help(claim.help));
        }
    }

    /// Returns the names of a kind that are there, right or wrong, so that one error does not cause another.
    fn declared(&self, kind: Kind, root: &Table) -> Vec<String> {
        match kind {
            Kind::Host => keys(root, "hosts"),
            Kind::LogicalVolume => keys(root, "logical_volumes"),
            Kind::Dataset => datasets(root),
            Kind::Share => keys(root, "shares"),
            Kind::Template => keys(root, "templates"),
            Kind::Guest => keys(root, "guests"),
            Kind::Stack => keys(root, "stacks"),
            Kind::Secret => files(&self.folder.join("secrets"), ".age"),
            Kind::Machine => [keys(root, "hosts"), keys(root, "guests")].concat(),
            Kind::Image => files(&self.project.join("images"), ".toml"),
        }
    }
}

fn keys(root: &Table, key: &str) -> Vec<String> {
    root.table(key).into_iter().flat_map(|table| &table.entries).map(|entry| entry.key.clone()).collect()
}

fn datasets(root: &Table) -> Vec<String> {
    let pools = root.table("pools").into_iter().flat_map(|pools| &pools.entries);
    pools
        .flat_map(|pool| match &pool.node.value {
            Value::Table(table) => {
                keys(table, "datasets").iter().map(|dataset| format!("{}/{dataset}", pool.key)).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

/// Lists the files of a folder by their names without their ending. One that can't be read has none: each reference to
/// it is reported then.
fn files(folder: &Path, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(ending)?.to_owned())).collect();
    names.sort();
    names
}

/// Resolves `.` and `..` by the text alone, so that a file need not be there yet.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_resolved_without_the_file() {
        assert_eq!(normal(Path::new("/a/b/../../c/./d")), Path::new("/c/d"));
        assert_eq!(normal(Path::new("/../a")), Path::new("/a"));
    }
}
