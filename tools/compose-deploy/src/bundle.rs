//! A stack as it is deployed: every file of its folder, what Hearth adds to it, and one digest over all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use converge::Failure;
use image::ContainerImage;
use site::{Name, Site, Stack};
use store::Digest;

use crate::compose::{self, Compose, Problem};
use crate::paths;
use crate::secrets::{self, StackSecret};
use crate::unit::Unit;

/// The compose file, in a stack's folder.
pub const COMPOSE: &str = "compose.yaml";
/// What Hearth adds to it.
pub const OVERRIDE: &str = "compose.hearth.yaml";
/// The stack's unit.
pub const UNIT: &str = "hearth-stack.service";
/// The list of the bundle's files, for `sha256sum --check`.
pub const SUMS: &str = "SHA256SUMS";

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Whether it can be run.
    pub executable: bool,
}

/// A stack as it is deployed.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The stack.
    pub stack: Name,
    /// The digest over all of it, by which containers are labelled.
    pub digest: Digest,
    /// Its files by path.
    pub files: BTreeMap<String, File>,
    /// What Hearth knows of its services.
    pub compose: Compose,
    /// The services' images by service.
    pub images: BTreeMap<String, ContainerImage>,
    /// How long its containers may take to get healthy, in seconds.
    pub deadline: u64,
    /// Stacks that must be healthy first.
    pub needs: Vec<Name>,
    /// Its secrets, by the name that services see them by. Their names are part of the digest, their content is not.
    pub secrets: BTreeMap<Name, StackSecret>,
}

/// Reads a stack's compose file and its folder, and checks both against the site.
///
/// # Errors
/// All that is wrong with them, each with file and line.
pub fn read(site: &Site, name: &Name, stack: &Stack) -> Result<(Compose, BTreeMap<String, File>)> {
    let mut files = BTreeMap::new();
    walk(&stack.folder, "", &mut files)?;
    let path = stack.folder.join(COMPOSE);
    let shown = path.strip_prefix(&site.project).unwrap_or(&path).to_owned();
    let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::config(format!("{} is no UTF-8, which YAML is written in", shown.display())).hint("save it as UTF-8")
    })?;
    let read = compose::parse(&text).and_then(|compose| {
        let mut problems = compose::check_files(&compose, &stack.folder);
        problems.extend(check_site(&compose, site, stack));
        problems.extend(secrets::check(&compose, stack));
        problems.sort_by_key(|problem| problem.line);
        if problems.is_empty() { Ok(compose) } else { Err(problems) }
    });
    match read {
        Ok(compose) => Ok((compose, files)),
        Err(problems) => Err(Failure::config(describe(name, &shown, &problems)).into()),
    }
}

fn describe(name: &Name, path: &Path, problems: &[Problem]) -> String {
    let lines = problems.iter().map(|Problem { line, message }| match line {
        0 => format!("\n  {}: {message}", path.display()),
        _ => format!("\n  {}:{line}: {message}", path.display()),
    });
    format!("stack '{name}' can't be deployed:{}", lines.collect::<String>())
}

/// Checks what the compose file and the inventory say of each other.
fn check_site(compose: &Compose, site: &Site, stack: &Stack) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (service, found) in &compose.services {
        if !stack.images.contains_key(service) {
            let message = format!("service '{service}' has no image: name its recipe in the stack's `images`");
            problems.push(Problem { line: found.line, message });
        }
        for (line, path) in &found.files {
            if let Some((share, point)) = share_below(site, stack, path)
                && !stack.shares.contains(share)
            {
                let message = format!(
                    "service '{service}' uses {path}, which is the share '{share}' at {point}, but the stack would not \
                     wait for it: add it to the stack's `shares`"
                );
                problems.push(Problem { line: *line, message });
            }
        }
    }
    for service in stack.images.keys().filter(|service| !compose.services.contains_key(*service)) {
        let message = format!("the stack's `images` names the service '{service}', which is not here");
        problems.push(Problem { line: 0, message });
    }
    problems
}

/// Returns the share of the stack's guest that a path lies in.
fn share_below<'a>(site: &'a Site, stack: &Stack, path: &str) -> Option<(&'a Name, &'a str)> {
    site.shares.iter().find_map(|(name, share)| {
        let point = share.mounts.get(&stack.guest)?.as_str();
        let rest = path.strip_prefix(point)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((name, point))
    })
}

fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, File>) -> Result<()> {
    let list = || format!("can't list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(list)? {
        let entry = entry.with_context(list)?;
        let path = entry.path();
        let refuse = |why: &str| Failure::config(format!("{} can't be deployed: {why}", path.display()));
        let name = entry.file_name().into_string().map_err(|_| refuse("its name is no UTF-8"))?;
        let name = format!("{prefix}{name}");
        if name.contains(|c: char| c.is_control() || c == '\\') {
            return Err(refuse("its name has a control character or a backslash").into());
        }
        let kind = entry.file_type().with_context(list)?;
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), files)?;
        } else if !kind.is_file() {
            return Err(refuse("it is a link or no file: put a copy of what it stands for in its place").into());
        } else if [OVERRIDE, UNIT, SUMS].contains(&name.as_str()) {
            return Err(refuse("Hearth makes a file of that name").into());
        } else {
            let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
            let mode = entry.metadata().with_context(list)?.permissions().mode();
            files.insert(name, File { bytes, executable: mode & 0o100 != 0 });
        }
    }
    Ok(())
}

/// Puts a stack's bundle together from what [`read`] gave and the images of its services.
pub fn bundle(
    site: &Site,
    name: &Name,
    stack: &Stack,
    (compose, files): (Compose, BTreeMap<String, File>),
    images: BTreeMap<String, ContainerImage>,
    secrets: BTreeMap<Name, StackSecret>,
) -> Bundle {
    let mounts = stack.shares.iter().filter_map(|share| site.shares.get(share)?.mounts.get(&stack.guest));
    let unit = Unit {
        site: site.name.as_str(),
        stack: name.as_str(),
        mounts: mounts.map(|path| path.as_str()).collect(),
        needs: stack.needs.iter().map(Name::as_str).collect(),
        deadline: stack.deadline,
    };
    let mut all = files;
    let plain = |text: String| File { bytes: text.into_bytes(), executable: false };
    all.insert(UNIT.to_owned(), plain(unit.text()));
    // The override holds the digest of the whole bundle, so it goes into that digest without it.
    let with =
        |digest: &str| plain(override_text(site.name.as_str(), name.as_str(), &compose, &images, &secrets, digest));
    all.insert(OVERRIDE.to_owned(), with(""));
    let digest = Digest::of(key(&all, &images));
    all.insert(OVERRIDE.to_owned(), with(&digest.to_string()));
    Bundle {
        stack: name.clone(),
        digest,
        files: all,
        compose,
        images,
        deadline: stack.deadline,
        needs: stack.needs.clone(),
        secrets,
    }
}

/// Writes the compose file that is laid over the stack's own.
fn override_text(
    site: &str,
    stack: &str,
    compose: &Compose,
    images: &BTreeMap<String, ContainerImage>,
    secrets: &BTreeMap<Name, StackSecret>,
    digest: &str,
) -> String {
    // A JSON string is a YAML string.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!("{}\nservices:\n", paths::header(site));
    for (name, service) in &compose.services {
        text += &format!("  {}:\n", quoted(name));
        if let Some(image) = images.get(name) {
            text += &format!("    image: {}\n", quoted(&image.tag));
        }
        text += "    pull_policy: never\n";
        text += "    # The stack's unit starts it again, and knows its mounts; Docker does not.\n    restart: \"no\"\n";
        text += &format!("    labels:\n      {}: {}\n", paths::SITE, quoted(site));
        text += &format!("      {}: {}\n      {}: {}\n", paths::STACK, quoted(stack), paths::BUNDLE, quoted(digest));
        text += &secrets::label(service, secrets);
        if service.one_shot {
            text += &format!("      {}: \"yes\"\n", paths::ONE_SHOT);
        }
        if service.render {
            text += "    group_add:\n      - \"${HEARTH_RENDER_GID:?the guest has no group named render}\"\n";
        }
    }
    text + &secrets::table(stack, secrets)
}

/// Writes all that determines a bundle, in lines that can be compared.
fn key(files: &BTreeMap<String, File>, images: &BTreeMap<String, ContainerImage>) -> String {
    let mode = |file: &File| if file.executable { "755" } else { "644" };
    let files = files.iter().map(|(name, file)| format!("file {name} {} {}\n", mode(file), Digest::of(&file.bytes)));
    let images = images.iter().map(|(service, image)| format!("image {service} {}\n", image.config.sha256));
    files.chain(images).collect()
}

/// Lists files as `sha256sum` does.
fn sums(files: &BTreeMap<String, File>) -> String {
    files.iter().map(|(name, file)| format!("{}  {name}\n", Digest::of(&file.bytes))).collect()
}

impl Bundle {
    /// Returns the list of the bundle's files, as `sha256sum --check` reads it.
    pub fn sums(&self) -> String {
        sums(&self.files)
    }

    /// Returns the text of the stack's unit.
    pub fn unit(&self) -> &[u8] {
        self.files.get(UNIT).map_or(&[], |file| &file.bytes)
    }

    /// Packs the files and their list; equal bundles give equal bytes.
    ///
    /// # Errors
    /// A name too long for a tar.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        let list = File { bytes: self.sums().into_bytes(), executable: false };
        for (name, file) in self.files.iter().chain([(&SUMS.to_owned(), &list)]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(file.bytes.len() as u64);
            header.set_mode(if file.executable { 0o755 } else { 0o644 });
            header.set_mtime(0);
            builder
                .append_data(&mut header, name, file.bytes.as_slice())
                .with_context(|| format!("can't pack {name} of stack {}", self.stack))?;
        }
        Ok(builder.into_inner()?)
    }
}

#[cfg(test)]
mod tests;
