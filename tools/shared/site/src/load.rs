//! From TOML files to a [`Site`].

use std::path::{Path, PathBuf};

use crate::model::Site;
use crate::report::{Errors, Finding, Source};
use crate::scope::Scope;
use crate::tree::{self, Table, Value};
use crate::{check, read, trust};

const MANIFEST: &str = "pipeline.toml";
/// The most bytes that a file of an inventory may have: far more than people write, and quick to read.
const LARGEST: u64 = 1 << 20;

/// Finds the site's folder: the given one, else `site` in the nearest `pipeline.toml` at or above the current folder.
///
/// # Errors
/// Where there is none.
pub fn discover(folder: Option<&Path>) -> Result<PathBuf, Errors> {
    if let Some(folder) = folder {
        return Ok(folder.to_owned());
    }
    let here = std::env::current_dir()
        .map_err(|error| Errors::one(Finding::nowhere(format!("can't tell the current folder: {error}"))))?;
    named_above(&here)
}

/// Returns the site that the nearest manifest at or above a folder names.
fn named_above(here: &Path) -> Result<PathBuf, Errors> {
    let Some(project) = here.ancestors().find(|above| above.join(MANIFEST).is_file()) else {
        let finding = Finding::nowhere(format!("there is no {MANIFEST} in {} or above it", here.display()));
        return Err(Errors::one(finding.help("go to the project's folder, or name the site with --site DIR")));
    };
    let path = project.join(MANIFEST);
    let source = source(&path)?;
    let root = match tree::parse(0, &source.text) {
        Ok(root) => root,
        Err(findings) => return Err(Errors::new(vec![source], findings)),
    };
    let finding = match root.entry("site") {
        Some(entry) => match &entry.node.value {
            Value::Text(site) => return Ok(project.join(site)),
            other => {
                Finding::at(&entry.node.place, format!("`site` must be a text in quotes, and is {}", other.kind()))
            }
        },
        None => Finding::at(&root.place, format!("{MANIFEST} names no site")),
    };
    let finding = finding.help("add `site = \"inventory/lab\"`, or name the site with --site DIR");
    Err(Errors::new(vec![source], vec![finding]))
}

/// Loads and checks a site. Reads the folder's own TOML files, not those of folders in it, and what they name.
///
/// # Errors
/// All that is wrong with it.
pub fn load(folder: &Path) -> Result<Site, Errors> {
    read_folder(folder, |scope| scope)
}

/// Loads a copy of a site, as it was when a generation was made of it. A file that the copy does not have, as a key, is
/// where the site itself says that it is.
///
/// # Errors
/// As [`load`].
pub fn load_copy(folder: &Path, of: &Site) -> Result<Site, Errors> {
    let mut site = read_folder(folder, |scope| scope.copy_of(of.folder.clone(), of.project.clone()))?;
    // What people trust is no part of a generation: it counts as it is now.
    for (name, host) in &mut site.hosts {
        if let Some(now) = of.hosts.get(name) {
            host.api.pinned.clone_from(&now.api.pinned);
            host.ssh.pinned.clone_from(&now.ssh.pinned);
        }
    }
    Ok(site)
}

/// Loads a site as [`load`] does, in which secrets may be named that are still to be made.
///
/// # Errors
/// All else that is wrong with it.
pub fn load_before_secrets(folder: &Path) -> Result<Site, Errors> {
    read_folder(folder, Scope::before_secrets)
}

fn read_folder(folder: &Path, adapt: impl FnOnce(Scope) -> Scope) -> Result<Site, Errors> {
    let absolute = folder.canonicalize().map_err(|error| {
        let finding = Finding::nowhere(format!("can't open the site {}: {error}", folder.display()));
        Errors::one(finding.help("a site is a folder of TOML files; name it with --site DIR"))
    })?;
    let Some(project) = absolute.ancestors().find(|above| above.join(MANIFEST).is_file()) else {
        let finding = Finding::nowhere(format!("there is no {MANIFEST} above the site {}", absolute.display()));
        return Err(Errors::one(finding.help("put the site below the folder that holds it, with images/ beside it")));
    };
    let sources = sources(folder)?;
    let (root, findings) = match merged(&sources) {
        Ok(read) => read,
        Err(findings) => return Err(Errors::new(sources, findings)),
    };
    let scope = adapt(Scope::new(absolute.clone(), project.to_owned(), findings));
    let site = read::site(&root, &scope);
    if let Some(site) = &site {
        check::check(site, &root, &scope);
    }
    scope.resolve(&root);
    let findings = scope.into_findings();
    match site {
        Some(mut site) if findings.is_empty() => {
            let trusted = trust::read(&site.project, &site.name);
            trust::apply(trusted.map_err(|message| Errors::one(Finding::nowhere(message)))?, &mut site);
            Ok(site)
        }
        _ => Err(Errors::new(sources, findings)),
    }
}

/// Reads the folder's TOML files in the order of their names.
fn sources(folder: &Path) -> Result<Vec<Source>, Errors> {
    let failed = |error: std::io::Error| {
        Errors::one(Finding::nowhere(format!("can't list the site {}: {error}", folder.display())))
    };
    let mut paths = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let finding = Finding::nowhere(format!("there is no TOML file in {}", folder.display()));
        return Err(Errors::one(finding.help("a site is a folder of TOML files; begin with a site.toml")));
    }
    paths.iter().map(|path| source(path)).collect()
}

/// Reads a file. It is shown by its path from the current folder where it is below that.
fn source(path: &Path) -> Result<Source, Errors> {
    let here = std::env::current_dir().unwrap_or_default();
    let shown = path.strip_prefix(&here).unwrap_or(path).display().to_string();
    let fail = |message: String, help: &str| Err(Errors::one(Finding::nowhere(message).help(help)));
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            return fail(
                format!("can't read {shown}: {error}"),
                "mend the file, or remove it if it is a link to nothing",
            );
        }
    };
    if !metadata.is_file() {
        return fail(
            format!("{shown} is no file"),
            "every name with .toml at its end is read: rename it, or move it away",
        );
    }
    if metadata.len() > LARGEST {
        let message = format!("{shown} has {} bytes, and an inventory's file at most {LARGEST}", metadata.len());
        return fail(message, "every name with .toml at its end is read: is this one an inventory?");
    }
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return fail(format!("can't read {shown}: {error}"), "give yourself the right to read it"),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { path: shown, text }),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
            let message = format!("{shown}:{line}: this is no UTF-8, which TOML is written in");
            fail(message, "save the file as UTF-8, or convert it with iconv")
        }
    }
}

/// Parses all files and makes one tree of them. Files that are no TOML end it here: half a tree would give errors about
/// things that are there.
fn merged(sources: &[Source]) -> Result<(Table, Vec<Finding>), Vec<Finding>> {
    let (mut root, mut broken, mut findings) = (Table::root(), Vec::new(), Vec::new());
    for (file, source) in sources.iter().enumerate() {
        match tree::parse(file, &source.text) {
            Ok(table) => tree::merge(&mut root, table, "", &mut findings),
            Err(errors) => broken.extend(errors),
        }
    }
    if broken.is_empty() { Ok((root, findings)) } else { Err(broken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(manifest: &str) -> Result<PathBuf, Errors> {
        let project = tempfile::tempdir().unwrap();
        store::files::write_atomic(&project.path().join(MANIFEST), manifest, 0o644).unwrap();
        let below = project.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        named_above(&below).map(|site| site.strip_prefix(project.path()).unwrap().to_owned())
    }

    #[test]
    fn the_nearest_manifest_names_the_site() {
        let site = named("site = \"inventory/lab\"\n[stages.storage]\ntool = \"zfs-init\"\n").unwrap();
        assert_eq!(site, Path::new("inventory/lab"));
    }

    #[test]
    fn a_manifest_without_a_site_is_told_with_its_place() {
        for (manifest, line, message) in [
            ("", 1, "pipeline.toml names no site"),
            ("# the site\nsite = 7\n", 2, "`site` must be a text in quotes, and is a whole number"),
            ("\n\nsite =\n", 3, "this is no TOML: string values must be quoted, expected literal string"),
        ] {
            let problem = named(manifest).unwrap_err().problems().remove(0);
            assert_eq!((problem.line, problem.message.as_str()), (Some(line), message));
            assert!(problem.help.is_some() && problem.file.is_some_and(|file| file.ends_with(MANIFEST)));
        }
    }

    #[test]
    fn without_a_manifest_there_is_no_site() {
        let folder = tempfile::tempdir().unwrap();
        let problem = named_above(folder.path()).unwrap_err().problems().remove(0);
        assert!(problem.message.starts_with("there is no pipeline.toml in "), "{}", problem.message);
        assert!(problem.help.is_some_and(|help| help.contains("--site")));
    }
}
