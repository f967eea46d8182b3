//! Checks a running site.
//!
//! In: a site. Out: one result a check: those that follow from the inventory (pools, datasets, exports, mounts, units,
//! containers, ports, checksums of what was deployed) and those that the site adds. Nothing is installed to check with:
//! hosts are asked over SSH, all of a host's questions in one round trip, and HTTP and TCP go out from here.

mod derive;
pub mod http;
mod judge;
mod junit;
mod run;
mod site_checks;

use anyhow::{Context as _, Result};
use converge::{CheckResult, Context, Event, Facts, Failure, Reason, Rendered, Step, Tool};
use serde_json::json;

pub use junit::junit;

/// The tool.
#[derive(Debug, Default)]
pub struct Verify;

/// Runs all checks that `--only` lets through.
///
/// # Errors
/// Where what follows from the inventory can't be told. What fails on the site is in the results.
pub fn checks(cx: &Context<'_>) -> Result<Vec<CheckResult>> {
    let asked = derive::derive(cx.site, compose(cx)?.as_ref());
    Ok(run::run(cx, asked))
}

fn compose(cx: &Context<'_>) -> Result<std::sync::Arc<compose_deploy::desired::Desired>> {
    compose_deploy::ComposeDeploy::new().evaluated(cx).context("can't tell what the stacks shall be")
}

impl Tool for Verify {
    fn name(&self) -> &'static str {
        "verify"
    }

    fn about(&self) -> &'static str {
        "Checks a running site against its inventory, and by its own smoke tests"
    }

    /// The names of all checks.
    fn desired(&self, cx: &Context<'_>) -> Result<serde_json::Value> {
        let derived = derive::derive(cx.site, compose(cx)?.as_ref());
        let names = derived.checks.into_iter().map(|check| check.name);
        let added = cx.site.checks.keys().map(site_checks::full_name);
        Ok(json!({ "checks": names.chain(added).collect::<Vec<_>>() }))
    }

    /// What each host is asked.
    fn render(&self, cx: &Context<'_>) -> Result<Vec<Rendered>> {
        let derived = derive::derive(cx.site, compose(cx)?.as_ref());
        let place = |probe: &remote::Probe| format!("{}:{}", probe.host, probe.id);
        Ok(derived.probes.iter().map(|probe| Rendered { place: place(probe), text: probe.script.clone() }).collect())
    }

    /// Nothing: a check changes nothing.
    fn plan(&self, _: &Context<'_>, _: &Facts) -> Result<Vec<Step>> {
        Ok(Vec::new())
    }

    fn apply(&self, _: &Context<'_>, step: &Step) -> Result<()> {
        Err(Failure::refused(format!("verify changes nothing, and can't apply {}", step.change.address)).into())
    }

    fn check(&self, cx: &Context<'_>) -> Result<Vec<CheckResult>> {
        let results = checks(cx)?;
        if results.is_empty() {
            let failure = Failure::new(Reason::Failed, "there is nothing to check");
            return Err(failure.hint("does --only name an address of this site?").into());
        }
        let path = cx.site.project.join(format!(".hearth/reports/verify-{}.xml", cx.site.name));
        let report = junit(cx.site.name.as_str(), &results)?;
        store::files::write_atomic(&path, report, 0o644).with_context(|| format!("can't write {}", path.display()))?;
        cx.events.emit(&Event::Note { message: format!("JUnit report: {}", path.display()) });
        Ok(results)
    }
}
