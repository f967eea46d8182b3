//! Facts to plans and scripts, and every refusal with its exact message.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use converge::{Context, Facts, HostFacts, Quiet, Rendered, Step, Tool};
use remote::{Fleet, Output};
use site::Site;
use zfs_init::{Action, ZfsInit};

const SITE: &str = include_str!("data/site.toml");
const BLANK: &str = include_str!("data/blank.facts");
const MADE: &str = include_str!("data/made.facts");

/// Loads an inventory of one file.
fn load(text: &str) -> (tempfile::TempDir, Site) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        store::files::write_atomic(&folder.path().join(name), text, 0o600).unwrap();
    };
    write("pipeline.toml", "");
    write("site.toml", text);
    let site = site::load(folder.path()).unwrap_or_else(|errors| panic!("{errors}"));
    (folder, site)
}

/// Reads `### PROBE STATUS` sections.
fn facts(text: &str) -> Facts {
    let mut answers = BTreeMap::new();
    for section in text.split("### ").skip(1) {
        let (head, body) = section.split_once('\n').unwrap();
        let (id, status) = head.split_once(' ').unwrap();
        let status: i32 = status.parse().unwrap();
        let (stdout, stderr) = if status == 0 { (body, "") } else { ("", body) };
        let output =
            Output { command: id.into(), status, stdout: stdout.into(), stderr: stderr.trim().as_bytes().to_vec() };
        answers.insert(id.to_owned(), output);
    }
    Facts::new([("pve1".parse().unwrap(), HostFacts::Answers(answers))])
}

fn with<T>(site: &Site, folder: &Path, work: impl FnOnce(&Context<'_>) -> T) -> T {
    let store = store::Store::open(&folder.join("store")).unwrap();
    let fleet = Fleet::new(site);
    work(&Context { site, store: &store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() })
}

fn plan(inventory: &str, facts_text: &str) -> anyhow::Result<Vec<Step>> {
    let (folder, site) = load(inventory);
    with(&site, folder.path(), |cx| ZfsInit.plan(cx, &facts(facts_text)))
}

fn changes(steps: &[Step]) -> String {
    steps.iter().map(|step| format!("{}\n", step.change)).collect()
}

fn scripts(steps: &[Step]) -> String {
    let script = |step: &Step| serde_json::from_value::<Action>(step.action.clone()).unwrap().script();
    steps.iter().map(script).collect()
}

/// Drops the lines that begin with one of these.
fn without(text: &str, beginnings: &[&str]) -> String {
    let dropped = |line: &&str| beginnings.iter().any(|beginning| line.starts_with(beginning));
    text.split_inclusive('\n').filter(|line| !dropped(line)).collect()
}

/// Plans something that must be refused, and returns the whole message.
fn refusal(inventory: &str, facts_text: &str) -> String {
    let error = plan(inventory, facts_text).unwrap_err();
    assert_eq!(converge::reason(&error), converge::Reason::Refused, "{error:#}");
    converge::describe(&error)
}

#[test]
fn an_empty_host_gets_everything_parents_first() {
    let steps = plan(SITE, BLANK).unwrap();
    assert_eq!(changes(&steps), include_str!("data/blank.plan"));
    assert_eq!(scripts(&steps), include_str!("data/blank.sh"));
    assert!(steps.iter().all(|step| step.lane == "pve1"));
}

#[test]
fn a_host_as_desired_needs_nothing() {
    assert_eq!(changes(&plan(SITE, MADE).unwrap()), "");
}

#[test]
fn render_shows_what_an_empty_host_would_run() {
    let (folder, site) = load(SITE);
    let texts = with(&site, folder.path(), |cx| ZfsInit.render(cx)).unwrap();
    let wanted = Rendered { place: "pve1:sh".into(), text: include_str!("data/blank.sh").into() };
    assert_eq!(texts, [wanted]);
}

#[test]
fn a_host_to_be_made_is_not_looked_at() {
    let (folder, site) = load(SITE);
    let facts = Facts::new([("pve1".parse().unwrap(), HostFacts::Absent)]);
    let steps = with(&site, folder.path(), |cx| ZfsInit.plan(cx, &facts)).unwrap();
    assert_eq!(changes(&steps), include_str!("data/blank.plan"));
}

#[test]
fn a_run_that_was_ended_in_between_goes_on_where_it_was() {
    let part = ", \"children\": [\n    {\"kname\":\"vdb1\", \"path\":\"/dev/vdb1\", \"type\":\"part\", \"size\":10726932480, \
                \"serial\":null, \"fstype\":\"zfs_member\", \"mountpoints\":[null]}\n  ]";
    assert!(MADE.contains(part));
    let made = without(&MADE.replace(part, ""), &["tank-hdd", "\t/dev/vdb1", "tank-ssd/postgres"])
        .replace("### found 0\n", "### found 0\n== /dev/disk/by-id/virtio-HEARTH-HDD\n");
    let steps = plan(SITE, &made).unwrap();
    let addresses: Vec<&str> = steps.iter().map(|step| step.change.address.as_str()).collect();
    assert_eq!(
        addresses,
        ["zfs/pve1/tank-ssd/postgres", "zfs/pve1/tank-hdd", "zfs/pve1/tank-hdd/media", "zfs/pve1/tank-hdd/photos"]
    );
}

#[test]
fn drift_is_set_back_and_nothing_else_is_touched() {
    let drifted = MADE
        .replace("tank-hdd\tcompression\tlz4\tlocal", "tank-hdd\tcompression\tzstd\tlocal")
        .replace("tank-hdd/media\tcompression\tlz4", "tank-hdd/media\tcompression\tzstd")
        .replace("tank-hdd/photos\tquota\t5368709120\tlocal", "tank-hdd/photos\tquota\t0\tdefault")
        .replace("tank-ssd/appdata\tatime\toff\tinherited from tank-ssd", "tank-ssd/appdata\tatime\ton\tlocal")
        .replace("tank-ssd/postgres\tmounted\tyes", "tank-ssd/postgres\tmounted\tno")
        .replace("### disks", "tank-hdd/other\ttype\tvolume\t-\ntank-hdd/other\tcompression\tgzip\tlocal\n### disks");
    let steps = plan(SITE, &drifted).unwrap();
    assert_eq!(changes(&steps), include_str!("data/drift.plan"));
    assert_eq!(scripts(&steps), include_str!("data/drift.sh"));
}

#[test]
fn a_larger_volume_grows_and_its_pool_follows() {
    let steps = plan(&SITE.replace("\"2G\"", "\"3G\""), MADE).unwrap();
    assert_eq!(
        changes(&steps),
        "~ lv/pve1/pve/zfs-ssd\n    size: 2G → 3G\n~ zfs/pve1/tank-ssd\n    uses: a part of its device → all of its device\n"
    );
    assert_eq!(scripts(&steps), "lvextend -L 3221225472b pve/zfs-ssd\nzpool online -e tank-ssd /dev/pve/zfs-ssd\n");
    // A run was ended after the volume had grown.
    let half = MADE.replace("tank-ssd\t12\t-\n", "tank-ssd\t12\t1073741824\n");
    assert_eq!(scripts(&plan(SITE, &half).unwrap()), "zpool online -e tank-ssd /dev/pve/zfs-ssd\n");
}

#[test]
fn a_serial_finds_its_disk_by_the_name_that_stays() {
    let steps = plan(&SITE.replace("disk_id = \"virtio-HEARTH-HDD\"", "disk_serial = \"HEARTH-HDD\""), BLANK).unwrap();
    assert_eq!(changes(&steps), include_str!("data/blank.plan"));
}

#[test]
fn a_disk_that_holds_anything_is_refused_with_what_was_found() {
    let used = BLANK
        .replace(
            "\"fstype\":null, \"mountpoints\":[null]}\n]}",
            "\"fstype\":null, \"mountpoints\":[null], \"children\": [{\"kname\":\"vdb1\", \"path\":\"/dev/vdb1\", \"type\":\"part\", \"size\":1, \"serial\":null, \"fstype\":\"ext4\", \"mountpoints\":[\"/srv\"]}]}\n]}",
        )
        .replace("virtio-HEARTH-HDD\n### imports", "virtio-HEARTH-HDD\ngpt\n### imports");
    assert_eq!(
        refusal(SITE, &used),
        "error: /dev/disk/by-id/virtio-HEARTH-HDD of pve1 (/dev/vdb, 10G) is not blank: it holds gpt, part /dev/vdb1 with ext4, a mount at /srv\n  \
         hint: name another disk; or, if nothing on it is needed any more, empty it: wipefs --all /dev/disk/by-id/virtio-HEARTH-HDD"
    );
    for (kind, shown) in [("ext4", "ext4"), ("LVM2_member", "LVM2_member"), ("zfs_label", "zfs_label")] {
        let used = BLANK.replace("virtio-HEARTH-HDD\n### imports", &format!("virtio-HEARTH-HDD\n{kind}\n### imports"));
        let message = refusal(SITE, &used);
        assert!(message.contains(&format!("is not blank: it holds {shown}\n")), "{message}");
    }
}

#[test]
fn a_volume_that_is_there_is_looked_at_as_a_disk_is() {
    let used =
        without(MADE, &["tank-ssd", "\t/dev/dm-1"]).replace("### found 0\n", "### found 0\n== /dev/pve/zfs-ssd\nxfs\n");
    assert!(
        refusal(SITE, &used)
            .starts_with("error: /dev/pve/zfs-ssd of pve1 (/dev/dm-1, 2G) is not blank: it holds xfs\n")
    );
}

#[test]
fn a_missing_disk_is_refused_with_those_that_are_there() {
    assert_eq!(
        refusal(&SITE.replace("virtio-HEARTH-HDD", "ata-ST500"), BLANK),
        "error: pve1 has no disk /dev/disk/by-id/ata-ST500; there are: virtio-HEARTH-HDD (/dev/vdb (10G)), virtio-HEARTH-SSD (/dev/vda (40G))\n  \
         hint: put one of these into the inventory, if it is the disk you mean"
    );
    let serial = SITE.replace("disk_id = \"virtio-HEARTH-HDD\"", "disk_serial = \"W123\"");
    assert!(refusal(&serial, BLANK).starts_with(
        "error: pve1 has no disk with the serial W123; there are: HEARTH-SSD on /dev/vda (40G), HEARTH-HDD on /dev/vdb (10G)\n"
    ));
}

#[test]
fn two_disks_of_one_serial_are_refused_by_both_names() {
    let twins = BLANK.replace(
        "\"mountpoints\":[null]}\n]}",
        "\"mountpoints\":[null]},\n  {\"kname\":\"vdc\", \"path\":\"/dev/vdc\", \"type\":\"disk\", \"size\":10737418240, \"serial\":\"HEARTH-HDD\", \"fstype\":null, \"mountpoints\":[null]}\n]}",
    );
    assert_eq!(
        refusal(SITE, &twins),
        "error: /dev/disk/by-id/virtio-HEARTH-HDD of pve1 is ambiguous: /dev/vdb (10G) and /dev/vdc (10G) have the same serial\n  \
         hint: take one of them out, or name another disk"
    );
    let serial = SITE.replace("disk_id = \"virtio-HEARTH-HDD\"", "disk_serial = \"HEARTH-HDD\"");
    assert!(
        refusal(&serial, &twins).starts_with("error: the serial HEARTH-HDD of pve1 is ambiguous: /dev/vdb (10G) and")
    );
}

#[test]
fn a_pool_that_hearth_did_not_make_is_left_alone() {
    let untagged = MADE.replace("tank-hdd\tdev.hearth:site\tlab\tlocal", "tank-hdd\tdev.hearth:site\t-\t-");
    assert_eq!(
        refusal(SITE, &untagged),
        "error: pve1 has a pool tank-hdd that Hearth did not make\n  \
         hint: to give it to Hearth, data and all: zfs set dev.hearth:site=lab tank-hdd"
    );
    let other = MADE.replace("tank-hdd\tdev.hearth:site\tlab\tlocal", "tank-hdd\tdev.hearth:site\thome\tlocal");
    assert_eq!(refusal(SITE, &other), "error: pool tank-hdd of pve1 belongs to the site 'home', not to 'lab'");
    let exported = BLANK.replace("### imports 0\n", "### imports 0\n   pool: tank-hdd\n     id: 1\n  state: ONLINE\n");
    assert!(refusal(SITE, &exported).ends_with("  hint: import it on pve1: zpool import tank-hdd"));
    let volume = MADE.replace("\"lv_tags\":\"hearth,other\"", "\"lv_tags\":\"hearths\"");
    assert_eq!(
        refusal(SITE, &volume),
        "error: pve1 has a logical volume pve/zfs-ssd that Hearth did not make\n  \
         hint: to give it to Hearth: lvchange --addtag hearth pve/zfs-ssd"
    );
}

#[test]
fn what_can_not_be_changed_is_refused() {
    let cases = [
        (
            SITE.replace("\"2G\"", "\"1G\""),
            MADE.to_owned(),
            "the logical volume pve/zfs-ssd of pve1 has 2G, and shall have 1G: it holds a pool, which can't shrink",
        ),
        (
            SITE.replacen("ashift = 12", "ashift = 13", 1),
            MADE.to_owned(),
            "pool tank-ssd of pve1 has ashift 12, and shall have 13: it can't be changed",
        ),
        (
            SITE.to_owned(),
            MADE.replace("\t/dev/vdb1\t", "\t/dev/vdc1\t"),
            "pool tank-hdd of pve1 is on /dev/vdc1, not on /dev/disk/by-id/virtio-HEARTH-HDD (/dev/vdb): a pool's device can't be changed",
        ),
        (
            SITE.replace("quota = \"5G\"", "utf8only = \"on\""),
            MADE.replace("tank-hdd/photos\tquota\t5368709120\tlocal", "tank-hdd/photos\tutf8only\toff\t-"),
            "tank-hdd/photos of pve1 has utf8only off, and shall have on: it can't be changed after the creation",
        ),
        (
            SITE.to_owned(),
            MADE.replace("tank-hdd/media\ttype\tfilesystem", "tank-hdd/media\ttype\tvolume"),
            "tank-hdd/media of pve1 is a volume, not a file system",
        ),
        (
            SITE.replace("\"2G\"", "\"30G\""),
            BLANK.to_owned(),
            "volume group pve of pve1 has 20G free, and 30G are needed",
        ),
        (
            SITE.replace("pve/zfs-ssd", "data/zfs-ssd"),
            BLANK.to_owned(),
            "pve1 has no volume group data; there are: pve",
        ),
    ];
    for (inventory, facts_text, wanted) in cases {
        let message = refusal(&inventory, &facts_text);
        assert_eq!(message.lines().next().unwrap(), format!("error: {wanted}"));
    }
}

#[test]
fn a_probe_that_failed_ends_the_plan_with_its_message() {
    let broken = BLANK.replace("### pools 0\n", "### pools 127\nsh: 1: zpool: not found\n");
    let error = plan(SITE, &broken).unwrap_err();
    assert_eq!(converge::describe(&error), "error: pve1: 'pools' ended with 127: sh: 1: zpool: not found");
}

#[test]
fn every_probe_is_a_script_that_a_shell_can_read() {
    let (folder, site) = load(SITE);
    let probes = with(&site, folder.path(), |cx| ZfsInit.probes(cx)).unwrap();
    assert_eq!(probes.len(), 9);
    for probe in probes {
        // Without the name, lsblk prints a list, and a disk's partitions are not seen as its own.
        assert!(probe.id != "disks" || probe.script.contains(" -o NAME,KNAME,"), "{}", probe.script);
        remote::Command::new("sh").args(["-n", "-c", &probe.script]).run().unwrap();
    }
}
