//! The changes that can be made on hosts and guests, and the scripts that make them.

use std::time::Duration;

use remote::quote;
use serde::{Deserialize, Serialize};

use crate::unit::UNITS;

/// One change on a host or guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Writes the addition to the NFS server's unit and makes sure that the server runs.
    Serve {
        /// The addition's file.
        file: String,
        /// Its text.
        text: String,
    },
    /// Writes the exports and lets the server follow them.
    Export {
        /// The file.
        file: String,
        /// Its text.
        text: String,
        /// The folders that are exported; each must be mounted.
        paths: Vec<String>,
    },
    /// Takes a site's exports back.
    Unexport {
        /// The files to remove.
        files: Vec<String>,
    },
    /// Writes the unit that tries failed mounts again.
    Retry {
        /// The file.
        file: String,
        /// Its text.
        text: String,
    },
    /// Writes a mount's unit and mounts it.
    Mount {
        /// The unit.
        unit: String,
        /// Its text.
        text: String,
        /// Whether it is mounted in another way now.
        remount: bool,
    },
    /// Unmounts and removes a unit, or removes a unit that is no mount.
    Remove {
        /// The unit.
        unit: String,
    },
}

impl Action {
    /// Returns the script that makes the change, for `sh -eu` as root.
    pub fn script(&self) -> String {
        match self {
            Self::Serve { file, text } => {
                format!(
                    "{}systemctl enable --no-reload nfs-server.service\nsystemctl daemon-reload\n\
                     systemctl start nfs-server.service\n",
                    put(file, text)
                )
            }
            Self::Export { file, text, paths } => {
                let paths: String = paths.iter().map(|path| " ".to_owned() + &quote(path)).collect();
                // The empty folder of a dataset that is not mounted must not be exported.
                format!(
                    "for p in{paths}; do mountpoint -q \"$p\" || {{ echo \"$p is not mounted\" >&2; exit 1; }}; done\n\
                     {}exportfs -ra\n",
                    put(file, text)
                )
            }
            Self::Unexport { files } => {
                let files: String = files.iter().map(|file| " ".to_owned() + &quote(file)).collect();
                format!("rm -f --{files}\nsystemctl daemon-reload\nexportfs -ra\n")
            }
            // A template is read when a unit is made of it; the mounts that follow let systemd read all files again.
            Self::Retry { file, text } => put(file, text),
            Self::Mount { unit, text, remount } => {
                let verb = if *remount { "restart" } else { "start" };
                let name = quote(unit);
                format!(
                    "{}systemctl enable --no-reload -- {name}\n\
                     systemctl daemon-reload\n\
                     systemctl {verb} -- {name} || {{ systemctl status --no-pager --lines 10 -- {name} >&2; exit 1; }}\n",
                    put(&format!("{UNITS}/{unit}"), text)
                )
            }
            Self::Remove { unit } if unit.ends_with(".mount") => {
                let name = quote(unit);
                format!(
                    "systemctl disable --now -- {name}\nrm -f -- {}\nsystemctl daemon-reload\n",
                    quote(&format!("{UNITS}/{unit}"))
                )
            }
            Self::Remove { unit } => {
                format!("rm -f -- {}\nsystemctl daemon-reload\n", quote(&format!("{UNITS}/{unit}")))
            }
        }
    }

    /// Returns how long the script may take: a mount has its own limit of a minute.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(180)
    }
}

/// Writes a file beside its name, then renames it.
fn put(file: &str, text: &str) -> String {
    let folder = file.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let (file, folder, text) = (quote(file), quote(folder), quote(text));
    format!(
        "mkdir -p -- {folder}\n\
         t=$(mktemp -p {folder} .hearth.XXXXXXXX)\n\
         printf %s {text} >\"$t\"\n\
         chmod 644 -- \"$t\"\n\
         sync -- \"$t\"\n\
         mv -fT -- \"$t\" {file}\n"
    )
}
