//! Makes a template or a guest what it shall be, from whatever state it is in.
//!
//! Each step asks again how things stand, so that a run that was killed anywhere is finished by the next one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::{Context, Event, Failure};
use pve::{Client, Config, Form, Upload, Volume};
use site::{Name, Vmid};
use store::Artifact;

use crate::api::explain;
use crate::mark::{self, Mark};
use crate::observe::{self, Observed, Vm};
use crate::wanted::{Wanted, WantedTemplate};

/// How long an upload may take, and then its check: an image of 1 GiB over a slow line.
const UPLOAD: Duration = Duration::from_secs(3600);
/// How long an import of a disk may take.
pub(crate) const IMPORT: Duration = Duration::from_secs(3600);
/// How long any other task may take.
pub(crate) const TASK: Duration = Duration::from_secs(300);

/// What a step works with.
pub(crate) struct Step<'a> {
    pub(crate) cx: &'a Context<'a>,
    pub(crate) client: &'a Client,
    pub(crate) wanted: &'a Wanted,
}

impl<'a> Step<'a> {
    pub(crate) fn vm(&self, vmid: Vmid) -> pve::Vm<'a> {
        self.client.node(&self.wanted.node).vm(vmid)
    }

    pub(crate) fn api<T>(&self, outcome: Result<T, pve::Error>) -> Result<T> {
        outcome.map_err(|error| explain(&self.wanted.host, error))
    }

    pub(crate) fn say(&self, message: String) {
        self.cx.events.emit(&Event::Progress { stage: "vm-build".to_owned(), message });
    }

    pub(crate) fn site(&self) -> &'a Name {
        &self.cx.site.name
    }

    /// Reads a VM's configuration; none where there is no such VM.
    pub(crate) fn config(&self, vmid: Vmid) -> Result<Option<Config>> {
        match self.vm(vmid).config() {
            Ok(config) if config.get("lock").is_none() => Ok(Some(config)),
            Ok(_) => observe::settled(self.client, self.wanted, vmid).map(|(config, _)| Some(config)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(explain(&self.wanted.host, error)),
        }
    }

    /// Refuses a VM that the site did not make: between plan and apply somebody may have taken the number.
    pub(crate) fn own(&self, vmid: Vmid, config: &Config) -> Result<Mark> {
        let mark = Mark::read(config.get("description").unwrap_or_default(), self.site());
        let name = config.get("name").unwrap_or_default();
        mark.ok_or_else(|| Failure::refused(format!("VM {vmid} '{name}' was not made by this site")).into())
    }

    /// Wraps one configuration, so that the pure functions that read what was observed can be asked about it.
    pub(crate) fn observed(&self, vmid: Vmid, config: &Config) -> Observed {
        let vm = Vm { config: Some(config.clone()), ..Vm::default() };
        Observed { vms: [(vmid.into(), vm)].into(), ..Observed::default() }
    }

    /// Uploads a file, unless one of that name and size is there already. Returns what was there before.
    pub(crate) fn upload(&self, kind: &str, file_name: &str, artifact: &Artifact) -> Result<Vec<Volume>> {
        let node = self.client.node(&self.wanted.node);
        let volumes = self.api(node.content(&self.wanted.storage, kind))?;
        let same = |volume: &Volume| observe::file_name(&volume.volid) == file_name;
        if volumes.iter().any(|volume| same(volume) && volume.size == Some(artifact.size)) {
            return Ok(volumes);
        }
        self.say(format!("sending {file_name}, {} MiB", artifact.size.div_ceil(1 << 20)));
        let mut file = self.cx.store.read(&artifact.sha256)?;
        let (content, file_name) = (kind.to_owned(), file_name.to_owned());
        let upload = Upload { content, file_name, size: artifact.size, sha256: artifact.sha256 };
        self.api(node.upload(&self.wanted.storage, &upload, &mut file, UPLOAD))?;
        Ok(volumes)
    }
}

/// Makes or finishes a template.
///
/// # Errors
/// Whatever the API answers; a refusal where the number is somebody else's.
pub(crate) fn template(step: &Step<'_>, template: &WantedTemplate) -> Result<()> {
    let WantedTemplate { name, vmid, image: _, disk: _, state } = template;
    let vm = step.vm(*vmid);
    let mut config = step.config(*vmid)?;
    if let Some(there) = &config {
        let Mark::Template { image } = step.own(*vmid, there)? else {
            return Err(
                Failure::refused(format!("VM {vmid} is another thing of this site, not template '{name}'")).into()
            );
        };
        // The server refuses to delete a base disk that a clone stands on, should one have been made since the plan.
        if image != state.image || there.get("scsi0").is_none() {
            step.say(format!("deleting {name} as it was made of {image}"));
            step.api(vm.delete(TASK))?;
            config = None;
        }
    }
    let config = match config {
        Some(config) => config,
        None => {
            create_template(step, template)?;
            step.config(*vmid)?.with_context(|| format!("VM {vmid} is gone right after it was made"))?
        }
    };
    if config.number("template") != Some(1) {
        step.api(vm.make_template(TASK))?;
    }
    let now = observe::template_state(&step.observed(*vmid, &config), *vmid, step.site());
    if now.is_none_or(|now| now.name != state.name || now.tags != state.tags) {
        let form = Form::new().set("name", &state.name).set("tags", observe::tags_with_own(&config, step.site()));
        step.api(vm.set(form, ""))?;
    }
    Ok(())
}

fn create_template(step: &Step<'_>, template: &WantedTemplate) -> Result<()> {
    let WantedTemplate { name, vmid, image, disk, state: _ } = template;
    let file = mark::image_file(image, &disk.file.sha256, &disk.format);
    step.upload("import", &file, &disk.file)?;
    step.say(format!("importing {file} into {name}"));
    let form = template_form(step.wanted, template, step.site());
    step.api(step.client.node(&step.wanted.node).create(*vmid, form, IMPORT))
}

/// Returns how a template is created.
pub(crate) fn template_form(wanted: &Wanted, template: &WantedTemplate, site: &Name) -> Form {
    let WantedTemplate { name: _, vmid: _, image, disk, state } = template;
    let (storage, file) = (&wanted.storage, mark::image_file(image, &disk.file.sha256, &disk.format));
    Form::new()
        .set("name", &state.name)
        .set("description", Mark::Template { image: state.image.clone() }.describe(site))
        .set("tags", &state.tags)
        .set("ostype", "l26")
        .set("cores", 1)
        .set("memory", 1024)
        .set("scsihw", "virtio-scsi-single")
        // An import wants size 0: it takes the image's.
        .set("scsi0", format!("{storage}:0,import-from={storage}:import/{file}"))
        .set("boot", "order=scsi0")
        .set("net0", format!("virtio,bridge={}", wanted.bridge))
        // Cloud images write their boot messages there; the screen stays for people.
        .set("serial0", "socket")
        .set("vga", "std")
        .flag("agent", true)
}
