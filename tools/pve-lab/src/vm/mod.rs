//! Guests: their configuration on disk, one lock each, and whether they run.

pub(crate) mod clone;
pub(crate) mod cloudinit;
pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod drives;
mod hotplug;
pub(crate) mod power;
mod qemu;
pub(crate) mod qmp;
mod taps;
pub(crate) mod update;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{ApiError, Result, host};
use crate::server::NODE;

pub(crate) use config::Config;

/// How long a request waits for a guest's lock, as the real server does.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A guest as it is kept: what it runs with, and what will be at its next start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guest {
    pub(crate) config: Config,
    #[serde(default)]
    pub(crate) pending: Config,
    #[serde(default)]
    pub(crate) delete: Vec<String>,
    /// In API-only mode: since when it runs, and whether it is paused.
    #[serde(default)]
    pub(crate) power: Option<Power>,
}

/// An API-only guest's power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Power {
    pub(crate) since: u64,
    pub(crate) paused: bool,
}

impl Guest {
    /// Returns what it will be configured as when it starts next.
    pub(crate) fn effective(&self) -> Config {
        let mut config = self.config.clone();
        config.retain(|key, _| !self.delete.contains(key));
        config.extend(self.pending.clone());
        config
    }

    /// Returns whether it is a template.
    pub(crate) fn is_template(&self) -> bool {
        self.config.get("template").is_some_and(|on| on == "1")
    }

    /// Refuses while another operation has marked it as locked.
    pub(crate) fn check_lock(&self) -> Result<()> {
        match self.config.get("lock") {
            Some(lock) => Err(ApiError::failed(format!("VM is locked ({lock})"))),
            None => Ok(()),
        }
    }
}

/// All guests of a lab.
pub(crate) struct Guests {
    folder: PathBuf,
    locks: Mutex<BTreeMap<u32, Arc<Mutex<()>>>>,
}

/// A guest's lock; several threads of one request may hold the right to it, one at a time.
pub(crate) struct Lock(Arc<Mutex<()>>, u32);

impl Lock {
    /// Takes the lock, or fails after ten seconds as the real server does.
    pub(crate) fn take(&self) -> Result<MutexGuard<'_, ()>> {
        let begin = Instant::now();
        loop {
            match self.0.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(std::sync::TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(std::sync::TryLockError::WouldBlock) if begin.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(std::sync::TryLockError::WouldBlock) => {
                    let file = format!("/var/lock/qemu-server/lock-{}.conf", self.1);
                    return Err(ApiError::failed(format!("can't lock file '{file}' - got timeout")));
                }
            }
        }
    }
}

impl Guests {
    /// Opens the folder of configurations.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, locks: Mutex::default() })
    }

    /// Returns a guest's lock, whether the guest is there or not.
    pub(crate) fn lock(&self, vmid: u32) -> Lock {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Lock(Arc::clone(locks.entry(vmid).or_default()), vmid)
    }

    fn path(&self, vmid: u32) -> PathBuf {
        self.folder.join(format!("{vmid}.json"))
    }

    /// Returns whether there is such a guest.
    pub(crate) fn exists(&self, vmid: u32) -> bool {
        self.path(vmid).is_file()
    }

    /// Reads a guest.
    pub(crate) fn load(&self, vmid: u32) -> Result<Guest> {
        let path = self.path(vmid);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(host(format!("can't read {}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = format!("nodes/{NODE}/qemu-server/{vmid}.conf");
                Err(ApiError::failed(format!("Configuration file '{file}' does not exist")))
            }
            Err(error) => Err(host(format!("can't read {}", path.display()))(error)),
        }
    }

    /// Writes a guest.
    pub(crate) fn save(&self, vmid: u32, guest: &Guest) -> Result<()> {
        let path = self.path(vmid);
        let bytes = serde_json::to_vec_pretty(guest).map_err(host("can't write a guest's configuration"))?;
        store::files::write_atomic(&path, bytes, 0o600).map_err(host(format!("can't write {}", path.display())))
    }

    /// Forgets a guest.
    pub(crate) fn remove(&self, vmid: u32) -> Result<()> {
        let path = self.path(vmid);
        fs::remove_file(&path).map_err(host(format!("can't remove {}", path.display())))
    }

    /// Returns all VMIDs, in order.
    pub(crate) fn ids(&self) -> Result<Vec<u32>> {
        let entries = fs::read_dir(&self.folder).map_err(host(format!("can't read {}", self.folder.display())))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut ids: Vec<u32> = names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}
