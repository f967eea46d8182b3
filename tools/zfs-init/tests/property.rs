//! From any state to any site: what is planned, done and planned again comes to nothing, or is refused whole.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod model;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use converge::{Context, Quiet, Reason, Step, Tool};
use model::{Host, Pool};
use proptest::prelude::*;
use proptest::sample::select;
use remote::Fleet;
use site::Site;
use zfs_init::ZfsInit;

const HEAD: &str = "[site]\nname = \"lab\"\n[hosts.pve1]\naddress = \"192.168.1.100\"\n\
    api = { token_file = \"token\", ca_file = \"ca.pem\" }\nssh = { key_file = \"key\" }\n";

/// Properties of one dataset.
type Set = BTreeMap<&'static str, &'static str>;

/// A pool of a site.
#[derive(Clone, Debug)]
struct Spec {
    /// 0 to 1 for a volume, 2 to 4 for a disk.
    device: usize,
    gigabytes: u64,
    ashift: u8,
    own: Set,
    datasets: BTreeMap<&'static str, Set>,
}

fn set() -> impl Strategy<Value = Set> {
    let values = vec![
        ("atime", "on"),
        ("atime", "off"),
        ("compression", "lz4"),
        ("compression", "zstd"),
        ("compression", "off"),
        ("recordsize", "16K"),
        ("recordsize", "1M"),
        ("quota", "none"),
        ("quota", "1G"),
        ("quota", "5G"),
        ("reservation", "none"),
        ("reservation", "1G"),
        ("canmount", "on"),
        ("canmount", "off"),
        ("canmount", "noauto"),
        ("mountpoint", "/srv/a"),
        ("mountpoint", "/srv/b"),
        ("mountpoint", "none"),
        ("mountpoint", "legacy"),
        ("utf8only", "on"),
        ("utf8only", "off"),
    ];
    prop::collection::vec(select(values), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

fn spec() -> impl Strategy<Value = Spec> {
    let datasets = prop::collection::btree_map(select(vec!["a", "a/b", "a/b/c", "d", "d/e"]), set(), 0..5);
    (0..5_usize, 1..9_u64, select(vec![12, 12, 12, 9]), set(), datasets).prop_map(
        |(device, gigabytes, ashift, own, mut datasets)| {
            for name in datasets.keys().copied().collect::<Vec<_>>() {
                let mut above = name;
                while let Some((parent, _)) = above.rsplit_once('/') {
                    datasets.entry(parent).or_default();
                    above = parent;
                }
            }
            Spec { device, gigabytes, ashift, own, datasets }
        },
    )
}

/// A site of pools, each on a device of its own.
fn inventory() -> impl Strategy<Value = String> {
    prop::collection::btree_map(select(vec!["tank", "fast", "slow"]), spec(), 0..4).prop_map(|pools| {
        let mut text = HEAD.to_owned();
        let mut taken = Vec::new();
        for (name, Spec { device, gigabytes, ashift, own, datasets }) in pools {
            if taken.contains(&device) {
                continue;
            }
            taken.push(device);
            let device = match device {
                0 | 1 => {
                    text += &format!("[logical_volumes.\"pve/v{device}\"]\nhost = \"pve1\"\nsize = \"{gigabytes}G\"\n");
                    format!("logical_volume = \"pve/v{device}\"")
                }
                2 => "disk_id = \"ata-ONE\"".into(),
                3 => "disk_serial = \"ata-TWO\"".into(),
                _ => "disk_id = \"ata-THREE\"".into(),
            };
            text += &format!(
                "[pools.{name}]\nhost = \"pve1\"\n{device}\nashift = {ashift}\nproperties = {}\n",
                inline(&own, name)
            );
            text += &format!("[pools.{name}.datasets]\n");
            for (dataset, own) in datasets {
                text += &format!("\"{dataset}\" = {{ properties = {} }}\n", inline(&own, &format!("{name}/{dataset}")));
            }
        }
        text
    })
}

/// Writes properties; each mount point is made one of its own.
fn inline(set: &Set, dataset: &str) -> String {
    let own = |value: &str| {
        if value.starts_with('/') { format!("{value}-{}", dataset.replace('/', "-")) } else { value.to_owned() }
    };
    let pairs: Vec<String> = set.iter().map(|(name, value)| format!("{name} = \"{}\"", own(value))).collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn load(folder: &Path, text: &str) -> Site {
    // Written in place: a sync for each of the hundreds of sites would take most of the time.
    for (name, text) in [("pipeline.toml", ""), ("site.toml", text)] {
        File::create(folder.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }
    site::load(folder).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn plan(site: &Site, host: &Host) -> anyhow::Result<Vec<Step>> {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(folder.path()).unwrap();
    let fleet = Fleet::new(site);
    let cx = Context { site, store: &store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() };
    ZfsInit.plan(&cx, &host.facts(site))
}

/// Makes a host as a site wants it; false where that is refused, and nothing was done then.
fn converge(site: &Site, host: &mut Host) -> Result<bool, TestCaseError> {
    let steps = match plan(site, host) {
        Ok(steps) => steps,
        Err(error) => {
            prop_assert_eq!(converge::reason(&error), Reason::Refused, "{:#}", error);
            return Ok(false);
        }
    };
    for step in &steps {
        host.apply(&model::action(&step.action));
    }
    let left = plan(site, host).map_err(|error| TestCaseError::fail(format!("the second plan: {error:#}")))?;
    let left: Vec<String> = left.iter().map(|step| step.change.to_string()).collect();
    prop_assert!(left.is_empty(), "this still differs:\n{}", left.join("\n"));
    Ok(true)
}

/// What a person does to a host behind Hearth's back.
#[derive(Clone, Debug)]
enum Deed {
    Set(usize, &'static str, &'static str),
    Unmount(usize),
    Destroy(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let values = vec![
        ("atime", "on"),
        ("compression", "zstd"),
        ("recordsize", "16384"),
        ("quota", "7340032"),
        ("canmount", "noauto"),
        ("mountpoint", "/else"),
    ];
    prop_oneof![
        (any::<usize>(), select(values)).prop_map(|(at, (name, value))| Deed::Set(at, name, value)),
        any::<usize>().prop_map(Deed::Unmount),
        any::<usize>().prop_map(Deed::Destroy),
    ]
}

fn damage(host: &mut Host, deed: &Deed) {
    let (Deed::Set(at, ..) | Deed::Unmount(at) | Deed::Destroy(at)) = deed;
    let all: Vec<(String, String)> = host
        .pools
        .iter()
        .flat_map(|(pool, there)| there.datasets.keys().map(|name| (pool.clone(), name.clone())))
        .collect();
    let Some((pool, name)) = all.get(at % all.len().max(1)) else { return };
    let datasets = &mut host.pools.get_mut(pool).unwrap().datasets;
    match deed {
        Deed::Set(_, property, value) => {
            drop(datasets.get_mut(name).unwrap().0.insert((*property).into(), (*value).into()));
        }
        Deed::Unmount(_) => datasets.get_mut(name).unwrap().1 = false,
        Deed::Destroy(_) => datasets
            .retain(|other, _| !name.contains('/') || !(other == name || other.starts_with(&format!("{name}/")))),
    }
}

/// Things that are not the site's: a pool, a volume, a dataset in one of the site's pools.
fn strangers(host: &mut Host) {
    host.volumes.insert("other".into(), (1 << 30, String::new()));
    let root = BTreeMap::from([("other".to_owned(), (BTreeMap::from([("quota".to_owned(), "1".to_owned())]), true))]);
    host.pools
        .insert("other".into(), Pool { ashift: 13, device: "/dev/pve/other".into(), bytes: 1 << 30, datasets: root });
    for (name, pool) in host.pools.iter_mut().filter(|(name, _)| *name != "other") {
        pool.datasets
            .insert(format!("{name}/foreign"), (BTreeMap::from([("atime".to_owned(), "on".to_owned())]), false));
    }
}

fn foreign(host: &Host) -> BTreeMap<String, String> {
    let datasets = host.pools.values().flat_map(|pool| &pool.datasets);
    let datasets = datasets
        .filter(|(name, _)| name.ends_with("/foreign"))
        .map(|(name, own)| (name.clone(), format!("{:?}", own.0)));
    let pool = host.pools.get("other").map(|pool| ("other".to_owned(), format!("{pool:?}")));
    let volume = host.volumes.get("other").map(|volume| ("lv".to_owned(), format!("{volume:?}")));
    datasets.chain(pool).chain(volume).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn from_one_site_to_any_other_the_second_plan_is_empty(first in inventory(), second in inventory()) {
        let folder = tempfile::tempdir().unwrap();
        let mut host = Host::new();
        let made = converge(&load(folder.path(), &first), &mut host)?;
        prop_assert!(made, "a blank host takes every site");
        converge(&load(folder.path(), &second), &mut host)?;
    }

    #[test]
    fn what_people_do_is_undone_and_what_is_theirs_stays(text in inventory(), deeds in prop::collection::vec(deed(), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let site = load(folder.path(), &text);
        let mut host = Host::new();
        converge(&site, &mut host)?;
        strangers(&mut host);
        prop_assert!(converge(&site, &mut host)?);
        for deed in &deeds {
            damage(&mut host, deed);
        }
        let theirs = foreign(&host);
        // A dataset that is made anew can't have been given what only its creation sets; that it is refused is right.
        converge(&site, &mut host)?;
        prop_assert_eq!(foreign(&host), theirs);
    }
}
