//! How a pool that was begun and not finished is known again.
//!
//! `zpool create` first puts a partition table on the disk and then waits for the partitions. Where it gives up, or is
//! killed there, a disk with a table and no pool is left, and a disk that holds anything is refused. So a note is put on
//! the host while the disk is still blank, and taken away when the pool is there. A later run that finds the note, the
//! very same disk, and nothing on it but what `zpool create` writes before its first label, may take that away again.

use remote::quote;

/// Where the notes are, one for each pool.
const FOLDER: &str = "/var/lib/hearth/zpool-create";

/// What the probe prints, as if it were a signature, for a disk that only an unfinished try has written to.
pub(crate) const LEFTOVER: &str = "hearth_leftover";

/// A shell function: `note SITE POOL DEVICE` prints what a note says of the disk as it is now.
const NOTE: &str = "note() { printf '%s %s %s %s\\n' \"$1\" \"$2\" \"$(lsblk -dnro SERIAL \"$3\")\" \"$(blockdev --getsize64 \"$3\")\"; }\n";

/// A shell function: `leftover SITE POOL DEVICE` succeeds where the note is there and true, the disk has a serial number
/// and just a partition table with no more than the two partitions that `zpool create` makes (by their types: ZFS, and
/// Solaris reserved), nothing is in those, and nothing is mounted.
const LOOK: &str = "leftover() {\n\
    n=/var/lib/hearth/zpool-create/$2\n\
    [ -n \"$(lsblk -dnro SERIAL \"$3\")\" ] && [ -f \"$n\" ] && [ \"$(cat \"$n\")\" = \"$(note \"$@\")\" ] || return 1\n\
    for t in $(wipefs -n --noheadings -O TYPE \"$3\"); do case $t in gpt|PMBR) ;; *) return 1 ;; esac; done\n\
    [ -z \"$(lsblk -nro MOUNTPOINTS \"$3\" | tr -d '[:space:]')\" ] || return 1\n\
    [ \"$(lsblk -nro TYPE \"$3\" | grep -cvx disk)\" -le 2 ] || return 1\n\
    for p in $(lsblk -nrpo PATH,TYPE \"$3\" | sed -n 's/ [^ ]*$//;2,$p'); do\n\
    case $(blkid -p -s PART_ENTRY_TYPE -o value \"$p\") in\n\
    6a898cc3-1dd2-11b2-99a6-080020736631|6a945a3b-1dd2-11b2-99a6-080020736631) ;; *) return 1 ;; esac\n\
    [ -z \"$(wipefs -n --noheadings -O TYPE \"$p\")\" ] || return 1\n\
    if zdb -l \"$p\" >/dev/null 2>&1; then return 1; fi\n\
    done\n\
    }\n";

/// Returns both functions.
pub(crate) fn functions() -> String {
    [NOTE, LOOK].concat()
}

/// The making of one pool on one device.
pub(crate) struct Attempt<'a> {
    pub(crate) site: &'a str,
    pub(crate) pool: &'a str,
    pub(crate) device: &'a str,
}

impl Attempt<'_> {
    fn words(&self) -> String {
        [self.site, self.pool, self.device].map(quote).join(" ")
    }

    fn file(&self) -> String {
        quote(&format!("{FOLDER}/{}", self.pool))
    }

    /// Writes the script that takes away what an unfinished try left. It looks once more itself: something may have been
    /// put on the disk since the plan.
    pub(crate) fn clear(&self) -> String {
        let device = quote(self.device);
        format!(
            "{NOTE}{LOOK}\
             if ! leftover {}; then echo {device} holds more than an unfinished zpool create leaves >&2; exit 1; fi\n\
             wipefs --all --quiet {device}\nudevadm settle --timeout 30\n",
            self.words()
        )
    }

    /// Writes the script that looks at the device once more, which something may have been put on since the plan, and
    /// leaves the note. It is on the disk before the pool's device is written to.
    pub(crate) fn begin(&self) -> String {
        let (device, file) = (quote(self.device), self.file());
        format!(
            "{NOTE}found=$(wipefs -n --noheadings -O TYPE {device})\n\
             if [ -n \"$found\" ]; then echo {device} is not blank: it holds $found >&2; exit 1; fi\n\
             mkdir -p {FOLDER}\n\
             note {} >{file}.new\n\
             sync -- {file}.new\nmv -fT -- {file}.new {file}\nsync -- {FOLDER}\n",
            self.words()
        )
    }

    /// Writes the script that takes the note away.
    pub(crate) fn end(&self) -> String {
        format!("rm -f -- {}\n", self.file())
    }
}
