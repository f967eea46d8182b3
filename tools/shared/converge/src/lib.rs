//! One way to be a tool: changes, plans, the command line, events and exit codes.
//!
//! In: a [`Tool`] (what to ask the hosts, how to compare, how to apply). Out: its command line `render | plan | apply |
//! check`, and the same steps for `hearth`, which runs several tools over one [`Context`].

mod change;
pub mod cli;
mod context;
mod engine;
mod event;
pub mod exit;
mod failure;
mod hold;
mod lock;
pub mod saved;
pub mod stop;

pub use change::{Address, Change, Impact, Kind, Plan, Step};
pub use context::{Context, Facts, HostFacts};
pub use engine::{Applied, apply, collect, observe_plan, plan_from};
pub use event::{Console, Event, Events, JsonLines, Quiet, seconds};
pub use failure::{Failure, Reason, describe, reason};
pub use hold::{hold, holder};
pub use lock::Lock;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

/// The outcome of one check.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct CheckResult {
    /// What was checked, as `pool/pve1/tank-hdd/health`.
    pub name: String,
    /// Why it failed; none where it passed.
    pub failure: Option<String>,
    /// What was seen, for people.
    pub seen: String,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// A text that a tool would deploy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rendered {
    /// Where it would be, as `pve1:/etc/exports.d/hearth.exports`.
    pub place: String,
    /// The text.
    pub text: String,
}

/// One tool: what it wants, what it asks, how it compares and how it applies.
///
/// Only `apply` (and, for the Proxmox API, `plan`) touches the world; the rest is pure, so that golden tests reach it.
pub trait Tool: Send + Sync {
    /// Returns the tool's name, as on the command line.
    fn name(&self) -> &'static str;

    /// Returns the tool's one job, as one line of its help.
    fn about(&self) -> &'static str;

    /// Returns what the site wants of this tool, as it stands in the generation.
    fn desired(&self, cx: &Context<'_>) -> Result<serde_json::Value>;

    /// Returns the artifacts that the tool deploys, by name, building what is missing.
    fn artifacts(&self, cx: &Context<'_>) -> Result<BTreeMap<String, store::Artifact>> {
        let _ = cx;
        Ok(BTreeMap::new())
    }

    /// Returns the texts that the tool would deploy.
    fn render(&self, cx: &Context<'_>) -> Result<Vec<Rendered>>;

    /// Returns what to ask the hosts; all of a host's questions go in one round trip.
    fn probes(&self, cx: &Context<'_>) -> Result<Vec<remote::Probe>> {
        let _ = cx;
        Ok(Vec::new())
    }

    /// Compares desired with observed and returns the steps in the order in which they are applied.
    ///
    /// A host that is [`HostFacts::Absent`] will be made by an earlier stage: everything on it is to be created.
    fn plan(&self, cx: &Context<'_>, facts: &Facts) -> Result<Vec<Step>>;

    /// Applies one step. Steps of different `Step::lane`s may be applied at the same time.
    fn apply(&self, cx: &Context<'_>, step: &Step) -> Result<()>;

    /// Returns the guests that these steps make, so that later stages know that they can't be asked anything yet.
    fn makes(&self, steps: &[Step]) -> BTreeSet<site::Name> {
        let _ = steps;
        BTreeSet::new()
    }

    /// Returns how many API calls the tool has made so far, for the summary.
    fn api_calls(&self) -> u64 {
        0
    }

    /// Checks that what the tool made works. By default: that the plan is empty.
    fn check(&self, cx: &Context<'_>) -> Result<Vec<CheckResult>> {
        engine::check_by_plan(self, cx)
    }
}
