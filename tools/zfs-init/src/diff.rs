//! Desired against observed: the steps, in the order in which they are applied.

use std::collections::BTreeMap;

use anyhow::Result;
use converge::{Address, Change, Failure, Impact, Kind, Step};
use serde_json::{Value, json};
use site::{LogicalVolumeName, Name, PoolDevice, PoolName, Size};

use crate::action::{Action, VOLUME_TAG};
use crate::desired::{Properties, Wanted, WantedPool};
use crate::disk::{self, Located};
use crate::observed::{Observed, Pool};
use crate::property::{self, TAG};

/// Compares one host; it has nothing yet where `seen` is none.
pub(crate) struct Diff<'a> {
    pub(crate) site: &'a Name,
    pub(crate) host: &'a Name,
    pub(crate) seen: &'a Observed,
    /// What uses each dataset, as `share media in vm-intranet`.
    pub(crate) users: &'a BTreeMap<&'a str, Vec<String>>,
    /// Whether the host is there; a host that is still to be made has no disks to look at.
    pub(crate) present: bool,
}

impl Diff<'_> {
    /// Returns all steps of the host.
    pub(crate) fn steps(&self, wanted: &Wanted<'_>) -> Result<Vec<Step>> {
        let Wanted { volumes, pools } = wanted;
        let mut steps = Vec::new();
        for (name, size) in volumes {
            steps.extend(self.volume(name, *size)?);
        }
        self.room(wanted)?;
        for (name, pool) in pools {
            self.pool(name, pool, wanted, &mut steps)?;
        }
        Ok(steps)
    }

    fn step(&self, address: Address, kind: Kind, before: Value, after: Value, action: &Action) -> Result<Step> {
        let change = Change { address, kind, before, after, impact: self.impact(action) };
        Ok(Step { change, wave: 0, lane: self.host.to_string(), action: serde_json::to_value(action)? })
    }

    /// Says what a change costs: a dataset that is mounted elsewhere, or not at all, takes its shares with it, and those
    /// of the datasets below it.
    fn impact(&self, action: &Action) -> Impact {
        let Action::ChangeDataset { dataset, set, inherit, .. } = action else { return Impact::None };
        let moves = ["mountpoint", "canmount"];
        if !moves.iter().any(|property| set.contains_key(*property) || inherit.iter().any(|name| name == property)) {
            return Impact::None;
        }
        let below =
            |name: &str| name.strip_prefix(dataset).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let used = self.users.iter().filter(|(name, _)| below(name)).flat_map(|(_, users)| users.clone());
        let used: Vec<String> = used.collect();
        if used.is_empty() { Impact::None } else { Impact::Restart(used) }
    }

    fn volume(&self, name: &LogicalVolumeName, size: Size) -> Result<Option<Step>> {
        let host = self.host;
        let address = Address::new(["lv", host.as_str(), name.as_str()]);
        let bytes = self.rounded(name, size)?;
        let after = json!({ "size": size.to_string() });
        let Some(volume) = self.seen.volumes.get(name.as_str()) else {
            let action = Action::CreateVolume { volume: name.to_string(), bytes };
            return self.step(address, Kind::Create, Value::Null, after, &action).map(Some);
        };
        if !volume.tags.iter().any(|tag| tag == VOLUME_TAG) {
            let message = format!("{host} has a logical volume {name} that Hearth did not make");
            let hint = format!("to give it to Hearth: lvchange --addtag {VOLUME_TAG} {name}");
            return Err(Failure::refused(message).hint(hint).into());
        }
        if volume.layout != "linear" {
            let message = format!("the logical volume {name} of {host} is {}, not linear", volume.layout);
            return Err(Failure::refused(message).into());
        }
        let is = Size::from_bytes(volume.bytes);
        if volume.bytes > bytes {
            let message = format!(
                "the logical volume {name} of {host} has {is}, and shall have {size}: it holds a pool, which can't shrink"
            );
            return Err(Failure::refused(message).hint(format!("write size = \"{is}\", or a larger one")).into());
        }
        if volume.bytes == bytes {
            return Ok(None);
        }
        let action = Action::GrowVolume { volume: name.to_string(), bytes };
        self.step(address, Kind::Update, json!({ "size": is.to_string() }), after, &action).map(Some)
    }

    /// Rounds a size up to whole extents, as LVM does.
    fn rounded(&self, name: &LogicalVolumeName, size: Size) -> Result<u64> {
        match self.seen.groups.get(name.group()) {
            Some(group) if group.extent > 0 => Ok(size.bytes().div_ceil(group.extent) * group.extent),
            Some(_) => Ok(size.bytes()),
            None if !self.present => Ok(size.bytes()),
            None => {
                let there: Vec<&str> = self.seen.groups.keys().map(String::as_str).collect();
                let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                let message = format!("{} has no volume group {}; there are: {there}", self.host, name.group());
                Err(Failure::refused(message).into())
            }
        }
    }

    /// Makes sure that each volume group has room for all that is wanted of it.
    fn room(&self, wanted: &Wanted<'_>) -> Result<()> {
        for (group, there) in &self.seen.groups {
            let mut need = 0;
            for (name, size) in wanted.volumes.iter().filter(|(name, _)| name.group() == group) {
                let has = self.seen.volumes.get(name.as_str()).map_or(0, |volume| volume.bytes);
                need += self.rounded(name, *size)?.saturating_sub(has);
            }
            if need > there.free {
                let [need, free] = [need, there.free].map(Size::from_bytes);
                let message = format!("volume group {group} of {} has {free} free, and {need} are needed", self.host);
                return Err(Failure::refused(message).hint("make the volume smaller, or the group larger").into());
            }
        }
        Ok(())
    }

    fn pool(&self, name: &PoolName, pool: &WantedPool<'_>, wanted: &Wanted<'_>, steps: &mut Vec<Step>) -> Result<()> {
        match self.seen.pools.get(name.as_str()) {
            None => steps.push(self.create_pool(name, pool)?),
            Some(there) => {
                let located = self.ours(name, pool, there)?;
                steps.extend(self.grow_pool(name, pool, there, located, wanted)?);
                steps.extend(self.dataset(name.as_str(), pool.properties, pool)?);
            }
        }
        for (dataset, own) in &pool.datasets {
            match self.seen.datasets.contains_key(*dataset) {
                true => steps.extend(self.dataset(dataset, own, pool)?),
                false => steps.push(self.create_dataset(dataset, own)?),
            }
        }
        Ok(())
    }

    fn create_pool(&self, name: &PoolName, pool: &WantedPool<'_>) -> Result<Step> {
        let host = self.host;
        if self.seen.importable.contains(name.as_str()) {
            let message =
                format!("{host} has a pool {name} that is not imported; another one of that name would hide it");
            return Err(Failure::refused(message).hint(format!("import it on {host}: zpool import {name}")).into());
        }
        let WantedPool { device, ashift, properties, datasets: _ } = pool;
        let (device, leftover) = self.free_device(device)?;
        let before = match leftover {
            true => json!({ "device": "has the partition table of a zpool create that was cut off" }),
            false => Value::Null,
        };
        let mut after = json!({ "device": device, "ashift": ashift });
        for (name, value) in *properties {
            after[name] = json!(value);
        }
        let action = Action::CreatePool {
            pool: name.to_string(),
            device,
            ashift: *ashift,
            properties: (*properties).clone(),
            site: self.site.to_string(),
            leftover,
        };
        self.step(Address::new(["zfs", host.as_str(), name.as_str()]), Kind::Create, before, after, &action)
    }

    /// Returns the path of a device on which a pool may be made, and whether an unfinished try of ours has to be taken
    /// away from it first.
    fn free_device(&self, device: &PoolDevice) -> Result<(String, bool)> {
        let to_be_made = match device {
            PoolDevice::LogicalVolume(volume) => !self.seen.volumes.contains_key(volume.as_str()),
            PoolDevice::DiskId(_) | PoolDevice::DiskSerial(_) => false,
        };
        if to_be_made || !self.present {
            let path = match device {
                PoolDevice::LogicalVolume(volume) => format!("/dev/{volume}"),
                PoolDevice::DiskId(id) => format!("/dev/disk/by-id/{id}"),
                PoolDevice::DiskSerial(serial) => format!("the disk with serial {serial}"),
            };
            return Ok((path, false));
        }
        let located = disk::locate(self.host, device, self.seen)?;
        let leftover = disk::blank(self.host, &located, self.seen)?;
        Ok((located.path, leftover))
    }

    /// Makes sure that a pool is this site's and made as the inventory says.
    fn ours(&self, name: &PoolName, pool: &WantedPool<'_>, there: &Pool) -> Result<Located> {
        let (host, site) = (self.host, self.site);
        let tag = self.seen.datasets.get(name.as_str()).and_then(|root| root.get(TAG));
        match tag.filter(|tag| tag.source == "local").map(|tag| tag.value.as_str()) {
            Some(tag) if tag == site.as_str() => {}
            Some(other) => {
                let message = format!("pool {name} of {host} belongs to the site '{other}', not to '{site}'");
                return Err(Failure::refused(message).into());
            }
            None => {
                let message = format!("{host} has a pool {name} that Hearth did not make");
                let hint = format!("to give it to Hearth, data and all: zfs set {TAG}={site} {name}");
                return Err(Failure::refused(message).hint(hint).into());
            }
        }
        if there.ashift != pool.ashift {
            let message = format!(
                "pool {name} of {host} has ashift {}, and shall have {}: it can't be changed",
                there.ashift, pool.ashift
            );
            return Err(Failure::refused(message).hint(format!("write ashift = {}", there.ashift)).into());
        }
        let located = disk::locate(host, pool.device, self.seen)?;
        let single = matches!(there.devices.as_slice(), [device] if disk::is_on(device, &located, self.seen));
        if !single {
            let message = format!(
                "pool {name} of {host} is on {}, not on {} ({}): a pool's device can't be changed",
                there.devices.join(", "),
                located.path,
                located.node
            );
            return Err(Failure::refused(message).into());
        }
        Ok(located)
    }

    /// Lets a pool follow its volume: after it grew now, or in a run that was ended in between.
    fn grow_pool(
        &self,
        name: &PoolName,
        pool: &WantedPool<'_>,
        there: &Pool,
        located: Located,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Step>> {
        let PoolDevice::LogicalVolume(volume) = pool.device else { return Ok(None) };
        let size = wanted.volumes.get(volume).copied();
        let grows = match (size, self.seen.volumes.get(volume.as_str())) {
            (Some(size), Some(seen)) => self.rounded(volume, size)? > seen.bytes,
            _ => false,
        };
        if !grows && !there.can_grow {
            return Ok(None);
        }
        let address = Address::new(["zfs", self.host.as_str(), name.as_str()]);
        let (before, after) = (json!({ "uses": "a part of its device" }), json!({ "uses": "all of its device" }));
        let action = Action::GrowPool { pool: name.to_string(), device: located.path };
        self.step(address, Kind::Update, before, after, &action).map(Some)
    }

    fn create_dataset(&self, name: &str, own: &Properties) -> Result<Step> {
        let action = Action::CreateDataset { dataset: name.to_string(), properties: own.clone() };
        let address = Address::new(["zfs", self.host.as_str(), name]);
        self.step(address, Kind::Create, Value::Null, json!(own), &action)
    }

    /// Compares the properties of a dataset that is there.
    fn dataset(&self, name: &str, own: &Properties, pool: &WantedPool<'_>) -> Result<Option<Step>> {
        let host = self.host;
        let kind = self.seen.value(name, "type").unwrap_or_default();
        if kind != "filesystem" {
            return Err(Failure::refused(format!("{name} of {host} is a {kind}, not a file system")).into());
        }
        let (mut before, mut after) = (json!({}), json!({}));
        let mut set = Properties::new();
        for (property, value) in own {
            let is = self.seen.value(name, property).unwrap_or("-");
            if property::same(value, is) {
                continue;
            }
            if property::is_fixed(property) {
                let message = format!(
                    "{name} of {host} has {property} {is}, and shall have {value}: it can't be changed after the creation"
                );
                return Err(Failure::refused(message).hint(format!("write {property} = \"{is}\"")).into());
            }
            before[property] = json!(is);
            after[property] = json!(value);
            set.insert(property.clone(), value.clone());
        }
        let inherit = self.strays(name, own, pool);
        for property in &inherit {
            before[property] = json!(self.seen.value(name, property));
            after[property] = json!(format!("{} (inherited)", pool.inherited(name, property).unwrap_or("-")));
        }
        let mount = self.is_unmounted(name, own);
        if mount {
            before["mounted"] = json!("no");
            after["mounted"] = json!("yes");
        }
        if set.is_empty() && inherit.is_empty() && !mount {
            return Ok(None);
        }
        let action = Action::ChangeDataset { dataset: name.to_owned(), set, inherit, mount };
        self.step(Address::new(["zfs", host.as_str(), name]), Kind::Update, before, after, &action).map(Some)
    }

    /// Lists the properties that a dataset should have from above and has set otherwise itself.
    fn strays(&self, name: &str, own: &Properties, pool: &WantedPool<'_>) -> Vec<String> {
        let Some(settings) = self.seen.datasets.get(name) else { return Vec::new() };
        let stray = |property: &&String| {
            let Some(setting) = settings.get(*property) else { return false };
            let from_above = name.contains('/') && !own.contains_key(*property) && property::is_inherited(property);
            let itself = setting.source == "local" || setting.source == "received";
            let wanted = pool.inherited(name, property);
            from_above && itself && wanted.is_some_and(|wanted| !property::same(wanted, &setting.value))
        };
        settings.keys().filter(stray).cloned().collect()
    }

    fn is_unmounted(&self, name: &str, own: &Properties) -> bool {
        let value = |property: &str| {
            own.get(property).map(String::as_str).or_else(|| self.seen.value(name, property)).unwrap_or_default()
        };
        self.seen.value(name, "mounted") == Some("no")
            && value("canmount") == "on"
            && !matches!(value("mountpoint"), "none" | "legacy")
    }
}
