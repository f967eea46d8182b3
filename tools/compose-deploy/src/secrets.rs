//! Secrets of a stack: what of them stands in a bundle, and how they get to a guest.
//!
//! What can be compared is the digest of the encrypted file, which is the same everywhere and says nothing of what is in
//! it. A secret is decrypted when it is sent, goes over standard input, and lies in the guest's memory; on the guest's
//! disk it is encrypted to that machine (systemd-creds(1)), so that a stack starts after a boot without Hearth.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::{Failure, Step};
use remote::{Host, quote};
use secret::{Keys, Secret};
use serde_json::Value;
use site::{Name, Site, Stack};
use store::Digest;

use crate::bundle::Bundle;
use crate::compose::{Compose, Problem};
use crate::diff::Action;
use crate::observe::{Container, Observed};
use crate::paths;

const MINUTES: Duration = Duration::from_secs(300);

/// A secret that a stack uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackSecret {
    /// The site's secret.
    pub secret: Name,
    /// The digest of its encrypted file.
    pub digest: Digest,
    /// The user that may read it.
    pub uid: u32,
}

impl StackSecret {
    /// Returns what tells one state of it from another: the encrypted file's digest, and whose it is.
    pub fn mark(&self) -> String {
        format!("{}@{}", self.digest, self.uid)
    }
}

/// Returns a mark for people.
fn short(mark: &str) -> String {
    let (digest, uid) = mark.split_once('@').unwrap_or((mark, ""));
    let digest = digest.get(..12).unwrap_or(digest);
    if matches!(uid, "" | "0") { digest.to_owned() } else { format!("{digest} for user {uid}") }
}

/// Checks what the compose file and the stack's `secrets` say of each other.
pub(crate) fn check(compose: &Compose, stack: &Stack) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (service, found) in &compose.services {
        for (line, name) in &found.secrets {
            if !stack.secrets.contains_key(name.as_str()) && !compose.secrets.contains_key(name) {
                let message =
                    format!("service '{service}' reads the secret '{name}': name it in the stack's `secrets`");
                problems.push(Problem { line: *line, message });
            }
        }
    }
    for name in stack.secrets.keys() {
        if let Some(line) = compose.secrets.get(name.as_str()) {
            let message = format!("secret '{name}' is defined here and in the stack's `secrets`: remove one of them");
            problems.push(Problem { line: *line, message });
        } else if !compose.services.values().any(|service| reads(service, name.as_str())) {
            let message = format!("the stack's `secrets` has '{name}', which no service here reads");
            problems.push(Problem { line: 0, message });
        }
    }
    problems
}

fn reads(service: &crate::compose::Service, name: &str) -> bool {
    service.secrets.iter().any(|(_, read)| read == name)
}

/// Reads the digests of a stack's encrypted secrets.
///
/// # Errors
/// A file that is not there.
pub(crate) fn of_stack(site: &Site, stack: &Stack) -> Result<BTreeMap<Name, StackSecret>> {
    let one = |(name, used): (&Name, &site::StackSecret)| {
        let path = site.secret_file(&used.secret);
        let (digest, _) = Digest::of_file(&path).with_context(|| {
            Failure::config(format!("can't read the secret {}", path.display()))
                .hint(format!("make it: hearth secrets set {}", used.secret))
        })?;
        Ok((name.clone(), StackSecret { secret: used.secret.clone(), digest, uid: used.uid }))
    };
    stack.secrets.iter().map(one).collect()
}

/// Writes what a service's labels get for the secrets that it reads. The marks are put in where the containers run, so
/// that a rotated secret leaves the bundle as it is and only what reads it is made anew.
pub(crate) fn label(service: &crate::compose::Service, secrets: &BTreeMap<Name, StackSecret>) -> String {
    let read: Vec<_> = secrets.keys().filter(|name| reads(service, name.as_str())).collect();
    if read.is_empty() {
        return String::new();
    }
    let mark = |name: &&Name| {
        let variable = name.as_str().to_ascii_uppercase().replace('-', "_");
        format!("{name}=${{HEARTH_SECRET_{variable}:?the guest lacks the secret {name}}}")
    };
    let marks: Vec<_> = read.iter().map(mark).collect();
    format!("      {}: {}\n", paths::SECRETS, Value::from(marks.join(",")))
}

/// Writes the override's own table of secrets.
pub(crate) fn table(stack: &str, secrets: &BTreeMap<Name, StackSecret>) -> String {
    let mut text = String::new();
    for name in secrets.keys() {
        let place = paths::secret(stack, name.as_str());
        text += &format!("  {}:\n    file: {}\n", Value::from(name.as_str()), Value::from(place));
    }
    if text.is_empty() { text } else { format!("secrets:\n{text}") }
}

/// Describes a stack's secrets as they are on the guest: what is there, and what the containers were made with.
pub(crate) fn state(stack: &Name, own: &[&Container], observed: &Observed) -> Option<(Value, Value)> {
    let there = observed.secrets.get(stack.as_str()).into_iter().flatten();
    let there: BTreeMap<_, _> = there
        .map(|(name, found)| (name.clone(), if found.state == "ok" { short(&found.mark) } else { found.state.clone() }))
        .collect();
    let read = own.iter().filter(|container| !container.labels.secrets.is_empty());
    let read: BTreeMap<_, _> =
        read.map(|container| (container.service.clone(), shorts(&container.labels.secrets))).collect();
    (!there.is_empty() || !read.is_empty()).then(|| (there.into_iter().collect(), read.into_iter().collect()))
}

/// Describes a stack's secrets as they shall be, in the words of [`state`].
pub(crate) fn wanted(bundle: &Bundle) -> Option<(Value, Value)> {
    if bundle.secrets.is_empty() {
        return None;
    }
    let there = bundle.secrets.iter().map(|(name, secret)| (name.to_string(), short(&secret.mark())));
    let services = bundle.compose.services.iter().filter_map(|(service, found)| {
        let read = bundle.secrets.iter().filter(|(name, _)| reads(found, name.as_str()));
        let marks: Vec<_> = read.map(|(name, secret)| format!("{name}={}", secret.mark())).collect();
        (!marks.is_empty()).then(|| (service.clone(), shorts(&marks.join(","))))
    });
    let services: BTreeMap<_, _> = services.collect();
    Some((there.collect::<BTreeMap<_, _>>().into_iter().collect(), services.into_iter().collect()))
}

fn shorts(label: &str) -> String {
    let one = |part: &str| match part.split_once('=') {
        Some((name, mark)) => format!("{name} {}", short(mark)),
        None => part.to_owned(),
    };
    label.split(',').map(one).collect::<Vec<_>>().join(", ")
}

/// Returns the services that a change of marks restarts, where the stack's containers are there at all.
pub(crate) fn restarts(guest: &Name, bundle: &Bundle, before: &Value, after: &Value) -> Vec<String> {
    let (old, new) = (&before[READ], &after[READ]);
    let services = bundle.compose.services.keys().filter(|service| old[service.as_str()] != new[service.as_str()]);
    services
        .filter(|service| before["services"].get(service.as_str()).is_some())
        .map(|service| format!("{guest}/{}/{service}", bundle.stack))
        .collect()
}

/// The key of a stack's description with the secrets on the guest.
pub(crate) const THERE: &str = "secrets";
/// The key of a stack's description with the secrets that its containers were made with.
pub(crate) const READ: &str = "secrets read";

/// Returns the secrets that must be sent, and whether some must go.
pub(crate) fn to_do(bundle: &Bundle, observed: &Observed) -> (Vec<Name>, bool) {
    let empty = BTreeMap::new();
    let there = observed.secrets.get(bundle.stack.as_str()).unwrap_or(&empty);
    let good = |name: &Name, secret: &StackSecret| {
        there.get(name.as_str()).is_some_and(|found| found.state == "ok" && found.mark == secret.mark())
    };
    let send = bundle.secrets.iter().filter(|(name, secret)| !good(name, secret)).map(|(name, _)| name.clone());
    (send.collect(), there.keys().any(|name| !bundle.secrets.contains_key(name.as_str())))
}

/// Opens every secret that a plan's steps send, so that a missing or wrong identity ends a run before its first change.
///
/// # Errors
/// What can't be opened, with the mend.
pub fn ready<'s>(site: &Site, steps: impl IntoIterator<Item = &'s Step>) -> Result<()> {
    let mut keys = None;
    for step in steps {
        let Ok(Action::Deploy { stack, secrets, .. }) = serde_json::from_value(step.action.clone()) else { continue };
        let Some(stack) = site.stacks.get(&stack) else { continue };
        for used in secrets.iter().filter_map(|name| stack.secrets.get(name)) {
            if keys.is_none() {
                keys = Some(find_keys(site)?);
            }
            if let Some(keys) = &keys {
                open(site, &used.secret, keys)?;
            }
        }
    }
    Ok(())
}

/// Gathers the identities of the environment and of the site.
///
/// # Errors
/// Where there is none that can be used.
pub fn find_keys(site: &Site) -> Result<Keys, Failure> {
    Keys::find(&site.secrets.identity_files, |name| std::env::var_os(name)).map_err(|error| failure(&error))
}

/// Decrypts a secret of the site.
///
/// # Errors
/// Where it can't be opened.
pub fn open(site: &Site, name: &Name, keys: &Keys) -> Result<Secret, Failure> {
    secret::open(&site.secret_file(name), keys).map_err(|error| failure(&error))
}

/// Says an error of age's as one of configuration, with the mend.
pub fn failure(error: &secret::Error) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::config(format!("{error}{cause}")).hint(error.hint())
}

/// Sends secrets of a stack to its guest. Nothing is sent unless all can be opened.
///
/// # Errors
/// What can't be opened; where the guest has no memory file system or no systemd-creds.
pub(crate) fn send(site: &Site, host: &Host, bundle: &Bundle, names: &[Name]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let keys = find_keys(site)?;
    let mut wanted = Vec::new();
    let mut builder = tar::Builder::new(Vec::with_capacity(1 << 16));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(0);
        builder.append_data(&mut header, name, bytes)
    };
    for name in names {
        let Some(secret) = bundle.secrets.get(name) else { continue };
        let plain = open(site, &secret.secret, &keys)?;
        // The file may have changed since the site was evaluated.
        let path = site.secret_file(&secret.secret);
        if Digest::of_file(&path).map(|(digest, _)| digest).ok() != Some(secret.digest) {
            let moved = Failure::refused(format!("{} changed while it was read", path.display()));
            return Err(moved.hint("plan again").into());
        }
        add(name.as_str(), plain.expose()).with_context(|| format!("can't pack the secret {name}"))?;
        wanted.push(format!("{name} {}", secret.mark()));
    }
    // A lost connection ends the input too; this name says that all came.
    add(".whole", b"").context("can't pack the secrets")?;
    let tar = Secret::new(builder.into_inner()?);
    let script = format!(
        "NAME={} WANTED={}\n{}",
        quote(bundle.stack.as_str()),
        quote(&wanted.join("\n")),
        include_str!("guest/secrets.sh")
    );
    host.feed(&script, &mut Cursor::new(tar.expose()), MINUTES)
        .with_context(|| format!("stack {}: its secrets can't be sent; what runs was not touched", bundle.stack))?;
    Ok(())
}

/// Takes away the secrets that a stack uses no more.
///
/// # Errors
/// Where the guest fails to.
pub(crate) fn forget(host: &Host, bundle: &Bundle) -> Result<()> {
    let keep: String = bundle.secrets.keys().map(|name| format!(" {name}")).collect();
    let script = format!(
        "NAME={} KEEP={}\n{}",
        quote(bundle.stack.as_str()),
        quote(&format!("{keep} ")),
        include_str!("guest/forget.sh")
    );
    host.run(&script, MINUTES).with_context(|| format!("stack {}: old secrets can't be removed", bundle.stack))?;
    Ok(())
}

#[cfg(test)]
mod tests;
