//! The files that are put on hosts and guests, as text.

use site::Name;

use crate::desired::{Export, Mount};

/// The unit that starts a failed mount again, by the mount's unit.
pub(crate) const RETRY: &str = "hearth-mount-retry@.service";
/// Where units are put.
pub(crate) const UNITS: &str = "/etc/systemd/system";

/// Returns a unit's name for a path, as `systemd-escape --path --suffix` does (systemd.unit(5), STRING ESCAPING).
pub(crate) fn name(path: &str, suffix: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return format!("-.{suffix}");
    }
    let mut escaped = String::new();
    for (index, byte) in parts.join("/").bytes().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if index == 0 => escaped += r"\x2e",
            b':' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => escaped.push(char::from(byte)),
            other => escaped += &format!("\\x{other:02x}"),
        }
    }
    format!("{escaped}.{suffix}")
}

/// Returns the first line of every file of a site, by which its files are known.
pub(crate) fn header(site: &Name) -> String {
    format!("# Made by Hearth for site {site}; changes are undone by the next run.\n")
}

/// Returns where a site's exports are.
pub(crate) fn exports_file(site: &Name) -> String {
    format!("/etc/exports.d/hearth-{site}.exports")
}

/// Returns where a site's addition to the NFS server's unit is.
pub(crate) fn server_file(site: &Name) -> String {
    format!("{UNITS}/nfs-server.service.d/hearth-{site}.conf")
}

/// Writes a site's exports file for one host.
pub(crate) fn exports(site: &Name, exports: &[Export]) -> String {
    let lines: String = exports.iter().map(|export| export.line() + "\n").collect();
    header(site) + &lines
}

/// Writes the addition to the NFS server's unit.
///
/// ZFS mounts its datasets from `zfs-mount.service`, without mount units of their own, so `RequiresMountsFor=` finds
/// nothing to wait for. Where a pool did not come up, the server would export the empty folder below its mount point,
/// and a database would begin anew in it: then the server must not start.
pub(crate) fn server(site: &Name, exports: &[Export]) -> String {
    let mut paths: Vec<&str> = exports.iter().map(|export| export.path.as_str()).collect();
    paths.dedup();
    let asserts: String = paths.iter().map(|path| format!("AssertPathIsMountPoint={}\n", percent(path))).collect();
    format!(
        "{}# Where a dataset is not mounted, the empty folder in its place would be exported.\n\
         [Unit]\nAfter=zfs-mount.service\n{asserts}",
        header(site)
    )
}

/// Writes a mount's unit.
///
/// A guest may boot before its server. Everything that a login needs is ordered after `remote-fs.target`, and systemd
/// orders NFS mounts before that: so the default dependencies are off, those that matter are written out, and a mount
/// that fails keeps nobody waiting but those who require it. It is tried again by [`retry`], which starts nothing as long
/// as all is well.
pub(crate) fn mount(site: &Name, mount: &Mount) -> String {
    let Mount { share, source, target, options, unit: _, stacks: _ } = mount;
    format!(
        "{}[Unit]\n\
         Description=Share {share}\n\
         # Not before remote-fs.target, which logins wait for: the server may come up later than this machine.\n\
         DefaultDependencies=no\n\
         Wants=network-online.target\n\
         After=network.target network-online.target remote-fs-pre.target\n\
         Conflicts=umount.target\n\
         Before=umount.target\n\
         StartLimitIntervalSec=0\n\
         OnFailure=hearth-mount-retry@%n.service\n\
         \n\
         [Mount]\n\
         What={}\n\
         Where={}\n\
         Type=nfs\n\
         Options={}\n\
         TimeoutSec=60\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        header(site),
        percent(source),
        percent(target),
        percent(&options.join(",")),
    )
}

/// Writes the unit that starts a failed mount again after a while. A mount unit can't restart itself.
pub(crate) fn retry(site: &Name) -> String {
    format!(
        "{}[Unit]\n\
         Description=Another try of %i\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStartPre=/bin/sleep 15\n\
         ExecStart=/bin/systemctl --no-block start %i\n",
        header(site)
    )
}

/// Doubles what a unit file would take for the beginning of a specifier.
fn percent(text: &str) -> String {
    text.replace('%', "%%")
}

/// Writes one guest's mounts as lines of fstab(5), in columns that are as wide as all guests' together.
pub(crate) fn fstab(mounts: &[Mount], all: &[&Mount]) -> String {
    let source = all.iter().map(|mount| mount.source.len()).max().unwrap_or_default();
    let target = all.iter().map(|mount| mount.target.len()).max().unwrap_or_default();
    let line = |mount: &Mount| {
        let options = mount.options.join(",");
        format!("{:source$} {:target$} nfs  {options}  0  0\n", mount.source, mount.target)
    };
    mounts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_escaped_as_systemd_does() {
        for (path, unit) in [
            ("/mnt/appdata", "mnt-appdata.mount"),
            ("/mnt/my-data", r"mnt-my\x2ddata.mount"),
            ("/mnt//a/", "mnt-a.mount"),
            ("/", "-.mount"),
            ("/.cache/x", r"\x2ecache-x.mount"),
            ("/srv/.x", "srv-.x.mount"),
            ("/mnt/é_1:2", r"mnt-\xc3\xa9_1:2.mount"),
        ] {
            assert_eq!(name(path, "mount"), unit);
        }
    }
}
