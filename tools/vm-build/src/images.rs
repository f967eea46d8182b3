//! Where templates' images come from.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use converge::{Context, Event};
use image::DiskImage;
use site::Name;

/// A source of images. Tests that can't build bring their own.
pub trait Images: Send + Sync {
    /// Returns the images of the site's templates. One that is missing is built where `build` is set, else left out.
    ///
    /// # Errors
    /// Whatever reading recipes, fetching and building fail with.
    fn disks(&self, cx: &Context<'_>, build: bool) -> Result<BTreeMap<Name, DiskImage>>;
}

/// The project's image recipes. What was found built is kept for the run: looking again can mean hashing again.
#[derive(Debug, Default)]
pub struct Recipes(Mutex<BTreeMap<Name, DiskImage>>);

impl Images for Recipes {
    fn disks(&self, cx: &Context<'_>, build: bool) -> Result<BTreeMap<Name, DiskImage>> {
        let progress = |line: &str| {
            cx.events.emit(&Event::Progress { stage: "vm-build".to_owned(), message: line.to_owned() });
        };
        let mut disks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = || cx.site.templates.values().map(|template| &template.image);
        if wanted().all(|name| disks.contains_key(name)) {
            return Ok(disks.clone());
        }
        let builder = cx.images(&progress)?;
        for name in wanted() {
            if !disks.contains_key(name) && (build || builder.is_cached(name.as_str())?) {
                let disk = builder.disk(name.as_str()).with_context(|| format!("can't build image '{name}'"))?;
                disks.insert(name.clone(), disk);
            }
        }
        Ok(disks.clone())
    }
}
