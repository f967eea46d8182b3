//! What an inventory describes, after every check.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::Serialize;

use crate::names::{AbsolutePath, DatasetName, LogicalVolumeName, Name, PoolName, Size, Vmid};

/// One homelab. Tables keep the order in which the inventory has them; paths are absolute.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// The site's name, from `[site]`.
    pub name: Name,
    /// The folder of the inventory.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The folder that holds `pipeline.toml`, `images/` and `.hearth/`.
    #[serde(skip)]
    pub project: PathBuf,
    /// The network namespace (ip-netns(8)) in which the site's addresses live; none for a site on the real network.
    pub network_namespace: Option<String>,
    /// Snapshots before a change; none where the site does not ask for them.
    pub snapshots: Option<Snapshots>,
    /// The files and folders beside its TOML files that the site is evaluated from: stacks, public keys, user-data.
    #[serde(skip)]
    pub inputs: Vec<PathBuf>,
    /// The network that the guests are on.
    pub network: Network,
    /// The Proxmox nodes.
    pub hosts: IndexMap<Name, Host>,
    /// Logical volumes that carry pools.
    pub logical_volumes: IndexMap<LogicalVolumeName, LogicalVolume>,
    /// ZFS pools.
    pub pools: IndexMap<PoolName, Pool>,
    /// Datasets that are exported over NFS and mounted in guests.
    pub shares: IndexMap<Name, Share>,
    /// Templates that guests are cloned from.
    pub templates: IndexMap<Name, Template>,
    /// Virtual machines.
    pub guests: IndexMap<Name, Guest>,
    /// Who may read the site's secrets.
    pub secrets: Secrets,
    /// Compose projects.
    pub stacks: IndexMap<Name, Stack>,
    /// Smoke tests that the site adds to those which follow from it.
    pub checks: IndexMap<Name, Check>,
}

/// ZFS snapshots before a change (`[snapshots]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshots {
    /// How many of those that Hearth took are kept, by dataset.
    pub keep: u32,
}

/// The network that guests get their static addresses in (`[network]`).
#[derive(Clone, Debug, Serialize)]
pub struct Network {
    /// The bridge on the host, as `vmbr0`.
    pub bridge: String,
    /// The length of the network's prefix in bits, as 24.
    pub prefix: u8,
    /// The default route's gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers for the guests.
    pub nameservers: Vec<Ipv4Addr>,
    /// The domain that guests' names are in.
    pub domain: Option<String>,
}

/// A Proxmox node (`[hosts.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Its address, which also is the NFS server's address in mounts.
    pub address: Ipv4Addr,
    /// How its API is reached.
    pub api: Api,
    /// How its shell is reached.
    pub ssh: Ssh,
    /// The storage that takes disks, ISOs and images to import, as `local`.
    pub storage: String,
}

/// How a Proxmox API is reached (`[hosts.NAME.api]`).
#[derive(Clone, Debug, Serialize)]
pub struct Api {
    /// The base, as `https://192.168.1.100:8006`.
    pub url: String,
    /// The node's name in the API; the host's own name unless given.
    pub node: String,
    /// A file with the API token, one line: `user@realm!name=secret`.
    #[serde(skip)]
    pub token_file: PathBuf,
    /// A PEM file with the authority that the server's certificate must come from.
    #[serde(skip)]
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 of the server's certificate, as Proxmox shows it: `AB:CD:…`.
    pub fingerprint: Option<String>,
    /// The same from `pipeline.lock`, where `hearth trust` has put it; what the inventory says goes before it.
    #[serde(skip)]
    pub pinned: Option<String>,
}

/// How a shell is reached (`ssh` of a host or a guest).
#[derive(Clone, Debug, Serialize)]
pub struct Ssh {
    /// The user to log in as.
    pub user: String,
    /// The port.
    pub port: u16,
    /// The private key's file.
    #[serde(skip)]
    pub key_file: PathBuf,
    /// A file of pinned host keys, in OpenSSH's format.
    #[serde(skip)]
    pub known_hosts_file: PathBuf,
    /// Host keys from `pipeline.lock`, each as `KIND BASE64`: where `hearth trust` has put them, beside those of the file.
    #[serde(skip)]
    pub pinned: Vec<String>,
}

/// An LVM logical volume (`[logical_volumes."GROUP/NAME"]`).
#[derive(Clone, Debug, Serialize)]
pub struct LogicalVolume {
    /// The host it is on.
    pub host: Name,
    /// Its size.
    pub size: Size,
}

/// A ZFS pool (`[pools.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Pool {
    /// The host it is on.
    pub host: Name,
    /// What it is made of.
    pub device: PoolDevice,
    /// The sector size as a power of two (zpoolprops(7)), 9 to 16.
    pub ashift: u8,
    /// Properties of the pool's root dataset (zfsprops(7)), inherited by its datasets.
    pub properties: BTreeMap<String, String>,
    /// Its datasets, by their full names, as `tank-hdd/media`; parents come before children.
    pub datasets: IndexMap<DatasetName, Dataset>,
}

/// The one device of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolDevice {
    /// A logical volume of the same site.
    LogicalVolume(LogicalVolumeName),
    /// A disk's name below `/dev/disk/by-id`, as `ata-ST500LM000_W1234567`.
    DiskId(String),
    /// A disk's serial number, as `lsblk -o SERIAL` prints it.
    DiskSerial(String),
}

/// A ZFS file system.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Dataset {
    /// Properties set on it and not inherited (zfsprops(7)).
    pub properties: BTreeMap<String, String>,
}

/// A dataset that guests mount over NFS (`[shares.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// What is exported.
    pub dataset: DatasetName,
    /// Options of the export (exports(5)), in the inventory's order.
    pub export_options: Vec<String>,
    /// Options of the mounts (nfs(5)), in the inventory's order.
    pub mount_options: Vec<String>,
    /// The guests that mount it, and where.
    pub mounts: IndexMap<Name, AbsolutePath>,
}

/// A Proxmox template made from an image (`[templates.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Template {
    /// The host it is on.
    pub host: Name,
    /// Its number.
    pub vmid: Vmid,
    /// The image's recipe: `images/NAME.toml`.
    pub image: Name,
}

/// A virtual machine (`[guests.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Guest {
    /// The host it runs on.
    pub host: Name,
    /// Its number.
    pub vmid: Vmid,
    /// The template it is a linked clone of.
    pub template: Name,
    /// Its static address.
    pub address: Ipv4Addr,
    /// Its number of cores.
    pub cores: u32,
    /// Its memory.
    pub memory: Size,
    /// Its system disk's size.
    pub disk: Size,
    /// Whether the node starts it when it boots.
    pub onboot: bool,
    /// How its shell is reached; the user is made by cloud-init and may use sudo.
    pub ssh: Ssh,
    /// Public keys that may log in, one line each, as in `authorized_keys`.
    pub authorized_keys: Vec<String>,
    /// Files of public keys below `.hearth` that are not made yet, as the lab's before `pve-lab up`. The site can be
    /// evaluated and rendered without them; a plan for the guest must refuse, for nobody could log in.
    #[serde(skip)]
    pub pending_keys: Vec<PathBuf>,
    /// More cloud-config (YAML), merged over Hearth's own at the top level.
    #[serde(skip)]
    pub user_data: Option<PathBuf>,
    /// What is done when what cloud-init is told has changed.
    pub on_change: OnChange,
    /// Its data disks, which outlive it.
    pub disks: IndexMap<Name, DataDisk>,
    /// PCI mappings passed through, by their names in the cluster.
    pub pci: Vec<String>,
}

/// What is done to a guest when its user-data has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// cloud-init runs again in the running guest.
    Reapply,
    /// The guest reboots, and cloud-init runs again as it boots.
    #[default]
    Restart,
    /// The guest is deleted and made anew; its data disks stay.
    Recreate,
}

/// A disk that outlives its guest (`[guests.NAME.disks.DISK]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataDisk {
    /// The number that owns the volume: a VM that never runs.
    pub vmid: Vmid,
    /// Its size.
    pub size: Size,
    /// Where the guest mounts it; without one no file system is made either.
    pub mount: Option<AbsolutePath>,
}

/// A compose project (`[stacks.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Stack {
    /// The guest it runs on.
    pub guest: Name,
    /// The folder with `compose.yaml` and every file that it mounts; all of it is deployed.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Shares that must be mounted before it starts.
    pub shares: Vec<Name>,
    /// Image recipes by compose service.
    pub images: BTreeMap<String, Name>,
    /// Stacks that must be healthy first, all on the same guest.
    pub needs: Vec<Name>,
    /// The secrets that its services read, by the name that they see them by: `/run/secrets/NAME`.
    pub secrets: IndexMap<Name, StackSecret>,
    /// How long its containers may take to get healthy, in seconds.
    pub deadline: u64,
}

/// A secret that a stack uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StackSecret {
    /// The site's secret.
    pub secret: Name,
    /// The user that may read it in the container; the file's mode is 0600.
    pub uid: u32,
}

/// Who may read the site's secrets (`[secrets]`).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Secrets {
    /// Public keys that secrets are encrypted to: `age1…` or `ssh-ed25519 AAAA…`.
    pub recipients: Vec<String>,
    /// Files of identities that open them, beside those of the environment; they need not be there.
    #[serde(skip)]
    pub identity_files: Vec<PathBuf>,
}

impl Site {
    /// Returns the folder of the encrypted secrets.
    pub fn secrets_folder(&self) -> PathBuf {
        self.folder.join("secrets")
    }

    /// Returns the place of an encrypted secret, whether it is there or not.
    pub fn secret_file(&self, name: &Name) -> PathBuf {
        self.secrets_folder().join(format!("{name}.age"))
    }
}

/// A smoke test that the site adds (`[checks.NAME]`).
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Where it runs: a host or guest; none for this machine.
    pub from: Option<Name>,
    /// What is tried.
    pub probe: Probe,
    /// How long it may take, in seconds.
    pub timeout: u64,
    /// For how long it is tried again after a failure, in seconds.
    pub retry: u64,
}

/// What a check tries.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// An HTTP request must be answered.
    Http {
        /// The address, as `http://192.168.1.101/`.
        url: String,
        /// The `Host` header, where it is not the URL's.
        host: Option<String>,
        /// The wanted status.
        status: u16,
        /// A text that the body must hold.
        contains: Option<String>,
    },
    /// A TCP connection must be accepted.
    Tcp {
        /// `ADDRESS:PORT`.
        address: String,
    },
    /// A shell command must end with 0.
    Command {
        /// The command, given to `sh -c`.
        command: String,
        /// A text that its output must hold.
        contains: Option<String>,
    },
    /// A shell command must fail: what it tries is denied.
    Denied {
        /// The command, given to `sh -c`.
        command: String,
        /// A text that its output must hold, so that it fails for the right reason.
        contains: String,
    },
}
