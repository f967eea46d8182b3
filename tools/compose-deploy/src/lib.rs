//! Deploys compose stacks on guests.
//!
//! In: a site's stacks, each a folder with a compose file, and the images of their services. Out: on each guest the
//! images, a bundle a stack, and a systemd unit a stack that starts it after its mounts. A bundle is checked before
//! anything stops, and where the stack does not get healthy with it, the bundle before comes back.

pub mod bundle;
pub mod compose;
mod deploy;
pub mod desired;
pub mod diff;
#[cfg(test)]
mod fixture;
pub mod observe;
pub mod paths;
mod ports;
pub mod secrets;
mod transfer;
pub mod unit;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use converge::{Context, Facts, Failure, Rendered, Step, Tool};
use remote::Probe;
use store::Artifact;

use desired::Desired;
use diff::Action;
use observe::Observed;
pub use transfer::check_script;

/// The tool. Evaluates the stacks once, so use one for one site and run.
#[derive(Debug, Default)]
pub struct ComposeDeploy {
    desired: OnceLock<Arc<Desired>>,
}

const PROBE: &str = "stacks";

impl ComposeDeploy {
    /// Returns the tool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what the site wants, evaluated at the first call.
    ///
    /// # Errors
    /// As [`desired::evaluate`].
    pub fn evaluated(&self, cx: &Context<'_>) -> Result<Arc<Desired>> {
        if let Some(desired) = self.desired.get() {
            return Ok(Arc::clone(desired));
        }
        let desired = Arc::new(desired::evaluate(cx)?);
        Ok(Arc::clone(self.desired.get_or_init(|| desired)))
    }
}

impl Tool for ComposeDeploy {
    fn name(&self) -> &'static str {
        "compose-deploy"
    }

    fn about(&self) -> &'static str {
        "Deploys compose stacks on guests, started after their mounts"
    }

    fn desired(&self, cx: &Context<'_>) -> Result<serde_json::Value> {
        Ok(self.evaluated(cx)?.json())
    }

    fn artifacts(&self, cx: &Context<'_>) -> Result<BTreeMap<String, Artifact>> {
        let mut artifacts = BTreeMap::new();
        for guest in self.evaluated(cx)?.guests.values() {
            for image in guest.images().values() {
                artifacts.insert(format!("containers/{}/config.json", image.name), image.config);
                for (number, layer) in image.layers.iter().enumerate() {
                    artifacts.insert(format!("containers/{}/layer-{number}.tar.zst", image.name), layer.blob);
                }
            }
            for (stack, bundle) in &guest.bundles {
                artifacts.insert(format!("stacks/{stack}.tar"), cx.store.put_bytes(&bundle.tar()?)?);
            }
        }
        Ok(artifacts)
    }

    fn render(&self, cx: &Context<'_>) -> Result<Vec<Rendered>> {
        let mut all = Vec::new();
        for (guest, wanted) in &self.evaluated(cx)?.guests {
            for (stack, bundle) in &wanted.bundles {
                for (name, file) in &bundle.files {
                    let place = match name.as_str() {
                        bundle::UNIT => format!("{guest}:{}", paths::unit_file(&paths::unit(stack.as_str()))),
                        name => format!("{guest}:{}/{name}", paths::bundle(stack.as_str(), &bundle.digest)),
                    };
                    let text = String::from_utf8_lossy(&file.bytes).into_owned();
                    all.push(Rendered { place, text });
                }
            }
        }
        Ok(all)
    }

    fn probes(&self, cx: &Context<'_>) -> Result<Vec<Probe>> {
        let script = observe::SCRIPT.to_owned();
        let probe = |host: &site::Name| Probe { host: host.clone(), id: PROBE.to_owned(), script: script.clone() };
        Ok(cx.site.guests.keys().map(probe).collect())
    }

    fn plan(&self, cx: &Context<'_>, facts: &Facts) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (name, guest) in &self.evaluated(cx)?.guests {
            let observed = match facts.text(name, PROBE)? {
                None => Observed::default(),
                Some(text) => observe::parse(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))?,
            };
            steps.extend(diff::compare(cx.site.name.as_str(), name, guest, &observed)?);
        }
        Ok(steps)
    }

    fn apply(&self, cx: &Context<'_>, step: &Step) -> Result<()> {
        let action: Action = serde_json::from_value(step.action.clone()).context("the step is not understood")?;
        let desired = self.evaluated(cx)?;
        let gone = |what: &str| Failure::refused(format!("the site has no {what} any more")).hint("plan again");
        match &action {
            Action::Runtime { guest } => deploy::runtime(&*cx.fleet.host(guest)?),
            Action::Remove { guest, stack } => deploy::remove(&*cx.fleet.host(guest)?, stack),
            Action::Image { guest, tag } => {
                let images = desired.guests.get(guest).map(desired::Guest::images).unwrap_or_default();
                let image = images.get(tag.as_str()).ok_or_else(|| gone(&format!("image {tag} on {guest}")))?;
                transfer::send(cx, guest, &*cx.fleet.host(guest)?, image)
            }
            Action::Deploy { guest, stack, bundle, secrets, forget, again } => {
                let found = desired.guests.get(guest).and_then(|guest| guest.bundles.get(stack));
                let found = found.filter(|found| found.digest == *bundle);
                let found = found.ok_or_else(|| gone(&format!("bundle {} of stack {stack}", bundle.short())))?;
                let host = cx.fleet.host(guest)?;
                secrets::send(cx.site, &host, found, secrets)?;
                deploy::deploy(cx, guest, &host, found, again)?;
                if *forget { secrets::forget(&host, found) } else { Ok(()) }
            }
        }
    }
}
