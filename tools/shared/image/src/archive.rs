//! Archives that `docker load` reads.

use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;
use store::{Artifact, Store};

use crate::container::{ContainerImage, Layer};
use crate::{Error, Result};

/// Writes images as one archive. `include` picks the layers that go in, by image and layer: `docker load` opens no file
/// of a layer that it has already, so those can stay out. A layer that two images share goes in once.
///
/// # Errors
/// [`Error::Store`] for a layer that is missing or altered, [`Error::Io`].
pub fn write_docker_archive(
    images: &[&ContainerImage],
    store: &Store,
    include: impl Fn(&ContainerImage, &Layer) -> bool,
    to: impl Write,
) -> Result<()> {
    let io = || Error::io("write", Path::new("the docker archive"));
    let mut tar = tar::Builder::new(to);
    let mut done = std::collections::BTreeSet::new();
    for image in images {
        for layer in image.layers.iter().filter(|layer| include(image, layer)) {
            if done.insert(layer.diff_id) {
                add(&mut tar, store, &layer_path(layer), &layer.blob)?;
            }
        }
        if done.insert(image.config.sha256) {
            add(&mut tar, store, &config_path(image), &image.config)?;
        }
    }
    let manifest: Vec<_> = images
        .iter()
        .map(|image| {
            let layers: Vec<String> = image.layers.iter().map(layer_path).collect();
            json!({ "Config": config_path(image), "RepoTags": [image.tag], "Layers": layers })
        })
        .collect();
    let manifest = json!(manifest).to_string();
    let mut header = header(manifest.len() as u64);
    tar.append_data(&mut header, "manifest.json", manifest.as_bytes()).map_err(io())?;
    tar.into_inner().and_then(|mut inner| inner.flush()).map_err(io())
}

fn layer_path(layer: &Layer) -> String {
    format!("{}/layer.tar", layer.diff_id)
}

fn config_path(image: &ContainerImage) -> String {
    format!("{}.json", image.config.sha256)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Copies an artifact into the archive. Reading on to the end is what checks the digest.
fn add(tar: &mut tar::Builder<impl Write>, store: &Store, path: &str, artifact: &Artifact) -> Result<()> {
    let mut reader = store.read(&artifact.sha256)?;
    let mut header = header(artifact.size);
    let added = tar.append_data(&mut header, path, (&mut reader).take(artifact.size));
    let ended = added.and_then(|()| io::copy(&mut reader, &mut io::sink()));
    ended.map(drop).map_err(Error::io("copy the artifact", &store.path(&artifact.sha256)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Digest;

    fn image(store: &Store, name: &str, layers: &[&str]) -> ContainerImage {
        let layer = |text: &&str| Layer { blob: store.put_bytes(text.as_bytes()).unwrap(), diff_id: Digest::of(text) };
        let config = store.put_bytes(format!("{{\"name\":\"{name}\"}}").as_bytes()).unwrap();
        ContainerImage {
            name: name.to_owned(),
            tag: format!("hearth/{name}:{}", config.sha256.short()),
            config,
            layers: layers.iter().map(layer).collect(),
        }
    }

    fn entries(bytes: &[u8]) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(bytes);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn two_images_share_a_layer_s_file_and_a_filter_leaves_files_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let (a, b) = (image(&store, "a", &["base", "a"]), image(&store, "b", &["base", "b"]));
        let mut bytes = Vec::new();
        write_docker_archive(&[&a, &b], &store, |_, layer| layer.diff_id != Digest::of("a"), &mut bytes).unwrap();
        let entries = entries(&bytes);
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        let path = |text: &str| format!("{}/layer.tar", Digest::of(text));
        let configs = [&a, &b].map(|image| format!("{}.json", image.config.sha256));
        assert_eq!(names, [&path("base"), &configs[0], &path("b"), &configs[1], "manifest.json"]);
        let manifest: serde_json::Value = serde_json::from_str(&entries[4].1).unwrap();
        assert_eq!(manifest[0]["Layers"], json!([path("base"), path("a")]));
        assert_eq!(manifest[1]["RepoTags"], json!([format!("hearth/b:{}", b.config.sha256.short())]));
        assert_eq!(manifest[1]["Config"], configs[1]);
    }

    #[test]
    fn an_altered_layer_stops_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let a = image(&store, "a", &["base"]);
        let path = store.path(&Digest::of("base"));
        std::fs::remove_file(&path).unwrap();
        store::files::write_atomic(&path, "evil", 0o444).unwrap();
        let error = write_docker_archive(&[&a], &store, |_, _| true, io::sink()).unwrap_err();
        assert!(error.to_string().contains("can't copy the artifact"), "{error}");
    }
}
