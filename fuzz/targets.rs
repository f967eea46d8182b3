//! What is fuzzed: each target takes any bytes and must neither panic nor hang. Two run them: `cargo test -p hearth --test
//! fuzz`, which changes the seeds at random, and cargo-fuzz, which is guided by coverage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;

use converge::{Context, Facts, HostFacts, Quiet, Tool};
use remote::{Fleet, Output};
use site::Site;

/// A target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: &'static [&'static [u8]],
}

macro_rules! targets {
    ($($name:ident: $($seed:literal),+;)*) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $name,
            seeds: &[$(include_bytes!($seed)),+],
        }),*];
    };
}

targets! {
    site: "../tests/golden/base/inventory/home/storage.toml", "../tests/golden/base/inventory/home/guests.toml",
        "../tests/golden/base/inventory/home/site.toml", "../tests/golden/base/inventory/home/stacks.toml";
    pipeline: "../tests/golden/base/pipeline.toml";
    recipe: "../tests/golden/base/images/http.toml", "../tests/golden/base/images/debian-13.toml", "../images/debian-13-docker.toml";
    lock: "seeds/lock.toml";
    compose: "../tests/golden/base/inventory/home/stacks/web/compose.yaml", "../inventory/lab/stacks/photos/compose.yaml",
        "../inventory/lab/stacks/backup/compose.yaml";
    cloud_config: "../tests/golden/base/inventory/home/web.yaml";
    zfs_diff: "../tools/zfs-init/tests/data/made.facts", "../tools/zfs-init/tests/data/blank.facts";
    nfs_diff: "seeds/nfs.facts";
    stacks: "seeds/stacks.txt";
    plan_file: "seeds/plan.json";
    names: "seeds/names.txt";
    marks: "seeds/marks.txt";
    vm_config: "seeds/vm.json";
    known_hosts: "seeds/known_hosts";
    answers: "seeds/answers.txt";
    iso9660: "seeds/names.txt";
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A folder for the files of one process.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()
}

fn put(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
    // Written in place: a sync for each input would be all that is measured.
    File::create(path).and_then(|mut file| file.write_all(bytes)).expect("a file");
}

/// An inventory beside the rest of a good one: it is a site, or all its errors can be shown.
fn site(bytes: &[u8]) {
    put("site/pipeline.toml", b"");
    put("site/images/debian-13.toml", b"");
    put("site/inventory/any.toml", bytes);
    if let Err(errors) = site::load(&folder().join("site/inventory")) {
        assert!(!errors.render(true).is_empty());
        assert!(!errors.problems().is_empty());
    }
}

fn pipeline(bytes: &[u8]) {
    let _ = hearth::Pipeline::parse(Path::new("pipeline.toml"), &text(bytes), &["zfs-init", "verify"])
        .map_err(|e| converge::describe(&e));
}

fn recipe(bytes: &[u8]) {
    let _ = image::ImageRecipe::parse(Path::new("any.toml"), &text(bytes)).map_err(|e| e.to_string());
}

/// What is read is written as it was read.
fn lock(bytes: &[u8]) {
    let path = Path::new("pipeline.lock");
    if let Ok(lock) = image::lock::Lock::parse(path, &text(bytes)) {
        let again = image::lock::Lock::parse(path, &lock.render()).expect("what is written can be read");
        assert_eq!(again.render(), lock.render());
    }
}

fn compose(bytes: &[u8]) {
    if let Ok(compose) = compose_deploy::compose::parse(&text(bytes)) {
        let _ = compose_deploy::compose::check_files(&compose, Path::new("/nonexistent"));
    }
}

fn good() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| load(include_str!("../tools/zfs-init/tests/data/site.toml"), "good"))
}

fn shared() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| load(include_str!("../tools/nfs-export/tests/data/site.toml"), "shared"))
}

fn load(text: &str, name: &str) -> Site {
    put(&format!("{name}/pipeline.toml"), b"");
    put(&format!("{name}/images/debian-13.toml"), b"");
    put(&format!("{name}/inventory/site.toml"), text.as_bytes());
    site::load(&folder().join(name).join("inventory")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn cloud_config(bytes: &[u8]) {
    put("cloud.yaml", bytes);
    let site = shared();
    let (name, guest) = site.guests.first().expect("the site has a guest");
    let mut guest = guest.clone();
    guest.user_data = Some(folder().join("cloud.yaml"));
    if let Ok(seed) = vm_build::seed::Seed::of(name, &guest, &site.network) {
        assert!(seed.iso().len() % 2048 == 0);
    }
}

/// Reads `### [HOST ]PROBE STATUS` sections.
fn facts(text: &str) -> Facts {
    let mut hosts: BTreeMap<site::Name, BTreeMap<String, Output>> = BTreeMap::new();
    for section in text.split("### ").skip(1) {
        let (head, body) = section.split_once('\n').unwrap_or((section, ""));
        let words: Vec<&str> = head.split(' ').collect();
        let (host, id, status) = match words.as_slice() {
            [id, status] => ("pve1", *id, *status),
            [host, id, status] => (*host, *id, *status),
            _ => continue,
        };
        let Ok(host) = host.parse() else { continue };
        let output =
            Output { command: id.into(), status: status.parse().unwrap_or(1), stdout: body.into(), stderr: Vec::new() };
        hosts.entry(host).or_default().insert(id.to_owned(), output);
    }
    Facts::new(hosts.into_iter().map(|(host, answers)| (host, HostFacts::Answers(answers))))
}

/// Plans from any answers; every step's script can be written.
fn plan(tool: &dyn Tool, site: &Site, bytes: &[u8]) -> Vec<converge::Step> {
    static STORE: OnceLock<store::Store> = OnceLock::new();
    let store = STORE.get_or_init(|| store::Store::open(&folder().join("store")).expect("a store"));
    let fleet = Fleet::new(site);
    let cx = Context { site, store, fleet: &fleet, events: &Quiet, only: &[], absent: Default::default() };
    let steps = tool.plan(&cx, &facts(&text(bytes))).map_err(|error| converge::describe(&error)).unwrap_or_default();
    for step in &steps {
        assert!(!step.change.to_string().is_empty());
    }
    steps
}

fn zfs_diff(bytes: &[u8]) {
    for step in plan(&zfs_init::ZfsInit, good(), bytes) {
        let action: zfs_init::Action = serde_json::from_value(step.action).expect("a step's own action");
        let script = action.script();
        // Nothing that destroys may come out of any answer.
        let destroys = ["zfs destroy", "zpool destroy", "lvremove", "labelclear", "create -f"];
        assert!(!destroys.iter().any(|word| script.contains(word)), "{script}");
        assert!(!script.contains("wipefs --all") || text(bytes).contains("hearth_leftover"), "{script}");
    }
}

fn nfs_diff(bytes: &[u8]) {
    for step in plan(&nfs_export::NfsExport, shared(), bytes) {
        let action: nfs_export::Action = serde_json::from_value(step.action).expect("a step's own action");
        assert!(!action.script().is_empty());
    }
}

fn stacks(bytes: &[u8]) {
    if let Ok(observed) = compose_deploy::observe::parse(&text(bytes)) {
        let guest = compose_deploy::desired::Guest::default();
        let _ = compose_deploy::diff::compare("home", &"web".parse().expect("a name"), &guest, &observed);
    }
}

fn plan_file(bytes: &[u8]) {
    if let Ok(plan) = serde_json::from_slice::<converge::Plan>(bytes) {
        let again = serde_json::to_vec(&plan).expect("a plan can be written");
        assert_eq!(serde_json::from_slice::<converge::Plan>(&again).expect("and read").digest(), plan.digest());
        let _: Vec<String> = plan.steps.iter().map(|step| step.change.to_string()).collect();
    }
}

/// A name or size that is read prints as something that is read the same.
fn names(bytes: &[u8]) {
    for word in text(bytes).lines() {
        let same = |a: String| assert_eq!(a, word);
        let _ = word.parse::<site::Name>().map(|name| same(name.to_string()));
        let _ = word.parse::<site::PoolName>().map(|name| same(name.to_string()));
        let _ = word.parse::<site::DatasetName>().map(|name| assert!(!name.pool().is_empty()));
        let _ = word
            .parse::<site::LogicalVolumeName>()
            .map(|name| assert!(!name.group().is_empty() && !name.volume().is_empty()));
        let _ = word.parse::<site::AbsolutePath>().map(|name| same(name.to_string()));
        if let Ok(size) = word.parse::<site::Size>() {
            assert_eq!(size.to_string().parse::<site::Size>(), Ok(size));
        }
        let _ = word.parse::<store::Digest>().map(|digest| assert_eq!(digest.to_string().len(), 64));
    }
}

fn marks(bytes: &[u8]) {
    let name: site::Name = "home".parse().expect("a name");
    if let Some(mark) = vm_build::mark::Mark::read(&text(bytes), &name) {
        assert!(mark.describe(&name).contains("hearth:site=home"));
    }
}

fn vm_config(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<pve::Config>(bytes) {
        let _ = vm_build::observe::pci(&config);
        for value in config.values.values() {
            let _ = vm_build::observe::option(value, "size");
            let _ = vm_build::observe::file_name(value);
        }
    }
    let _ = serde_json::from_slice::<Vec<pve::Resource>>(bytes);
    let _ = serde_json::from_slice::<Vec<pve::Pending>>(bytes);
    let _ = serde_json::from_slice::<Vec<pve::Volume>>(bytes);
    let _ = pve::Token::parse(&text(bytes));
    let _ = pve::Pin::fingerprint(&text(bytes));
}

fn known_hosts(bytes: &[u8]) {
    remote::fuzzing::known_hosts(&text(bytes));
}

fn answers(bytes: &[u8]) {
    remote::fuzzing::answers(bytes);
}

/// A volume of files with any names and contents is whole blocks, and the same again.
fn iso9660(bytes: &[u8]) {
    let (name, content) = bytes.split_at(bytes.len().min(8));
    let name: String = name.iter().filter(|b| b.is_ascii_alphanumeric()).map(|b| char::from(*b)).collect();
    let files = [("meta-data", content), ("user-data", name.as_bytes())];
    let volume = image::iso9660::write("cidata", &files);
    assert!(volume.len().is_multiple_of(2048) && volume == image::iso9660::write("cidata", &files));
}
