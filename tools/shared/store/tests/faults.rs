//! Power cuts and failing disks, at every system call of a store write: strace(1) kills the writer there, or lets the call
//! fail. Whatever happens, no wrong artifact stands under a right name, and no recipe names an artifact that is not there.
//!
//! With `write FOLDER` this program is the writer.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]
#![allow(clippy::disallowed_methods, reason = "remote is built on this crate")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use hearth_store::{Digest, Generation, Generations, Outputs, Recipe, Store};

/// The calls that change a file system. `fsync` is where data reaches the disk, `rename` where a name does.
const CALLS: &[&str] = &["write", "fsync", "/^rename", "/^link", "/^mkdir", "/^symlink"];
const DISK: &[u8] = &[7; 300_000];

fn recipe() -> Recipe {
    Recipe { kind: "disk".into(), inputs: BTreeMap::from([("package".to_owned(), "a".to_owned())]) }
}

/// Writes an artifact, what its recipe gave, and a generation, as a build does.
fn write(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(&folder.join("p/store"))?.with_cache(&folder.join("c/store"))?;
    let disk = store.put_bytes(DISK)?;
    store.record(&recipe(), &Outputs::from([("disk".to_owned(), disk)]))?;
    let artifacts = BTreeMap::from([("images/disk".to_owned(), disk)]);
    let generation = Generation { site: "home".into(), artifacts, desired: BTreeMap::new() };
    Generations::open(&folder.join("p/generations"))?.save(&generation)?;
    Ok(())
}

/// Looks at what the writer left, then lets it write again undisturbed.
fn judge(folder: &Path, what: &str) {
    for name in ["p/store", "c/store"] {
        let Ok(entries) = std::fs::read_dir(folder.join(name)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if let Ok(digest) = path.file_name().unwrap().to_str().unwrap().parse::<Digest>() {
                let bytes = std::fs::read(&path).unwrap();
                assert_eq!(Digest::of(bytes), digest, "{what}: a wrong artifact stands under {}", path.display());
            }
        }
    }
    let size = DISK.len() as u64;
    let store = Store::open(&folder.join("p/store")).unwrap();
    if let Some(outputs) = store.outputs(&recipe()).unwrap() {
        assert_eq!(store.verify(&outputs["disk"].sha256).unwrap(), size, "{what}");
    }
    if let Some((_, generation)) = Generations::open(&folder.join("p/generations")).unwrap().latest().unwrap() {
        assert_eq!(store.verify(&generation.artifacts["images/disk"].sha256).unwrap(), size, "{what}");
    }
    drop(store);
    write(folder).unwrap_or_else(|error| panic!("{what}: the next write fails: {error}"));
    for name in ["p/store", "c/store", "p/generations", "p/recipes", "c/recipes"] {
        let names = std::fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> =
            names.filter(|name| [".new-", ".tmp"].iter().any(|new| name.to_string_lossy().starts_with(new))).collect();
        assert!(left.is_empty(), "{what}: {left:?} is left in {name}");
    }
    let store = Store::open(&folder.join("p/store")).unwrap();
    assert_eq!(store.outputs(&recipe()).unwrap().unwrap()["disk"].sha256, Digest::of(DISK), "{what}");
}

/// Runs the writer with a fault at the `n`th of these calls; tells whether it came that far.
fn fault(calls: &str, action: &str, n: u32, folder: &Path) -> bool {
    let log = folder.with_extension("strace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&log)
        .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{action}:when={n}")])
        .arg(std::env::current_exe().unwrap())
        .arg("write")
        .arg(folder)
        .output()
        .expect("strace is installed: apt-get install strace");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.starts_with("strace:"), "strace can't do this here: {said}");
    let hit = text.contains("(INJECTED)") || text.contains("killed by SIGKILL");
    assert!(hit || output.status.success(), "without a fault the writer succeeds: {said}");
    hit
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, verb, folder] = &arguments[..]
        && verb == "write"
    {
        write(Path::new(folder)).unwrap();
        return;
    }
    for action in ["signal=KILL", "error=EIO", "error=ENOSPC"] {
        let mut points = 0;
        for calls in CALLS {
            for n in 1.. {
                let folder = tempfile::tempdir().unwrap();
                let inside = folder.path().join("x");
                std::fs::create_dir(&inside).unwrap();
                if !fault(calls, action, n, &inside) {
                    break;
                }
                judge(&inside, &format!("{action} at {calls} {n}"));
                points += 1;
            }
        }
        println!("{action}: {points} points, no wrong artifact");
        assert!(points > 25, "{action}: the writer makes more calls than {points}");
    }
}
