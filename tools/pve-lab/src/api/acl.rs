//! Roles, and access control lists.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Handler;
use crate::access::check::{modify, words};
use crate::access::{Kind, Line, Privileges, State, normalize, roles};
use crate::error::{ApiError, Result};
use crate::server::Call;

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/access/roles", list),
    ("POST", "/access/roles", create),
    ("GET", "/access/roles/{roleid}", read),
    ("PUT", "/access/roles/{roleid}", update),
    ("DELETE", "/access/roles/{roleid}", delete),
    ("GET", "/access/acl", lines),
    ("PUT", "/access/acl", change),
];

/// Which paths a list may be on, as `AccessControl.pm`'s `check_path` has them.
const PATHS: &str = r"^(/|/access|/access/groups|/access/groups/[\w.-]+|/access/realm|/access/realm/[\w.-]+|/mapping|/mapping/[\w.-]+|/mapping/[\w.-]+/[\w.-]+|/nodes|/nodes/[\w.-]+|/pool|/pool/[\w.-]+(/[\w.-]+){0,2}|/sdn|/sdn/(controllers|dns|ipams|fabrics)|/sdn/(controllers|dns|ipams|fabrics)/[\w.-]+|/sdn/zones|/sdn/zones/[\w.-]+|/sdn/zones/[\w.-]+/[\w.-]+|/sdn/zones/[\w.-]+/[\w.-]+/[1-9][0-9]{0,3}|/storage|/storage/[\w.-]+|/vms|/vms/[1-9][0-9]{2,})$";

fn list(call: &Call) -> Result<Value> {
    let (release, state) = (call.server.access.release(), call.server.access.state());
    let builtin = roles::builtin(release);
    let names: BTreeSet<String> = builtin.keys().chain(state.roles.keys()).cloned().collect();
    let entry = |name: String| {
        let privileges: Vec<String> = state.role(release, &name).unwrap_or_default().into_iter().collect();
        let special = u8::from(builtin.contains_key(&name));
        json!({"roleid": name, "privs": privileges.join(","), "special": special})
    };
    Ok(names.into_iter().map(entry).collect())
}

fn read(call: &Call) -> Result<Value> {
    let name = call.params.text("roleid");
    let role = call.server.access.state().role(call.server.access.release(), name);
    let role = role.ok_or_else(|| ApiError::failed(format!("role '{name}' does not exist")))?;
    Ok(role.into_iter().map(|privilege| (privilege, json!(1))).collect::<Map<_, _>>().into())
}

fn privileges(call: &Call) -> Result<BTreeSet<String>> {
    let known = roles::privileges(call.server.access.release());
    let named = words(call.params.get("privs").unwrap_or_default());
    match named.iter().find(|name| !known.contains(**name)) {
        Some(unknown) => Err(ApiError::parameter("privs", format!("invalid format - invalid privilege '{unknown}'\n"))),
        None => Ok(named.into_iter().map(str::to_owned).collect()),
    }
}

fn builtin(call: &Call, name: &str, done: &str) -> Result<()> {
    if roles::builtin(call.server.access.release()).contains_key(name) {
        return Err(ApiError::failed(format!("auto-generated role '{name}' cannot be {done}")));
    }
    Ok(())
}

fn create(call: &Call) -> Result<Value> {
    let (name, wanted) = (call.params.text("roleid"), privileges(call)?);
    if name.to_lowercase().starts_with("pve") {
        let text = "cannot use role ID starting with the (case-insensitive) 'PVE' namespace";
        return Err(ApiError::parameter("roleid", text));
    }
    let exists = || ApiError::failed(format!("create role failed: role '{name}' already exists"));
    builtin(call, name, "created").map_err(|_| exists())?;
    call.server.access.change(|state| match state.roles.insert(name.to_owned(), wanted) {
        Some(_) => Err(exists()),
        None => Ok(Value::Null),
    })
}

fn update(call: &Call) -> Result<Value> {
    let (name, wanted) = (call.params.text("roleid"), privileges(call)?);
    builtin(call, name, "modified")?;
    call.server.access.change(|state| {
        let gone = || ApiError::failed(format!("role '{name}' does not exist"));
        let role = state.roles.get_mut(name).ok_or_else(gone)?;
        if !call.params.flag("append") {
            role.clear();
        }
        role.extend(wanted);
        Ok(Value::Null)
    })
}

fn delete(call: &Call) -> Result<Value> {
    let name = call.params.text("roleid");
    builtin(call, name, "deleted")?;
    call.server.access.change(|state| {
        let gone = || ApiError::failed(format!("delete role failed: role '{name}' does not exist"));
        state.roles.remove(name).ok_or_else(gone)?;
        state.acl.retain(|line, _| line.roleid != name);
        Ok(Value::Null)
    })
}

fn lines(call: &Call) -> Result<Value> {
    let access = &call.server.access;
    let state = access.state();
    let shown = state.acl.iter().filter(|(line, _)| modify(access, &call.who, &line.path).is_ok());
    let entry = |(line, below): (&Line, &bool)| {
        let mut out = json!(line);
        out["propagate"] = json!(u8::from(*below));
        out
    };
    Ok(shown.map(entry).collect())
}

fn change(call: &Call) -> Result<Value> {
    let params = &call.params;
    let given = params.text("path");
    let fits = |path: &String| regex_lite::Regex::new(PATHS).is_ok_and(|allowed| allowed.is_match(path));
    let path = normalize(given).filter(fits);
    let path = path.ok_or_else(|| ApiError::parameter("path", format!("invalid ACL path '{given}'")))?;
    let whom = [("users", Kind::User), ("groups", Kind::Group), ("tokens", Kind::Token)];
    if whom.iter().all(|(name, _)| params.get(name).is_none()) {
        let text = "either 'users', 'groups' or 'tokens' is required.";
        return Err(ApiError::parameters(whom.iter().map(|(name, _)| ((*name).to_owned(), text.to_owned())).collect()));
    }
    let access = &call.server.access;
    let below = params.get("propagate").is_none_or(|on| on == "1");
    let failed = |what: String| ApiError::failed(format!("ACL update failed: {what}"));
    // Asked before the change begins, which holds the state.
    let own = access.privileges(&call.who.name(), &path);
    access.change(|state| {
        for role in words(params.text("roles")) {
            let Some(privileges) = state.role(access.release(), role) else {
                return Err(failed(format!("role '{role}' does not exist")));
            };
            may_give(call, &own, role, &privileges)?;
            for (name, kind) in whom {
                for id in words(params.get(name).unwrap_or_default()) {
                    known(state, kind, id).map_err(failed)?;
                    let line = Line { path: path.clone(), kind, ugid: id.to_owned(), roleid: role.to_owned() };
                    if params.flag("delete") {
                        state.acl.remove(&line)
                    } else {
                        state.acl.insert(line, below)
                    };
                }
            }
        }
        Ok(Value::Null)
    })
}

/// Whoever may not modify permissions in general may hand on only what they have.
fn may_give(call: &Call, own: &Privileges, role: &str, wanted: &BTreeSet<String>) -> Result<()> {
    if call.who.is_root() {
        return Ok(());
    }
    if own.contains_key("Permissions.Modify") || wanted.iter().all(|name| own.contains_key(name)) {
        return Ok(());
    }
    let text = format!("cannot modify role '{role}' - requires 'Permissions.Modify' or superset of privileges.");
    Err(ApiError::permission(&text))
}

fn known(state: &State, kind: Kind, id: &str) -> std::result::Result<(), String> {
    let token = || id.split_once('!').and_then(|(user, name)| state.users.get(user)?.tokens.get(name)).is_some();
    let (there, what) = match kind {
        Kind::User => (state.users.contains_key(id), "user"),
        Kind::Group => (state.groups.contains_key(id), "group"),
        Kind::Token => (token(), "API token"),
    };
    if there { Ok(()) } else { Err(format!("{what} '{id}' does not exist")) }
}
