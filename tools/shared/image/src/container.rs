//! Container images in layers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use store::{Artifact, Digest, Store};

use crate::layer::{HashingWriter, unpack_layer, write_layer};
use crate::recipe::ContainerRecipe;
use crate::{Error, Result};

/// How hard layers are compressed: above this, zstd takes much longer for little.
const LEVEL: i32 = 10;

/// Folders that hold nothing in an image: they are mounted over, or differ between builds.
const EMPTY: &[&str] = &["dev", "proc", "sys", "run", "tmp", "mnt"];

/// A container image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerImage {
    /// The recipe's name.
    pub name: String,
    /// The image's configuration; its digest is the image's id.
    pub config: Artifact,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The name under which it is loaded: `hearth/<name>:<first twelve digits of the id>`.
    pub tag: String,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The compressed tar.
    pub blob: Artifact,
    /// The digest of the tar before compression.
    pub diff_id: Digest,
}

/// Packs a folder as a layer.
pub(crate) fn pack(root: &Path, epoch: u64, store: &Store) -> Result<Layer> {
    let io = || Error::io("pack", root);
    let encoder = zstd::Encoder::new(store.writer()?, LEVEL).map_err(io())?;
    let mut writer = HashingWriter::new(encoder);
    write_layer(root, epoch, EMPTY, &mut writer)?;
    writer.flush().map_err(io())?;
    let (diff_id, encoder) = writer.finish();
    let blob = encoder.finish().map_err(io())?.finish()?;
    Ok(Layer { blob, diff_id })
}

/// Unpacks layers into a folder, lowest first; each is checked on the way.
pub(crate) fn unpack(layers: &[Layer], store: &Store, root: &Path) -> Result<()> {
    fs::create_dir_all(root).map_err(Error::io("make", root))?;
    for layer in layers {
        let mut reader = store.read(&layer.blob.sha256)?;
        let decoder = zstd::Decoder::new(&mut reader).map_err(Error::io("unpack into", root))?;
        unpack_layer(decoder, root)?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(Error::io("unpack into", root))?;
    }
    Ok(())
}

/// Returns what an overlay mount takes: `lower` below, changes in `upper`, and features off that would leave marks in
/// `upper` that no layer can carry.
pub(crate) fn overlay_options(lower: &Path, upper: &Path, work: &Path) -> String {
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    format!("lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off")
}

/// Makes an image of a recipe and its layers: writes the configuration and names the result.
pub(crate) fn seal(
    name: &str,
    recipe: &ContainerRecipe,
    env: &BTreeMap<String, String>,
    layers: Vec<Layer>,
    epoch: u64,
    store: &Store,
) -> Result<ContainerImage> {
    let config = store.put_bytes(configuration(name, recipe, env, &layers, epoch).to_string().as_bytes())?;
    let tag = format!("hearth/{name}:{}", config.sha256.short());
    Ok(ContainerImage { name: name.to_owned(), config, layers, tag })
}

/// Writes the image's configuration by the OCI image specification, with Docker's `Healthcheck`.
fn configuration(
    name: &str,
    recipe: &ContainerRecipe,
    env: &BTreeMap<String, String>,
    layers: &[Layer],
    epoch: u64,
) -> Value {
    let created = rfc3339(epoch);
    let mut config = Map::new();
    let variables: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    config.insert("Env".into(), json!(variables));
    let mut set = |key: &str, value: Value, given: bool| {
        if given {
            config.insert(key.into(), value);
        }
    };
    set("Entrypoint", json!(recipe.entrypoint), !recipe.entrypoint.is_empty());
    set("Cmd", json!(recipe.cmd), !recipe.cmd.is_empty());
    set("User", json!(recipe.user), !recipe.user.is_empty());
    set("WorkingDir", json!(recipe.workdir), !recipe.workdir.is_empty());
    let ports: BTreeMap<&String, Value> = recipe.expose.iter().map(|port| (port, json!({}))).collect();
    set("ExposedPorts", json!(ports), !ports.is_empty());
    if let Some(health) = &recipe.healthcheck {
        let nanoseconds = |seconds: u64| seconds.saturating_mul(1_000_000_000);
        let value = json!({
            "Test": health.test,
            "Interval": nanoseconds(health.interval),
            "Timeout": nanoseconds(health.timeout),
            "StartPeriod": nanoseconds(health.start_period),
            "Retries": health.retries,
        });
        set("Healthcheck", value, true);
    }
    let history: Vec<Value> =
        layers.iter().map(|_| json!({ "created": created, "created_by": format!("hearth image {name}") })).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

/// Writes seconds since 1970 as a date and time of UTC.
fn rfc3339(epoch: u64) -> String {
    let (days, seconds) = (epoch / 86_400, epoch % 86_400);
    // Days since 0000-03-01, so that the leap day ends a year; eras of 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z", year + era * 400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{ImageRecipe, Kind};

    #[test]
    fn a_date_is_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(rfc3339(1_795_158_000), "2026-11-20T07:00:00Z");
    }

    #[test]
    fn the_configuration_says_what_the_recipe_says() {
        let text = "kind = \"container\"\nbase = \"base\"\nentrypoint = [\"/bin/sh\"]\nuser = \"1000:1000\"\n\
                    expose = [\"80/tcp\"]\n[healthcheck]\ntest = [\"CMD\", \"true\"]\ninterval = 2\n";
        let recipe = ImageRecipe::parse(Path::new("x.toml"), text).unwrap();
        let Kind::Container(recipe) = recipe.kind else { panic!() };
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let layer = Layer { blob: store.put_bytes(b"x").unwrap(), diff_id: Digest::of("tar") };
        let env = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let image = seal("x", &recipe, &env, vec![layer], 0, &store).unwrap();
        assert_eq!(image.tag, format!("hearth/x:{}", image.config.sha256.short()));
        let config: Value = serde_json::from_reader(store.read(&image.config.sha256).unwrap()).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/sh"]));
        assert_eq!(config["config"]["User"], "1000:1000");
        assert_eq!(config["config"]["Env"], json!(["PATH=/bin"]));
        assert_eq!(config["config"]["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(config["config"]["Healthcheck"]["Interval"], 2_000_000_000_u64);
        assert_eq!(config["config"].get("Cmd"), None);
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", Digest::of("tar"))]));
    }

    #[test]
    fn a_packed_folder_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let root = folder.path().join("root");
        store::files::write_atomic(&root.join("etc/motd"), "hi", 0o644).unwrap();
        store::files::write_atomic(&root.join("tmp/junk"), "x", 0o644).unwrap();
        let layer = pack(&root, 1_000_000, &store).unwrap();
        assert_eq!(pack(&root, 1_000_000, &store).unwrap(), layer);
        let out = folder.path().join("out");
        unpack(&[layer], &store, &out).unwrap();
        assert_eq!(fs::read_to_string(out.join("etc/motd")).unwrap(), "hi");
        assert!(out.join("tmp").is_dir() && !out.join("tmp/junk").exists());
    }
}
