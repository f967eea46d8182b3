//! The methods that the lab has, by verb and path. One that the schema has and this table has not answers 501.

mod access;
mod acl;
mod cluster;
mod guest;
mod node;
mod storage;
mod task;
mod users;

use serde_json::{Value, json};

use crate::error::Result;
use crate::schema::Found;
use crate::server::Call;

/// What answers a call.
pub(crate) type Handler = fn(&Call) -> Result<Value>;

/// Returns what answers a method.
pub(crate) fn handler(verb: &str, template: &str) -> Option<Handler> {
    let tables: [&[(&str, &str, Handler)]; 8] = [
        access::METHODS,
        acl::METHODS,
        cluster::METHODS,
        guest::METHODS,
        node::METHODS,
        storage::METHODS,
        task::METHODS,
        users::METHODS,
    ];
    let all = tables.into_iter().flatten();
    all.into_iter().find(|(own, path, _)| *own == verb && *path == template).map(|(_, _, handler)| *handler)
}

/// Returns the index of a folder that has nothing of its own: the names below it, which are in the schema.
pub(crate) fn index(found: &Found) -> Option<Value> {
    let own = ["/cluster", "/nodes/{node}", "/nodes/{node}/qemu/{vmid}", "/nodes/{node}/qemu/{vmid}/status"];
    let folders = ["/nodes/{node}/storage/{storage}", "/nodes/{node}/tasks/{upid}", "/access"];
    if !own.contains(&found.template) && !folders.contains(&found.template) {
        return None;
    }
    let key = found.info["links"][0]["href"].as_str()?.strip_prefix('{')?.strip_suffix('}')?;
    let mut names = found.children.clone();
    names.sort_unstable();
    Some(names.into_iter().map(|name| json!({key: name})).collect())
}

/// Returns the index of the whole API.
pub(crate) fn root_index() -> Value {
    let names = ["access", "cluster", "nodes", "pools", "storage", "version"];
    names.into_iter().map(|name| json!({"subdir": name})).collect()
}
