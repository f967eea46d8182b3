//! Single images and the lock file.

use std::time::Instant;

use anyhow::{Context as _, Result};
use converge::{Event, exit, seconds};
use image::{Builder, Kind, Relock};

use crate::run::millis;

/// What `hearth lock` does to the pins that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    /// Adds what is missing.
    Keep,
    /// Moves those whose packages can't be had any more.
    Refresh,
    /// Moves all to the newest versions.
    Update,
}

/// Builds single images and tells where they are.
///
/// # Errors
/// Whatever a build fails with.
pub fn build(cx: &converge::Context<'_>, names: &[String]) -> Result<u8> {
    let progress = |line: &str| progress(cx, "build", line);
    let builder = cx.images(&progress)?;
    for name in names {
        let begin = Instant::now();
        let where_is = one(cx, &builder, name).with_context(|| format!("can't build the image '{name}'"))?;
        cx.events.emit(&Event::Note { message: format!("{where_is} ({})", seconds(millis(begin))) });
    }
    Ok(exit::OK)
}

/// Builds single images again and compares with what is there.
///
/// # Errors
/// An image that comes out another way, and whatever a build fails with.
pub fn check(cx: &converge::Context<'_>, names: &[String]) -> Result<u8> {
    let progress = |line: &str| progress(cx, "check", line);
    let builder = cx.images(&progress)?;
    for name in names {
        let begin = Instant::now();
        let digest = builder.check(name).with_context(|| format!("can't build the image '{name}' a second time"))?;
        let message = format!("{name}: built twice, both times {digest} ({})", seconds(millis(begin)));
        cx.events.emit(&Event::Note { message });
    }
    Ok(exit::OK)
}

/// Builds single disk images and prints the path of each one's file.
///
/// # Errors
/// Whatever a build fails with, and a container image, which is no single file.
pub fn paths(cx: &converge::Context<'_>, names: &[String]) -> Result<u8> {
    let builder = cx.images(&|_| {})?;
    for name in names {
        let disk = builder.disk(name).with_context(|| format!("can't build the image '{name}'"))?;
        println!("{}", cx.store.path(&disk.file.sha256).display());
    }
    Ok(exit::OK)
}

fn one(cx: &converge::Context<'_>, builder: &Builder<'_>, name: &str) -> Result<String> {
    if let Kind::Container(_) = builder.recipe(name)?.kind {
        let image = builder.container(name)?;
        return Ok(format!("{name}: {} in {} layers", image.tag, image.layers.len()));
    }
    let disk = builder.disk(name)?;
    let mib = disk.file.size >> 20;
    Ok(format!("{name}: {} {mib} MiB {}", disk.format, cx.store.path(&disk.file.sha256).display()))
}

/// Brings `pipeline.lock` up to date and prints what moved.
///
/// # Errors
/// A package that does not exist, or a mirror that can't be reached.
pub fn lock(cx: &converge::Context<'_>, pins: Pins) -> Result<u8> {
    let progress = |line: &str| progress(cx, "lock", line);
    let which = match pins {
        Pins::Keep => Relock::Missing,
        Pins::Refresh => Relock::Stale,
        Pins::Update => Relock::All,
    };
    let moved = image::relock(&cx.image_settings(&progress), which).context("can't pin the images' packages")?;
    for line in &moved {
        cx.events.emit(&Event::Note { message: line.clone() });
    }
    let message = match moved.len() {
        0 => "pipeline.lock is up to date".to_owned(),
        n => format!("pipeline.lock: {n} packages moved"),
    };
    cx.events.emit(&Event::Note { message });
    Ok(exit::OK)
}

fn progress(cx: &converge::Context<'_>, stage: &str, line: &str) {
    cx.events.emit(&Event::Progress { stage: stage.to_owned(), message: line.to_owned() });
}
