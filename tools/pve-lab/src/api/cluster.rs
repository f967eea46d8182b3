//! The cluster, of one node.

use serde_json::{Value, json};

use super::{Handler, guest, node, storage};
use crate::access::extra::owns;
use crate::error::{ApiError, Result};
use crate::server::{Call, NODE};
use crate::tasks::Task;

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/cluster/resources", resources),
    ("GET", "/cluster/nextid", next_id),
    ("GET", "/cluster/status", status),
    ("GET", "/cluster/tasks", tasks),
    ("GET", "/cluster/replication", |_| Ok(json!([]))),
    ("GET", "/cluster/sdn/zones", |_| Ok(json!([]))),
    ("GET", "/cluster/config/nodes", |_| Ok(json!([]))),
    ("GET", "/cluster/mapping/pci", |_| Ok(json!([]))),
    ("GET", "/cluster/options", |_| Ok(json!({"mac_prefix": "BC:24:11", "allowed-tags": [], "description": ""}))),
];

fn tasks(call: &Call) -> Result<Value> {
    let saved = |task: &Task| {
        let mut entry = task.entry();
        if task.exitstatus.is_some() {
            entry["saved"] = json!("1");
        }
        entry
    };
    let all = call.server.access.has_any(&call.who.name(), "/", &["Sys.Audit"]);
    let seen = |task: &&Task| all || owns(&call.who, task);
    Ok(call.server.tasks.list().iter().filter(seen).map(saved).collect())
}

fn resources(call: &Call) -> Result<Value> {
    let wanted = call.params.get("type");
    let mut out = Vec::new();
    if wanted.is_none_or(|kind| kind == "vm") {
        for vmid in call.server.guests.ids()? {
            if !guest::audits(call, vmid) {
                continue;
            }
            let Ok(mut entry) = guest::entry(&call.server, vmid, false) else { continue };
            entry["id"] = json!(format!("qemu/{vmid}"));
            entry["type"] = json!("qemu");
            entry["node"] = json!(NODE);
            entry["maxcpu"] = entry["cpus"].take();
            entry["template"] = json!(u8::from(entry["template"] == 1));
            if let Some(map) = entry.as_object_mut() {
                map.remove("cpus");
                map.extend([("diskread".to_owned(), json!(0)), ("diskwrite".to_owned(), json!(0))]);
            }
            out.push(entry);
        }
    }
    if wanted.is_none_or(|kind| kind == "node") {
        let mut entry = node::summary(&call.server);
        entry["cgroup-mode"] = json!(2);
        out.push(entry);
    }
    if wanted.is_none_or(|kind| kind == "storage") {
        let (total, used, _) = call.server.storages.space();
        for storage in call.server.storages.all() {
            if !storage::audits(call, storage, &["Datastore.Audit"]) {
                continue;
            }
            out.push(json!({
                "id": format!("storage/{NODE}/{}", storage.name), "type": "storage", "storage": storage.name,
                "node": NODE, "plugintype": "dir", "shared": 0, "status": "available",
                "content": storage.content.join(","), "disk": used, "maxdisk": total,
            }));
        }
    }
    Ok(Value::Array(out))
}

fn next_id(call: &Call) -> Result<Value> {
    let taken = call.server.guests.ids()?;
    if let Some(wanted) = call.params.get("vmid") {
        if taken.iter().any(|id| id.to_string() == wanted) {
            return Err(ApiError::parameter("vmid", format!("VM {wanted} already exists")));
        }
        return Ok(json!(wanted));
    }
    let free = (100..).find(|id| !taken.contains(id)).unwrap_or(100);
    Ok(json!(free.to_string()))
}

fn status(_: &Call) -> Result<Value> {
    Ok(json!([{
        "id": format!("node/{NODE}"), "type": "node", "name": NODE, "ip": "192.168.1.1", "level": "", "local": 1,
        "nodeid": 0, "online": 1,
    }]))
}
