//! SSH sessions to the hosts and guests of a site: one a host, opened when first asked for.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use site::{Name, Site};

use crate::error::Error;
use crate::local::Output;

/// The sessions of one run.
pub struct Fleet {}

/// One open session.
pub struct Host {}

/// A question to a host: a shell script, run as root, whose output and status are wanted whatever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The host or guest.
    pub host: Name,
    /// A name for the answer, unique on that host within a batch.
    pub id: String,
    /// The script, for `sh`.
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

impl Fleet {
    /// Prepares sessions for a site's hosts and guests; opens none.
    pub fn new(_site: &Site) -> Self {
        Self {}
    }

    /// Returns the host's session, opening it at the first call.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and [`Error::HostKey`].
    pub fn host(&self, _name: &Name) -> Result<Arc<Host>, Error> {
        unimplemented!()
    }

    /// Asks every host all its questions in one round trip each, hosts in parallel.
    pub fn ask(&self, _probes: &[Probe]) -> BTreeMap<Name, Result<Answers, Error>> {
        unimplemented!()
    }

    /// Closes a host's session, so that the next call opens a new one: after a reboot or a rebuild.
    pub fn forget(&self, _name: &Name) {
        unimplemented!()
    }

    /// Returns what the sessions have cost so far.
    pub fn counts(&self) -> Counts {
        unimplemented!()
    }
}

impl Host {
    /// Runs a script as root with `sh -eu` and returns what it printed.
    ///
    /// # Errors
    /// [`Error::Status`] for every code but 0, [`Error::Deadline`], [`Error::Broken`].
    pub fn run(&self, _script: &str, _deadline: Duration) -> Result<Output, Error> {
        unimplemented!()
    }

    /// Runs a script as root with these bytes as its standard input, and returns what it printed.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn feed(&self, _script: &str, _input: &mut dyn Read, _deadline: Duration) -> Result<Output, Error> {
        unimplemented!()
    }

    /// Writes a file whole as root: beside its name, synced, then renamed. Makes its folder where it is missing.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn write(&self, _path: &str, _bytes: &[u8], _mode: u32) -> Result<(), Error> {
        unimplemented!()
    }
}
