use std::collections::{BTreeMap, BTreeSet};

use remote::{Fleet, Output};
use site::{Name, Site};

use crate::event::Events;
use crate::failure::{Failure, Reason};

/// What every tool works with in one run.
pub struct Context<'a> {
    /// The site, evaluated once.
    pub site: &'a Site,
    /// The artifacts.
    pub store: &'a store::Store,
    /// The SSH sessions, shared by all tools of a run.
    pub fleet: &'a Fleet,
    /// Where events go.
    pub events: &'a dyn Events,
    /// The addresses given with `--only`; empty for all.
    pub only: &'a [String],
    /// Guests that an earlier stage is going to make, so that they can't be asked anything yet.
    pub absent: BTreeSet<Name>,
}

/// What one host answered.
#[derive(Clone, Debug)]
pub enum HostFacts {
    /// The answers by probe.
    Answers(BTreeMap<String, Output>),
    /// The host is not there yet and will be made by an earlier stage.
    Absent,
    /// The host could not be asked: the reason, and what happened.
    Failed(Reason, String),
}

/// What the hosts answered to one tool's probes.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    hosts: BTreeMap<Name, HostFacts>,
}

impl Facts {
    /// Gathers answers; tests make their facts so too.
    pub fn new(hosts: impl IntoIterator<Item = (Name, HostFacts)>) -> Self {
        Self { hosts: hosts.into_iter().collect() }
    }

    /// Tells whether a host is still to be made by an earlier stage.
    pub fn is_absent(&self, host: &Name) -> bool {
        matches!(self.hosts.get(host), Some(HostFacts::Absent))
    }

    /// Returns what a host answered to a probe, whatever its status; none where the host is still to be made.
    ///
    /// # Errors
    /// Where the host could not be asked, or was not asked this.
    pub fn answer(&self, host: &Name, id: &str) -> Result<Option<&Output>, Failure> {
        match self.hosts.get(host) {
            Some(HostFacts::Absent) => Ok(None),
            Some(HostFacts::Failed(reason, message)) => Err(Failure::new(*reason, message.clone())),
            Some(HostFacts::Answers(answers)) => answers
                .get(id)
                .map(Some)
                .ok_or_else(|| Failure::new(Reason::Failed, format!("{host} was not asked '{id}'"))),
            None => Err(Failure::new(Reason::Failed, format!("{host} was not asked anything"))),
        }
    }

    /// Returns what a host printed for a probe that must end with 0; none where the host is still to be made.
    ///
    /// # Errors
    /// As [`Facts::answer`], and where the probe ended with another code.
    pub fn text(&self, host: &Name, id: &str) -> Result<Option<String>, Failure> {
        let Some(output) = self.answer(host, id)? else { return Ok(None) };
        if output.status == 0 {
            return Ok(Some(output.text()));
        }
        let said = remote::local::tail(&output.stderr);
        Err(Failure::new(Reason::Failed, format!("{host}: '{id}' ended with {}: {said}", output.status)))
    }
}

impl Context<'_> {
    /// Opens the project's image recipes and lock file; images are built into, and found in, the run's store.
    ///
    /// # Errors
    /// A recipe or lock file that can't be read.
    pub fn images<'p>(&self, progress: &'p (dyn Fn(&str) + Sync)) -> image::Result<image::Builder<'p>> {
        image::Builder::new(self.image_settings(progress))
    }

    /// Returns where the project's recipes, lock file and store are.
    pub fn image_settings<'p>(&self, progress: &'p (dyn Fn(&str) + Sync)) -> image::Settings<'p> {
        let project = &self.site.project;
        image::Settings {
            store: self.store.clone(),
            images_dir: project.join("images"),
            lock_path: project.join("pipeline.lock"),
            scratch_dir: project.join(".hearth/scratch"),
            progress,
        }
    }

    /// Tells whether `--only` lets an address through.
    pub fn selects(&self, address: &crate::Address) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| address.is_within(only))
    }
}
