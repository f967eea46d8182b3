//! SSH sessions to the hosts and guests of a site: one a host, opened when first asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use site::{Name, Site, Ssh};

use crate::error::Error;
use crate::host::Host;
use crate::known_hosts::{self, HostKey, Place, Verdict};
use crate::link::{self, Target};
use crate::local::Output;

/// How long a host may take to accept a connection on which only its key is looked at.
const GREETING: Duration = Duration::from_secs(10);

/// The sessions of one run.
///
/// Connections are made in the network namespace of the thread that first needs one.
pub struct Fleet {
    hosts: BTreeMap<Name, Arc<Host>>,
    counters: Arc<Counters>,
}

/// A question to a host: a shell script, run as root, whose output and status are wanted whatever they are.
///
/// It has a minute; one that takes longer is ended and answers with status 124.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The host or guest.
    pub host: Name,
    /// A name for the answer, unique on that host within a batch.
    pub id: String,
    /// The script, for `sh -eu`.
    pub script: String,
}

/// What one host answered to a batch, by the probes' names.
pub type Answers = BTreeMap<String, Output>;

/// What the sessions of a run have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Sessions opened.
    pub sessions: u64,
    /// Round trips: batches, scripts and files.
    pub round_trips: u64,
    /// Bytes of scripts and files sent.
    pub sent: u64,
    /// Bytes of output received.
    pub received: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions: AtomicU64,
    pub(crate) round_trips: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Fleet {
    /// Prepares sessions for a site's hosts and guests; opens none.
    pub fn new(site: &Site) -> Self {
        let counters = Arc::<Counters>::default();
        let target = |name: &Name, address, ssh: &Ssh, guest| Target {
            name: name.to_string(),
            address,
            port: ssh.port,
            user: ssh.user.clone(),
            key_file: ssh.key_file.clone(),
            known_hosts: ssh.known_hosts_file.clone(),
            pinned: ssh.pinned.clone(),
            guest,
        };
        let nodes = site.hosts.iter().map(|(name, host)| (name, target(name, host.address, &host.ssh, false)));
        let guests = site.guests.iter().map(|(name, guest)| (name, target(name, guest.address, &guest.ssh, true)));
        let hosts = nodes
            .chain(guests)
            .map(|(name, target)| (name.clone(), Arc::new(Host::new(target, Arc::clone(&counters)))))
            .collect();
        Self { hosts, counters }
    }

    /// Returns the host's session, opening it at the first call.
    ///
    /// # Errors
    /// [`Error::Unreachable`] after 10 s of trying, [`Error::HostKey`] and [`Error::UnknownKey`] at once.
    pub fn host(&self, name: &Name) -> Result<Arc<Host>, Error> {
        let host = self.named(name)?;
        host.connect()?;
        Ok(host)
    }

    /// Waits until a host lets us in, as after its creation or a reboot, and returns its session.
    ///
    /// # Errors
    /// As [`Fleet::host`]; what kept us out last where the time is over.
    pub fn wait(&self, name: &Name, deadline: Duration) -> Result<Arc<Host>, Error> {
        let host = self.named(name)?;
        host.wait(deadline)?;
        Ok(host)
    }

    /// Takes the lock of each of these hosts, for as long as this fleet lives; one that is held already is left as it is.
    ///
    /// Returns whether one was taken now: what was observed before that may have changed since.
    ///
    /// # Errors
    /// [`Error::Locked`] that names the holder; the locks taken until then stay taken.
    pub fn hold(&self, names: &BTreeSet<Name>, holder: &str) -> Result<bool, Error> {
        let mut new = false;
        for name in names {
            new |= self.named(name)?.hold(holder)?;
        }
        Ok(new)
    }

    /// Asks every host all its questions in one round trip each, hosts in parallel.
    pub fn ask(&self, probes: &[Probe]) -> BTreeMap<Name, Result<Answers, Error>> {
        let mut batches: BTreeMap<&Name, Vec<&Probe>> = BTreeMap::new();
        for probe in probes {
            batches.entry(&probe.host).or_default().push(probe);
        }
        thread::scope(|scope| {
            let asked: Vec<_> = batches
                .into_iter()
                .map(|(name, batch)| (name, scope.spawn(move || self.named(name)?.ask(&batch))))
                .collect();
            let panicked = |name: &Name| Error::Broken {
                host: name.to_string(),
                step: "asking it panicked".into(),
                source: io::ErrorKind::Other.into(),
            };
            asked
                .into_iter()
                .map(|(name, answer)| (name.clone(), answer.join().unwrap_or_else(|_| Err(panicked(name)))))
                .collect()
        })
    }

    /// Closes a host's session, so that the next call opens a new one: after a reboot or a rebuild.
    pub fn forget(&self, name: &Name) {
        if let Some(host) = self.hosts.get(name) {
            host.close();
        }
    }

    /// Closes a guest's session and removes its pinned keys: before it is made, or made anew, with keys of its own.
    ///
    /// # Errors
    /// [`Error::Broken`] where the file of pinned keys can't be changed, or where the name is a node's: a node's key is
    /// pinned by people.
    pub fn forget_key(&self, name: &Name) -> Result<(), Error> {
        self.change_pins(name, "can't remove its key from", known_hosts::remove)
    }

    /// Pins a guest's key, in place of any other.
    ///
    /// # Errors
    /// As [`Fleet::forget_key`].
    pub fn pin_key(&self, name: &Name, key: &HostKey) -> Result<(), Error> {
        self.change_pins(name, "can't pin its key in", |file, place| known_hosts::pin_only(file, place, key))
    }

    fn change_pins(
        &self,
        name: &Name,
        step: &str,
        change: impl FnOnce(&Path, &Place) -> io::Result<()>,
    ) -> Result<(), Error> {
        let host = self.named(name)?;
        host.close();
        let target = host.target();
        let step = format!("{step} {}", target.known_hosts.display());
        let broken = |source| Error::Broken { host: name.to_string(), step, source };
        if !target.guest {
            return Err(broken(io::Error::other("it is no guest of this site")));
        }
        change(&target.known_hosts, &target.place()).map_err(broken)
    }

    /// Returns the fingerprints of the keys that are pinned for a host or guest; empty where none is.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where the file of pinned keys can't be read.
    pub fn pinned_keys(&self, name: &Name) -> Result<String, Error> {
        let host = self.named(name)?;
        Ok(known_hosts::pinned(&host.target().pins()?, &host.target().place()))
    }

    /// Returns the key that a host shows, whether it is pinned or not, and what the pins say of it; logs nobody in.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where it does not answer.
    pub fn seen_key(&self, name: &Name) -> Result<(HostKey, Verdict), Error> {
        link::seen(self.named(name)?.target(), GREETING)
    }

    /// Returns what the sessions have cost so far.
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            sessions: of(&self.counters.sessions),
            round_trips: of(&self.counters.round_trips),
            sent: of(&self.counters.sent),
            received: of(&self.counters.received),
        }
    }

    fn named(&self, name: &Name) -> Result<Arc<Host>, Error> {
        self.hosts.get(name).cloned().ok_or_else(|| Error::Unreachable {
            host: name.to_string(),
            address: "no address".into(),
            source: io::Error::other("the site has no such host or guest"),
        })
    }
}
