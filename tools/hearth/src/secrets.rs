//! `hearth secrets`: the site's encrypted files.

mod edit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use compose_deploy::secrets::{failure, find_keys, open};
use converge::{Event, Events, Failure, Reason, exit};
use secret::Secret;
use site::{Name, Site};

use crate::run::Look;

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Print the names of the secrets and who uses each.
    List,
    /// Open every secret and compare whom it is for with the site's recipients; ends with 78 where one is wrong.
    Check,
    /// Change a secret in $VISUAL or $EDITOR; the plain text is in memory only.
    Edit {
        /// The secret.
        name: Name,
    },
    /// Write a secret from standard input. One line break at its end is left out.
    Set {
        /// The secret.
        name: Name,
        /// Keep a line break at the end.
        #[arg(long)]
        raw: bool,
    },
    /// Encrypt secrets anew to the site's recipients, as after one joined or left. What uses them restarts at the next run.
    Rekey {
        /// The secrets; all without a name.
        name: Vec<Name>,
    },
}

/// Runs a sub-command.
pub fn run(verb: &Verb, folder: Option<&Path>, events: &dyn Events) -> Result<u8> {
    let site = site::load_before_secrets(&site::discover(folder)?)?;
    match verb {
        Verb::List => list(&site, events),
        Verb::Check => check(&site, events),
        Verb::Edit { name } => edit::edit(&site, name, events),
        Verb::Set { name, raw } => set(&site, name, *raw, events),
        Verb::Rekey { name } => rekey(&site, name, events),
    }
}

/// Opens what a run is going to send, before it changes anything.
pub fn ready(site: &Site, look: &Look) -> Result<()> {
    let plans = look.plans.values().flatten().filter(|plan| plan.tool == "compose-deploy");
    compose_deploy::secrets::ready(site, plans.flat_map(|plan| &plan.steps))
}

fn note(events: &dyn Events, message: impl Into<String>) {
    events.emit(&Event::Note { message: message.into() });
}

/// Returns the secrets that are there.
fn there(site: &Site) -> Result<BTreeSet<Name>> {
    let folder = site.secrets_folder();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(|| format!("can't list {}", folder.display())),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let file = entry.with_context(|| format!("can't list {}", folder.display()))?.file_name();
        let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".age")) else { continue };
        names.insert(name.parse().map_err(|why| Failure::config(format!("'{name}.age' can't be a secret: {why}")))?);
    }
    Ok(names)
}

/// Returns who uses each secret, those that are not there among them.
fn uses(site: &Site) -> BTreeMap<&Name, Vec<String>> {
    let mut uses: BTreeMap<&Name, Vec<String>> = BTreeMap::new();
    for (stack, wanted) in &site.stacks {
        for (seen, used) in &wanted.secrets {
            let alias = if *seen == used.secret { String::new() } else { format!(" as {seen}") };
            uses.entry(&used.secret).or_default().push(format!("stack {stack}{alias}"));
        }
    }
    uses
}

fn list(site: &Site, events: &dyn Events) -> Result<u8> {
    let (there, uses) = (there(site)?, uses(site));
    let names: BTreeSet<&Name> = there.iter().chain(uses.keys().copied()).collect();
    for name in &names {
        let used = uses.get(name).map_or("nobody".to_owned(), |users| users.join(", "));
        let missing = if there.contains(*name) { "" } else { "; there is no file of it yet" };
        note(events, format!("{name}: used by {used}{missing}"));
    }
    if names.is_empty() {
        note(events, format!("there are no secrets in {}", site.secrets_folder().display()));
    }
    Ok(exit::OK)
}

fn check(site: &Site, events: &dyn Events) -> Result<u8> {
    let (there, uses) = (there(site)?, uses(site));
    let names: BTreeSet<&Name> = there.iter().chain(uses.keys().copied()).collect();
    if names.is_empty() {
        return list(site, events);
    }
    let keys = find_keys(site)?;
    let mut wrong = 0;
    for name in &names {
        let path = site.secret_file(name);
        let opened = open(site, name, &keys).map_err(|failure| (failure.message, failure.hint.unwrap_or_default()));
        let found = opened.and_then(|_| {
            let readers = secret::readers(&path).map_err(|error| (error.to_string(), error.hint()))?;
            match readers.differ(&site.secrets.recipients) {
                Some(how) => Err((format!("it opens, but {how}"), format!("run: hearth secrets rekey {name}"))),
                None => Ok(readers),
            }
        });
        match found {
            Ok(readers) => {
                note(
                    events,
                    format!("✓ {name}: opens; for {} age keys and {} SSH keys", readers.age, readers.ssh.len()),
                );
            }
            Err((message, hint)) => {
                wrong += 1;
                note(events, format!("✗ {name}: {message}\n  hint: {hint}"));
            }
        }
    }
    if wrong > 0 {
        return Err(Failure::config(format!("{wrong} of {} secrets are wrong", names.len())).into());
    }
    Ok(exit::OK)
}

fn set(site: &Site, name: &Name, raw: bool, events: &dyn Events) -> Result<u8> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let failure = Failure::new(Reason::Usage, "a secret is read from standard input, and this is a terminal");
        return Err(failure.hint(format!("hearth secrets edit {name}, or: hearth secrets set {name} <FILE")).into());
    }
    let secret = Secret::read(stdin.lock()).context("can't read standard input")?;
    write(site, name, &if raw { secret } else { secret.without_newline() }, events)
}

/// Encrypts a secret and writes its file.
fn write(site: &Site, name: &Name, secret: &Secret, events: &dyn Events) -> Result<u8> {
    if secret.is_empty() {
        return Err(Failure::config(format!("the secret {name} would be empty, so nothing was written")).into());
    }
    let sealed = secret::seal(secret, &site.secrets.recipients).map_err(|error| failure(&error))?;
    let path = site.secret_file(name);
    let word = if path.exists() { "replaced" } else { "made" };
    store::files::write_atomic(&path, sealed, 0o644).with_context(|| format!("can't write {}", path.display()))?;
    let used = uses(site).get(name).map_or("nobody".to_owned(), |users| users.join(", "));
    note(events, format!("{name}: {word}, for {} recipients; used by {used}", site.secrets.recipients.len()));
    Ok(exit::OK)
}

fn rekey(site: &Site, names: &[Name], events: &dyn Events) -> Result<u8> {
    let names: BTreeSet<Name> = if names.is_empty() { there(site)? } else { names.iter().cloned().collect() };
    if names.is_empty() {
        return list(site, events);
    }
    let keys = find_keys(site)?;
    // All are opened before the first is written.
    let opened: Vec<(Name, Secret)> =
        names.into_iter().map(|name| Ok((name.clone(), open(site, &name, &keys)?))).collect::<Result<_, Failure>>()?;
    for (name, secret) in &opened {
        write(site, name, secret, events)?;
    }
    Ok(exit::OK)
}
