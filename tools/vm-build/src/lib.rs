//! Makes templates of images, and guests of templates, over the Proxmox API.
//!
//! In: the site's templates and guests, and the images. Out: a template for each image, named by its digest, and guests
//! that run, are set up by cloud-init and can be logged in to. What it makes carries a mark in its description; a VMID
//! without this site's mark is never touched.
//!
//! An upload is part of what it is for: the image's of the template's change, the seed's of the guest's.

pub mod api;
mod apply;
mod apply_disk;
mod apply_guest;
mod cloud_config;
pub mod diff;
pub mod guests;
pub mod images;
pub mod inside;
pub mod mark;
pub mod observe;
mod render;
pub mod rights;
pub mod seed;
pub mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use anyhow::{Context as _, Result};
use converge::{Context, Event, Facts, Rendered, Tool};
use site::Name;
use store::Artifact;

use crate::api::Clients;
use crate::diff::{Action, Diff, diff, refuse};
use crate::guests::{Guests, OverSsh};
use crate::images::{Images, Recipes};
use crate::wanted::Wanted;

/// The tool.
pub struct VmBuild {
    clients: Clients,
    images: Box<dyn Images>,
    guests: Box<dyn Guests>,
}

impl Default for VmBuild {
    fn default() -> Self {
        Self::with(Box::new(Recipes::default()), Box::new(OverSsh))
    }
}

impl VmBuild {
    /// Returns the tool with other images, or other ways into guests, than the real ones.
    pub fn with(images: Box<dyn Images>, guests: Box<dyn Guests>) -> Self {
        Self { clients: Clients::default(), images, guests }
    }

    fn wanted(&self, cx: &Context<'_>) -> Result<Vec<Wanted>> {
        wanted::wanted(cx.site, &self.images.disks(cx, true)?)
    }

    fn compare(&self, cx: &Context<'_>, wanted: &Wanted) -> Result<Diff> {
        let client = self.clients.of(cx.site, &wanted.host)?;
        rights::check(&client, wanted)?;
        let observed = observe::observe(&client, wanted, &cx.site.name)?;
        for one in &observed.left {
            let vmid = one.vmid.unwrap_or_default();
            let message = format!(
                "{}: {vmid} '{}' was made by this site, which does not name it any more; it stays until you delete it",
                wanted.host, one.name
            );
            cx.events.emit(&Event::Note { message });
        }
        Ok(diff(&cx.site.name, wanted, &observed))
    }
}

impl Tool for VmBuild {
    fn name(&self) -> &'static str {
        "vm-build"
    }

    fn about(&self) -> &'static str {
        "Make templates of images, and virtual machines of templates, over the Proxmox API"
    }

    fn desired(&self, cx: &Context<'_>) -> Result<serde_json::Value> {
        let hosts = self.wanted(cx)?;
        let hosts = hosts.iter().map(|wanted| (wanted.host.to_string(), render::desired(wanted)));
        Ok(hosts.collect::<serde_json::Map<_, _>>().into())
    }

    fn artifacts(&self, cx: &Context<'_>) -> Result<BTreeMap<String, Artifact>> {
        let disks = self.images.disks(cx, true)?;
        let mut artifacts = BTreeMap::new();
        for (name, disk) in &disks {
            artifacts.insert(format!("images/{name}.{}", disk.format), disk.file);
        }
        for guest in wanted::wanted(cx.site, &disks)?.iter().flat_map(|wanted| &wanted.guests) {
            artifacts.insert(format!("seeds/{}.iso", guest.name), cx.store.put_bytes(&guest.seed.iso())?);
        }
        Ok(artifacts)
    }

    fn render(&self, cx: &Context<'_>) -> Result<Vec<Rendered>> {
        // Names come from images' digests, but building an image only to look at a text is not what one asks for.
        let mut disks = self.images.disks(cx, false)?;
        for template in cx.site.templates.values() {
            disks.entry(template.image.clone()).or_insert_with(|| wanted::unbuilt(&template.image));
        }
        let hosts = wanted::wanted(cx.site, &disks)?;
        let all = hosts.iter().flat_map(|wanted| render::render(&cx.site.name, wanted));
        Ok(all.filter(|one| cx.only.is_empty() || cx.selects(&converge::Address::new([&one.place]))).collect())
    }

    fn plan(&self, cx: &Context<'_>, _facts: &Facts) -> Result<Vec<converge::Step>> {
        wanted::can_log_in(cx.site)?;
        let hosts = self.wanted(cx)?;
        let diffs: Vec<Result<Diff>> = thread::scope(|scope| {
            let threads: Vec<_> = hosts.iter().map(|wanted| scope.spawn(|| self.compare(cx, wanted))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|diff| diff.unwrap_or_else(|_| anyhow::bail!("comparing a host panicked"))).collect()
        });
        let mut all = Diff::default();
        for diff in diffs {
            let diff = diff?;
            all.steps.extend(diff.steps);
            all.refused.extend(diff.refused);
        }
        refuse(&all.refused)?;
        Ok(all.steps)
    }

    fn apply(&self, cx: &Context<'_>, step: &converge::Step) -> Result<()> {
        let action: Action =
            serde_json::from_value(step.action.clone()).context("the plan's step is none of vm-build's")?;
        let (Action::Template { host, .. } | Action::Disk { host, .. } | Action::Guest { host, .. }) = &action;
        let client = self.clients.of(cx.site, host)?;
        let hosts = self.wanted(cx)?;
        let wanted = hosts.iter().find(|wanted| wanted.host == *host);
        let wanted = wanted.with_context(|| format!("the site wants nothing of host '{host}'"))?;
        let work = apply::Step { cx, client: &client, wanted };
        match &action {
            Action::Template { name, .. } => {
                let template = wanted.templates.iter().find(|template| template.name == *name);
                apply::template(&work, template.with_context(|| format!("the site has no template '{name}'"))?)
            }
            Action::Disk { guest, name, .. } => {
                let disk = wanted.disks().find(|disk| disk.guest == *guest && disk.mounted.name == *name);
                apply_disk::disk(&work, disk.with_context(|| format!("guest '{guest}' has no data disk '{name}'"))?)
            }
            Action::Guest { name, rebuild, .. } => {
                let guest = wanted.guests.iter().find(|guest| guest.name == *name);
                let guest = guest.with_context(|| format!("the site has no guest '{name}'"))?;
                apply_guest::guest(&work, self.guests.as_ref(), guest, *rebuild)
            }
        }
    }

    fn makes(&self, steps: &[converge::Step]) -> BTreeSet<Name> {
        let actions = steps.iter().filter_map(|step| serde_json::from_value(step.action.clone()).ok());
        actions
            .filter_map(|action| match action {
                Action::Guest { name, away: true, .. } => Some(name),
                _ => None,
            })
            .collect()
    }

    fn api_calls(&self) -> u64 {
        self.clients.calls()
    }
}
