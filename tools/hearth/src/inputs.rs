//! What a generation is evaluated from: held with it, so that it can be evaluated again when the inventory has moved on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use converge::cli::Session;
use converge::{Context, Failure, Reason};
use serde::{Deserialize, Serialize};
use site::Site;
use store::{Artifact, Generation};
use tempfile::TempDir;

/// What the names of inputs begin with, among a generation's artifacts.
pub const PREFIX: &str = "inputs/";
/// What the files' names do not say.
const NOTES: &str = "inputs.json";
const LOCK: &str = "pipeline.lock";

#[derive(Default, Serialize, Deserialize)]
struct Notes {
    /// The files that can be run.
    executable: BTreeSet<String>,
}

/// Puts the site's files, its images' recipes, their part of the lock file and the manifest into the store; returns them
/// by the names that they have in a generation. Nothing in them depends on where the project is.
///
/// # Errors
/// A file that can't be read.
pub fn hold(cx: &Context<'_>) -> Result<BTreeMap<String, Artifact>> {
    let mut held = Held { cx, artifacts: BTreeMap::new(), notes: Notes::default() };
    let site = cx.site;
    for entry in list(&site.folder)? {
        if entry.extension().is_some_and(|extension| extension == "toml") && entry.is_file() {
            held.file(&entry)?;
        }
    }
    for path in &site.inputs {
        held.tree(path)?;
    }
    held.named("pipeline.toml", &site.project.join("pipeline.toml"))?;
    let templates = site.templates.values().map(|template| template.image.as_str());
    let stacks = site.stacks.values().flat_map(|stack| stack.images.values().map(|name| name.as_str()));
    let named: BTreeSet<&str> = templates.chain(stacks).collect();
    if !named.is_empty() {
        held.images(named)?;
    }
    let notes = cx.store.put_bytes(&serde_json::to_vec(&held.notes)?)?;
    held.artifacts.insert(NOTES.to_owned(), notes);
    Ok(held.artifacts)
}

struct Held<'a> {
    cx: &'a Context<'a>,
    artifacts: BTreeMap<String, Artifact>,
    notes: Notes,
}

impl Held<'_> {
    /// Takes the recipes of these images and of those that they stand on, and their pins.
    fn images(&mut self, names: BTreeSet<&str>) -> Result<()> {
        let builder = self.cx.images(&|_| {})?;
        let images = builder.with_bases(names)?;
        for name in &images {
            let file = format!("images/{name}.toml");
            self.named(&file, &self.cx.site.project.join(&file))?;
        }
        let pins = self.cx.store.put_bytes(builder.pins(&images)?.render().as_bytes())?;
        self.artifacts.insert(format!("{PREFIX}{LOCK}"), pins);
        Ok(())
    }

    /// Takes a file, or all files of a folder. What Hearth's own tools make is no input, and what lies outside the project
    /// is not the site's.
    fn tree(&mut self, path: &Path) -> Result<()> {
        if path.starts_with(self.cx.site.project.join(".hearth")) {
            return Ok(());
        }
        if !path.is_dir() {
            return self.file(path);
        }
        list(path)?.iter().try_for_each(|entry| if entry.is_symlink() { self.file(entry) } else { self.tree(entry) })
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let Site { folder, project, .. } = self.cx.site;
        let name = match (path.strip_prefix(folder), path.strip_prefix(project)) {
            (Ok(rest), _) => format!("site/{}", rest.display()),
            (_, Ok(rest)) => format!("project/{}", rest.display()),
            _ => return Ok(()),
        };
        if path.is_file() { self.named(&name, path) } else { Ok(()) }
    }

    fn named(&mut self, name: &str, path: &Path) -> Result<()> {
        let file = fs::metadata(path).with_context(|| format!("can't read {}", path.display()))?;
        if file.permissions().mode() & 0o100 != 0 {
            self.notes.executable.insert(name.to_owned());
        }
        self.artifacts.insert(format!("{PREFIX}{name}"), self.cx.store.put_file(path)?);
        Ok(())
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || format!("can't list {}", folder.display());
    let entries = fs::read_dir(folder).with_context(read)?;
    entries.map(|entry| Ok(entry.with_context(read)?.path())).collect()
}

/// A generation's inputs, laid out as the project was, with the real project's `.hearth` below it; gone when dropped.
pub struct View {
    /// The site as the generation has it, with the sessions and the store of the project.
    pub session: Session,
    _folder: TempDir,
}

impl View {
    /// Lays out the inputs of a generation and evaluates its site. Only whoever holds the site's lock may do so.
    ///
    /// # Errors
    /// A generation without inputs, an input that is missing or altered, or a site that can't be evaluated any more.
    pub fn open(session: &Session, number: u64, generation: &Generation) -> Result<Self> {
        let why = || format!("generation {number} can't be evaluated again");
        if !generation.artifacts.contains_key(NOTES) {
            let message = format!("generation {number} does not hold its inputs: an older version of hearth built it");
            let hint = "put the inventory back by hand (git checkout), then: hearth run";
            return Err(Failure::new(Reason::Failed, message).hint(hint).into());
        }
        let views = session.site.project.join(".hearth/views");
        fs::create_dir_all(&views).with_context(|| format!("can't make {}", views.display()))?;
        let folder = tempfile::Builder::new().prefix("generation-").tempdir_in(&views).with_context(why)?;
        lay_out(session, generation, folder.path()).with_context(why)?;
        let site = site::load_copy(&folder.path().join(below(&session.site)?), &session.site)?;
        Ok(Self { session: session.with_site(site), _folder: folder })
    }

    /// Removes what killed runs left.
    pub fn sweep(project: &Path) {
        // What can't be removed now is in nobody's way.
        let _ = fs::remove_dir_all(project.join(".hearth/views"));
    }
}

/// Returns the site's folder as seen from the project.
fn below(site: &Site) -> Result<&Path> {
    let project = &site.project;
    site.folder.strip_prefix(project).with_context(|| format!("the site is not below {}", project.display()))
}

fn lay_out(session: &Session, generation: &Generation, view: &Path) -> Result<()> {
    let site = below(&session.site)?;
    let text = |artifact: &Artifact| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        session.store.read(&artifact.sha256)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let notes: Notes = serde_json::from_slice(&text(&generation.artifacts[NOTES])?)?;
    for (name, artifact) in &generation.artifacts {
        let Some(name) = name.strip_prefix(PREFIX) else { continue };
        let mut bytes = text(artifact).with_context(|| format!("its input {name} is not to be had"))?;
        let path = match (name.strip_prefix("site/"), name.strip_prefix("project/")) {
            (Some(rest), _) => view.join(site).join(rest),
            (_, Some(rest)) => view.join(rest),
            _ => view.join(name),
        };
        if name == LOCK {
            let present = fs::read_to_string(session.site.project.join(LOCK)).unwrap_or_default();
            bytes = pins(&String::from_utf8_lossy(&bytes), &present)?.into_bytes();
        }
        let mode = if notes.executable.contains(name) { 0o755 } else { 0o644 };
        store::files::write_atomic(&path, bytes, mode).with_context(|| format!("can't write {}", path.display()))?;
    }
    fs::create_dir_all(view.join("images"))?;
    // What else the project has is as it is now: keys, and the programs of stages.
    for entry in list(&session.site.project)? {
        let Some(name) = entry.file_name() else { continue };
        let link = view.join(name);
        if !link.exists() && name != "images" {
            symlink(&entry, &link).with_context(|| format!("can't link {}", link.display()))?;
        }
    }
    Ok(())
}

/// Merges a generation's pins into the lock file as it is now: the rest of it, such as the keys of hosts, is about the
/// world and not about the generation.
fn pins(held: &str, present: &str) -> Result<String> {
    let mut all: toml::Table = toml::from_str(present).context("can't understand pipeline.lock")?;
    let held: toml::Table = toml::from_str(held).context("can't understand the generation's pins")?;
    let key = |set: &toml::Value| ["suite", "components", "requested"].map(|key| set.get(key).cloned());
    for (name, value) in held {
        match (all.get_mut(&name), value) {
            (Some(toml::Value::Table(there)), toml::Value::Table(more)) => there.extend(more),
            (Some(toml::Value::Array(there)), toml::Value::Array(more)) => {
                there.retain(|set| !more.iter().any(|new| key(new) == key(set)));
                there.extend(more);
            }
            (_, value) => {
                all.insert(name, value);
            }
        }
    }
    Ok(toml::to_string(&all)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generations_pins_win_and_the_rest_of_the_lock_file_stays() {
        let set = |requested: &str, epoch: u32| {
            format!("[[set]]\nsuite = 't'\ncomponents = ['main']\nrequested = ['{requested}']\nepoch = {epoch}\n")
        };
        let present =
            format!("version = 1\n{}{}[package]\nnew = 1\nboth = 2\n[ssh]\npve1 = 'k'\n", set("a", 9), set("b", 9));
        let held = format!("version = 1\n{}[package]\nold = 3\nboth = 4\n", set("a", 1));
        let merged: toml::Table = toml::from_str(&pins(&held, &present).unwrap()).unwrap();
        let expected = format!(
            "version = 1\n{}{}[package]\nnew = 1\nboth = 4\nold = 3\n[ssh]\npve1 = 'k'\n",
            set("b", 9),
            set("a", 1)
        );
        assert_eq!(merged, toml::from_str::<toml::Table>(&expected).unwrap());
    }
}
