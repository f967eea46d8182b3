//! `hearth gc`: old generations, and what nothing reaches any more.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use converge::cli::Session;
use converge::{Context, Event, Events, Lock, exit};
use image::Kind;
use serde_json::json;
use store::{Digest, Generations};

use crate::generations;
use crate::record::Run;

/// Forgets all but the newest generations and those that the site runs or would go back to, then removes what nothing
/// reaches from the store. The cache that projects share is left as it is.
///
/// # Errors
/// Where a run or a build is using the store (75), or it can't be read.
pub fn collect(session: &Session, keep: usize, dry: bool, json: bool, events: &dyn Events) -> Result<u8> {
    let site = &session.site;
    let _lock = if dry { None } else { Some(Lock::take(&site.project, site.name.as_str())?) };
    let runs = Run::all(&site.project, site.name.as_str())?;
    let entries = generations::list(site, &runs)?;
    let mut kept: BTreeSet<u64> = entries.iter().rev().take(keep).map(|entry| entry.number).collect();
    kept.extend(entries.iter().filter(|entry| entry.running).map(|entry| entry.number));
    kept.extend(generations::before_the_last(&runs));
    let folder = Generations::open(&site.project.join(".hearth/generations"))?;
    let mut roots = project(&session.context(events, &[]))?;
    let mut forgotten = Vec::new();
    for number in folder.numbers()? {
        let generation = folder.load(number)?;
        // Another site of the project looks after its own.
        if kept.contains(&number) || generation.site != site.name.as_str() {
            roots.extend(generation.artifacts.values().map(|artifact| artifact.sha256));
        } else {
            forgotten.push(number);
        }
    }
    // What is removed first is what names the rest: a kill in between leaves artifacts that the next gc finds.
    let freed = session.store.collect(&roots, true)?;
    if !dry {
        for number in &forgotten {
            folder.remove(*number)?;
        }
        session.store.collect(&roots, false)?;
    }
    let cache = converge::cli::cache_folder()?;
    let cached = size(&cache);
    if json {
        let line = json!({
            "dry_run": dry, "forgotten": forgotten, "kept": kept, "artifacts": freed.artifacts, "bytes": freed.bytes,
            "recipes": freed.recipes, "cache": cache, "cache_bytes": cached,
        });
        println!("{line}");
        return Ok(exit::OK);
    }
    let would = if dry { "would forget" } else { "forgot" };
    let remove = if dry { "would remove" } else { "removed" };
    let message = format!(
        "{would} {} generations{}; {remove} {} artifacts, {} MiB, from {}\nthe cache {} is shared by projects and was \
         left as it is ({} MiB): what it holds too takes up room until it is removed by hand",
        forgotten.len(),
        list(&forgotten),
        freed.artifacts,
        freed.bytes >> 20,
        session.store.root().display(),
        cache.display(),
        cached >> 20
    );
    events.emit(&Event::Note { message });
    Ok(exit::OK)
}

fn list(numbers: &[u64]) -> String {
    let text: Vec<String> = numbers.iter().map(u64::to_string).collect();
    if text.is_empty() { String::new() } else { format!(" ({})", text.join(", ")) }
}

/// Returns the artifacts of the images that the project's recipes make now, as far as they are built.
fn project(cx: &Context<'_>) -> Result<BTreeSet<Digest>> {
    let mut roots = BTreeSet::new();
    if !cx.site.project.join("images").is_dir() {
        return Ok(roots);
    }
    let builder = cx.images(&|_| {})?;
    for name in builder.names() {
        // One that is not pinned is not built.
        if !builder.is_cached(&name).unwrap_or_default() {
            continue;
        }
        if let Kind::Container(_) = builder.recipe(&name)?.kind {
            let image = builder.container(&name)?;
            roots.insert(image.config.sha256);
            roots.extend(image.layers.iter().map(|layer| layer.blob.sha256));
        } else {
            roots.insert(builder.disk(&name)?.file.sha256);
        }
    }
    Ok(roots)
}

/// Adds up the files of a folder, in bytes; what can't be read counts as nothing.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(file) if file.is_dir() => size(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    };
    entries.map(one).sum()
}
