//! Users, their tokens, and groups.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Handler;
use crate::access::check::{realm_of, words};
use crate::access::{State, Token, User, digest};
use crate::auth::ROOT;
use crate::error::{ApiError, Result, host};
use crate::random;
use crate::schema::Params;
use crate::server::Call;

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/access/users", list),
    ("POST", "/access/users", create),
    ("GET", "/access/users/{userid}", |call| read(&call.server.access.state(), call.params.text("userid"))),
    ("PUT", "/access/users/{userid}", update),
    ("DELETE", "/access/users/{userid}", delete),
    ("GET", "/access/users/{userid}/token", tokens),
    ("GET", "/access/users/{userid}/token/{tokenid}", token),
    ("POST", "/access/users/{userid}/token/{tokenid}", create_token),
    ("PUT", "/access/users/{userid}/token/{tokenid}", update_token),
    ("DELETE", "/access/users/{userid}/token/{tokenid}", delete_token),
    ("GET", "/access/groups", groups),
    ("POST", "/access/groups", create_group),
    ("GET", "/access/groups/{groupid}", group),
    ("PUT", "/access/groups/{groupid}", update_group),
    ("DELETE", "/access/groups/{groupid}", delete_group),
];

/// The texts of a user that are kept as they are given.
const TEXTS: [&str; 5] = ["comment", "email", "firstname", "keys", "lastname"];

fn no_user(userid: &str) -> ApiError {
    ApiError::failed(format!("no such user ('{userid}')"))
}

fn known<'s>(state: &'s mut State, userid: &str) -> Result<&'s mut User> {
    state.users.get_mut(userid).ok_or_else(|| no_user(userid))
}

fn fields(user: &User) -> Value {
    let mut out = json!({"enable": u8::from(user.enable), "expire": user.expire});
    for (name, text) in &user.texts {
        out[name] = json!(text);
    }
    out
}

fn token_fields(token: &Token) -> Value {
    let mut out = json!({"privsep": u8::from(token.privsep), "expire": token.expire});
    if let Some(comment) = &token.comment {
        out["comment"] = json!(comment);
    }
    out
}

fn read(state: &State, userid: &str) -> Result<Value> {
    let user = state.users.get(userid).ok_or_else(|| no_user(userid))?;
    let mut out = fields(user);
    out["groups"] = json!(user.groups);
    out["tokens"] = match user.tokens.is_empty() {
        true => Value::Null,
        false => user.tokens.iter().map(|(name, token)| (name.clone(), token_fields(token))).collect(),
    };
    Ok(out)
}

fn list(call: &Call) -> Result<Value> {
    let (access, who, full) = (&call.server.access, call.who.name(), call.params.flag("full"));
    let may = |path: &str| access.has_any(&who, path, &["User.Modify", "Sys.Audit"]);
    let all = may("/access/groups");
    let sees = |id: &str, user: &User| {
        all || id == call.who.user || user.groups.iter().any(|group| may(&format!("/access/groups/{group}")))
    };
    let mut out = Vec::new();
    for (id, user) in access.state().users.iter().filter(|(id, user)| sees(id, user)) {
        let enabled = call.params.get("enabled").is_none_or(|wanted| (wanted == "1") == user.enable);
        if !enabled {
            continue;
        }
        let mut entry = fields(user);
        entry["userid"] = json!(id);
        entry["realm-type"] = json!(realm_of(id).unwrap_or_default());
        if full {
            entry["groups"] = json!(user.groups.iter().cloned().collect::<Vec<_>>().join(","));
            let tokens = user.tokens.iter().map(|(name, token)| {
                let mut fields = token_fields(token);
                fields["tokenid"] = json!(name);
                fields
            });
            entry["tokens"] = if user.tokens.is_empty() { Value::Null } else { tokens.collect() };
        }
        out.push(entry);
    }
    Ok(Value::Array(out))
}

/// Takes over what a request says of a user.
fn apply(state: &State, params: &Params, user: &mut User) -> Result<()> {
    if let Some(email) = params.get("email").filter(|email| !email.is_empty()) {
        let (name, domain) = email.split_once('@').unwrap_or_default();
        if name.is_empty() || domain.is_empty() || email.contains(char::is_whitespace) {
            let text = "invalid format - value does not look like a valid email address\n";
            return Err(ApiError::parameter("email", text));
        }
    }
    for name in TEXTS {
        if let Some(text) = params.get(name) {
            user.texts.insert(name.to_owned(), text.to_owned());
        }
    }
    if params.get("enable").is_some() {
        user.enable = params.flag("enable");
    }
    if let Some(expire) = params.number("expire") {
        user.expire = expire;
    }
    if let Some(groups) = params.get("groups") {
        let named: BTreeSet<String> = words(groups).into_iter().map(str::to_owned).collect();
        if let Some(unknown) = named.iter().find(|group| !state.groups.contains_key(*group)) {
            return Err(ApiError::failed(format!("no such group '{unknown}'")));
        }
        if params.flag("append") {
            user.groups.extend(named);
        } else {
            user.groups = named;
        }
    }
    Ok(())
}

fn create(call: &Call) -> Result<Value> {
    let (params, id) = (&call.params, call.params.text("userid").to_owned());
    let failed = |error: ApiError| match error.status {
        500 => ApiError::failed(format!("create user failed: {}", error.line())),
        _ => error,
    };
    let realm = realm_of(&id)?;
    if params.get("password").is_some() && realm != "pve" {
        return Err(ApiError::not_implemented("passwords of other realms than 'pve' not implemented in pve-lab"));
    }
    let password = params.get("password").map(|text| call.server.auth.password_digest(&id, text));
    call.server.access.change(|state| {
        if state.users.contains_key(&id) {
            return Err(failed(ApiError::failed(format!("user '{id}' already exists"))));
        }
        let mut user = User { enable: true, password, ..User::default() };
        apply(state, params, &mut user).map_err(failed)?;
        state.users.insert(id, user);
        Ok(Value::Null)
    })
}

fn update(call: &Call) -> Result<Value> {
    let id = call.params.text("userid");
    call.server.access.change(|state| {
        let mut user = known(state, id)?.clone();
        apply(state, &call.params, &mut user)?;
        state.users.insert(id.to_owned(), user);
        Ok(Value::Null)
    })
}

fn delete(call: &Call) -> Result<Value> {
    let id = call.params.text("userid");
    if id == ROOT {
        return Err(ApiError::failed("unable to delete root@pam"));
    }
    call.server.access.change(|state| {
        state.users.remove(id).ok_or_else(|| no_user(id))?;
        let own = format!("{id}!");
        state.acl.retain(|line, _| line.ugid != id && !line.ugid.starts_with(&own));
        Ok(Value::Null)
    })
}

fn tokens(call: &Call) -> Result<Value> {
    let state = call.server.access.state();
    let user = state.users.get(call.params.text("userid")).ok_or_else(|| no_user(call.params.text("userid")))?;
    let entry = |(name, token): (&String, &Token)| {
        let mut out = token_fields(token);
        out["tokenid"] = json!(name);
        out
    };
    Ok(user.tokens.iter().map(entry).collect())
}

fn no_token(call: &Call) -> ApiError {
    let (user, name) = (call.params.text("userid"), call.params.text("tokenid"));
    ApiError::failed(format!("no such token '{name}' for user '{user}'"))
}

fn token(call: &Call) -> Result<Value> {
    let id = format!("{}!{}", call.params.text("userid"), call.params.text("tokenid"));
    let state = call.server.access.state();
    let (user, name) = id.split_once('!').unwrap_or_default();
    let found = state.users.get(user).and_then(|user| user.tokens.get(name));
    found.map(token_fields).ok_or_else(|| no_token(call))
}

fn set_token(params: &Params, token: &mut Token) {
    if let Some(comment) = params.get("comment") {
        token.comment = Some(comment.to_owned());
    }
    if let Some(expire) = params.number("expire") {
        token.expire = expire;
    }
    if params.get("privsep").is_some() {
        token.privsep = params.flag("privsep");
    }
}

fn create_token(call: &Call) -> Result<Value> {
    let (id, name) = (call.params.text("userid"), call.params.text("tokenid"));
    let secret = random::uuid().map_err(host("can't make a secret"))?;
    call.server.access.change(|state| {
        let user = known(state, id)?;
        if user.tokens.contains_key(name) {
            return Err(ApiError::parameter("tokenid", "Token already exists."));
        }
        let mut token = Token { digest: digest(&secret), privsep: true, ..Token::default() };
        set_token(&call.params, &mut token);
        let info = token_fields(&token);
        user.tokens.insert(name.to_owned(), token);
        Ok(json!({"full-tokenid": format!("{id}!{name}"), "value": secret, "info": info}))
    })
}

fn update_token(call: &Call) -> Result<Value> {
    if call.params.get("regenerate").is_some_and(|on| on == "1") {
        return Err(ApiError::not_implemented("parameter 'regenerate' not implemented in pve-lab"));
    }
    let id = call.params.text("userid");
    call.server.access.change(|state| {
        let token = known(state, id)?.tokens.get_mut(call.params.text("tokenid")).ok_or_else(|| no_token(call))?;
        set_token(&call.params, token);
        if words(call.params.get("delete").unwrap_or_default()).contains(&"comment") {
            token.comment = None;
        }
        Ok(token_fields(token))
    })
}

fn delete_token(call: &Call) -> Result<Value> {
    let (id, name) = (call.params.text("userid"), call.params.text("tokenid"));
    call.server.access.change(|state| {
        known(state, id)?.tokens.remove(name).ok_or_else(|| no_token(call))?;
        let full = format!("{id}!{name}");
        state.acl.retain(|line, _| line.ugid != full);
        Ok(Value::Null)
    })
}

fn members(state: &State, group: &str) -> Vec<String> {
    let all = state.users.iter().filter(|(_, user)| user.groups.contains(group));
    all.map(|(id, _)| id.clone()).collect()
}

fn groups(call: &Call) -> Result<Value> {
    let (access, who) = (&call.server.access, call.who.name());
    let wanted = ["User.Modify", "Sys.Audit", "Group.Allocate"];
    let sees = |group: &str| access.has_any(&who, &format!("/access/groups/{group}"), &wanted);
    let state = access.state();
    let entry = |(id, comment): (&String, &Option<String>)| {
        let mut out = json!({"groupid": id, "users": members(&state, id).join(",")});
        if let Some(comment) = comment {
            out["comment"] = json!(comment);
        }
        out
    };
    Ok(state.groups.iter().filter(|(id, _)| sees(id)).map(entry).collect())
}

fn create_group(call: &Call) -> Result<Value> {
    let id = call.params.text("groupid");
    call.server.access.change(|state| {
        if state.groups.contains_key(id) {
            return Err(ApiError::failed(format!("create group failed: group '{id}' already exists")));
        }
        state.groups.insert(id.to_owned(), call.params.get("comment").map(str::to_owned));
        Ok(Value::Null)
    })
}

fn group(call: &Call) -> Result<Value> {
    let (state, id) = (call.server.access.state(), call.params.text("groupid"));
    let comment = state.groups.get(id).ok_or_else(|| ApiError::failed(format!("group '{id}' does not exist")))?;
    let mut out = json!({"members": members(&state, id)});
    if let Some(comment) = comment {
        out["comment"] = json!(comment);
    }
    Ok(out)
}

fn update_group(call: &Call) -> Result<Value> {
    let id = call.params.text("groupid");
    call.server.access.change(|state| {
        let gone = || ApiError::failed(format!("update group failed: group '{id}' does not exist"));
        let comment = state.groups.get_mut(id).ok_or_else(gone)?;
        if let Some(text) = call.params.get("comment") {
            *comment = Some(text.to_owned());
        }
        Ok(Value::Null)
    })
}

fn delete_group(call: &Call) -> Result<Value> {
    let id = call.params.text("groupid");
    call.server.access.change(|state| {
        let gone = || ApiError::failed(format!("delete group failed: group '{id}' does not exist"));
        state.groups.remove(id).ok_or_else(gone)?;
        for user in state.users.values_mut() {
            user.groups.remove(id);
        }
        state.acl.retain(|line, _| line.kind != crate::access::Kind::Group || line.ugid != id);
        Ok(Value::Null)
    })
}
