//! Writes `pipeline.lock`.

use std::collections::{BTreeMap, BTreeSet};

use crate::apt::{Apt, Mirror};
use crate::builder::Settings;
use crate::fetch::Fetcher;
use crate::lock::{Lock, Request};
use crate::plan::Recipes;
use crate::{Error, Result, toolroot};

/// Which pins are made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relock {
    /// Those of images that have none.
    Missing,
    /// Those too whose packages can't be had any more, and those of images that share a suite's layers with them.
    Stale,
    /// All of them.
    All,
}

/// Brings the lock file up to date with the recipes. Returns a line for each package that moved, came or went.
///
/// # Errors
/// [`Error::Command`] with apt's words for a package that does not exist, and whatever fetching and writing fail with.
pub fn relock(settings: &Settings<'_>, which: Relock) -> Result<Vec<String>> {
    let recipes = Recipes::load(&settings.images_dir)?;
    let old = Lock::load(&settings.lock_path)?;
    let mut wanted = BTreeSet::new();
    for name in recipes.names() {
        wanted.extend(recipes.request(name)?);
    }
    if !wanted.is_empty() {
        wanted.insert(toolroot::request());
    }
    let mirror = Mirror::of_system()?;
    let resolve = match which {
        Relock::All => wanted.clone(),
        Relock::Missing => missing(&wanted, &old),
        Relock::Stale => &missing(&wanted, &old) | &stale(settings, &mirror, &wanted, &old)?,
    };
    let mut new = old.clone();
    new.sets.retain(|request, _| wanted.contains(request));
    resolve_all(settings, &mirror, &resolve, &mut new)?;
    new.prune();
    if new != old {
        new.save(&settings.lock_path)?;
    }
    Ok(old.moved(&new))
}

fn missing(wanted: &BTreeSet<Request>, lock: &Lock) -> BTreeSet<Request> {
    wanted.iter().filter(|request| !lock.sets.contains_key(*request)).cloned().collect()
}

/// Finds the requests with a package that is gone. Those of the same suite and sections go with them: their images may
/// be layers of one another, and a layer over an older base would carry newer copies of the base's packages.
fn stale(
    settings: &Settings<'_>,
    mirror: &Mirror,
    wanted: &BTreeSet<Request>,
    lock: &Lock,
) -> Result<BTreeSet<Request>> {
    let fetcher = Fetcher::new(&settings.store);
    let gone = fetcher.gone(mirror, &lock.packages)?;
    for id in &gone {
        (settings.progress)(&format!("{id} is gone from the mirror"));
    }
    let touched = |request: &&Request| lock.sets.get(*request).is_some_and(|set| set.all().any(|id| gone.contains(id)));
    let suites: BTreeSet<_> =
        wanted.iter().filter(touched).map(|request| (&request.suite, &request.components)).collect();
    let same = |request: &&Request| suites.contains(&(&request.suite, &request.components));
    Ok(wanted.iter().filter(same).cloned().collect())
}

fn resolve_all(settings: &Settings<'_>, mirror: &Mirror, requests: &BTreeSet<Request>, lock: &mut Lock) -> Result<()> {
    let mut by_suite: BTreeMap<(&String, &Vec<String>), Vec<&Request>> = BTreeMap::new();
    for request in requests {
        by_suite.entry((&request.suite, &request.components)).or_default().push(request);
    }
    for ((suite, components), requests) in by_suite {
        (settings.progress)(&format!("reading the indexes of {suite} ({})", components.join(", ")));
        let scratch = &settings.scratch_dir;
        std::fs::create_dir_all(scratch).map_err(Error::io("make", scratch))?;
        let folder =
            tempfile::Builder::new().prefix("apt-").tempdir_in(scratch).map_err(Error::io("write", scratch))?;
        let apt = Apt::update(folder.path(), mirror, suite, components)?;
        for request in requests {
            apt.resolve(request, lock)?;
        }
    }
    Ok(())
}
