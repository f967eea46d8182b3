//! The same inputs give the same bits, wherever, whenever and by whomever they are built. These tests need root, and the
//! network once for the packages, but no lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_tests::{expect, programs, project};
use image::lock::Lock;
use image::{Builder, Settings};
use remote::Command;
use store::Store;

/// A small image whose files tell what its build saw: variables, mask, user, machine, hardware.
const WITNESS: &str = r#"
kind = "container"
base = "base"
setup = [
    "env | sort >/srv/variables",
    "umask >/srv/mask",
    "id >/srv/user",
    "hostname >/srv/host",
    "cat /proc/cpuinfo /proc/cmdline /proc/version >/srv/machine",
    "find / -xdev -path /proc -prune -o -name 'stray*' -print >/srv/strays",
    "find /sys /dev | sort >/srv/devices",
    "cut -d: -f1 /proc/net/dev | tail -n +3 >/srv/network",
    "for name in b a c; do mkdir /srv/$name; done",
]
"#;

/// An image that holds the clock, which no image should: the proof that a test's other clock reaches a build.
const CLOCK: &str = "kind = \"container\"\nbase = \"base\"\nsetup = [\"date +%Y >/srv/year\"]\n";

/// An image that differs in every build.
const RANDOM: &str = "kind = \"container\"\nbase = \"base\"\nsetup = [\"od -N8 -tx8 /dev/urandom >/srv/random\"]\n";

/// Where Debian's package has the library.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A copy of the project with a cache of its own, which holds packages and no image.
struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    /// Copies what a build reads into a new folder below `parent`.
    fn new(parent: &Path) -> Self {
        fs::create_dir_all(parent).unwrap();
        let folder = tempfile::Builder::new().prefix("bits ").tempdir_in(parent).unwrap();
        let setting = Self { folder };
        fs::create_dir_all(setting.project()).unwrap();
        let mut copy = Command::new("cp").arg("-r");
        for part in ["images", "inventory", "pipeline.toml", "pipeline.lock"] {
            copy = copy.arg(project().join(part));
        }
        copy.arg(setting.project()).run().unwrap();
        for (name, recipe) in [("witness", WITNESS), ("clock", CLOCK), ("random", RANDOM)] {
            setting.write(&format!("images/{name}.toml"), recipe);
        }
        setting
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn write(&self, path: &str, text: &str) {
        store::files::write_atomic(&self.project().join(path), text, 0o644).unwrap();
    }

    /// Copies the pinned packages that a cache has, and nothing else of it.
    fn take_packages(&self, cache: &Path) {
        let own = self.folder.path().join("cache/store");
        fs::create_dir_all(&own).unwrap();
        for package in Lock::load(&self.project().join("pipeline.lock")).unwrap().packages.values() {
            let name = package.sha256.to_string();
            let from = cache.join("store").join(&name);
            if from.is_file() {
                fs::copy(from, own.join(name)).unwrap();
            }
        }
    }

    fn hearth(&self, args: &[&str]) -> Command {
        Command::new(programs().join("hearth"))
            .args(args)
            .arg("--site")
            .arg(self.project().join("inventory/lab"))
            .env("HEARTH_CACHE", self.folder.path().join("cache"))
            .deadline(Duration::from_secs(3600))
    }

    /// The same command line where everything around it is different: no network, one processor, another time, user, home,
    /// mask, locale, time zone, and variables that building programs listen to.
    fn hostile_hearth(&self, args: &[&str]) -> Command {
        let home = self.folder.path().join("home");
        fs::create_dir_all(&home).unwrap();
        self.write("stray", "in the way");
        self.write("images/stray.txt", "in the way");
        let hearth = programs().join("hearth");
        Command::new("sh")
            .args(["-euc", "umask 077; cd /; exec \"$@\"", "sh", "unshare", "--net", "taskset", "-c", "0"])
            .args(["env", &format!("LD_PRELOAD={FAKETIME}"), "FAKETIME=+400d"])
            .arg(hearth)
            .args(args)
            .arg("--site")
            .arg(self.project().join("inventory/lab"))
            .clear_env()
            .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin:/nowhere")
            .env("HEARTH_CACHE", self.folder.path().join("cache"))
            .env("HOME", home)
            .env("USER", "nobody")
            .env("LOGNAME", "nobody")
            .env("SOURCE_DATE_EPOCH", "1")
            .env("TZ", "Pacific/Kiritimati")
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("LANG", "tr_TR.UTF-8")
            .env("ROOT", "/nowhere")
            .env("APT_CONFIG", "/nowhere")
            .env("DPKG_ROOT", "/nowhere")
            .env("TAR_OPTIONS", "--mode=0")
            .env("CFLAGS", "-O0")
            .env("MAKEFLAGS", "-j9")
            .env("POSIXLY_CORRECT", "1")
            .deadline(Duration::from_secs(3600))
    }

    /// The names of all artifacts but the packages.
    fn made(&self) -> Vec<String> {
        let lock = Lock::load(&self.project().join("pipeline.lock")).unwrap();
        let packages: Vec<String> = lock.packages.values().map(|package| package.sha256.to_string()).collect();
        let entries = fs::read_dir(self.project().join(".hearth/store")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut made: Vec<String> = names.filter(|name| !packages.contains(name)).collect();
        made.sort();
        made
    }
}

/// The ordinary setting, in the build folder, with what packages the machine's cache has.
fn ordinary() -> Setting {
    let setting = Setting::new(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/hearth"));
    let cache = std::env::var_os("HEARTH_CACHE").map(PathBuf::from).or(home).unwrap();
    setting.take_packages(&cache);
    setting
}

/// A setting on another file system, in memory, whose folders list their files in another order. It gets the packages of
/// the first.
fn elsewhere(first: &Setting) -> Setting {
    let setting = Setting::new(Path::new("/dev/shm"));
    setting.take_packages(&first.folder.path().join("cache"));
    assert!(!setting.project().join(".hearth").exists());
    setting
}

/// Builds images in both settings. Returns the settings and what the second printed.
fn build_twice(images: &[&str]) -> (Setting, Setting) {
    let mut args = vec!["build"];
    images.iter().for_each(|name| args.extend(["--image", name]));
    let first = ordinary();
    println!("{}", expect(0, &first.hearth(&args)).text());
    let second = elsewhere(&first);
    println!("{}", expect(0, &second.hostile_hearth(&args)).text());
    assert_eq!(first.made(), second.made(), "two settings gave different artifacts");
    (first, second)
}

#[cfg(feature = "soak")]
#[test]
fn containers_are_the_same_in_any_setting_without_a_network_and_a_second_build_is_compared() {
    let (first, second) = build_twice(&["http", "witness"]);
    assert!(first.made().len() >= 8, "too little was built: {:?}", first.made());
    let again = expect(0, &second.hostile_hearth(&["build", "--image", "witness", "--check"]));
    assert!(again.text().contains("witness: built twice, both times "), "{}", again.text());
    let differs = expect(1, &first.hearth(&["build", "--image", "random", "--check"]));
    let said = String::from_utf8_lossy(&differs.stderr).into_owned() + &differs.text();
    assert!(said.contains("they differ in /srv/random"), "{said}");

    // A package that was cut short is noticed, and fetched again; without a network it is named.
    let lock = Lock::load(&first.project().join("pipeline.lock")).unwrap();
    let (id, package) = lock.packages.iter().find(|(id, _)| id.starts_with("busybox_")).unwrap();
    for store in [second.folder.path().join("cache/store"), second.project().join(".hearth/store")] {
        let path = store.join(package.sha256.to_string());
        fs::remove_file(&path).unwrap();
        store::files::write_atomic(&path, "cut short", 0o444).unwrap();
    }
    let short = expect(69, &second.hostile_hearth(&["build", "--image", "base", "--check"]));
    let said = String::from_utf8_lossy(&short.stderr).into_owned() + &short.text();
    assert!(said.contains("can't fetch ") && said.contains("busybox"), "{id}: {said}");
}

#[test]
fn a_clock_a_year_ahead_leaves_no_trace_in_a_build() {
    assert!(Path::new(FAKETIME).exists(), "{FAKETIME} is missing\n  hint: apt-get install libfaketime");
    let first = ordinary();
    let (now, ahead) = (containers(&first, None), containers(&elsewhere(&first), Some("+400d")));
    let [base, witness, clock] = [0, 1, 2].map(|n| (&now[n], &ahead[n]));
    assert_eq!(base.0, base.1);
    // The variables that switch the other clock on are all that differs.
    assert_ne!(witness.0, witness.1, "the variables of the other clock did not reach the build");
    assert_ne!(clock.0, clock.1, "the other clock did not reach the build, so this test proves nothing");
}

/// Builds in this process, where the programs that build can be given another clock.
fn containers(setting: &Setting, clock: Option<&str>) -> Vec<image::ContainerImage> {
    let project = setting.project();
    let store = Store::open(&project.join(".hearth/store")).unwrap();
    let settings = Settings {
        store: store.with_cache(&setting.folder.path().join("cache/store")).unwrap(),
        images_dir: project.join("images"),
        lock_path: project.join("pipeline.lock"),
        scratch_dir: project.join(".hearth/scratch"),
        progress: &|line| println!("{line}"),
    };
    let mut builder = Builder::new(settings).unwrap();
    if let Some(shift) = clock {
        builder = builder.with_other_clock(Path::new(FAKETIME), shift);
    }
    ["base", "witness", "clock"].iter().map(|name| builder.container(name).unwrap()).collect()
}

/// All images of the lab, the node's kernel modules included, and the generation made of them.
#[cfg(feature = "soak")]
#[test]
fn the_lab_s_generation_is_the_same_in_any_setting() {
    let (first, second) = build_twice(&["lab-node"]);
    let generation = |command: &Command| {
        let text = expect(0, command).text();
        println!("{text}");
        let line = text.lines().find(|line| line.contains("generation ")).unwrap().to_owned();
        line.split(['(', ')']).nth(1).unwrap().to_owned()
    };
    let digests = [generation(&first.hearth(&["build"])), generation(&second.hostile_hearth(&["build"]))];
    assert_eq!(digests[0], digests[1]);
    assert_eq!(first.made(), second.made(), "two settings gave different artifacts");
}
