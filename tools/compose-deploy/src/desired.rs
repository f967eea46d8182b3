//! What the site wants on its guests.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use converge::{Context, Event};
use image::ContainerImage;
use indexmap::IndexMap;
use serde_json::{Value, json};
use site::{Name, Site};
use store::Artifact;

use crate::bundle::{self, Bundle};
use crate::secrets;

/// What one guest shall have.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// Its stacks in an order in which each comes after those it needs.
    pub bundles: IndexMap<Name, Bundle>,
}

/// What the guests shall have; every guest of the site is there, those without stacks too.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// The guests by name.
    pub guests: IndexMap<Name, Guest>,
}

impl Guest {
    /// Returns the images of all stacks by tag, each once.
    pub fn images(&self) -> BTreeMap<&str, &ContainerImage> {
        let images = self.bundles.values().flat_map(|bundle| bundle.images.values());
        images.map(|image| (image.tag.as_str(), image)).collect()
    }

    /// Returns how many stacks lie below one, each needed by the next.
    pub fn depth(&self, stack: &Name) -> u32 {
        let needs = self.bundles.get(stack).map(|bundle| bundle.needs.as_slice()).unwrap_or_default();
        needs.iter().map(|need| 1 + self.depth(need)).max().unwrap_or(0)
    }
}

/// Returns the files of images as they are stored on a guest: configurations and layers.
pub fn blobs<'a>(images: impl IntoIterator<Item = &'a ContainerImage>) -> BTreeMap<String, Artifact> {
    let files = images.into_iter().flat_map(|image| image.layers.iter().map(|layer| layer.blob).chain([image.config]));
    files.map(|artifact| (artifact.sha256.to_string(), artifact)).collect()
}

/// Evaluates the site's stacks, building images that are missing.
///
/// # Errors
/// All that is wrong with the stacks' folders, before any image is built; whatever building fails with.
pub fn evaluate(cx: &Context<'_>) -> Result<Desired> {
    let progress = |message: &str| {
        cx.events.emit(&Event::Progress { stage: "compose-deploy".to_owned(), message: message.to_owned() });
    };
    let builder = cx.images(&progress).context("can't read the image recipes")?;
    evaluate_with(cx.site, &|name| Ok(builder.container(name.as_str())?))
}

/// Evaluates the site's stacks with images from `container`.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_with(site: &Site, container: &dyn Fn(&Name) -> Result<ContainerImage>) -> Result<Desired> {
    let mut read = IndexMap::new();
    for (name, stack) in &site.stacks {
        read.insert(name, bundle::read(site, name, stack)?);
    }
    crate::ports::unique(site, &read)?;
    let mut built: BTreeMap<&Name, ContainerImage> = BTreeMap::new();
    let mut desired = Desired::default();
    for guest in site.guests.keys() {
        desired.guests.insert(guest.clone(), Guest::default());
    }
    for (name, parts) in read {
        let Some(stack) = site.stacks.get(name) else { continue };
        let mut images = BTreeMap::new();
        for (service, recipe) in &stack.images {
            let image = match built.get(recipe) {
                Some(image) => image.clone(),
                None => {
                    let image = container(recipe)
                        .with_context(|| format!("can't get the image '{recipe}' for stack '{name}'"))?;
                    built.entry(recipe).or_insert(image).clone()
                }
            };
            images.insert(service.clone(), image);
        }
        let secrets = secrets::of_stack(site, stack)?;
        let bundle = bundle::bundle(site, name, stack, parts, images, secrets);
        desired.guests.entry(stack.guest.clone()).or_default().bundles.insert(name.clone(), bundle);
    }
    for guest in desired.guests.values_mut() {
        let order = guest.clone();
        guest.bundles.sort_by_cached_key(|name, _| order.depth(name));
    }
    Ok(desired)
}

impl Desired {
    /// Writes it as it stands in the generation.
    pub fn json(&self) -> Value {
        let stack = |bundle: &Bundle| {
            let images: BTreeMap<_, _> = bundle.images.iter().map(|(service, image)| (service, &image.tag)).collect();
            let mut stack = json!({ "bundle": bundle.digest, "deadline": bundle.deadline, "images": images, "needs": bundle.needs });
            if !bundle.secrets.is_empty() {
                let marks = bundle.secrets.iter().map(|(name, secret)| (name.to_string(), Value::from(secret.mark())));
                stack["secrets"] = Value::Object(marks.collect());
            }
            stack
        };
        let guests = self.guests.iter().filter(|(_, guest)| !guest.bundles.is_empty()).map(|(name, guest)| {
            let stacks = guest.bundles.iter().map(|(name, bundle)| (name.to_string(), stack(bundle)));
            (name.to_string(), Value::Object(stacks.collect()))
        });
        Value::Object(guests.collect())
    }
}
