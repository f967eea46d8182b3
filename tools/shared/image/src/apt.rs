//! Resolves package lists to pinned packages, with apt in a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use remote::Command;
use store::files;

use crate::lock::{Lock, Package, Request, Set};
use crate::tools::need;
use crate::{Error, Result};

/// The keys that sign Debian's archive, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The essential packages, in apt's pattern language; apt counts itself among them, and an image can do without it.
const ESSENTIAL: &str = "?and(?essential,?not(?exact-name(apt)))";

/// Where Debian's two archives are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The address of the archive `debian`.
    pub debian: String,
    /// The address of the archive `debian-security`.
    pub security: String,
}

impl Mirror {
    /// Returns the mirrors that the system's apt sources name. Where they name none of the security archive, it is taken
    /// to stand beside the other.
    ///
    /// # Errors
    /// [`Error::Command`] without apt, [`Error::NoMirror`] where its sources name no archive of Debian.
    pub fn of_system() -> Result<Self> {
        let args = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
        let targets = Command::new("apt-get").args(args).run().map_err(Box::new)?;
        Self::from_targets(&targets.text())
    }

    fn from_targets(targets: &str) -> Result<Self> {
        let find = |archive: &str| {
            let mut lines = targets.lines().map(|line| line.trim().trim_end_matches('/'));
            lines.find(|uri| uri.starts_with("http") && uri.rsplit('/').next() == Some(archive)).map(str::to_owned)
        };
        let debian = find("debian").ok_or(Error::NoMirror)?;
        let security = find("debian-security").unwrap_or_else(|| format!("{debian}-security"));
        Ok(Self { debian, security })
    }

    /// Returns the address of a locked path, which begins with its archive's name.
    pub fn url(&self, path: &str) -> String {
        match path.strip_prefix("debian-security/") {
            Some(rest) => format!("{}/{rest}", self.security),
            None => format!("{}/{}", self.debian, path.strip_prefix("debian/").unwrap_or(path)),
        }
    }
}

/// An apt that knows one suite and no installed package.
pub struct Apt {
    folder: PathBuf,
    mirror: Mirror,
}

impl Apt {
    /// Makes apt's folders and reads the suite's indexes, which apt checks against Debian's keys.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Io`] and [`Error::Command`].
    pub fn update(folder: &Path, mirror: &Mirror, suite: &str, components: &[String]) -> Result<Self> {
        need("apt-get", "apt")?;
        if !Path::new(KEYRING).exists() {
            return Err(Error::Program { program: KEYRING, package: "debian-archive-keyring" });
        }
        for part in ["lists/partial", "cache/archives/partial", "preferences.d", "sources.d"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
        }
        let Mirror { debian, security } = mirror;
        let components = components.join(" ");
        let line =
            |uri: &str, suite: &str| format!("deb [arch=amd64 signed-by={KEYRING}] {uri} {suite} {components}\n");
        let sources = line(debian, suite)
            + &line(debian, &format!("{suite}-updates"))
            + &line(security, &format!("{suite}-security"));
        let apt = Self { folder: folder.to_owned(), mirror: mirror.clone() };
        for (name, text) in [("status", ""), ("preferences", ""), ("sources.list", &sources)] {
            let path = folder.join(name);
            files::write_atomic(&path, text, 0o644).map_err(Error::io("write", &path))?;
        }
        apt.command("apt-get").arg("update").deadline(Duration::from_secs(300)).run()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let at = |option: &str, name: &str| format!("-o{option}={}", self.folder.join(name).display());
        // The system's apt.conf.d stays in force: it may name a proxy.
        Command::new(program)
            .args([
                at("Dir::Etc::SourceList", "sources.list"),
                at("Dir::Etc::SourceParts", "sources.d"),
                at("Dir::Etc::Preferences", "preferences"),
                at("Dir::Etc::PreferencesParts", "preferences.d"),
                at("Dir::State::status", "status"),
                at("Dir::State::extended_states", "extended_states"),
                at("Dir::State::Lists", "lists"),
                at("Dir::Cache", "cache"),
            ])
            .args([
                "-oAPT::Architecture=amd64",
                "-oAPT::Architectures=amd64",
                "-oAPT::Install-Recommends=false",
                "-oAPT::Install-Suggests=false",
                "-oAPT::Get::List-Cleanup=false",
                "-oAcquire::Languages=none",
                "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
                "-oAcquire::Retries=3",
                "-oAPT::Update::Error-Mode=any",
                "-oAPT::Sandbox::User=root",
            ])
    }

    /// Resolves a request into the lock. A set whose packages are as before keeps its epoch, so that nothing is rebuilt
    /// for a newer index alone.
    ///
    /// # Errors
    /// [`Error::Command`] with apt's words, and [`Error::Fetch`] for an answer that makes no sense.
    pub fn resolve(&self, request: &Request, lock: &mut Lock) -> Result<()> {
        let bootstrap = self.closure(&[])?;
        let all = self.closure(&request.packages)?;
        lock.packages.extend(all.clone());
        let bootstrap: Vec<String> = bootstrap.into_keys().filter(|id| all.contains_key(id)).collect();
        let packages: Vec<String> = all.into_keys().filter(|id| !bootstrap.contains(id)).collect();
        let epoch = match lock.sets.get(request) {
            Some(old) if old.bootstrap == bootstrap && old.packages == packages => old.epoch,
            _ => self.epoch()?,
        };
        lock.sets.insert(request.clone(), Set { epoch, bootstrap, packages });
        Ok(())
    }

    /// Returns all that an empty system needs for these packages and the essential ones.
    fn closure(&self, packages: &[String]) -> Result<BTreeMap<String, Package>> {
        let output = self
            .command("apt-get")
            .args(["install", "--yes", "--print-uris", "-qq", ESSENTIAL])
            .args(packages)
            .deadline(Duration::from_secs(120))
            .run()?;
        let mut urls = BTreeMap::new();
        for line in output.text().lines().filter(|line| line.starts_with('\'')) {
            let mut words = line.split(' ');
            let (url, file) = (words.next().unwrap_or_default().trim_matches('\''), words.next().unwrap_or_default());
            let id = file.trim_end_matches(".deb").replace("%3a", ":");
            urls.insert(id, url.to_owned());
        }
        let names = urls.keys().filter_map(|id| {
            let mut parts = id.split('_');
            Some(format!("{}={}", parts.next()?, parts.next()?))
        });
        let shown = self.command("apt-cache").args(["show"]).args(names).deadline(Duration::from_secs(120)).run()?;
        let stanzas = parse_stanzas(&shown.text());
        let locate = |(id, url): (String, String)| match stanzas.get(&id) {
            Some(package) => Ok((id, Package { path: self.locked_path(&url, &package.path), ..package.clone() })),
            None => Err(Error::Fetch { url, reason: format!("apt says nothing of the package {id}") }),
        };
        urls.into_iter().map(locate).collect()
    }

    /// Puts the archive's name before a path of its index; the mirror's host stays out of the lock.
    fn locked_path(&self, url: &str, filename: &str) -> String {
        let archive = if url.starts_with(&format!("{}/", self.mirror.security)) { "debian-security" } else { "debian" };
        format!("{archive}/{filename}")
    }

    /// Returns when the newest of the indexes was made.
    fn epoch(&self) -> Result<u64> {
        let folder = self.folder.join("lists");
        let mut newest = 0;
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if !path.to_string_lossy().ends_with("Release") {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            let Some(date) = text.lines().find_map(|line| line.strip_prefix("Date: ")) else { continue };
            let seconds = Command::new("date").args(["--utc", "--date", date, "+%s"]).run()?.text();
            newest = newest.max(seconds.trim().parse().unwrap_or(0));
        }
        if newest == 0 {
            let url = folder.display().to_string();
            return Err(Error::Fetch { url, reason: "no index there says when it was made".to_owned() });
        }
        Ok(newest)
    }
}

/// Reads what `apt-cache show` prints, by `name_version_architecture`.
fn parse_stanzas(text: &str) -> BTreeMap<String, Package> {
    let parse = |stanza: &str| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let id = format!("{}_{}_{}", field("Package")?, field("Version")?, field("Architecture")?);
        let size = field("Size")?.parse().ok()?;
        let sha256 = field("SHA256")?.parse().ok()?;
        Some((id, Package { size, sha256, path: field("Filename")?.to_owned() }))
    };
    text.split("\n\n").filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Digest;

    #[test]
    fn the_system_s_mirrors_are_used_and_there_must_be_one() {
        let targets = "http://mirror.example/debian/\nhttp://mirror.example/debian/\nhttps://packages.example/apt\n";
        let mirror = Mirror::from_targets(targets).unwrap();
        assert_eq!(mirror.url("debian/pool/a.deb"), "http://mirror.example/debian/pool/a.deb");
        assert_eq!(mirror.url("debian-security/pool/a.deb"), "http://mirror.example/debian-security/pool/a.deb");
        let other = Mirror::from_targets(&format!("{targets}http://safe.example/debian-security")).unwrap();
        assert_eq!(other.security, "http://safe.example/debian-security");
        assert!(matches!(Mirror::from_targets("https://packages.example/apt"), Err(Error::NoMirror)));
    }

    #[test]
    fn stanzas_give_size_digest_and_path() {
        let digest = Digest::of("deb");
        let text = format!(
            "Package: redis\nVersion: 5:8.0\nArchitecture: amd64\nSize: 7\nFilename: pool/r.deb\nSHA256: {digest}\n\n\
             Package: broken\nVersion: 1\n\n"
        );
        let stanzas = parse_stanzas(&text);
        assert_eq!(stanzas.len(), 1);
        assert_eq!(stanzas["redis_5:8.0_amd64"], Package { size: 7, sha256: digest, path: "pool/r.deb".to_owned() });
    }
}
