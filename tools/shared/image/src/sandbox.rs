//! Runs build steps in a root of their own: own mounts, own processes, no network, cleared environment.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use remote::Command;
use store::files;

use crate::recipe::FileEntry;
use crate::tools::need;
use crate::{Error, Result, toolroot};

/// What a step sees: the tools' root, in it the root that is built at `/target`, and the work folder at `/mnt`, which is
/// there in every Debian, and empty. Nothing of the machine's devices, hardware, kernel modules and start-up.
const MOUNTS: &str = r#"
umask 022
mount --make-rprivate /
mount --bind "$TOOLS" "$TOOLS"
[ -z "$OVERLAY" ] || mount -t overlay -o "$OVERLAY" overlay "$ROOT"
# A second view of the root, without what is mounted below: what a file system is made from.
mount --bind "$ROOT" "$WORK/bare"
mount --bind /dev "$WORK/dev"
: >"$WORK/nothing"
for root in "$TOOLS" "$ROOT"; do
    mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/mnt"
    mount -t proc proc "$root/proc"
    for fact in cmdline cpuinfo modules version; do
        [ ! -e "$root/proc/$fact" ] || mount --bind "$WORK/nothing" "$root/proc/$fact"
    done
    mount -t tmpfs -o ro tmpfs "$root/sys"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for node in null zero full random urandom tty; do
        : >"$root/dev/$node"
        mount --bind "$WORK/dev/$node" "$root/dev/$node"
    done
    mkdir "$root/dev/shm" "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s /proc/self/fd/0 "$root/dev/stdin"
    ln -s /proc/self/fd/1 "$root/dev/stdout"
    ln -s /proc/self/fd/2 "$root/dev/stderr"
done
umount -l "$WORK/dev"
for root in "$TOOLS" "$ROOT"; do
    mount --rbind "$WORK" "$root/mnt"
done
mount --rbind "$ROOT" "$TOOLS/target"
mount -o remount,bind,ro "$TOOLS"
hostname localhost
exec chroot "$TOOLS" /bin/bash -euxo pipefail /mnt/step.sh
"#;

/// Brings the essential packages up in an empty folder. dpkg itself is among them, so they are unpacked as plain
/// archives first, below the mounts, and then installed properly by the dpkg inside.
const BOOTSTRAP: &str = r#"
for deb in /mnt/bootstrap/base-files_*.deb /mnt/bootstrap/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C /mnt/bare --keep-directory-symlink --numeric-owner -p
done
mkdir -p "$ROOT/var/lib/dpkg"
: >>"$ROOT/var/lib/dpkg/status"
: >>"$ROOT/var/lib/dpkg/available"
chroot "$ROOT" sh -c "exec dpkg --install --force-depends --force-unsafe-io --force-confold --force-confdef $EXCLUDES /mnt/bootstrap/*.deb"
"#;

/// Installs packages with the tools' apt, which finds the order, and the root's own dpkg. Services stay off.
const PACKAGES: &str = r#"
printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d"
chmod 755 "$ROOT/usr/sbin/policy-rc.d"
mkdir -p "$ROOT/etc/apt/apt.conf.d" "$ROOT/etc/apt/preferences.d" "$ROOT/var/lib/apt/lists/partial" \
    "$ROOT/var/cache/apt/archives/partial" "$ROOT/var/log/apt"
cat >/mnt/apt.conf <<END
Dir "$ROOT/";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "/dev/null";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::State::status "$ROOT/var/lib/dpkg/status";
DPkg::Chroot-Directory "$ROOT";
DPkg::Options { "--force-unsafe-io"; "--force-confold"; "--force-confdef"; };
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
Dpkg::Use-Pty "false";
END
for exclude in $EXCLUDES; do
    echo "DPkg::Options:: \"$exclude\";" >>/mnt/apt.conf
done
APT_CONFIG=/mnt/apt.conf apt-get install --allow-downgrades --no-remove "$ROOT"/mnt/packages/*.deb
rm -f "$ROOT/usr/sbin/policy-rc.d"
"#;

/// What no image needs, and what differs between two builds of the same.
const CLEAN: &str = r#"
cd "$ROOT"
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/lib/dpkg/*-old var/cache/ldconfig/* \
    var/cache/man/* var/lib/dpkg/available var/lib/apt/extended_states var/lib/systemd/random-seed \
    var/lib/dbus/machine-id etc/.pwd.lock var/lib/dkms/mok.* usr/share/info/dir.old
find var/log -type f -delete
[ ! -d var/lib/dkms ] || find var/lib/dkms -path '*/log/*' -type f -delete
rm -f etc/ssh/ssh_host_*_key etc/ssh/ssh_host_*_key.pub etc/passwd- etc/group- etc/shadow- etc/gshadow- \
    etc/subuid- etc/subgid-
[ ! -e etc/machine-id ] || : >etc/machine-id
find usr/share/doc -mindepth 2 ! -type d ! -name copyright -delete
find usr/share/doc -mindepth 1 -type d -empty -delete
for gone in man info locale lintian doc-base; do
    [ ! -d "usr/share/$gone" ] || find "usr/share/$gone" -mindepth 1 ! -name locale.alias -delete 2>/dev/null || :
done
"#;

/// Files of packages that are never unpacked. Copyright notices stay.
const EXCLUDES: &[&str] = &[
    "--path-exclude=/usr/share/doc/*",
    "--path-include=/usr/share/doc/*/copyright",
    "--path-exclude=/usr/share/man/*",
    "--path-exclude=/usr/share/info/*",
    "--path-exclude=/usr/share/locale/*",
    "--path-include=/usr/share/locale/locale.alias",
    "--path-exclude=/usr/share/lintian/*",
];

/// A library that shows programs another clock than the machine's.
#[derive(Clone, Debug)]
pub(crate) struct OtherClock {
    /// The file.
    pub library: PathBuf,
    /// What it is told.
    pub shift: String,
}

/// A root being built, and the folder beside it that only the build sees.
pub(crate) struct Sandbox<'a> {
    /// The image's name, for messages.
    pub image: &'a str,
    /// The root of the programs that build.
    pub tools: PathBuf,
    /// The root.
    pub root: PathBuf,
    /// The folder that the steps see as `/mnt`.
    pub work: PathBuf,
    /// Options of an overlay to mount on the root, for a layer on others.
    pub overlay: Option<String>,
    /// The time that every step sees in `SOURCE_DATE_EPOCH`.
    pub epoch: u64,
    /// Where all that the steps print goes.
    pub log: PathBuf,
    /// Another clock for the steps, in tests.
    pub clock: Option<OtherClock>,
}

impl Sandbox<'_> {
    /// Makes the folders and checks for the programs that put a step into its root.
    pub(crate) fn prepare(&self) -> Result<()> {
        for (program, package) in [("unshare", "util-linux"), ("setpriv", "util-linux"), ("chroot", "coreutils")] {
            need(program, package)?;
        }
        for folder in [&self.root, &self.work] {
            make_open(folder)?;
        }
        for folder in [self.work.join("dev"), self.work.join("bare")] {
            fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
        }
        Ok(())
    }

    /// Puts packages where a step finds them: `kind` is `bootstrap` or `packages`.
    pub(crate) fn offer<'p>(&self, kind: &str, debs: impl IntoIterator<Item = (&'p String, PathBuf)>) -> Result<()> {
        toolroot::offer(&self.work.join(kind), debs)
    }

    /// Brings up the essential packages from the work folder's `bootstrap`.
    pub(crate) fn bootstrap(&self) -> Result<()> {
        self.step("installing the essential packages", BOOTSTRAP)
    }

    /// Installs what is in the work folder's `packages`.
    pub(crate) fn install(&self) -> Result<()> {
        self.step("installing the packages", PACKAGES)
    }

    /// Writes the recipe's files. It is done inside, so that links on the way are the root's own.
    pub(crate) fn files(&self, entries: &BTreeMap<String, FileEntry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut script = String::new();
        for (number, (path, entry)) in entries.iter().enumerate() {
            let from = self.work.join(format!("files/{number}"));
            files::write_atomic(&from, &entry.text, 0o600).map_err(Error::io("write", &from))?;
            script += &install_line(number, path, entry.mode.0);
        }
        let path = self.work.join("files.sh");
        files::write_atomic(&path, script, 0o700).map_err(Error::io("write", &path))?;
        self.step("writing the recipe's files", "chroot \"$ROOT\" sh -eu /mnt/files.sh\n")
    }

    /// Runs the recipe's shell lines inside.
    pub(crate) fn setup(&self, lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.work.join("setup.sh");
        files::write_atomic(&path, lines.join("\n") + "\n", 0o755).map_err(Error::io("write", &path))?;
        self.step("the recipe's setup", "chroot \"$ROOT\" sh -eux /mnt/setup.sh\n")
    }

    /// Removes caches, logs, keys and documentation.
    pub(crate) fn clean(&self) -> Result<()> {
        self.step("cleaning up", CLEAN)
    }

    /// Writes the script that makes the mounts. Its variables are plain assignments: in the environment they would reach
    /// the packages' own scripts, and mkinitramfs for one takes `ROOT` for the root file system of the finished machine.
    fn mounts(&self) -> String {
        let paths = [("TOOLS", &self.tools), ("ROOT", &self.root), ("WORK", &self.work)];
        let paths: String = paths.map(|(name, path)| assign(name, &path.to_string_lossy())).concat();
        format!("set -eu\n{paths}{}{MOUNTS}", assign("OVERLAY", self.overlay.as_deref().unwrap_or("")))
    }

    /// Puts the clock's library where all steps see it, and returns the lines that switch it on.
    fn put_clock(&self, clock: &OtherClock) -> Result<String> {
        let to = self.work.join("clock.so");
        fs::copy(&clock.library, &to).map_err(Error::io("copy", &clock.library))?;
        let shift = assign("FAKETIME", &clock.shift);
        Ok(format!("{shift}LD_PRELOAD=/mnt/clock.so\nNO_FAKE_STAT=1\nexport FAKETIME LD_PRELOAD NO_FAKE_STAT\n"))
    }

    /// Runs a shell script in the tools' root, with the root that is built at `$ROOT` and the work folder at `/mnt`.
    pub(crate) fn step(&self, what: &str, script: &str) -> Result<()> {
        let clock = self.clock.as_ref().map(|clock| self.put_clock(clock)).transpose()?.unwrap_or_default();
        let script =
            format!("{}{}{clock}{script}", assign("ROOT", toolroot::TARGET), assign("EXCLUDES", &EXCLUDES.join(" ")));
        let path = self.work.join("step.sh");
        files::write_atomic(&path, script, 0o700).map_err(Error::io("write", &path))?;
        let path = self.work.join("mounts.sh");
        files::write_atomic(&path, self.mounts(), 0o700).map_err(Error::io("write", &path))?;
        // The death signal and --kill-child end all of it when this program is killed in the middle.
        Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "--clear-groups",
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
            ])
            .args(["--kill-child", "/bin/sh"])
            .arg(&path)
            .clear_env()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/root")
            .env("TZ", "UTC")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("DEBCONF_NONINTERACTIVE_SEEN", "true")
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("PYTHONHASHSEED", "0")
            .env("PERL_HASH_SEED", "0")
            .folder("/")
            .deadline(Duration::from_secs(7200))
            .log(&self.log)
            .run()
            .map(drop)
            .map_err(|error| Error::Step {
                image: self.image.to_owned(),
                step: what.to_owned(),
                log: self.log.clone(),
                source: Box::new(error),
            })
    }
}

/// Makes a folder that all may enter, whatever the umask.
pub(crate) fn make_open(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(Error::io("open up", folder))
}

/// Writes an assignment of the shell.
fn assign(name: &str, value: &str) -> String {
    format!("{name}='{}'\n", value.replace('\'', "'\\''"))
}

fn install_line(number: usize, path: &str, mode: u32) -> String {
    format!("install -D -m {mode:04o} /mnt/files/{number} '{}'\n", path.replace('\'', "'\\''"))
}

/// Sets every time later than the epoch back to it, so that two builds agree.
pub(crate) fn clamp_times(root: &Path, epoch: u64) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let mut folders = vec![root.to_owned()];
    let mut seen = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            if metadata.mtime() >= epoch || metadata.mtime_nsec() != 0 {
                seen.push((path, metadata.mtime().min(epoch)));
            }
        }
    }
    seen.push((root.to_owned(), epoch));
    for (path, seconds) in seen {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| Error::io("set the time of", &path)(error.into()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_s_own_paths_are_no_part_of_the_environment() {
        let sandbox = Sandbox {
            image: "x",
            tools: "/scratch/tools".into(),
            root: "/scratch/it's/root".into(),
            work: "/scratch/work".into(),
            overlay: None,
            epoch: 0,
            log: "/log".into(),
            clock: None,
        };
        let assignments = sandbox.mounts().split("umask 022").next().unwrap().to_owned();
        let print = format!("{assignments}printf '%s %s' \"$ROOT\" \"$OVERLAY\"; env");
        let printed = Command::new("/bin/sh").args(["-euc", &print]).clear_env().run().unwrap().text();
        assert!(printed.starts_with("/scratch/it's/root "), "{printed}");
        assert!(!printed.contains("ROOT=") && !printed.contains("WORK="), "{printed}");
    }

    #[test]
    fn a_path_with_blanks_and_quotes_stays_one_word() {
        assert_eq!(install_line(0, "/etc/a b's", 0o600), "install -D -m 0600 /mnt/files/0 '/etc/a b'\\''s'\n");
    }

    #[test]
    fn times_after_the_epoch_are_set_back_and_older_ones_stay() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        files::write_atomic(&path, "", 0o644).unwrap();
        clamp_times(folder.path(), 1_000_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 1_000_000);
        clamp_times(folder.path(), 2_000_000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 1_000_000);
    }
}
