//! What people have trusted: certificates and host keys, pinned in `pipeline.lock` by `hearth trust`.
//!
//! They are no part of what a site describes, so that pinning them changes no generation.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::Site;
use crate::names::Name;

/// The file, in the project's folder.
pub const FILE: &str = "pipeline.lock";

/// What is pinned for one host: `[trust.SITE.HOST]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trusted {
    /// The SHA-256 of its API's certificate, as `AB:CD:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Its SSH host keys, each as `KIND BASE64`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
}

/// What is pinned, by site and host.
pub type Table = BTreeMap<String, BTreeMap<String, Trusted>>;

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    trust: Table,
}

/// Reads what is pinned for a site's hosts; nothing where there is no lock file.
///
/// # Errors
/// What is wrong with the file, as one line that names it.
pub fn read(project: &Path, site: &Name) -> Result<BTreeMap<String, Trusted>, String> {
    let path = project.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("can't read {}: {error}", path.display())),
    };
    // A file that is no TOML at all is told, with its line, by whoever builds from it, which comes before any host.
    let Ok(table) = toml::from_str::<toml::Table>(&text) else { return Ok(BTreeMap::new()) };
    let mut lock: Lock = table
        .try_into()
        .map_err(|error: toml::de::Error| format!("{} is broken: {}", path.display(), error.message()))?;
    Ok(lock.trust.remove(site.as_str()).unwrap_or_default())
}

/// Gives each host what is pinned for it.
pub(crate) fn apply(mut trusted: BTreeMap<String, Trusted>, site: &mut Site) {
    for (name, host) in &mut site.hosts {
        let Trusted { certificate, host_keys } = trusted.remove(name.as_str()).unwrap_or_default();
        host.api.pinned = certificate;
        host.ssh.pinned = host_keys;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_sites_pins_are_read() {
        let project = tempfile::tempdir().unwrap();
        let home: Name = "home".parse().unwrap();
        assert_eq!(read(project.path(), &home).unwrap(), BTreeMap::new());
        let text = "version = 1\n[package]\n[trust.home.pve1]\ncertificate = \"AB:CD\"\nhost_keys = [\"ssh-ed25519 AAAA\"]\n\
                    [trust.other.pve1]\ncertificate = \"00\"\n";
        store::files::write_atomic(&project.path().join(FILE), text, 0o644).unwrap();
        let wanted = Trusted { certificate: Some("AB:CD".into()), host_keys: vec!["ssh-ed25519 AAAA".into()] };
        assert_eq!(read(project.path(), &home).unwrap(), [("pve1".to_owned(), wanted)].into());
        store::files::write_atomic(&project.path().join(FILE), "[trust.home.pve1]\nkey = 1\n", 0o644).unwrap();
        let error = read(project.path(), &home).unwrap_err();
        assert!(error.contains("pipeline.lock is broken: unknown field `key`"), "{error}");
    }
}
