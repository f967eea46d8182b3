//! `hearth rollback`: a generation's inputs are evaluated again, and that site is run as any other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use converge::cli::{Consent, Session};
use converge::{Event, Events, Lock};
use site::{Guest, Name, Site};
use store::Generations;

use crate::build;
use crate::forward::{self, Forward, Used};
use crate::generations;
use crate::inputs::View;
use crate::record::Run;

/// Goes back to a generation: the one asked for, else the last that was applied well before the one of the newest run.
///
/// # Errors
/// A generation that there is not or that can't be evaluated any more, and whatever a run fails with.
pub fn run(
    session: &Session,
    number: Option<u64>,
    only: &[String],
    consent: &Consent,
    events: &dyn Events,
) -> Result<u8> {
    let begin = Instant::now();
    let project = &session.site.project;
    let runs = Run::all(project, session.site.name.as_str())?;
    let number = match number {
        Some(number) => number,
        None => generations::before_the_last(&runs)?,
    };
    let generations = Generations::open(&project.join(".hearth/generations"))?;
    let generation = generations.load(number)?;
    let _lock = Lock::take(project, session.site.name.as_str())?;
    View::sweep(project);
    let mut view = View::open(session, number, &generation)?;
    let begun = forward::now()?;
    let journal = forward::journal(session, &begun, events)?;
    let mut work = || -> Result<u8> {
        let used = Used::open(&view.session)?;
        let built = build::build(&view.session.context(&journal, &[]), &used.tools, project)?;
        forward::note_built(&built, &journal);
        if built.number != number {
            let message = format!(
                "generation {number} comes out as {}: Hearth, a key or a pin has changed since it was built",
                built.number
            );
            journal.emit(&Event::Note { message });
        }
        let mut stays = Vec::new();
        for later in since(&runs, number) {
            let Ok(generation) = generations.load(later) else { continue };
            // One that can't be evaluated any more can't be compared.
            if let Ok(later) = View::open(session, later, &generation) {
                stays.extend(keep(&mut view.session.site, &later.session.site));
            }
        }
        stays.sort();
        stays.dedup();
        for line in &stays {
            journal.emit(&Event::Note { message: format!("stays as it is: {line}") });
        }
        // What the tools remember of the site is of the one before it was told what stays.
        let used = Used::open(&view.session)?;
        let forward =
            Forward { session: &view.session, used: &used, only, consent, file: None, journal: &journal, begin };
        forward.go(built, stays, &begun)
    };
    forward::noted(&journal, work())
}

/// Returns the generations that were run, well or not, since this one was last.
fn since(runs: &[(PathBuf, Run)], number: u64) -> BTreeSet<u64> {
    let later = runs.iter().rev().map(|(_, run)| run.generation).take_while(|one| *one != number);
    later.collect()
}

/// Lets a guest's disks be as large as they have become.
fn keep_disks(name: &Name, old: &mut Guest, guest: &Guest, stays: &mut Vec<String>) {
    let host = &guest.host;
    if old.disk < guest.disk {
        stays.push(format!("vm/{host}/{name}: its disk of {} was {}, and can't shrink", guest.disk, old.disk));
        old.disk = guest.disk;
    }
    for (disk, data) in &guest.disks {
        match old.disks.get_mut(disk) {
            Some(old) if old.size < data.size => {
                stays.push(format!("disk/{host}/{name}/{disk}: its {} were {}, and can't shrink", data.size, old.size));
                old.size = data.size;
            }
            Some(_) => {}
            None => stays.push(format!("disk/{host}/{name}/{disk}: it was made later, and nothing is destroyed")),
        }
    }
}

/// Compares a site with a later one: what can't be taken back is said, and left as the later one has it.
fn keep(site: &mut Site, later: &Site) -> Vec<String> {
    let mut stays = Vec::new();
    for (name, guest) in &later.guests {
        match site.guests.get_mut(name) {
            Some(old) => keep_disks(name, old, guest, &mut stays),
            None => stays.push(format!("vm/{}/{name}: it was made later, and nothing is deleted", guest.host)),
        }
    }
    for (name, template) in &later.templates {
        if !site.templates.contains_key(name) {
            stays.push(format!("template/{}/{name}: it was made later, and nothing is deleted", template.host));
        }
    }
    for (name, volume) in &later.logical_volumes {
        match site.logical_volumes.get_mut(name) {
            Some(old) if old.size < volume.size => {
                stays.push(format!(
                    "lv/{}/{name}: its {} were {}, and a pool can't shrink",
                    volume.host, volume.size, old.size
                ));
                old.size = volume.size;
            }
            Some(_) => {}
            None => stays.push(format!("lv/{}/{name}: it was made later, and nothing is destroyed", volume.host)),
        }
    }
    for (name, pool) in &later.pools {
        let Some(old) = site.pools.get(name) else {
            stays.push(format!("zfs/{}/{name}: it was made later, and nothing is destroyed", pool.host));
            continue;
        };
        for dataset in pool.datasets.keys().filter(|dataset| !old.datasets.contains_key(*dataset)) {
            stays.push(format!("zfs/{}/{dataset}: it was made later, and nothing is destroyed", pool.host));
        }
    }
    stays
}
