//! The checks that follow from the inventory, and what each host is asked for them.

use std::collections::BTreeMap;

use compose_deploy::desired::{Desired, Guest, blobs};
use compose_deploy::observe::{self, Observed};
use compose_deploy::{check_script, diff, paths, unit};
use remote::{Output, Probe, quote};
use site::{Name, Site};

use crate::judge::{self, Verdict};

/// Judges the answer to a probe.
pub type Judge = Box<dyn Fn(&Output) -> Verdict + Send + Sync>;

/// One check of what a host answered.
pub struct Asked {
    /// The check's name, as `pool/pve1/tank-hdd`.
    pub name: String,
    /// The host.
    pub host: Name,
    /// The probe whose answer is judged.
    pub probe: &'static str,
    /// The judge.
    pub judge: Judge,
}

/// Checks, and what to ask for them.
#[derive(Default)]
pub struct Derived {
    /// What to ask.
    pub probes: Vec<Probe>,
    /// What to judge.
    pub checks: Vec<Asked>,
}

impl Derived {
    fn ask(&mut self, host: &Name, id: &str, script: impl Into<String>) {
        self.probes.push(Probe { host: host.clone(), id: id.to_owned(), script: script.into() });
    }

    /// Adds a check that judges the text of an answer.
    fn check(
        &mut self,
        name: String,
        host: &Name,
        probe: &'static str,
        judge: impl Fn(&str) -> Verdict + Send + Sync + 'static,
    ) {
        let judge = Box::new(move |output: &Output| judge(&judge::text(output)?));
        self.checks.push(Asked { name, host: host.clone(), probe, judge });
    }
}

const ALIVE: &str = "cut -d. -f1 /proc/uptime";

/// Derives the checks of a site whose stacks shall be as `desired` has them.
pub fn derive(site: &Site, desired: &Desired) -> Derived {
    let mut derived = Derived::default();
    for host in site.hosts.keys() {
        node(&mut derived, site, host);
    }
    for (name, guest) in &site.guests {
        derived.ask(name, "alive", ALIVE);
        derived.check(format!("vm/{}/{name}", guest.host), name, "alive", alive);
        mounts(&mut derived, site, name);
        let none = Guest::default();
        stacks(&mut derived, name, desired.guests.get(name).unwrap_or(&none));
        units(&mut derived, site, name, desired.guests.get(name).unwrap_or(&none));
    }
    derived
}

fn alive(text: &str) -> Verdict {
    let seconds = text.trim();
    seconds.parse::<u64>().map(|_| format!("up for {seconds} s")).map_err(|_| format!("its uptime is '{seconds}'"))
}

/// Adds a node's checks: pools, datasets, exports.
fn node(derived: &mut Derived, site: &Site, host: &Name) {
    derived.ask(host, "alive", ALIVE);
    derived.check(format!("host/{host}"), host, "alive", alive);
    let pools = site.pools.iter().filter(|(_, pool)| pool.host == *host);
    let mut asked = false;
    for (name, pool) in pools {
        asked = true;
        let text = name.to_string();
        derived.check(format!("pool/{host}/{name}"), host, "pools", move |list| judge::pool(list, &text));
        for dataset in pool.datasets.keys() {
            let text = dataset.to_string();
            derived
                .check(format!("dataset/{host}/{dataset}"), host, "datasets", move |list| judge::dataset(list, &text));
        }
    }
    if asked {
        derived.ask(host, "pools", "zpool list -Hp -o name,health");
        derived.ask(host, "datasets", "zfs list -Hp -t filesystem -o name,mounted,mountpoint");
    }
    exports(derived, site, host);
}

fn exports(derived: &mut Derived, site: &Site, host: &Name) {
    let mut asked = false;
    for (name, share) in &site.shares {
        if site.pools.get(share.dataset.pool()).is_none_or(|pool| pool.host != *host) {
            continue;
        }
        for guest in share.mounts.keys().filter_map(|guest| site.guests.get_key_value(guest)) {
            asked = true;
            let (path, client) = (format!("/{}", share.dataset), guest.1.address.to_string());
            let options = share.export_options.clone();
            derived.check(format!("export/{host}/{name}/{}", guest.0), host, "exports", move |list| {
                judge::export(list, &path, &client, &options)
            });
        }
    }
    if asked {
        derived.ask(host, "exports", "exportfs -s");
        derived.ask(host, "units", units_script(["nfs-server.service".to_owned()]));
        let unit = |blocks: &str| judge::unit(blocks, "nfs-server.service");
        derived.check(format!("unit/{host}/nfs-server.service"), host, "units", unit);
    }
}

fn units_script(units: impl IntoIterator<Item = String>) -> String {
    let units: String = units.into_iter().map(|unit| format!(" {}", quote(&unit))).collect();
    format!("systemctl show --property=Id --property=ActiveState --property=SubState{units}")
}

/// Adds the checks of what a guest mounts.
fn mounts(derived: &mut Derived, site: &Site, guest: &Name) {
    let mut points = Vec::new();
    for (name, share) in &site.shares {
        let Some(point) = share.mounts.get(guest) else { continue };
        let Some(server) = site.pools.get(share.dataset.pool()).and_then(|pool| site.hosts.get(&pool.host)) else {
            continue;
        };
        let (point, source) = (point.to_string(), format!("{}:/{}", server.address, share.dataset));
        points.push(point.clone());
        let text = point.clone();
        derived.check(format!("mount/{guest}/{name}"), guest, "mounts", move |json| judge::mount(json, &text, &source));
        derived
            .check(format!("mount/{guest}/{name}/answers"), guest, "folders", move |lines| judge::line(lines, &point));
    }
    if points.is_empty() {
        return;
    }
    derived.ask(guest, "mounts", "findmnt --json --list --output TARGET,SOURCE,FSTYPE,OPTIONS");
    // A server that is gone lets a mount hang, and with it whoever looks: each look has its own time.
    let looks = points.iter().map(|point| {
        let point = quote(point);
        format!(
            "if timeout 10 stat --file-system --terse {point} >/dev/null; then echo ok {point}; \
             else echo bad {point}: the server does not answer; fi\n"
        )
    });
    derived.ask(guest, "folders", looks.collect::<String>());
}

fn units(derived: &mut Derived, site: &Site, guest: &Name, wanted: &Guest) {
    let points = site.shares.values().filter_map(|share| share.mounts.get(guest));
    let mut units: Vec<_> = points.map(|point| unit::mount_unit(point.as_str())).collect();
    if !wanted.bundles.is_empty() {
        units.extend(["docker.service".to_owned(), paths::KEEPER_UNIT.to_owned()]);
        units.extend(wanted.bundles.keys().map(|stack| paths::unit(stack.as_str())));
    }
    if units.is_empty() {
        return;
    }
    derived.ask(guest, "units", units_script(units.clone()));
    for unit in units {
        derived.check(format!("unit/{guest}/{unit}"), guest, "units", move |blocks| judge::unit(blocks, &unit));
    }
}

/// Adds the checks of a guest's stacks: containers, ports, files.
fn stacks(derived: &mut Derived, guest: &Name, wanted: &Guest) {
    if wanted.bundles.is_empty() {
        return;
    }
    derived.ask(guest, "stacks", observe::SCRIPT);
    for (stack, bundle) in &wanted.bundles {
        for service in bundle.compose.services.keys() {
            let (stack_name, service_name) = (stack.clone(), service.clone());
            let shall = diff::wanted(bundle)["services"][service].clone();
            derived.check(format!("container/{guest}/{stack}/{service}"), guest, "stacks", move |text| {
                let state = diff::state(&stack_name, &observed(text)?);
                same(&state["services"][&service_name], &shall)
            });
        }
        let (stack_name, shall) = (stack.clone(), diff::wanted(bundle));
        derived.check(format!("bundle/{guest}/{stack}"), guest, "stacks", move |text| {
            let state = diff::state(&stack_name, &observed(text)?);
            same(&state["files"], &shall["files"]).map_err(|why| format!("its files: {why}"))?;
            same(&state["bundle"], &shall["bundle"]).map_err(|why| format!("its containers' bundle: {why}"))
        });
    }
    ports(derived, guest, wanted);
    let images = wanted.images();
    let artifacts: Vec<_> = blobs(images.values().copied()).into_values().collect();
    derived.ask(guest, "artifacts", check_script(&artifacts));
    let count = artifacts.len();
    derived.check(format!("artifacts/{guest}"), guest, "artifacts", move |_| {
        Ok(format!("{count} files have the checksums that they were sent with"))
    });
    for image in images.into_values() {
        let (tag, id) = (image.tag.clone(), format!("sha256:{}", image.config.sha256));
        derived.check(format!("image/{guest}/{}", image.name), guest, "stacks", move |text| {
            match observed(text)?.images.get(&tag) {
                None => Err(format!("{tag} is not loaded")),
                Some(found) if *found == id => Ok(tag.clone()),
                Some(found) => Err(format!("{tag} is {found}, not {id}")),
            }
        });
    }
}

fn observed(text: &str) -> Result<Observed, String> {
    observe::parse(text)
}

fn same(found: &serde_json::Value, shall: &serde_json::Value) -> Verdict {
    let words = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "not there".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if found == shall { Ok(words(found)) } else { Err(format!("{}, not {}", words(found), words(shall))) }
}

fn ports(derived: &mut Derived, guest: &Name, wanted: &Guest) {
    let mut places: BTreeMap<String, (Name, String)> = BTreeMap::new();
    for (stack, bundle) in &wanted.bundles {
        for (service, found) in &bundle.compose.services {
            for port in &found.ports {
                let address = port.address.as_deref().filter(|address| *address != "0.0.0.0");
                let place = format!("{}:{}", address.unwrap_or("127.0.0.1"), port.port);
                places.insert(place, (stack.clone(), service.clone()));
            }
        }
    }
    if places.is_empty() {
        return;
    }
    let looks = places.keys().map(|place| {
        let (address, port) = place.rsplit_once(':').unwrap_or((place, ""));
        let open = quote(&format!("</dev/tcp/{address}/{port}"));
        let place = quote(place);
        format!(
            "if timeout 10 bash -c {open} 2>/dev/null; then echo ok {place}; else echo bad {place}: nothing listens; fi\n"
        )
    });
    derived.ask(guest, "ports", looks.collect::<String>());
    for (place, (stack, service)) in places {
        derived.check(format!("port/{guest}/{stack}/{service}/{place}"), guest, "ports", move |lines| {
            judge::line(lines, &place)
        });
    }
}

#[cfg(test)]
mod tests;
