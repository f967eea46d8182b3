//! The description's own checks: each method says, as a small expression, who may call it (pve-access-control's
//! `RPCEnvironment.pm`, `exec_api2_perm_check`).

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;

use serde_json::Value;

use super::{Access, normalize};
use crate::auth::Identity;
use crate::error::{ApiError, Result};

/// Raw parameters, the path's own included.
pub(crate) type Raw = BTreeMap<String, Value>;

/// Decides whether someone may call a method, before its parameters are looked at.
pub(crate) fn authorize(access: &Access, who: &Identity, method: &Value, template: &str, raw: &Raw) -> Result<()> {
    if who.token.is_some() && method["allowtoken"] == 0 {
        let text = format!("URI '{template}' not available with API token, need proper ticket.\n");
        return Err(ApiError::permission(&text));
    }
    let permissions = &method["permissions"];
    if permissions["user"] == "world" || who.is_root() {
        return Ok(());
    }
    if permissions.is_null() {
        return Err(ApiError::permission("user != root@pam"));
    }
    if permissions["user"] == "all" {
        return Ok(());
    }
    match permissions["check"].as_array() {
        Some(check) => Asked { access, who, raw }.check(check),
        None => Err(ApiError::no_permission()),
    }
}

/// Gathers the privileges that a check names.
#[cfg(test)]
pub(crate) fn privileges(check: &Value, all: &mut BTreeSet<String>) {
    let Some(items) = check.as_array() else { return };
    let at = match items.first().and_then(Value::as_str) {
        Some("perm") => 2,
        Some("userid-group") => 1,
        _ => return items.iter().for_each(|item| privileges(item, all)),
    };
    all.extend(texts(&items[at]).into_iter().map(str::to_owned));
}

struct Asked<'a> {
    access: &'a Access,
    who: &'a Identity,
    raw: &'a Raw,
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Returns an option that follows a test's own arguments, as `"any", 1`.
fn option<'v>(check: &'v [Value], name: &str) -> Option<&'v Value> {
    let at = check.iter().position(|value| value == name)?;
    check.get(at + 1)
}

/// Takes a user's name apart, or refuses it as the real server does: here, before any schema is asked.
pub(crate) fn realm_of(userid: &str) -> Result<&str> {
    let wrong = || ApiError::failed(format!("value '{userid}' does not look like a valid user name"));
    let (name, realm) = userid.rsplit_once('@').ok_or_else(wrong)?;
    let fine = !name.is_empty() && !name.contains([':', '/', ' ', '\t', '\n']) && realm.len() > 1;
    let plain = realm.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if fine && plain { Ok(realm) } else { Err(wrong()) }
}

impl Asked<'_> {
    fn text(&self, name: &str) -> &str {
        self.raw.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn check(&self, check: &[Value]) -> Result<()> {
        match check.first().and_then(Value::as_str).unwrap_or_default() {
            "and" => check[1..].iter().filter_map(Value::as_array).try_for_each(|inner| self.check(inner)),
            "or" => {
                let mut inner = check[1..].iter().filter_map(Value::as_array);
                if inner.any(|inner| self.check(inner).is_ok()) { Ok(()) } else { Err(ApiError::no_permission()) }
            }
            "perm" => self.perm(check),
            "perm-modify" => self.modify(&self.path(check)),
            "userid-param" => self.userid_param(check),
            "userid-group" => self.userid_group(check),
            other => Err(ApiError::not_implemented(format!("permission test '{other}' not implemented in pve-lab"))),
        }
    }

    /// Fills in a test's path. One that can't be a path is empty, on which nobody has a privilege.
    fn path(&self, check: &[Value]) -> String {
        let mut path = check.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
        while let Some((before, rest)) = path.split_once('{') {
            let Some((name, after)) = rest.split_once('}') else { break };
            path = format!("{before}{}{after}", self.text(name));
        }
        normalize(&path).unwrap_or_default()
    }

    fn perm(&self, check: &[Value]) -> Result<()> {
        if let Some(needed) = option(check, "require_param").and_then(Value::as_str)
            && !self.raw.contains_key(needed)
        {
            return Err(ApiError::no_permission());
        }
        let (path, wanted) = (self.path(check), texts(&check[2]));
        if option(check, "any").is_some_and(|any| *any == 1) {
            self.access.need_any(self.who, &path, &wanted)
        } else {
            self.access.need(self.who, &path, &wanted)
        }
    }

    fn modify(&self, path: &str) -> Result<()> {
        modify(self.access, self.who, path)
    }

    fn exists(&self, userid: &str) -> Result<()> {
        if self.access.state().users.contains_key(userid) {
            return Ok(());
        }
        Err(ApiError::failed(format!("no such user ('{userid}')")))
    }

    fn userid_param(&self, check: &[Value]) -> Result<()> {
        let userid = self.text("userid");
        let realm = realm_of(userid)?;
        if check[1] == "self" {
            self.exists(userid)?;
            let own = self.who.token.is_none() && self.who.user == userid;
            return if own { Ok(()) } else { Err(ApiError::no_permission()) };
        }
        self.access.need(self.who, &format!("/access/realm/{realm}"), &["Realm.AllocateUser"])
    }

    fn userid_group(&self, check: &[Value]) -> Result<()> {
        let (userid, wanted) = (self.text("userid"), texts(&check[1]));
        let groups = option(check, "groups_param").and_then(Value::as_str);
        let existing = groups != Some("create");
        if existing {
            self.exists(userid)?;
        }
        let who = self.who.name();
        if self.access.has_any(&who, "/access/groups", &wanted) {
            return Ok(());
        }
        let mine = |group: &str| self.access.has_any(&who, &format!("/access/groups/{group}"), &wanted);
        if groups.is_some() {
            let named: Vec<&str> = words(self.text("groups"));
            let refused = |path: &str| ApiError::permission(&format!("{path}, {}", wanted.join("|")));
            if named.is_empty() {
                return Err(refused("/access/groups"));
            }
            if let Some(group) = named.into_iter().find(|group| !mine(group)) {
                return Err(refused(&format!("/access/groups/{group}")));
            }
        }
        let state = self.access.state();
        let member = || state.users.get(userid).is_some_and(|user| user.groups.iter().any(|group| mine(group)));
        if existing && !member() { Err(ApiError::no_permission()) } else { Ok(()) }
    }
}

/// Refuses unless someone may change the access control list of a path.
pub(crate) fn modify(access: &Access, who: &Identity, path: &str) -> Result<()> {
    let mut wanted = vec!["Permissions.Modify"];
    let owners = [("/storage/", "Datastore.Allocate"), ("/vms/", "VM.Allocate"), ("/pool/", "Pool.Allocate")];
    wanted.extend(owners.iter().filter(|(prefix, _)| path.starts_with(prefix)).map(|(_, name)| *name));
    access.need_any(who, path, &wanted)
}

/// Splits a list as the real server does.
pub(crate) fn words(text: &str) -> Vec<&str> {
    text.split([',', ';', ' ', '\0', '\n']).filter(|word| !word.is_empty()).collect()
}
