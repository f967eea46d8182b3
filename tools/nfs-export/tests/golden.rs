//! Facts to plans and scripts, and every refusal with its exact message.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use converge::{Context, Facts, HostFacts, Quiet, Step, Tool};
use nfs_export::{Action, NfsExport};
use remote::{Fleet, Output};
use site::{Site, Stack};

const SITE: &str = include_str!("data/site.toml");

/// What a host and a guest answer, by `HOST PROBE`.
type Seen = BTreeMap<String, String>;

fn load(text: &str) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        store::files::write_atomic(&folder.path().join(name), text, 0o600).unwrap();
    };
    write("pipeline.toml", "");
    write("images/debian-13.toml", "");
    write("site.toml", text);
    let mut site = site::load(folder.path()).unwrap_or_else(|errors| panic!("{errors}"));
    let stack = Stack {
        guest: "web".parse().unwrap(),
        folder: PathBuf::new(),
        shares: vec!["media".parse().unwrap()],
        images: BTreeMap::new(),
        needs: Vec::new(),
        secrets: Default::default(),
        deadline: 60,
    };
    site.stacks.insert("films".parse().unwrap(), stack);
    site
}

fn with<T>(site: &Site, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(folder.path()).unwrap();
    let fleet = Fleet::new(site);
    work(&Context { site, store: &store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() })
}

fn plan(inventory: &str, seen: &Seen) -> anyhow::Result<Vec<Step>> {
    plan_of(&load(inventory), seen)
}

fn plan_of(site: &Site, seen: &Seen) -> anyhow::Result<Vec<Step>> {
    let mut hosts: BTreeMap<&str, BTreeMap<String, Output>> = BTreeMap::new();
    for (key, text) in seen {
        let (host, probe) = key.split_once(' ').unwrap();
        let output = Output { command: probe.into(), status: 0, stdout: text.clone().into(), stderr: Vec::new() };
        hosts.entry(host).or_default().insert(probe.to_owned(), output);
    }
    let hosts = hosts.into_iter().map(|(host, answers)| (host.parse().unwrap(), HostFacts::Answers(answers)));
    with(site, |cx| NfsExport.plan(cx, &Facts::new(hosts)))
}

fn file(path: &str, text: &str) -> String {
    format!("== {} {path}\n{text}", text.len())
}

fn state(unit: &str, active: &str, enabled: &str, path: &str) -> String {
    format!("Id={unit}\nActiveState={active}\nFragmentPath={path}\nUnitFileState={enabled}\nNeedDaemonReload=no\n\n")
}

/// Answers of machines on which nothing was done yet.
fn fresh() -> Seen {
    let units = state("mnt-media.mount", "inactive", "", "") + &state(r"mnt-my\x2ddata.mount", "inactive", "", "");
    let answers = [
        ("pve1 server-files", file("/etc/exports", "# none\n/srv/other *(ro)\n")),
        (
            "pve1 exportfs",
            "/srv/other  *(sync,wdelay,hide,no_subtree_check,sec=sys,ro,secure,root_squash,no_all_squash)\n".into(),
        ),
        (
            "pve1 nfs-server",
            state("nfs-server.service", "active", "enabled", "/usr/lib/systemd/system/nfs-server.service"),
        ),
        ("web unit-files", String::new()),
        ("web units", units),
        ("web mounts", r#"{"filesystems": [{"target":"/", "source":"/dev/vda1", "options":"rw,relatime"}]}"#.into()),
        ("web stale", String::new()),
        ("web fstab", "UUID=1 / ext4 defaults 0 1\n".into()),
    ];
    answers.map(|(key, text)| (key.to_owned(), text)).into()
}

/// Answers of machines on which all is as desired: the files are those that `render` shows.
fn made() -> Seen {
    let texts: BTreeMap<String, String> =
        with(&load(SITE), |cx| NfsExport.render(cx)).unwrap().into_iter().map(|text| (text.place, text.text)).collect();
    let files = |host: &str, first: &str| {
        let files = texts.iter().filter_map(|(place, text)| Some(file(place.strip_prefix(&format!("{host}:"))?, text)));
        first.to_owned() + &files.collect::<String>()
    };
    let mut seen = fresh();
    let other = seen["pve1 server-files"].clone();
    seen.insert("pve1 server-files".into(), files("pve1", &other));
    seen.insert("web unit-files".into(), files("web", ""));
    *seen.get_mut("pve1 exportfs").unwrap() += "/tank/media  192.168.1.101(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,no_root_squash,no_all_squash)\n\
        /srv/my-data/inner  192.168.1.101(sync,wdelay,hide,no_subtree_check,sec=sys,ro,secure,root_squash,no_all_squash)\n";
    let own = |unit: &str| state(unit, "active", "enabled", &format!("/etc/systemd/system/{unit}"));
    seen.insert("web units".into(), own("mnt-media.mount") + &own(r"mnt-my\x2ddata.mount"));
    let mounts = r#"{"filesystems": [
        {"target":"/", "source":"/dev/vda1", "options":"rw,relatime"},
        {"target":"/mnt/media", "source":"192.168.1.100:/tank/media", "options":"rw,relatime,vers=4.2"},
        {"target":"/mnt/my-data", "source":"192.168.1.100:/srv/my-data/inner", "options":"ro,relatime,vers=4.2"}
    ]}"#;
    seen.insert("web mounts".into(), mounts.into());
    seen
}

/// Answers with one text replaced, which must be there.
fn changed(mut seen: Seen, key: &str, from: &str, to: &str) -> Seen {
    let text = seen.get_mut(key).unwrap();
    assert!(text.contains(from), "{key} has no {from}:\n{text}");
    *text = text.replace(from, to);
    seen
}

fn changes(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{}\n", step.change)).collect()
}

fn scripts(steps: &[Step]) -> String {
    let script = |step: &Step| serde_json::from_value::<Action>(step.action.clone()).unwrap().script();
    steps.iter().map(script).collect()
}

fn refusal(inventory: &str, seen: &Seen) -> String {
    let error = plan(inventory, seen).unwrap_err();
    assert_eq!(converge::reason(&error), converge::Reason::Refused, "{error:#}");
    converge::describe(&error)
}

#[test]
fn fresh_machines_get_exports_first_and_mounts_after() {
    let steps = plan(SITE, &fresh()).unwrap();
    assert_eq!(changes(&steps), include_str!("data/fresh.plan"));
    assert_eq!(scripts(&steps), include_str!("data/fresh.sh"));
    let lanes: Vec<_> = steps.iter().map(|step| (step.wave, step.lane.as_str())).collect();
    assert_eq!(lanes, [(1, "pve1"), (1, "pve1"), (2, "web"), (2, "web"), (2, "web")]);
}

#[test]
fn machines_as_desired_need_nothing() {
    assert_eq!(changes(&plan(SITE, &made()).unwrap()), "");
}

#[test]
fn machines_to_be_made_get_the_same() {
    let absent = ["pve1", "web"].map(|host| (host.parse().unwrap(), HostFacts::Absent));
    let steps = with(&load(SITE), |cx| NfsExport.plan(cx, &Facts::new(absent))).unwrap();
    let addresses: Vec<&str> = steps.iter().map(|step| step.change.address.as_str()).collect();
    let wanted = ["nfs/pve1/server", "nfs/pve1/exports", "nfs/web/retry", "nfs/web/media", "nfs/web/inner"];
    assert_eq!(addresses, wanted);
}

#[test]
fn a_manual_unexport_is_drift() {
    let line = "/tank/media  192.168.1.101(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,no_root_squash,no_all_squash)\n";
    let steps = plan(SITE, &changed(made(), "pve1 exportfs", line, "")).unwrap();
    assert_eq!(
        changes(&steps),
        "~ nfs/pve1/exports\n    /tank/media 192.168.1.101: in the file, but not exported → rw,sync,no_subtree_check,no_root_squash\n"
    );
    let open = "/tank/media  192.168.1.101(async,wdelay,hide,no_subtree_check,sec=sys,rw,insecure,no_root_squash,no_all_squash)\n";
    let steps = plan(SITE, &changed(made(), "pve1 exportfs", line, open)).unwrap();
    assert!(changes(&steps).contains("exported with async,wdelay"), "{}", changes(&steps));
}

#[test]
fn exports_that_are_not_wanted_any_more_go_and_other_peoples_stay() {
    let gone = "/tank/old 192.168.1.101(rw)\n";
    let mut seen = made();
    *seen.get_mut("pve1 exportfs").unwrap() += gone;
    *seen.get_mut("pve1 exportfs").unwrap() += "/tank/old 10.0.0.1(rw)\n";
    let steps = plan(SITE, &seen).unwrap();
    assert_eq!(changes(&steps), "~ nfs/pve1/exports\n    /tank/old 192.168.1.101: rw → gone\n");
}

#[test]
fn a_site_without_shares_takes_its_own_back() {
    let mut site = load(SITE);
    site.shares.clear();
    let steps = plan_of(&site, &made()).unwrap();
    assert_eq!(changes(&steps), include_str!("data/removal.plan"));
    assert_eq!(scripts(&steps), include_str!("data/removal.sh"));
    let waves: Vec<_> = steps.iter().map(|step| (step.wave, step.lane.as_str())).collect();
    assert_eq!(waves, [(1, "pve1"), (0, "web"), (0, "web"), (0, "web")]);
}

#[test]
fn another_source_says_which_stacks_restart() {
    let seen = changed(made(), "web unit-files", "What=192.168.1.100:/tank/media", "What=192.168.1.100:/tank/films");
    let seen = changed(seen, "web mounts", "192.168.1.100:/tank/media", "192.168.1.100:/tank/films");
    let steps = plan(SITE, &seen).unwrap();
    assert_eq!(
        changes(&steps),
        "~ nfs/web/media\n    source: 192.168.1.100:/tank/films → 192.168.1.100:/tank/media\n    unit: another text → as rendered\n    \
         mounted source: 192.168.1.100:/tank/films → 192.168.1.100:/tank/media\n    restarts stack films in web\n"
    );
    assert!(scripts(&steps).contains("systemctl restart -- mnt-media.mount ||"));
}

#[test]
fn a_mount_of_a_folder_that_was_made_anew_is_mounted_again() {
    let mut seen = made();
    seen.insert("web stale".into(), "/mnt/media\n".into());
    let steps = plan(SITE, &seen).unwrap();
    assert_eq!(changes(&steps), "~ nfs/web/media\n    mounted: stale → yes\n    restarts stack films in web\n");
    assert!(scripts(&steps).contains("systemctl restart -- mnt-media.mount ||"));
}

#[test]
fn a_masked_unit_is_drift() {
    let seen =
        changed(made(), "web units", "mnt-media.mount\nUnitFileState=enabled", "mnt-media.mount\nUnitFileState=masked");
    assert_eq!(changes(&plan(SITE, &seen).unwrap()), "~ nfs/web/media\n    at boot: not mounted → mounted\n");
    // As systemd has it where its file is a link to nothing: it comes back, and what is mounted stays.
    let mut seen = changed(seen, "web units", "/etc/systemd/system/mnt-media.mount", "/dev/null");
    let files = seen.get_mut("web unit-files").unwrap();
    *files = files.replace("/etc/systemd/system/mnt-media.mount", "/etc/systemd/system/no-media.mount");
    let steps = plan(SITE, &seen).unwrap();
    let scripts = scripts(&steps);
    assert!(changes(&steps).contains("+ nfs/web/media\n") && !changes(&steps).contains("restarts"));
    assert!(scripts.contains("systemctl start -- mnt-media.mount ||"), "{scripts}");
}

#[test]
fn a_mount_that_was_taken_away_comes_back_without_a_restart() {
    let seen = changed(
        made(),
        "web units",
        "Id=mnt-media.mount\nActiveState=active",
        "Id=mnt-media.mount\nActiveState=failed",
    );
    let seen = changed(seen, "web mounts", "/mnt/media", "/mnt/elsewhere");
    let steps = plan(SITE, &seen).unwrap();
    assert_eq!(changes(&steps), "~ nfs/web/media\n    mounted: no → yes\n");
    assert!(scripts(&steps).contains("systemctl start -- mnt-media.mount ||"));
    let seen = changed(
        made(),
        "web units",
        "mnt-media.mount\nUnitFileState=enabled",
        "mnt-media.mount\nUnitFileState=disabled",
    );
    assert_eq!(changes(&plan(SITE, &seen).unwrap()), "~ nfs/web/media\n    at boot: not mounted → mounted\n");
}

#[test]
fn a_changed_comment_is_put_right_without_a_remount() {
    let steps =
        plan(SITE, &changed(made(), "web unit-files", "Description=Share media", "Description=Share medio")).unwrap();
    assert_eq!(changes(&steps), "~ nfs/web/media\n    unit: another text → as rendered\n");
    assert!(scripts(&steps).contains("systemctl start -- mnt-media.mount ||"));
}

#[test]
fn other_peoples_exports_in_the_way_are_refused() {
    let other = file("/etc/exports", "# none\n/srv/other *(ro)\n/tank/media 10.0.0.1(ro) \\\n  192.168.1.101(ro)\n");
    let mut seen = fresh();
    seen.insert("pve1 server-files".into(), other);
    assert_eq!(
        refusal(SITE, &seen),
        "error: pve1 exports /tank/media to 192.168.1.101 in /etc/exports, line 3 already\n  \
         hint: remove it there, so that the inventory alone says it"
    );
    let mut seen = fresh();
    seen.insert("pve1 server-files".into(), file("/etc/exports.d/hearth-lab.exports", "/a b(ro)\n"));
    assert_eq!(
        refusal(SITE, &seen),
        "error: pve1 has a file /etc/exports.d/hearth-lab.exports that Hearth did not make\n  \
         hint: move it away; Hearth writes this file whole"
    );
}

#[test]
fn other_peoples_mounts_in_the_way_are_refused() {
    let mut seen = fresh();
    *seen.get_mut("web fstab").unwrap() += "192.168.1.100:/tank/media  /mnt/media  nfs  defaults,_netdev  0  0\n";
    assert_eq!(
        refusal(SITE, &seen),
        "error: web mounts /mnt/media in /etc/fstab, line 2: 192.168.1.100:/tank/media  /mnt/media  nfs  defaults,_netdev  0  0\n  \
         hint: remove the line; Hearth mounts with a unit, which a guest can boot without"
    );
    let unit = file("/etc/systemd/system/mnt-media.mount", "[Mount]\nWhat=/dev/vdb\nWhere=/mnt/media\n");
    let seen = fresh().into_iter().chain([("web unit-files".to_owned(), unit)]).collect();
    assert_eq!(
        refusal(SITE, &seen),
        "error: web has a unit /etc/systemd/system/mnt-media.mount that Hearth did not make for this site\n  \
         hint: remove it, or take its mount point out of the inventory"
    );
    let seen = changed(
        fresh(),
        "web units",
        "Id=mnt-media.mount\nActiveState=inactive\nFragmentPath=",
        "Id=mnt-media.mount\nActiveState=inactive\nFragmentPath=/usr/lib/systemd/system/mnt-media.mount",
    );
    assert!(refusal(SITE, &seen).starts_with(
        "error: web mounts /mnt/media by the unit /usr/lib/systemd/system/mnt-media.mount, which Hearth did not make\n"
    ));
    let seen =
        changed(fresh(), "web mounts", "[{", r#"[{"target":"/mnt/media", "source":"/dev/vdb1", "options":"rw"}, {"#);
    assert!(
        refusal(SITE, &seen).starts_with("error: web has /dev/vdb1 mounted at /mnt/media, which Hearth did not do\n")
    );
}

#[test]
fn the_servers_own_state_is_part_of_the_plan() {
    let stopped = changed(made(), "pve1 nfs-server", "ActiveState=active", "ActiveState=failed");
    let stopped = changed(stopped, "pve1 nfs-server", "UnitFileState=enabled", "UnitFileState=disabled");
    let steps = plan(SITE, &stopped).unwrap();
    assert_eq!(
        changes(&steps),
        "~ nfs/pve1/server\n    server: stopped → running\n    at boot: not started → started\n"
    );
}

#[test]
fn a_dataset_without_a_mount_point_is_an_error_of_the_inventory() {
    let error = plan(&SITE.replace("\"/srv/my-data\"", "\"legacy\""), &fresh()).unwrap_err();
    assert_eq!(converge::reason(&error), converge::Reason::Config);
    assert_eq!(error.to_string(), "share inner: tank/my-data/inner can't be exported, for its mountpoint is legacy");
}

#[test]
fn every_probe_and_script_is_one_that_a_shell_can_read() {
    let mut texts: Vec<String> =
        with(&load(SITE), |cx| NfsExport.probes(cx)).unwrap().into_iter().map(|probe| probe.script).collect();
    assert_eq!(texts.len(), 8);
    texts.push(scripts(&plan(SITE, &fresh()).unwrap()));
    for text in texts {
        remote::Command::new("sh").args(["-n", "-c", &text]).run().unwrap();
    }
}
