//! `hearth trust`: the first contact. It shows what a host proves itself with, asks, and pins it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::cli::Session;
use converge::{Event, Events, Failure, Lock, Reason, exit};
use pve::{fingerprint, shown};
use remote::{HostKey, Verdict};
use site::trust::{FILE, Table, Trusted};
use site::{Guest, Host, Name};
use vm_build::api::Clients;
use vm_build::guests::told_key;

/// How long the API may take to show its certificate.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the agent of a guest that is up may take to tell its key.
const AGENT: Duration = Duration::from_secs(60);

/// What the command line asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Wish {
    /// The hosts and guests; without any, all hosts.
    #[arg(value_name = "HOST")]
    names: Vec<Name>,
    /// Pin without asking: for what was compared before.
    #[arg(long)]
    yes: bool,
    /// Pin it in place of what is pinned for the host now.
    #[arg(long)]
    replace: bool,
}

/// Something to be pinned.
enum Find {
    Certificate(Name, String),
    HostKey(Name, HostKey),
    GuestKey(Name, HostKey),
}

/// One look at a site's hosts.
struct Look<'a> {
    session: &'a Session,
    events: &'a dyn Events,
    replace: bool,
    finds: Vec<Find>,
}

/// Shows certificates and host keys, asks, and pins those that are not pinned yet.
///
/// # Errors
/// A refusal where another one is pinned and `--replace` is not given; a host that can't be reached; nobody to ask.
pub fn trust(session: &Session, wish: &Wish, events: &dyn Events) -> Result<u8> {
    let site = &session.site;
    let _lock = Lock::take(&site.project, site.name.as_str())?;
    session.enter_network()?;
    let mut look = Look { session, events, replace: wish.replace, finds: Vec::new() };
    let all: Vec<&Name> = if wish.names.is_empty() { site.hosts.keys().collect() } else { wish.names.iter().collect() };
    for name in all {
        match (site.hosts.get(name), site.guests.get(name)) {
            (Some(host), _) => {
                look.certificate(name, host)?;
                look.host_key(name, host)?;
            }
            (None, Some(guest)) => look.guest(name, guest)?,
            (None, None) => {
                let known: Vec<&str> = site.hosts.keys().chain(site.guests.keys()).map(Name::as_str).collect();
                let failure =
                    Failure::new(Reason::Usage, format!("site '{}' has no host or guest '{name}'", site.name));
                return Err(failure.hint(format!("it has {}", known.join(", "))).into());
            }
        }
    }
    let note = |message: String| events.emit(&Event::Note { message });
    if look.finds.is_empty() {
        note("nothing new to pin".to_owned());
        return Ok(exit::OK);
    }
    look.finds.iter().for_each(|find| note(find.show()));
    if !wish.yes {
        confirm()?;
    }
    pin(session, &look.finds)?;
    for find in &look.finds {
        note(find.pinned(session));
    }
    Ok(exit::OK)
}

impl Look<'_> {
    fn already(&self, name: &Name, what: &str, place: &str) {
        self.events.emit(&Event::Note { message: format!("{name}: its {what} is pinned in {place} already") });
    }

    fn certificate(&mut self, name: &Name, host: &Host) -> Result<()> {
        if host.api.fingerprint.is_some() || host.api.ca_file.is_some() {
            let key = if host.api.fingerprint.is_some() { "fingerprint" } else { "ca_file" };
            self.already(name, "API certificate", &format!("the inventory ({key})"));
            return Ok(());
        }
        let seen = shown(&host.api.url, PATIENCE).map_err(|error| vm_build::api::explain(name, error))?;
        let seen = fingerprint(&seen);
        match &host.api.pinned {
            Some(pinned) if *pinned == seen => self.already(name, "API certificate", FILE),
            Some(pinned) if !self.replace => return Err(changed(name, "API certificate", &seen, pinned, FILE)),
            _ => self.finds.push(Find::Certificate(name.clone(), seen)),
        }
        Ok(())
    }

    fn host_key(&mut self, name: &Name, host: &Host) -> Result<()> {
        let fleet = &self.session.fleet;
        let (seen, verdict) = fleet.seen_key(name)?;
        let file = host.ssh.known_hosts_file.display().to_string();
        if verdict == Verdict::Known {
            self.already(name, "SSH host key", &format!("{FILE} or {file}"));
            return Ok(());
        }
        if verdict == Verdict::Differs {
            let pinned = fleet.pinned_keys(name)?;
            let locked: BTreeSet<String> =
                host.ssh.pinned.iter().filter_map(|line| Some(HostKey::parse(line)?.fingerprint())).collect();
            let in_file = pinned.split(", ").any(|one| !locked.contains(one));
            if in_file {
                let text = format!("{name} shows the SSH host key {}, and {file} pins {pinned}", seen.fingerprint());
                let hint = "that file is yours: where the new key is the host's own, change the line there";
                return Err(Failure::refused(text).hint(hint).into());
            }
            if !self.replace {
                return Err(changed(name, "SSH host key", &seen.fingerprint(), &pinned, FILE));
            }
        }
        self.finds.push(Find::HostKey(name.clone(), seen));
        Ok(())
    }

    /// A guest's key is told by its agent, over the pinned connection to the API.
    fn guest(&mut self, name: &Name, guest: &Guest) -> Result<()> {
        let site = &self.session.site;
        let client = Clients::default().of(site, &guest.host)?;
        let host = site.hosts.get(&guest.host).context("the guest's host is not in the site")?;
        let seen = told_key(&client.node(&host.api.node).vm(guest.vmid), &guest.host, name, AGENT)?;
        let pinned = self.session.fleet.pinned_keys(name)?;
        let file = guest.ssh.known_hosts_file.display().to_string();
        if pinned.split(", ").any(|one| one == seen.fingerprint()) {
            self.already(name, "SSH host key", &file);
        } else if !pinned.is_empty() && !self.replace {
            return Err(changed(name, "SSH host key", &seen.fingerprint(), &pinned, &file));
        } else {
            self.finds.push(Find::GuestKey(name.clone(), seen));
        }
        Ok(())
    }
}

fn changed(name: &Name, what: &str, seen: &str, pinned: &str, place: &str) -> anyhow::Error {
    let text = format!("{name} shows the {what} {seen}, and {pinned} is pinned in {place}");
    let hint = format!(
        "if {name} has got a new one of its own, compare it there, then: hearth trust {name} --replace; otherwise \
         someone is in between"
    );
    Failure::refused(text).hint(hint).into()
}

impl Find {
    /// Returns what is shown to people, with how to compare it.
    fn show(&self) -> String {
        let compare = "ssh-keygen -lf /etc/ssh/ssh_host";
        match self {
            Self::Certificate(name, seen) => format!(
                "{name}: API certificate, SHA-256 {seen}\n    compare on {name}: pvenode cert info, or openssl x509 \
                 -noout -fingerprint -sha256 -in /etc/pve/local/pve-ssl.pem"
            ),
            Self::HostKey(name, key) => {
                let file = key.kind().trim_start_matches("ssh-").split('-').next().unwrap_or_default();
                let seen = key.fingerprint();
                format!("{name}: SSH host key, {} {seen}\n    compare on {name}: {compare}_{file}_key.pub", key.kind())
            }
            Self::GuestKey(name, key) => {
                format!("{name}: SSH host key, {} {}, as its agent tells over the API", key.kind(), key.fingerprint())
            }
        }
    }

    fn pinned(&self, session: &Session) -> String {
        let file =
            |name: &Name| session.site.guests.get(name).map(|guest| guest.ssh.known_hosts_file.display().to_string());
        match self {
            Self::Certificate(name, _) => format!("{name}: its API certificate is pinned in {FILE}"),
            Self::HostKey(name, _) => format!("{name}: its SSH host key is pinned in {FILE}"),
            Self::GuestKey(name, _) => {
                format!("{name}: its SSH host key is pinned in {}", file(name).unwrap_or_default())
            }
        }
    }
}

fn pin(session: &Session, finds: &[Find]) -> Result<()> {
    let site = &session.site;
    let mut trusted = Vec::new();
    for find in finds {
        match find {
            Find::GuestKey(name, key) => session.fleet.pin_key(name, key)?,
            Find::Certificate(name, seen) => {
                trusted.push((name, Trusted { certificate: Some(seen.clone()), ..Trusted::default() }));
            }
            Find::HostKey(name, key) => {
                trusted.push((name, Trusted { host_keys: vec![key.to_string()], ..Trusted::default() }));
            }
        }
    }
    if trusted.is_empty() { Ok(()) } else { save(&site.project.join(FILE), site.name.as_str(), trusted) }
}

/// Puts pins into the lock file, in place of a host's pins of the same kind; the rest of the file stays.
fn save(path: &Path, site: &str, trusted: Vec<(&Name, Trusted)>) -> Result<()> {
    let mut lock = image::lock::Lock::load(path)?;
    let mut table: Table =
        lock.trust.try_into().with_context(|| format!("can't read the pins in {}", path.display()))?;
    let hosts = table.entry(site.to_owned()).or_default();
    for (name, new) in trusted {
        let pins = hosts.entry(name.to_string()).or_default();
        if new.certificate.is_some() {
            pins.certificate = new.certificate;
        } else {
            pins.host_keys = new.host_keys;
        }
    }
    lock.trust = toml::Table::try_from(&table).context("can't write the pins")?;
    Ok(lock.save(path)?)
}

fn confirm() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        let failure = Failure::new(Reason::Usage, "there is something to trust, and nobody to ask");
        return Err(failure.hint("compare it, then give --yes").into());
    }
    eprint!("Is this what the hosts themselves show? Pin it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Reason::Failed, "nothing was pinned").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_one_kind_are_replaced_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (one, two): (Name, Name) = ("pve1".parse().unwrap(), "pve2".parse().unwrap());
        let certificate = |text: &str| Trusted { certificate: Some(text.into()), ..Trusted::default() };
        let key = |text: &str| Trusted { host_keys: vec![text.into()], ..Trusted::default() };
        save(&path, "home", vec![(&two, certificate("00")), (&one, certificate("AB")), (&one, key("ssh-rsa A"))])
            .unwrap();
        save(&path, "home", vec![(&one, certificate("CD"))]).unwrap();
        save(&path, "lab", vec![(&one, certificate("EF"))]).unwrap();
        let pins = site::trust::read(folder.path(), &"home".parse().unwrap()).unwrap();
        let wanted = Trusted { certificate: Some("CD".into()), host_keys: vec!["ssh-rsa A".into()] };
        assert_eq!(pins, [("pve1".to_owned(), wanted), ("pve2".to_owned(), certificate("00"))].into());
        assert!(std::fs::read_to_string(&path).unwrap().contains("[trust.lab.pve1]"));
    }
}
