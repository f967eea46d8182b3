//! Version, tickets, realms.

use serde_json::{Value, json};

use super::Handler;
use crate::auth;
use crate::error::{ApiError, Result};
use crate::server::Call;

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/version", version),
    ("GET", "/nodes/{node}/version", version),
    ("GET", "/access/ticket", |_| Ok(Value::Null)),
    ("POST", "/access/ticket", log_in),
    ("GET", "/access/domains", domains),
    ("GET", "/access/permissions", permissions),
];

fn version(call: &Call) -> Result<Value> {
    let (release, version) = call.server.release.version();
    Ok(json!({"release": release, "version": version, "repoid": "0000000000000000"}))
}

fn log_in(call: &Call) -> Result<Value> {
    for name in ["otp", "tfa-challenge", "path"] {
        if call.params.get(name).is_some() {
            return Err(ApiError::not_implemented(format!("parameter '{name}' not implemented in pve-lab")));
        }
    }
    let auth = &call.server.auth;
    let user = auth.log_in(call.params.text("username"), call.params.get("realm"), call.params.text("password"))?;
    let all = json!({"Sys.Audit": 1, "Sys.Modify": 1, "Sys.PowerMgmt": 1, "Sys.Console": 1});
    let vms = json!({"VM.Allocate": 1, "VM.Audit": 1, "VM.Clone": 1, "VM.PowerMgmt": 1, "VM.Config.Disk": 1});
    let cap = json!({
        "access": all, "dc": all, "nodes": all, "vms": vms, "mapping": {}, "sdn": {},
        "storage": {"Datastore.Allocate": 1, "Datastore.AllocateSpace": 1, "Datastore.Audit": 1},
    });
    Ok(json!({
        "username": user, "ticket": auth.ticket(&user), "CSRFPreventionToken": auth.csrf(&user), "cap": cap,
    }))
}

fn domains(_: &Call) -> Result<Value> {
    Ok(json!([
        {"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
        {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"},
    ]))
}

/// The only user is root, who may do everything everywhere.
fn permissions(call: &Call) -> Result<Value> {
    let own = call.who.name();
    let user = call.params.get("userid").unwrap_or(&own);
    if user != own && user != call.who.user && user != format!("root@pam!{}", auth::TOKEN_NAME) {
        return Err(ApiError::failed(format!("no such user ('{user}')")));
    }
    let rights = [
        "Datastore.Allocate",
        "Datastore.AllocateSpace",
        "Datastore.AllocateTemplate",
        "Datastore.Audit",
        "Sys.Audit",
        "Sys.Modify",
        "VM.Allocate",
        "VM.Audit",
        "VM.Clone",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Cloudinit",
        "VM.Config.Disk",
        "VM.Config.HWType",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
        "VM.PowerMgmt",
    ];
    let all: Value =
        rights.into_iter().map(|right| (right.to_owned(), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let paths = ["/", "/nodes", "/storage", "/vms", "/access"];
    let paths = paths.into_iter().map(|path| (path.to_owned(), all.clone()));
    Ok(paths.filter(|(path, _)| call.params.get("path").is_none_or(|own| own == path)).collect())
}
