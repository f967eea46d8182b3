//! The questions to hosts and guests, all read-only.

use remote::{Probe, quote};
use site::Name;

use crate::desired::Mount;
use crate::unit::{RETRY, UNITS, server_file};

/// Prints `== SIZE PATH`, then the file's bytes, for each of these that is there.
const SHOW: &str = "show() { for f in \"$@\"; do if [ -f \"$f\" ]; then \
    printf '== %s %s\\n' \"$(stat -Lc %s -- \"$f\")\" \"$f\"; cat -- \"$f\"; fi; done; }\n";

const STATE: &str = "systemctl show -p Id,ActiveState,UnitFileState,NeedDaemonReload,FragmentPath --";

/// Returns the questions to a host. One that shall export nothing need not have an NFS server.
pub(crate) fn server(host: &Name, site: &Name, exports: bool) -> Vec<Probe> {
    let probe = |id: &str, script: String| Probe { host: host.clone(), id: id.to_owned(), script };
    let addition = quote(&server_file(site));
    vec![
        probe("server-files", format!("{SHOW}show /etc/exports /etc/exports.d/*.exports {addition}")),
        probe("exportfs", if exports { "exportfs -s".into() } else { String::new() }),
        probe("nfs-server", if exports { format!("{STATE} nfs-server.service") } else { String::new() }),
    ]
}

/// Returns the questions to a guest.
pub(crate) fn client(guest: &Name, mounts: &[Mount]) -> Vec<Probe> {
    let probe = |id: &str, script: String| Probe { host: guest.clone(), id: id.to_owned(), script };
    let units: String = mounts.iter().map(|mount| " ".to_owned() + &quote(&mount.unit)).collect();
    let targets: String = mounts.iter().map(|mount| " ".to_owned() + &quote(&mount.target)).collect();
    // A folder whose server is away would be waited for without end; that it is away is no drift of this machine.
    let stale = format!(
        "for f in{targets}; do case $(LC_ALL=C timeout -k 1 5 stat -- \"$f\" 2>&1) in \
         *'Stale file handle'*) printf '%s\\n' \"$f\" ;; esac; done"
    );
    let states = if units.is_empty() { String::new() } else { format!("{STATE}{units}") };
    vec![
        probe("unit-files", format!("{SHOW}show {UNITS}/*.mount {UNITS}/{RETRY}")),
        probe("units", states),
        probe("mounts", "findmnt -J -l -o TARGET,SOURCE,OPTIONS".into()),
        probe("stale", if targets.is_empty() { String::new() } else { stale }),
        probe("fstab", "if [ -f /etc/fstab ]; then cat /etc/fstab; fi".into()),
    ]
}
