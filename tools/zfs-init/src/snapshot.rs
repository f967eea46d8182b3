//! Snapshots of a site's datasets before a change.

use std::time::Duration;

use anyhow::Result;
use converge::Context;
use remote::quote;
use site::{Name, Site, Snapshots};

/// The user property that marks a snapshot as taken by Hearth for a site. Only what has it is ever destroyed.
const MARK: &str = "dev.hearth:snapshot";

/// Takes a snapshot of every dataset of the site that is there, named after a generation, and removes the oldest of those
/// that Hearth took beyond what the site keeps. Does nothing where the site does not ask for it.
///
/// Returns what was taken, as `pve1:tank/media@hearth-0123456789ab-1`.
///
/// # Errors
/// A host that can't be reached, or ZFS.
pub fn snapshot(cx: &Context<'_>, generation: &str) -> Result<Vec<String>> {
    let Some(rule) = &cx.site.snapshots else { return Ok(Vec::new()) };
    let mut taken = Vec::new();
    for host in cx.site.hosts.keys() {
        let script = script(cx.site, host, generation, *rule);
        if script.is_empty() {
            continue;
        }
        let output = cx.fleet.host(host)?.run(&script, Duration::from_secs(120))?;
        taken.extend(output.text().lines().map(|name| format!("{host}:{name}")));
    }
    Ok(taken)
}

/// Writes the script for one host. It prints the names of the snapshots that it takes.
fn script(site: &Site, host: &Name, generation: &str, rule: Snapshots) -> String {
    let mut script = String::new();
    for pool in site.pools.values().filter(|pool| pool.host == *host) {
        let datasets: Vec<String> = pool.datasets.keys().map(|dataset| quote(dataset.as_str())).collect();
        if !datasets.is_empty() {
            script += &of_pool(&datasets.join(" "), site.name.as_str(), generation, rule.keep);
        }
    }
    if script.is_empty() { script } else { format!("# take snapshots before the change\n{script}") }
}

/// The snapshots of a pool are taken by one command, so that they are of one moment (zfs-snapshot(8)).
fn of_pool(datasets: &str, site: &str, generation: &str, keep: u32) -> String {
    let (mark, tag) = (quote(&format!("{MARK}={site}")), format!("hearth-{generation}"));
    let site = quote(site);
    format!(
        r#"have=
for d in {datasets}; do if zfs list -H -o name "$d" >/dev/null 2>&1; then have="$have $d"; fi; done
if [ -n "$have" ]; then
last=$(zfs list -H -d 1 -t snapshot -o name $have | sed -n 's/.*@{tag}-\([0-9][0-9]*\)$/\1/p' | sort -n | tail -n 1)
names=
for d in $have; do names="$names $d@{tag}-$((${{last:-0}} + 1))"; done
zfs snapshot -o {mark} $names
printf '%s\n' $names
for d in $have; do
zfs list -H -d 1 -t snapshot -s createtxg -o name,{MARK} "$d" | while read -r name mark; do
case $name in *@hearth-*) if [ "$mark" = {site} ]; then echo "$name"; fi ;; esac
done | head -n -{keep} | while read -r name; do zfs destroy "$name"; done
done
fi
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for zfs(8): its datasets and snapshots are lines of files in a folder.
    const ZFS: &str = r#"#!/bin/sh
cd "$STATE"
case $1 in
list) for last; do :; done
  case "$*" in
  *"-t snapshot -s createtxg"*) grep "^$last@" snapshots || : ;;
  *"-t snapshot"*) cut -f 1 snapshots ;;
  *) grep -qx "$last" datasets ;;
  esac ;;
snapshot) mark=${3#*=}; shift 3; for name; do printf '%s\t%s\n' "$name" "$mark" >>snapshots; done ;;
destroy) grep -v "^$2	" snapshots >new || :; mv new snapshots; echo "$2" >>destroyed ;;
esac
"#;

    #[test]
    fn every_dataset_is_named_as_zfs_names_it() {
        let lab = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../inventory/lab");
        let site = site::load(&lab).unwrap();
        let host = site.hosts.keys().next().unwrap();
        let script = script(&site, host, "0123456789ab", Snapshots { keep: 2 });
        assert!(script.contains("for d in tank-ssd/appdata tank-ssd/postgres; do"), "{script}");
        assert!(
            script.contains("for d in tank-hdd/media tank-hdd/photos tank-hdd/backups tank-hdd/logs; do"),
            "{script}"
        );
    }

    fn run(state: &std::path::Path, generation: &str, keep: u32) -> String {
        let path = format!("{}:/usr/bin:/bin", state.display());
        let script = of_pool("tank/a tank/gone tank/b", "home", generation, keep);
        let command = remote::Command::new("sh").args(["-eu", "-c", &script]).env("PATH", path).env("STATE", state);
        command.run().unwrap().text()
    }

    #[test]
    fn snapshots_are_numbered_and_only_those_of_this_site_beyond_the_rule_go() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let put = |name: &str, text: &str, mode| store::files::write_atomic(&state.join(name), text, mode).unwrap();
        put("zfs", ZFS, 0o755);
        put("datasets", "tank/a\ntank/b\n", 0o644);
        let foreign = "tank/a@mine\t-\ntank/a@hearth-old-1\tother\ntank/a@daily\thome\n";
        put("snapshots", foreign, 0o644);
        assert_eq!(run(state, "g1", 2), "tank/a@hearth-g1-1\ntank/b@hearth-g1-1\n");
        assert_eq!(run(state, "g1", 2), "tank/a@hearth-g1-2\ntank/b@hearth-g1-2\n");
        assert_eq!(run(state, "g2", 2), "tank/a@hearth-g2-1\ntank/b@hearth-g2-1\n");
        let read = |name: &str| std::fs::read_to_string(state.join(name)).unwrap();
        assert_eq!(read("destroyed"), "tank/a@hearth-g1-1\ntank/b@hearth-g1-1\n");
        assert!(read("snapshots").starts_with(foreign), "{}", read("snapshots"));
        put("datasets", "", 0o644);
        assert_eq!(run(state, "g3", 2), "");
    }
}
