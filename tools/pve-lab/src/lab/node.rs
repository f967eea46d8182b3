//! The node guest: a Debian with OpenZFS, LVM and an NFS server that plays the Proxmox host for SSH.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use remote::local::Command;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use store::files::write_atomic;

use super::accel::Accel;
use super::{Error, file, net, not_up};
use crate::layout::Layout;
use crate::process;
use crate::server::NODE;
use crate::vm::qmp::Qmp;

/// The node guest's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 100);
const MAC: &str = "BC:24:11:00:01:00";
const TAP: &str = "tapnode";
/// Both data disks: names, which are their serial numbers, and size.
const DISKS: [&str; 2] = ["HEARTH-SSD", "HEARTH-HDD"];
const DISK_SIZE: u64 = 4 << 30;
/// The first data disk as the guest sees it; the installer of Proxmox puts `pve` on its own disk, the lab on this one.
const VG_DISK: &str = "/dev/disk/by-id/virtio-HEARTH-SSD";
/// An emulated guest needs a minute to let somebody in, and many on a busy machine.
const BOOT: Duration = Duration::from_secs(900);
/// How long a guest may take to shut down before it is ended.
const SHUTDOWN: Duration = Duration::from_secs(150);

/// The node guest of one lab.
pub(super) struct Node<'a> {
    layout: &'a Layout,
    namespace: &'a str,
}

impl<'a> Node<'a> {
    pub(super) fn new(layout: &'a Layout, namespace: &'a str) -> Self {
        Self { layout, namespace }
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        process::of_pid_file(&self.layout.run("node.pid"))
    }

    fn host_key(&self) -> PathBuf {
        self.layout.state("node_ed25519")
    }

    /// Makes keys, disks and the seed where they are missing, and returns the image that the system disk lies on.
    pub(super) fn prepare(&self, image: Option<&Path>) -> Result<PathBuf, Error> {
        for key in [self.layout.ssh_key(), self.host_key()] {
            if !key.exists() {
                let comment = ["-q", "-t", "ed25519", "-N", "", "-C", "hearth-lab", "-f"];
                Command::new("ssh-keygen").args(comment).arg(&key).run()?;
            }
        }
        let public = self.read(&self.host_key().with_extension("pub"))?;
        let known = pinned(
            &fs::read_to_string(self.layout.known_hosts()).unwrap_or_default(),
            &format!("{ADDRESS},{NODE} {}", words(&public, 2)),
        );
        write_atomic(&self.layout.known_hosts(), known, 0o644).map_err(file("write known_hosts"))?;
        let base = self.system_disk(image)?;
        for name in DISKS {
            let path = self.layout.disk(&format!("{name}.raw"));
            if !path.exists() {
                let disk = fs::File::create_new(&path).map_err(file(format!("make {}", path.display())))?;
                disk.set_len(DISK_SIZE).map_err(file(format!("size {}", path.display())))?;
            }
        }
        let seed = self.layout.run("node-seed.iso");
        write_atomic(&seed, self.seed()?, 0o600).map_err(file(format!("write {}", seed.display())))?;
        Ok(base)
    }

    fn read(&self, path: &Path) -> Result<String, Error> {
        fs::read_to_string(path).map_err(file(format!("read {}", path.display())))
    }

    /// Lays the system disk over the image; the image itself is never written to.
    fn system_disk(&self, image: Option<&Path>) -> Result<PathBuf, Error> {
        let (disk, note) = (self.layout.disk("node.qcow2"), self.layout.state("node-image"));
        if disk.exists() {
            let base = PathBuf::from(self.read(&note)?.trim());
            let wanted = image.map(fs::canonicalize).transpose().map_err(file("find the node's image"))?;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != base) {
                let text = format!(
                    "the lab's node was made from {}, not from {}; `pve-lab down --wipe` removes it, with its disks",
                    base.display(),
                    wanted.display()
                );
                return Err(Error::State(text));
            }
            return Ok(base);
        }
        let hint = "the first `up` needs the node's image: --image-node FILE";
        let image = image.ok_or_else(|| Error::State(hint.into()))?;
        let image = fs::canonicalize(image).map_err(file(format!("find the node's image {}", image.display())))?;
        let folder = self.layout.disk("");
        fs::create_dir_all(&folder).map_err(file(format!("make {}", folder.display())))?;
        write_atomic(&note, format!("{}\n", image.display()), 0o644).map_err(file("note the node's image"))?;
        let create = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
        create.arg(&image).arg(&disk).run()?;
        Ok(image)
    }

    /// Makes the NoCloud seed: the lab's key lets root in, and the host key is the one that is pinned.
    fn seed(&self) -> Result<Vec<u8>, Error> {
        let authorized = self.read(&self.layout.ssh_key().with_extension("pub"))?;
        let (private, public) = (self.read(&self.host_key())?, self.read(&self.host_key().with_extension("pub"))?);
        let private = private.trim().replace('\n', "\n    ");
        let user = format!(
            "#cloud-config\nhostname: {NODE}\nfqdn: {NODE}\nmanage_etc_hosts: true\ndisable_root: false\n\
             ssh_pwauth: false\nssh_deletekeys: true\nssh_genkeytypes: []\nssh_keys:\n  ed25519_private: |\n    \
             {private}\n  ed25519_public: {public}\nusers:\n  - name: root\n    lock_passwd: true\n    \
             ssh_authorized_keys:\n      - {}\n",
            authorized.trim(),
            public = public.trim()
        );
        let network = format!(
            "version: 2\nethernets:\n  lan:\n    match:\n      macaddress: '{}'\n    addresses: [{ADDRESS}/24]\n    \
             routes:\n      - to: default\n        via: {}\n    link-local: []\n",
            MAC.to_lowercase(),
            net::GATEWAY
        );
        let meta = format!("instance-id: hearth-lab-{NODE}\nlocal-hostname: {NODE}\n");
        let files = [("user-data", user), ("meta-data", meta), ("network-config", network)];
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        Ok(image::iso9660::write("cidata", &files))
    }

    /// Starts the guest, which goes on by itself.
    pub(super) fn start(&self, accel: Accel) -> Result<(), Error> {
        net::tap(self.namespace, TAP)?;
        let text = |path: PathBuf| path.display().to_string().replace(',', ",,");
        let serial = self.layout.run("node.serial.log");
        write_atomic(&serial, "", 0o644).map_err(file(format!("write {}", serial.display())))?;
        let mut command = Command::new("ip").args(["netns", "exec", self.namespace, "qemu-system-x86_64"]);
        command = command.args(["-name", "node,process=lab-node", "-nodefaults", "-no-user-config", "-machine", "q35"]);
        command = command.args(accel.args()).args(["-smp", "1", "-m", "2048M", "-display", "none", "-daemonize"]);
        command = command.arg("-pidfile").arg(self.layout.run("node.pid"));
        let qmp = format!("socket,id=qmp,path={},server=on,wait=off", text(self.layout.run("node.qmp")));
        command = command.args(["-chardev", &qmp, "-mon", "chardev=qmp,mode=control"]);
        command = command.args(["-serial", &format!("file:{}", serial.display()), "-device", "virtio-rng-pci"]);
        let tap = format!("tap,id=lan,ifname={TAP},script=no,downscript=no");
        command = command.args(["-netdev", &tap, "-device", &format!("virtio-net-pci,netdev=lan,mac={MAC}")]);
        let system = text(self.layout.disk("node.qcow2"));
        let seed = text(self.layout.run("node-seed.iso"));
        // A flush that ends in the host's cache survives the end of QEMU; the lab's disks need no more.
        // Named first in the boot order: by itself the firmware would try the disks in the order of their slots.
        command = command.args(["-drive", &format!("if=none,id=system,format=qcow2,cache=unsafe,file={system}")]);
        command = command.args(["-device", "virtio-blk-pci,drive=system,bootindex=0"]);
        command = command.args(["-drive", &format!("if=none,id=seed,format=raw,readonly=on,file={seed}")]);
        command = command.args(["-device", "virtio-blk-pci,drive=seed"]);
        for name in DISKS {
            let path = text(self.layout.disk(&format!("{name}.raw")));
            let drive = format!("if=none,id={name},format=raw,cache=unsafe,discard=unmap,file={path}");
            let device = format!("virtio-blk-pci,drive={name},serial={name}");
            command = command.args(["-drive", &drive, "-device", &device]);
        }
        Ok(command.run().map(drop)?)
    }

    fn ssh(&self, script: &str) -> Command {
        let mut command = Command::new("ip").args(["netns", "exec", self.namespace, "ssh", "-F", "none", "-i"]);
        command = command.arg(self.layout.ssh_key());
        let known = format!("UserKnownHostsFile={}", self.layout.known_hosts().display());
        for option in ["BatchMode=yes", "ConnectTimeout=5", "StrictHostKeyChecking=yes", &known] {
            command = command.args(["-o", option]);
        }
        command.arg(format!("root@{ADDRESS}")).arg(script)
    }

    /// Waits until root can log in and cloud-init is done (it restarts sshd on its way), then makes the volume group
    /// `pve` on the first data disk unless it is there, as Proxmox's installer does on its own.
    pub(super) fn wait(&self) -> Result<(), Error> {
        let script = format!(
            "n=0; while [ ! -e /run/cloud-init/result.json ] && [ $n -lt 300 ]; do sleep 1; n=$((n+1)); done; \
             vgs pve >/dev/null 2>&1 || {{ pvcreate -q {VG_DISK} && vgcreate -q pve {VG_DISK}; }}"
        );
        let begin = Instant::now();
        let log = || self.layout.run("node.serial.log");
        loop {
            if self.pid().is_none() {
                return Err(not_up("the node guest has ended", log()));
            }
            let failed = match self.ssh(&script).deadline(BOOT).output()?.success() {
                Ok(_) => return Ok(()),
                Err(failed) => failed,
            };
            // ssh's own failures are 255: nobody listens yet. Any other is the script's, and final.
            let unreachable = matches!(failed, remote::local::Error::Status { status: 255, .. });
            if !unreachable || begin.elapsed() > BOOT {
                let what = format!("the node guest is not ready after {} s: {failed}", begin.elapsed().as_secs());
                return Err(not_up(what, log()));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn words(text: &str, count: usize) -> String {
    text.split_whitespace().take(count).collect::<Vec<_>>().join(" ")
}

/// Puts the node's line first and keeps the others: they pin the keys of the lab's guests, which outlive an `up`.
fn pinned(text: &str, line: &str) -> String {
    let own = format!("{ADDRESS},{NODE} ");
    let others = text.lines().filter(|other| !other.starts_with(&own)).map(|other| format!("{other}\n"));
    format!("{line}\n{}", others.collect::<String>())
}

/// Ends guests by the names of their pid files, all at once: by the power button, or right away. One that does not hear
/// the button in time is ended as well.
pub(super) fn end(layout: &Layout, names: impl IntoIterator<Item = String>, now: bool) -> Result<(), Error> {
    let names: Vec<String> = names.into_iter().collect();
    let pid = |name: &String| process::of_pid_file(&layout.run(&format!("{name}.pid")));
    let tell = |name: &String, command: &str| {
        // Whoever does not hear it is ended by a signal below.
        let qmp = Qmp::connect(&layout.run(&format!("{name}.qmp")));
        let _ = qmp.and_then(|mut qmp| qmp.last(command, &Value::Null));
    };
    names.iter().for_each(|name| tell(name, if now { "quit" } else { "system_powerdown" }));
    let begin = Instant::now();
    let (patience, mut hard) = (if now { Duration::from_secs(5) } else { SHUTDOWN }, now);
    while names.iter().any(|name| pid(name).is_some()) {
        if begin.elapsed() > patience + Duration::from_secs(10) {
            return Err(Error::State(format!("guests that do not end: {}", names.join(", "))));
        }
        if begin.elapsed() > patience {
            for pid in names.iter().filter_map(pid) {
                let signal = if hard { Signal::KILL } else { Signal::TERM };
                kill_process(pid, signal).map_err(|error| file(format!("stop process {pid}"))(error.into()))?;
            }
            hard = true;
            std::thread::sleep(Duration::from_secs(2));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_of_guests_outlive_an_up() {
        let first = pinned("", "192.168.1.100,pve1 ssh-ed25519 AAA");
        assert_eq!(first, "192.168.1.100,pve1 ssh-ed25519 AAA\n");
        let text = format!("{first}192.168.1.101 ssh-ed25519 BBB\n");
        let again = pinned(&text, "192.168.1.100,pve1 ssh-ed25519 CCC");
        assert_eq!(again, "192.168.1.100,pve1 ssh-ed25519 CCC\n192.168.1.101 ssh-ed25519 BBB\n");
    }
}
