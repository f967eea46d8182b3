//! Storages, their contents, uploads.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Handler;
use crate::access::extra;
use crate::error::{ApiError, Result, host};
use crate::http::multipart::Upload;
use crate::server::{Call, NODE, Server};
use crate::storage::{Storage, Volume, bytes};
use crate::tasks::Log;

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/storage", |call| {
        let all = call.server.storages.all().iter().filter(|storage| audits(call, storage, &LISTED));
        Ok(all.map(|storage| definition(&call.server, storage)).collect())
    }),
    ("GET", "/storage/{storage}", |call| {
        Ok(definition(&call.server, call.server.storages.find(call.params.text("storage"))?))
    }),
    ("GET", "/nodes/{node}/storage", list),
    ("GET", "/nodes/{node}/storage/{storage}/status", status),
    ("GET", "/nodes/{node}/storage/{storage}/content", content),
    ("POST", "/nodes/{node}/storage/{storage}/content", allocate),
    ("GET", "/nodes/{node}/storage/{storage}/content/{volume}", volume),
    ("PUT", "/nodes/{node}/storage/{storage}/content/{volume}", |call| {
        wanted(call)?;
        Err(ApiError::failed("only backups can have notes"))
    }),
    ("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}", delete),
    ("POST", "/nodes/{node}/storage/{storage}/upload", upload),
];

/// Either of these lets one see a storage in a list.
const LISTED: [&str; 2] = ["Datastore.Audit", "Datastore.AllocateSpace"];

/// Returns whether the caller has one of these privileges on a storage.
pub(super) fn audits(call: &Call, storage: &Storage, wanted: &[&str]) -> bool {
    call.server.access.has_any(&call.who.name(), &format!("/storage/{}", storage.name), wanted)
}

fn definition(server: &Server, storage: &Storage) -> Value {
    let digest = "0".repeat(40);
    json!({
        "storage": storage.name, "type": "dir", "path": server.layout.storage(storage.name), "digest": digest,
        "content": storage.content.join(","), "shared": 0,
    })
}

fn summary(server: &Server, storage: &Storage) -> Value {
    let (total, used, avail) = server.storages.space();
    json!({
        "active": 1, "enabled": 1, "shared": 0, "type": "dir", "content": storage.content.join(","), "total": total,
        "used": used, "avail": avail,
    })
}

fn list(call: &Call) -> Result<Value> {
    let content = |storage: &Storage| {
        let kinds = call.params.get("content").unwrap_or_default().split([',', ';', ' ']);
        kinds.filter(|kind| !kind.is_empty()).all(|kind| storage.content.contains(&kind))
    };
    let named = |storage: &Storage| call.params.get("storage").is_none_or(|name| name == storage.name);
    let seen = |storage: &&Storage| content(storage) && named(storage) && audits(call, storage, &LISTED);
    let all = call.server.storages.all().iter().filter(seen);
    let entry = |storage: &Storage| {
        let mut entry = summary(&call.server, storage);
        let share = |name: &str| entry[name].as_f64().unwrap_or(0.0);
        let fraction = share("used") / share("total").max(1.0);
        entry["storage"] = json!(storage.name);
        entry["used_fraction"] = json!(fraction);
        entry
    };
    Ok(all.map(entry).collect())
}

fn status(call: &Call) -> Result<Value> {
    let storage = call.server.storages.find(call.params.text("storage"));
    let storage = storage.map_err(|_| ApiError::parameter("storage", "No such storage."))?;
    Ok(summary(&call.server, storage))
}

fn content(call: &Call) -> Result<Value> {
    let storage = call.server.storages.find(call.params.text("storage"))?;
    let vmid = call.params.number("vmid").and_then(|id| u32::try_from(id).ok());
    let mut volumes = call.server.storages.list(storage, call.params.get("content"), vmid);
    volumes.retain(|volume| extra::sees(call, volume["volid"].as_str().unwrap_or_default()));
    Ok(Value::Array(volumes))
}

/// Reads the volume that the path names, with or without its storage.
fn wanted(call: &Call) -> Result<Volume> {
    let (storage, name) = (call.params.text("storage"), call.params.text("volume"));
    call.server.storages.find(storage)?;
    if name.starts_with(&format!("{storage}:")) {
        Volume::parse(name)
    } else {
        Volume::parse(&format!("{storage}:{name}"))
    }
}

fn volume(call: &Call) -> Result<Value> {
    let volume = wanted(call)?;
    let path = call.server.storages.path(&volume);
    if !path.is_file() {
        return Err(ApiError::failed(format!("volume_size_info on '{}' failed - no format", volume.id())));
    }
    let info = call.server.storages.disks.info(&path)?;
    let format = if volume.kind == "images" { info.format } else { volume.format().to_owned() };
    Ok(json!({"path": path.display().to_string(), "format": format, "size": info.size, "used": info.used}))
}

fn allocate(call: &Call) -> Result<Value> {
    let (params, storages) = (&call.params, &call.server.storages);
    let storage = storages.find_for(params.text("storage"), "images")?;
    let vmid = crate::vm::create::vmid(params, "vmid")?;
    let size = bytes(params.text("size"), 1 << 10).ok_or_else(|| ApiError::parameter("size", "no size"))?;
    let name = params.text("filename");
    let volume = Volume::parse(&format!("{}:{vmid}/{name}", storage.name))?;
    let own = if name.contains('.') { volume.format() } else { "raw" };
    if let Some(format) = params.get("format").filter(|format| *format != own) {
        return Err(ApiError::parameter("format", format!("different storage formats ({format} != {own})")));
    }
    storages.disks.create(&storages.path(&volume), own, size)?;
    Ok(json!(volume.id()))
}

fn delete(call: &Call) -> Result<Value> {
    let volume = wanted(call)?;
    let id = match volume.vmid {
        Some(vmid) => format!("{vmid}@{}", volume.storage),
        None => volume.storage.clone(),
    };
    let lab = Arc::clone(&call.server);
    let upid = call.server.tasks.spawn(&call.who, "imgdel", &id, move |log| {
        if let Some(clone) = lab.storages.clones_of(&volume).first() {
            return Err(ApiError::failed(format!("base volume '{}' is still in use (used by '{clone}')", volume.id())));
        }
        let path = lab.storages.path(&volume);
        if !lab.storages.remove(&volume)? {
            log.say(format!("disk image '{}' does not exist", path.display()));
        }
        log.say(format!("Removed volume '{}'", volume.id()));
        Ok(())
    })?;
    // With a delay the answer is null if the task ended well by then.
    let delay = call.params.number("delay").map(Duration::from_secs);
    match delay.and_then(|delay| call.server.tasks.wait(&upid, delay)) {
        Some(status) if status == "OK" => Ok(Value::Null),
        Some(status) => Err(ApiError::failed(status)),
        None => Ok(json!(upid)),
    }
}

/// Brings an uploaded file's name into the form in which it is kept, or refuses its ending.
fn file_name(kind: &str, name: &str) -> Result<String> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let endings: &[&str] = match kind {
        "iso" => &[".iso", ".img"],
        "vztmpl" => &[".tar.gz", ".tar.xz", ".tar.zst"],
        _ => &[".qcow2", ".raw", ".vmdk", ".ova"],
    };
    let fits = endings.iter().any(|ending| name.to_lowercase().ends_with(ending) && name.len() > ending.len());
    if fits && !name.starts_with('.') { Ok(name) } else { Err(ApiError::parameter("filename", "wrong file extension")) }
}

fn upload(call: &Call) -> Result<Value> {
    let params = &call.params;
    let received = call.upload.as_ref().ok_or_else(|| ApiError::empty(400, "Bad Request"))?;
    let (storage, kind) = (params.text("storage"), params.text("content").to_owned());
    call.server.storages.find_for(storage, &kind)?;
    let name = file_name(&kind, params.text("filename"))?;
    let algorithm = params.get("checksum-algorithm").map(str::to_owned);
    if let Some(name) = algorithm.as_ref().filter(|_| received.digest.is_none()) {
        return Err(ApiError::not_implemented(format!("checksum-algorithm '{name}' not implemented in pve-lab")));
    }
    let target = call.server.storages.folder(storage, &kind).join(name);
    let expected = params.get("checksum").map(str::to_lowercase);
    // The file leaves the request before its temporary name is dropped with it.
    let moved = tempfile::Builder::new().prefix(".uploaded-").tempfile_in(call.server.layout.storage(""));
    let moved = moved.map_err(host("can't keep the upload"))?.into_temp_path();
    fs::rename(&received.file, &moved).map_err(host("can't keep the upload"))?;
    let kept = Upload { file: moved, size: received.size, digest: received.digest.clone() };
    let upid = call
        .server
        .tasks
        .spawn(&call.who, "imgcopy", "", move |log| import(kept, expected.as_deref(), &target, log))?;
    Ok(json!(upid))
}

fn import(upload: Upload, expected: Option<&str>, target: &std::path::Path, log: &Log) -> Result<()> {
    log.say(format!("starting file import from: {}", upload.file.display()));
    if let Some(expected) = expected {
        let got = upload.digest.unwrap_or_default();
        if got != expected {
            log.say("calculating checksum...");
            return Err(ApiError::failed(format!("checksum mismatch: got '{got}' != expect '{expected}'")));
        }
        log.say("calculating checksum...OK, checksum verified");
    }
    log.say(format!("target node: {NODE}"));
    log.say(format!("target file: {}", target.display()));
    log.say(format!("file size is: {}", upload.size));
    let folder = target.parent().unwrap_or(target);
    fs::create_dir_all(folder).map_err(host(format!("can't make {}", folder.display())))?;
    let readable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&upload.file, readable).map_err(host("can't set the upload's mode"))?;
    log.say(format!("command: mv -- {} {}", upload.file.display(), target.display()));
    upload.file.persist(target).map_err(host(format!("can't write {}", target.display())))?;
    log.say("finished file import successfully");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_endings_checked() {
        assert_eq!(file_name("iso", "a b 3.iso").unwrap(), "a_b_3.iso");
        assert_eq!(file_name("import", "../../x.qcow2").unwrap(), "x.qcow2");
        for (kind, name) in [("iso", "x.txt"), ("import", "x.iso"), ("iso", ".iso"), ("vztmpl", "x.tar")] {
            assert_eq!(file_name(kind, name).unwrap_err().errors["filename"], "wrong file extension");
        }
    }
}
