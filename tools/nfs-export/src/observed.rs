//! What hosts and guests have: the probes' answers, parsed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use converge::Facts;
use serde::Deserialize;
use site::Name;

use crate::desired::Export;
use crate::unit::{UNITS, exports_file, server_file};

/// What a host exports.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// The site's files by path.
    pub(crate) files: BTreeMap<String, String>,
    /// Lines of other files, each with where it is.
    pub(crate) others: Vec<(String, Export)>,
    /// What the kernel has.
    pub(crate) active: Vec<Export>,
    /// The server's unit.
    pub(crate) unit: Unit,
}

/// What a guest mounts.
#[derive(Debug, Default)]
pub(crate) struct Client {
    /// The mount units in `/etc/systemd/system`, and Hearth's retry unit, by path.
    pub(crate) files: BTreeMap<String, String>,
    /// The units that are wanted, by name.
    pub(crate) units: BTreeMap<String, Unit>,
    /// All mounts, by their place.
    pub(crate) mounts: BTreeMap<String, Mounted>,
    /// Mount points whose folder is gone from the server, as where a dataset was made anew: nothing comes through until
    /// they are mounted again.
    pub(crate) stale: BTreeSet<String>,
    /// Lines of fstab: the number, the mount point, the line.
    pub(crate) fstab: Vec<(usize, String, String)>,
}

/// A unit's state (systemctl(1), `show`).
#[derive(Debug, Default)]
pub(crate) struct Unit {
    pub(crate) active: bool,
    pub(crate) enabled: bool,
    pub(crate) stale: bool,
    /// The file that it was loaded from; empty where there is none.
    pub(crate) file: String,
}

/// A mount (findmnt(8)).
#[derive(Debug, Deserialize)]
pub(crate) struct Mounted {
    target: String,
    pub(crate) source: String,
    pub(crate) options: String,
}

#[derive(Deserialize)]
struct Mounts {
    filesystems: Vec<Mounted>,
}

impl Server {
    /// Parses a host's answers; none where the host is still to be made.
    pub(crate) fn read(facts: &Facts, host: &Name, site: &Name) -> Result<Option<Self>> {
        let own = [exports_file(site), server_file(site)];
        let Some(files) = facts.text(host, "server-files")? else { return Ok(None) };
        let text = |id: &str| facts.text(host, id).map(Option::unwrap_or_default);
        let files = sized(&files).with_context(|| format!("{host}: can't read its files"))?;
        let (own, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(path, _)| own.contains(path));
        let others = others.iter().flat_map(|(path, text)| {
            lines(text).into_iter().flat_map(move |(number, line)| {
                exports(&line).into_iter().map(move |export| (format!("{path}, line {number}"), export))
            })
        });
        let others = others.collect();
        let active = text("exportfs")?.lines().flat_map(exports).collect();
        let unit = units(&text("nfs-server")?).remove("nfs-server.service").unwrap_or_default();
        Ok(Some(Self { files: own, others, active, unit }))
    }
}

impl Client {
    /// Parses a guest's answers; none where the guest is still to be made.
    pub(crate) fn read(facts: &Facts, guest: &Name) -> Result<Option<Self>> {
        let Some(files) = facts.text(guest, "unit-files")? else { return Ok(None) };
        let text = |id: &str| facts.text(guest, id).map(Option::unwrap_or_default);
        let files = sized(&files).with_context(|| format!("{guest}: can't read its units"))?;
        let mounts: Mounts =
            serde_json::from_str(&text("mounts")?).with_context(|| format!("{guest}: can't read findmnt"))?;
        // Where mounts lie on each other, the last one is seen.
        let mounts = mounts.filesystems.into_iter().map(|mount| (mount.target.clone(), mount)).collect();
        let fstab = lines(&text("fstab")?).into_iter().filter_map(|(number, line)| {
            let place = line.split_ascii_whitespace().nth(1)?.trim_end_matches('/').replace(r"\040", " ");
            Some((number, place, line))
        });
        let stale = text("stale")?.lines().map(str::to_owned).collect();
        Ok(Some(Self { files, units: units(&text("units")?), mounts, stale, fstab: fstab.collect() }))
    }

    /// Returns the text of a unit's file.
    pub(crate) fn file(&self, unit: &str) -> Option<&str> {
        self.files.get(&format!("{UNITS}/{unit}")).map(String::as_str)
    }
}

/// Takes `== SIZE PATH` lines and that many bytes behind each apart.
fn sized(text: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) = rest.split_once('\n').context("a file's head is cut off")?;
        let (size, path) = head.strip_prefix("== ").and_then(|head| head.split_once(' ')).context("no file's head")?;
        let size: usize = size.parse()?;
        let body = tail.get(..size).with_context(|| format!("{path} is cut off or no text"))?;
        files.insert(path.to_owned(), body.to_owned());
        rest = &tail[size..];
    }
    Ok(files)
}

/// Lists the lines that say something, with their numbers; a line that ends with `\` goes on in the next.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match all.last_mut().filter(|_| open) {
            Some((_, begun)) => *begun += part,
            None => all.push((index + 1, part.to_owned())),
        }
        open = goes_on;
    }
    all.retain(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    all
}

/// Parses a line of exports(5): a path, perhaps in quotes, then clients with their options.
pub(crate) fn exports(line: &str) -> Vec<Export> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Vec::new();
    }
    let (path, rest) = match line.strip_prefix('"').and_then(|line| line.split_once('"')) {
        Some(quoted) => quoted,
        None => line.split_once(char::is_whitespace).unwrap_or((line, "")),
    };
    let client = |word: &str| {
        let (client, options) = word.split_once('(').unwrap_or((word, ""));
        let options = options.trim_end_matches(')').split(',').filter(|option| !option.is_empty());
        Export {
            path: path.replace(r"\040", " "),
            client: client.to_owned(),
            options: options.map(str::to_owned).collect(),
        }
    };
    rest.split_ascii_whitespace().filter(|word| !word.starts_with('-')).map(client).collect()
}

/// Parses the blocks of `systemctl show`.
fn units(text: &str) -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    for block in text.split("\n\n") {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        let unit = Unit {
            active: value("ActiveState") == "active",
            enabled: value("UnitFileState") == "enabled",
            stale: value("NeedDaemonReload") == "yes",
            file: value("FragmentPath"),
        };
        units.insert(value("Id"), unit);
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_as_the_manual_has_them() {
        let text = "# all\n/srv a(rw,sync) \\\n  b(ro)\n\n\"/a b\" *(ro)\n/c\\040d host\n/e -sync,rw x(ro)\n";
        let read: Vec<(usize, Vec<String>)> = lines(text)
            .into_iter()
            .map(|(number, line)| (number, exports(&line).iter().map(Export::line).collect()))
            .collect();
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            read,
            [
                (2, texts(&["/srv a(rw,sync)", "/srv b(ro)"])),
                (5, texts(&["/a b *(ro)"])),
                (6, texts(&["/c d host()"])),
                (7, texts(&["/e x(ro)"])),
            ]
        );
    }

    #[test]
    fn files_come_back_to_the_byte() {
        let files = sized("== 4 /a\nx\n\ny== 0 /b\n== 2 /c d\nz\n").unwrap();
        assert_eq!(files["/a"], "x\n\ny");
        assert_eq!((files["/b"].as_str(), files["/c d"].as_str()), ("", "z\n"));
        assert!(sized("== 9 /a\nx").is_err());
    }
}
