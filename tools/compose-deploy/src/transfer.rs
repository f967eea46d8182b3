//! Images on their way to a guest: only what is missing there, as a tar made while it is sent.

use std::io::{self, Cursor, Read};
use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::{Context, Event, Failure, Reason};
use image::ContainerImage;
use remote::{Host, quote};
use serde_json::json;
use site::Name;
use store::{Artifact, Store};

use crate::desired::blobs;
use crate::paths;

/// What must be left on a guest's disk, in bytes.
const RESERVE: u64 = 64 << 20;
const LOAD: &str = include_str!("guest/load.sh");

/// What a guest has of images already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Present {
    /// Files of the store, with their sizes.
    blobs: Vec<(String, u64)>,
    /// For each loaded image, its layers' uncompressed digests from the lowest on.
    chains: Vec<Vec<String>>,
    /// Free bytes where the store is.
    free: u64,
}

const PRESENT: &str = "\
mkdir -p /var/lib/hearth/store
df --output=avail -B1 /var/lib/hearth/store | sed '1d; s/^/free/; s/^free */free /'
find /var/lib/hearth/store -maxdepth 1 -type f -printf 'blob %f %s\\n'
images=$(docker image ls --quiet --no-trunc | sort -u)
[ -z \"$images\" ] || docker image inspect --format 'chain{{range .RootFS.Layers}} {{.}}{{end}}' $images
";

fn present(text: &str) -> Result<Present> {
    let mut present = Present::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        match words.next() {
            Some("blob") => {
                let (name, size) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let size = size.parse().with_context(|| format!("'{line}' is not understood"))?;
                present.blobs.push((name.to_owned(), size));
            }
            Some("free") => {
                let free = words.next().unwrap_or_default();
                present.free = free.parse().with_context(|| format!("'{line}' is not understood"))?;
            }
            Some("chain") => present.chains.push(words.map(str::to_owned).collect()),
            _ => anyhow::bail!("'{line}' is not understood"),
        }
    }
    Ok(present)
}

/// Returns how many of an image's lowest layers Docker has already: it knows a layer by all that lies below it.
fn shared(image: &ContainerImage, chains: &[Vec<String>]) -> usize {
    let wanted: Vec<_> = image.layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let same = |chain: &Vec<String>| chain.iter().zip(&wanted).take_while(|(have, want)| have == want).count();
    chains.iter().map(same).max().unwrap_or(0)
}

/// Sends what a guest lacks of an image, and loads it into Docker there.
///
/// # Errors
/// Where a file is damaged here or on the way, or Docker does not take the image.
pub fn send(cx: &Context<'_>, guest: &Name, host: &Host, image: &ContainerImage) -> Result<()> {
    let answer = host.run(PRESENT, Duration::from_secs(120)).context("can't see which layers are there")?;
    let present = present(&answer.text())?;
    let there = |name: &str, size: u64| present.blobs.iter().any(|(have, length)| have == name && *length == size);
    let missing: Vec<Artifact> =
        blobs([image]).into_iter().filter(|(name, file)| !there(name, file.size)).map(|(_, file)| file).collect();
    let bytes: u64 = missing.iter().map(|file| file.size).sum();
    let shared = shared(image, &present.chains);
    room(guest, image, (bytes, shared), present.free)?;
    let message = format!("{guest}: {} files, {} KiB for {}", missing.len(), bytes.div_ceil(1024), image.tag);
    cx.events.emit(&Event::Progress { stage: "compose-deploy".to_owned(), message });
    // A slow wire into an emulated guest still has 200 KB/s; hashing and unpacking there take their time too.
    let deadline = Duration::from_secs(300 + bytes / 200_000);
    let mut tar = tar_of(cx.store, &missing).context("can't read the image's files")?;
    host.feed(&script(image, shared), &mut tar, deadline)
        .with_context(|| format!("can't load {} on {guest}; what runs was not touched", image.tag))?;
    Ok(())
}

/// Makes sure that there is room for what is sent, for Docker's own copy of it while it loads, and for the layers.
fn room(guest: &Name, image: &ContainerImage, (sent, shared): (u64, usize), free: u64) -> Result<(), Failure> {
    let layers = image.layers.get(shared..).unwrap_or_default();
    let load: u64 = layers.iter().map(|layer| layer.blob.size).sum();
    // Unpacked they are larger still, by what is not known here; where that is too much, loading fails by itself.
    let wanted = sent + 2 * load + RESERVE;
    if free >= wanted {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "{guest} has {} MiB free and {} needs {} MiB; what runs was not touched",
        free >> 20,
        image.tag,
        mib(wanted)
    );
    let hint = format!("make room on {guest}, as with `docker system df` and `docker image prune`, or grow its disk");
    Err(Failure::new(Reason::Failed, message).hint(hint))
}

/// Writes the script that takes the files and loads the image; Docker is given no layer that it has.
fn script(image: &ContainerImage, shared: usize) -> String {
    let config = image.config.sha256;
    let layers: Vec<_> = image.layers.iter().map(|layer| layer.blob.sha256.to_string()).collect();
    let manifest =
        json!([{ "Config": format!("{config}.json"), "RepoTags": [image.tag], "Layers": layers }]).to_string();
    let links = layers.get(shared..).unwrap_or_default().join(" ");
    format!(
        "TAG={} ID=sha256:{config} CONFIG={config} LINKS={} MANIFEST={}\n{LOAD}",
        quote(&image.tag),
        quote(&links),
        quote(&manifest)
    )
}

/// Returns a reader that gives files of the store as a tar; each is hashed again while it is read.
fn tar_of(store: &Store, files: &[Artifact]) -> Result<impl Read> {
    let mut all: Box<dyn Read> = Box::new(io::empty());
    for file in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(file.sha256.to_string())?;
        header.set_size(file.size);
        header.set_mode(0o444);
        header.set_cksum();
        let padding = vec![0; usize::try_from(file.size.next_multiple_of(512) - file.size)?];
        let head = Cursor::new(header.as_bytes().to_vec());
        all = Box::new(all.chain(head).chain(store.read(&file.sha256)?).chain(Cursor::new(padding)));
    }
    // Two empty blocks end a tar.
    Ok(all.chain(Cursor::new(vec![0; 1024])))
}

/// Returns the script that checks that a guest's store holds these files as they were sent.
pub fn check_script(files: &[Artifact]) -> String {
    let lines: String = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.sha256)).collect();
    format!("cd {}\nprintf %s {} | sha256sum --check --quiet --strict 2>&1\n", paths::STORE, quote(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Layer;
    use store::Digest;

    fn image(store: &Store) -> ContainerImage {
        let layer = |text: &str| Layer { blob: store.put_bytes(text.as_bytes()).unwrap(), diff_id: Digest::of(text) };
        let config = store.put_bytes(b"{}").unwrap();
        ContainerImage {
            name: "http".into(),
            config,
            layers: vec![layer("base"), layer("top")],
            tag: "hearth/http:1".into(),
        }
    }

    #[test]
    fn only_layers_below_which_all_is_the_same_are_shared() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&Store::open(&folder.path().join("store")).unwrap());
        let id = |text: &str| format!("sha256:{}", Digest::of(text));
        assert_eq!(shared(&image, &[]), 0);
        assert_eq!(shared(&image, &[vec![id("other"), id("top")]]), 0);
        assert_eq!(shared(&image, &[vec![id("base"), id("x")], vec![id("y")]]), 1);
        assert_eq!(shared(&image, &[vec![id("base"), id("top"), id("more")]]), 2);
        let script = script(&image, 1);
        let top = image.layers[1].blob.sha256;
        assert!(script.contains(&format!("LINKS={top} ")), "{script}");
    }

    #[test]
    fn the_stream_is_a_tar_that_tar_reads_and_that_checks() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let files = [store.put_bytes(&[7; 513]).unwrap(), store.put_bytes(b"").unwrap()];
        let mut bytes = Vec::new();
        tar_of(&store, &files).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        for (entry, file) in archive.entries().unwrap().zip(&files) {
            let entry = entry.unwrap();
            assert_eq!(entry.path().unwrap().to_str().unwrap(), file.sha256.to_string());
            assert_eq!(Digest::of_reader(entry).unwrap(), (file.sha256, file.size));
        }
    }

    #[test]
    fn a_guest_without_room_is_not_sent_anything() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&Store::open(&folder.path().join("store")).unwrap());
        let guest: Name = "vm-a".parse().unwrap();
        // Two layers, of four and three bytes, and one of them is there.
        let wanted = (5 << 20) + 2 * 3 + RESERVE;
        room(&guest, &image, (5 << 20, 1), wanted).unwrap();
        let failure = room(&guest, &image, (5 << 20, 1), wanted - 1).unwrap_err();
        assert_eq!(failure.reason.code(), 1);
        assert_eq!(failure.message, "vm-a has 69 MiB free and hearth/http:1 needs 70 MiB; what runs was not touched");
        assert!(room(&guest, &image, (5 << 20, 0), wanted).is_err());
    }

    #[test]
    fn what_a_guest_has_is_understood() {
        let found = present("free 4096\nblob abc 12\nchain sha256:1 sha256:2\nchain\n").unwrap();
        assert_eq!(found.free, 4096);
        assert_eq!(found.blobs, [("abc".to_owned(), 12)]);
        assert_eq!(found.chains, [vec!["sha256:1".to_owned(), "sha256:2".to_owned()], vec![]]);
        assert!(present("what").is_err());
    }
}
