//! Version, tickets, passwords, realms, and what one may do.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Handler;
use crate::access::check::realm_of;
use crate::access::{Privileges, normalize};
use crate::error::{ApiError, Result};
use crate::server::Call;

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/version", version),
    ("GET", "/nodes/{node}/version", version),
    ("GET", "/access/ticket", |_| Ok(Value::Null)),
    ("POST", "/access/ticket", log_in),
    ("PUT", "/access/password", password),
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
    let (auth, access) = (&call.server.auth, &call.server.access);
    let (user, realm) = (call.params.text("username"), call.params.get("realm"));
    let user = auth.log_in(access, user, realm, call.params.text("password"))?;
    Ok(json!({
        "username": user, "ticket": auth.ticket(&user), "CSRFPreventionToken": auth.csrf(&user),
        "cap": capabilities(call, &user),
    }))
}

/// Sums up what a user may do anywhere, by subject: what a user interface shows goes by it.
fn capabilities(call: &Call, user: &str) -> Value {
    let subjects: [(&str, &[&str]); 7] = [
        ("access", &["User.", "Group.", "Permissions.Modify"]),
        ("dc", &["Sys.Audit", "Sys.Modify", "SDN."]),
        ("mapping", &["Mapping.", "Permissions.Modify"]),
        ("nodes", &["Sys.", "Permissions.Modify"]),
        ("sdn", &["SDN.", "Permissions.Modify"]),
        ("storage", &["Datastore.", "Permissions.Modify"]),
        ("vms", &["VM.", "Permissions.Modify"]),
    ];
    let mut all: BTreeMap<&str, Map<String, Value>> =
        subjects.iter().map(|(subject, _)| (*subject, Map::new())).collect();
    let mut paths = call.server.access.state().paths();
    paths.insert("/mapping".into());
    for path in paths {
        let top = path.split('/').nth(1).filter(|top| !top.is_empty()).unwrap_or("dc");
        let Some((subject, prefixes)) = subjects.iter().find(|(subject, _)| *subject == top) else { continue };
        for name in call.server.access.privileges(user, &path).into_keys() {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                all.entry(subject).or_default().insert(name, json!(1));
            }
        }
    }
    json!(all)
}

fn password(call: &Call) -> Result<Value> {
    let (userid, given) = (call.params.text("userid"), call.params.text("password"));
    if realm_of(userid)? != "pve" {
        return Err(ApiError::not_implemented("passwords of other realms than 'pve' not implemented in pve-lab"));
    }
    let own = !call.who.is_root() && call.who.user == userid;
    if own {
        let confirmed = call.params.get("confirmation-password").unwrap_or_default();
        call.server.auth.log_in(&call.server.access, userid, None, confirmed)?;
    }
    let digest = call.server.auth.password_digest(userid, given);
    call.server.access.change(|state| {
        let unknown = || ApiError::failed(format!("no such user ('{userid}')"));
        state.users.get_mut(userid).ok_or_else(unknown)?.password = Some(digest);
        Ok(Value::Null)
    })
}

fn domains(_: &Call) -> Result<Value> {
    Ok(json!([
        {"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
        {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"},
    ]))
}

fn permissions(call: &Call) -> Result<Value> {
    let (access, own) = (&call.server.access, call.who.name());
    let who = call.params.get("userid").unwrap_or(&own);
    let owned = who.split_once('!').is_some_and(|(user, _)| user == own);
    if who != own && !owned {
        access.need(&call.who, "/access", &["Sys.Audit"])?;
    }
    let numbers = |privileges: Privileges| -> Value {
        privileges.into_iter().map(|(name, below)| (name, json!(u8::from(below)))).collect::<Map<_, _>>().into()
    };
    if let Some(path) = call.params.get("path") {
        let wrong = || ApiError::parameter("path", format!("invalid ACL path '{path}'"));
        let path = normalize(path).ok_or_else(wrong)?;
        return Ok(json!({path.clone(): numbers(access.privileges(who, &path))}));
    }
    let paths = access.state().paths().into_iter();
    let all = paths.map(|path| (path.clone(), access.privileges(who, &path)));
    Ok(all.filter(|(_, own)| !own.is_empty()).map(|(path, own)| (path, numbers(own))).collect::<Map<_, _>>().into())
}
