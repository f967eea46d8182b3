//! The pure half: a site, its images and the lock file become a generation.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use converge::{Context, Tool};
use store::{Digest, Generation, Generations};

/// A generation in the store.
#[derive(Clone, Debug)]
pub struct Built {
    /// What it is made of.
    pub generation: Generation,
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: Digest,
    /// How long building took, in milliseconds.
    pub milliseconds: u64,
}

/// Builds every artifact that the tools deploy, tools at the same time, and saves the generation.
///
/// # Errors
/// Whatever a tool can't build or say.
pub fn build(cx: &Context<'_>, tools: &[Box<dyn Tool>], project: &Path) -> Result<Built> {
    let begin = Instant::now();
    let generation = evaluate(cx, tools)?;
    let number = Generations::open(&project.join(".hearth/generations"))?.save(&generation)?;
    let digest = generation.digest();
    let milliseconds = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Built { generation, number, digest, milliseconds })
}

/// Builds every artifact that the tools deploy, tools at the same time, and returns the generation without saving it.
///
/// # Errors
/// Whatever a tool can't build or say.
pub fn evaluate(cx: &Context<'_>, tools: &[Box<dyn Tool>]) -> Result<Generation> {
    let built: Vec<Result<BTreeMap<String, store::Artifact>>> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for tool in tools {
            let name = tool.name();
            threads.push(
                scope.spawn(move || tool.artifacts(cx).with_context(|| format!("{name} can't build its artifacts"))),
            );
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a build thread died"))))
            .collect()
    });
    let mut artifacts = BTreeMap::new();
    for result in built {
        artifacts.extend(result?);
    }
    let mut desired = BTreeMap::new();
    for tool in tools {
        let wanted = tool.desired(cx).with_context(|| format!("{} can't say what it wants", tool.name()))?;
        desired.insert(tool.name().to_owned(), wanted);
    }
    artifacts.extend(crate::inputs::hold(cx)?);
    Ok(Generation { site: cx.site.name.to_string(), artifacts, desired })
}
