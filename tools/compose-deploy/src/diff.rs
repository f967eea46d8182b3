//! What differs between a guest and what the site wants there.

use std::collections::{BTreeMap, BTreeSet};

use converge::{Address, Change, Failure, Impact, Kind, Step};
use image::ContainerImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use site::Name;
use store::Digest;

use crate::bundle::{Bundle, COMPOSE, OVERRIDE};
use crate::desired::{Guest, blobs};
use crate::observe::{Container, Deployed, Docker, Health, Labels, Observed, UnitState};
use crate::{paths, secrets};

/// The programs and units that every guest with stacks has: path, text, and whether it can be run.
pub const RUNTIME: [(&str, &str, bool); 4] = [
    (paths::PROGRAM, include_str!("guest/stack.sh"), true),
    (paths::KEEPER, include_str!("guest/keep-stacks.sh"), true),
    ("/etc/systemd/system/hearth-stacks.service", include_str!("guest/hearth-stacks.service"), false),
    ("/etc/systemd/system/hearth-trial@.service", include_str!("guest/hearth-trial@.service"), false),
];

/// The instruction of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Writes [`RUNTIME`] and starts the keeper.
    Runtime {
        /// The guest.
        guest: Name,
    },
    /// Sends what is missing of an image, and loads it.
    Image {
        /// The guest.
        guest: Name,
        /// The image's tag.
        tag: String,
    },
    /// Deploys a bundle.
    Deploy {
        /// The guest.
        guest: Name,
        /// The stack.
        stack: Name,
        /// The bundle.
        bundle: Digest,
        /// The secrets that are sent first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<Name>,
        /// Whether the guest has secrets of the stack that it uses no more.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forget: bool,
        /// Services whose files were altered, where the bundle is the same.
        again: Vec<String>,
    },
    /// Takes a stack away; its volumes stay.
    Remove {
        /// The guest.
        guest: Name,
        /// The stack, which the site has no more.
        stack: String,
    },
}

/// Compares one guest.
///
/// # Errors
/// A refusal where a compose project or unit of somebody else's is in the way.
pub fn compare(site: &str, name: &Name, guest: &Guest, observed: &Observed) -> Result<Vec<Step>, Failure> {
    if !guest.bundles.is_empty() {
        foreign(site, name, guest, observed)?;
    }
    let mut steps: Vec<Step> = stale(site, guest, observed).into_iter().map(|stack| remove(name, &stack)).collect();
    if guest.bundles.is_empty() {
        return Ok(steps);
    }
    steps.extend(runtime(name, observed));
    let images = guest.images();
    // A file that two images share is sent with the first.
    let mut sent = BTreeSet::new();
    steps.extend(images.values().filter_map(|image| load(name, image, observed, &mut sent)));
    steps.extend(guest.bundles.values().filter_map(|bundle| {
        let mut step = deploy(name, bundle, observed)?;
        // Stacks that need nothing start together, once their images are there.
        step.wave = 1 + guest.depth(&bundle.stack);
        Some(step)
    }));
    Ok(steps)
}

fn step(address: Address, kind: Kind, (before, after): (Value, Value), impact: Impact, action: &Action) -> Step {
    let lane = match action {
        Action::Runtime { guest } | Action::Image { guest, .. } | Action::Remove { guest, .. } => guest.to_string(),
        Action::Deploy { guest, stack, .. } => format!("{guest}/{stack}"),
    };
    Step { change: Change { address, kind, before, after, impact }, wave: 0, lane, action: json!(action) }
}

/// Refuses to take over what is not this site's.
fn foreign(site: &str, name: &Name, guest: &Guest, observed: &Observed) -> Result<(), Failure> {
    if observed.docker == Docker::Down {
        let failure = Failure::new(converge::Reason::Failed, format!("Docker does not run on {name}"));
        return Err(failure.hint(format!("see on {name}: systemctl status docker")));
    }
    for stack in guest.bundles.keys() {
        let theirs = |container: &&Container| {
            container.project == stack.as_str() && (container.labels.stack.is_empty() || container.labels.site != site)
        };
        let names: Vec<_> = observed.containers.iter().filter(theirs).map(|found| found.name.as_str()).collect();
        if !names.is_empty() {
            let message = format!(
                "{name} has a compose project '{stack}' already that is not of site '{site}', with {}",
                names.join(", ")
            );
            return Err(Failure::refused(message).hint("give the stack another name, or take that project down"));
        }
        let unit = paths::unit_file(&paths::unit(stack.as_str()));
        if let Some(file) = observed.files.get(&unit)
            && file.first_line != paths::header(site)
        {
            let message = format!("{name} has a unit {unit} already that is not of site '{site}'");
            return Err(Failure::refused(message).hint("give the stack another name, or remove that unit"));
        }
    }
    Ok(())
}

/// Returns the stacks of this site that are on the guest and not wanted there.
fn stale(site: &str, guest: &Guest, observed: &Observed) -> BTreeSet<String> {
    let containers = observed.containers.iter().filter(|container| container.labels.site == site);
    let header = paths::header(site);
    let units = observed.files.iter().filter(|(_, file)| file.first_line == header).filter_map(|(path, _)| {
        path.strip_prefix("/etc/systemd/system/hearth-stack-")?.strip_suffix(".service").map(str::to_owned)
    });
    let here = containers.map(|container| container.labels.stack.clone()).chain(units);
    here.filter(|stack| !guest.bundles.contains_key(stack.as_str())).collect()
}

fn remove(guest: &Name, stack: &str) -> Step {
    step(
        Address::new(["stack", guest.as_str(), stack]),
        Kind::Delete,
        (json!({ "stack": "deployed" }), Value::Null),
        Impact::Restart(vec![format!("{guest}/{stack} (stops; its volumes stay)")]),
        &Action::Remove { guest: guest.clone(), stack: stack.to_owned() },
    )
}

fn runtime(guest: &Name, observed: &Observed) -> Option<Step> {
    let mut before = serde_json::Map::new();
    let mut after = serde_json::Map::new();
    for (path, text, _) in RUNTIME {
        let wanted = Digest::of(text);
        let there = observed.files.get(path).map(|file| file.sha256.as_str());
        if there != Some(&wanted.to_string()) {
            before.insert(path.to_owned(), there.map_or(Value::Null, |sha256| short(sha256).into()));
            after.insert(path.to_owned(), wanted.short().into());
        }
    }
    let keeper = observed.units.get(paths::KEEPER_UNIT).cloned().unwrap_or_default();
    if !runs(&keeper) {
        before.insert(paths::KEEPER_UNIT.to_owned(), words(&keeper));
        after.insert(paths::KEEPER_UNIT.to_owned(), "active, enabled".into());
    }
    if after.is_empty() {
        return None;
    }
    let kind = if observed.files.contains_key(paths::PROGRAM) { Kind::Update } else { Kind::Create };
    let address = Address::new(["stack-runtime", guest.as_str()]);
    let action = Action::Runtime { guest: guest.clone() };
    Some(step(address, kind, (Value::Object(before), Value::Object(after)), Impact::None, &action))
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}

fn runs(unit: &UnitState) -> bool {
    // A stack's unit is `reloading` while it gets a new bundle, and the keeper `activating` while it waits to start.
    let UnitState { active, enabled, stale } = unit;
    active == "active" && enabled == "enabled" && !stale
}

fn words(unit: &UnitState) -> Value {
    let UnitState { active, enabled, stale } = unit;
    let stale = if *stale { ", changed since it was loaded" } else { "" };
    match (active.as_str(), enabled.as_str()) {
        ("" | "inactive", "") => Value::Null,
        (active, "") => format!("{active}, no unit").into(),
        (active, enabled) => format!("{active}, {enabled}{stale}").into(),
    }
}

fn load(guest: &Name, image: &ContainerImage, observed: &Observed, sent: &mut BTreeSet<String>) -> Option<Step> {
    let ContainerImage { name, config, layers: _, tag } = image;
    let id = format!("sha256:{}", config.sha256);
    let files = blobs([image]);
    let missing: Vec<_> = files.iter().filter(|(name, file)| observed.blobs.get(*name) != Some(&file.size)).collect();
    let loaded = observed.images.get(tag);
    if missing.is_empty() && loaded == Some(&id) {
        return None;
    }
    let send: Vec<_> = missing.iter().filter(|(name, _)| sent.insert((*name).clone())).collect();
    let bytes: u64 = send.iter().map(|(_, file)| file.size).sum();
    let state = |loaded: bool, missing: usize| json!({ "loaded": loaded, "files missing": missing });
    let kind = if loaded.is_some() { Kind::Update } else { Kind::Create };
    let before = if loaded.is_some() { state(loaded == Some(&id), missing.len()) } else { Value::Null };
    let mut after = state(true, 0);
    if kind == Kind::Create {
        after = json!({ "tag": tag, "to send": format!("{} files, {} KiB", send.len(), bytes.div_ceil(1024)) });
    }
    let address = Address::new(["image", guest.as_str(), name]);
    let action = Action::Image { guest: guest.clone(), tag: tag.clone() };
    Some(step(address, kind, (before, after), Impact::None, &action))
}

fn deploy(guest: &Name, bundle: &Bundle, observed: &Observed) -> Option<Step> {
    let before = state(&bundle.stack, observed);
    let after = wanted(bundle);
    if before == after {
        return None;
    }
    let kind = if before.is_null() { Kind::Create } else { Kind::Update };
    let (again, mut impact) = restarts(guest, bundle, observed, &before, &after);
    let readers = secrets::restarts(guest, bundle, &before, &after);
    match &mut impact {
        Impact::None if !readers.is_empty() && !before.is_null() => impact = Impact::Restart(readers),
        // The whole stack's name covers its services.
        Impact::Restart(names) if !names.contains(&format!("{guest}/{}", bundle.stack)) => {
            names.extend(readers);
            names.sort();
            names.dedup();
        }
        _ => {}
    }
    let (secrets, forget) = secrets::to_do(bundle, observed);
    let stack = bundle.stack.clone();
    let action = Action::Deploy { guest: guest.clone(), stack, bundle: bundle.digest, secrets, forget, again };
    let address = Address::new(["stack", guest.as_str(), bundle.stack.as_str()]);
    Some(step(address, kind, (before, after), impact, &action))
}

/// Returns the services that are made anew because their files are, and what restarts in all. What only waits or died
/// is started, and nothing else is touched.
fn restarts(
    guest: &Name,
    bundle: &Bundle,
    observed: &Observed,
    before: &Value,
    after: &Value,
) -> (Vec<String>, Impact) {
    let stack = bundle.stack.as_str();
    let whole = Impact::Restart(vec![format!("{guest}/{stack}")]);
    if before.is_null() || before["bundle"] == "" {
        return (Vec::new(), Impact::None);
    }
    // Docker makes containers anew whose labels differ.
    if before["bundle"] != after["bundle"] {
        return (Vec::new(), whole);
    }
    let Some(Deployed { sums, altered }) = observed.stacks.get(stack) else {
        return (bundle.compose.services.keys().cloned().collect(), whole);
    };
    // Which files were altered is not known where their list was.
    if *sums != Digest::of(bundle.sums()).to_string() {
        return (bundle.compose.services.keys().cloned().collect(), whole);
    }
    let again = bundle.compose.users(altered);
    // Compose compares the containers with these itself; whether somebody did start it with another text is not known.
    if altered.iter().any(|path| [COMPOSE, OVERRIDE].contains(&path.as_str())) {
        return (again, whole);
    }
    let names: Vec<_> = again.iter().map(|service| format!("{guest}/{stack}/{service}")).collect();
    let impact = if names.is_empty() { Impact::None } else { Impact::Restart(names) };
    (again, impact)
}

/// Describes a stack as it is on the guest, in the words of [`wanted`]; null where nothing of it is there.
pub fn state(stack: &Name, observed: &Observed) -> Value {
    let own: Vec<_> = observed.containers.iter().filter(|found| found.labels.stack == stack.as_str()).collect();
    let unit_name = paths::unit(stack.as_str());
    let file = observed.files.get(&paths::unit_file(&unit_name));
    let deployed = observed.stacks.get(stack.as_str());
    let known = observed.secrets.get(stack.as_str()).is_some_and(|found| !found.is_empty());
    if own.is_empty() && file.is_none() && deployed.is_none() && !known {
        return Value::Null;
    }
    let mut services: BTreeMap<&str, Value> = BTreeMap::new();
    for Container { service, health, project: _, labels: _, name: _ } in &own {
        // The worst of a service's containers speaks for it.
        let entry = services.entry(service).or_insert_with(|| health.text().into());
        if !matches!(health, Health::Good | Health::Done) {
            *entry = health.text().into();
        }
    }
    let labels =
        own.iter().map(|Container { labels: Labels { site: _, stack: _, bundle, secrets: _ }, .. }| short(bundle));
    let bundles: BTreeSet<_> = labels.collect();
    let bundle = bundles.into_iter().collect::<Vec<_>>().join(", ");
    let files = deployed.map(|Deployed { sums, altered }| match altered.as_slice() {
        [] => Value::from(short(sums)),
        altered => Value::from(format!("altered: {}", altered.join(", "))),
    });
    let unit = observed.units.get(&unit_name).cloned().unwrap_or_default();
    let mut state = json!({
        "bundle": bundle,
        "files": files,
        "unit": words(&unit),
        "unit file": file.map(|file| short(&file.sha256)),
        "services": services,
    });
    describe_secrets(&mut state, secrets::state(stack, &own, observed));
    state
}

/// Adds what is known of secrets, where there are some.
fn describe_secrets(stack: &mut Value, secrets: Option<(Value, Value)>) {
    if let Some((there, read)) = secrets {
        stack[secrets::THERE] = there;
        stack[secrets::READ] = read;
    }
}

/// Describes a stack as it shall be.
pub fn wanted(bundle: &Bundle) -> Value {
    let health = |one_shot| if one_shot { Health::Done } else { Health::Good };
    let services: BTreeMap<_, _> = bundle
        .compose
        .services
        .iter()
        .map(|(name, service)| (name, Value::from(health(service.one_shot).text())))
        .collect();
    let mut wanted = json!({
        "bundle": bundle.digest.short(),
        "files": Digest::of(bundle.sums()).short(),
        "unit": "active, enabled",
        "unit file": Digest::of(bundle.unit()).short(),
        "services": services,
    });
    describe_secrets(&mut wanted, secrets::wanted(bundle));
    wanted
}

#[cfg(test)]
mod tests;
