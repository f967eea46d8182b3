//! One request: its path, its credentials, its parameters, in the order in which the real server looks at them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE};
use hyper::{Method, Request};
use serde_json::Value;

use super::answer::{Answer, Form, bare, envelope};
use super::{multipart, percent};
use crate::access::{check::authorize, extra};
use crate::api;
use crate::auth::{Credentials, Identity};
use crate::error::{ApiError, Result, host};
use crate::schema::{Found, verify};
use crate::server::{Call, NODE, Server};

/// The most that a form or a JSON body may hold, as the real server's.
const BODY_LIMIT: usize = 64 << 20;

/// Answers a request.
pub(super) async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Answer {
    let verb = request.method().as_str().to_owned();
    if !matches!(*request.method(), Method::GET | Method::POST | Method::PUT | Method::DELETE) {
        return bare(&ApiError::empty(501, &format!("method '{verb}' not available")));
    }
    if !server.gate.passes(&verb) {
        return bare(&ApiError::plain(500, "the gate is shut", "the gate is shut"));
    }
    let (form, path) = match route(request.uri().path()) {
        Ok(route) => route,
        Err(error) => return bare(&error),
    };
    let who = match identify(&server, &request, &path).await {
        Ok(who) => who,
        Err(error) => return bare(&error),
    };
    envelope(form, method(server, who, request, &verb, &path).await)
}

/// Splits the path into the wanted form and the API's own path, decoded and without doubled slashes.
fn route(raw: &str) -> Result<(Form, String)> {
    let decoded = percent::decode(raw, false);
    let segments: Vec<&str> = decoded.split('/').filter(|s| !s.is_empty()).collect();
    match segments.as_slice() {
        ["api2", "json", rest @ ..] => Ok((Form::Json, format!("/{}", rest.join("/")))),
        ["api2", "extjs", rest @ ..] => Ok((Form::ExtJs, format!("/{}", rest.join("/")))),
        ["api2", form, rest @ ..] => {
            let text = format!("no formatter for uri /{}, {form}", rest.join("/"));
            Err(ApiError::plain(501, &text, &text))
        }
        _ => {
            let text = format!("no such file '{decoded}'");
            Err(ApiError::plain(500, &text, &format!("{text}\n")))
        }
    }
}

fn header(request: &Request<Incoming>, name: impl hyper::header::AsHeaderName) -> Option<&str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Finds out who asks. Logging in and the list of realms need no credentials.
async fn identify(server: &Server, request: &Request<Incoming>, path: &str) -> Result<Identity> {
    if path == "/access/ticket" || (path == "/access/domains" && request.method() == Method::GET) {
        return Ok(Identity { user: String::new(), token: None });
    }
    let given = Credentials {
        authorization: header(request, AUTHORIZATION),
        cookie: header(request, COOKIE),
        csrf: header(request, "csrfpreventiontoken"),
        writes: request.method() != Method::GET,
    };
    let who = server.auth.identify(&server.access, &given);
    if who.is_err() && server.slow_refusals {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    who
}

async fn method(
    server: Arc<Server>,
    who: Identity,
    request: Request<Incoming>,
    verb: &str,
    path: &str,
) -> Result<Data> {
    let (raw, upload) = parameters(&server, request, verb).await?;
    let path = if path == "/" { "" } else { path };
    let found = server.release.find(verb, path);
    if path.is_empty() && verb == "GET" {
        return Ok((api::root_index(), None));
    }
    let found = found.ok_or_else(|| ApiError::not_implemented(format!("Method '{verb} {path}' not implemented")))?;
    if let Some(node) = found.path.get("node").filter(|node| *node != NODE && *node != "localhost") {
        let unknown = "failed to get address info for";
        let text = format!("hostname lookup '{node}' failed - {unknown}: {node}: Temporary failure in name resolution");
        return Err(ApiError::failed(text));
    }
    let delay = server.slow_refusals;
    let verb = verb.to_owned();
    let task = tokio::task::spawn_blocking(move || call(server, who, &verb, &found, raw, upload));
    let result = task.await.map_err(host("a method panicked; this is a fault of pve-lab"))?;
    if delay && result.as_ref().is_err_and(|error| error.status == 401) {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    result
}

fn call(
    server: Arc<Server>,
    who: Identity,
    verb: &str,
    found: &Found,
    mut raw: BTreeMap<String, Value>,
    upload: Option<multipart::Upload>,
) -> Result<Data> {
    for (name, value) in &found.path {
        raw.insert(name.clone(), Value::String(value.clone()));
    }
    authorize(&server.access, &who, found.info, found.template, &raw)?;
    let handler = api::handler(verb, found.template);
    if handler.is_none() && api::index(found).is_none() {
        let name = found.info["name"].as_str().unwrap_or_default();
        let text = format!("Method '{verb} {}' not implemented in pve-lab ({name})", found.template);
        return Err(ApiError::not_implemented(text));
    }
    let params = verify(&found.info["parameters"], raw)?;
    match handler {
        Some(handler) => {
            let call = Call { server, who, params, upload, total: Cell::new(None) };
            extra::check(&call, verb, found.template)?;
            handler(&call).map(|data| (data, call.total.get()))
        }
        None => Ok((api::index(found).unwrap_or_default(), None)),
    }
}

/// What a method returns, and the total that goes with a list.
type Data = (Value, Option<usize>);
type Raw = BTreeMap<String, Value>;

/// Reads the parameters from the query and the body. An upload's file goes to a temporary file on its way.
async fn parameters(
    server: &Server,
    request: Request<Incoming>,
    verb: &str,
) -> Result<(Raw, Option<multipart::Upload>)> {
    let mut raw = Raw::new();
    for (key, value) in percent::form(request.uri().query().unwrap_or_default()) {
        add(&mut raw, key, value);
    }
    let has_body = header(&request, CONTENT_LENGTH).map_or_else(|| has_chunks(&request), |length| length != "0");
    if verb == "DELETE" && has_body {
        let text = "Unexpected content for method 'DELETE'";
        return Err(ApiError::plain(501, text, text));
    }
    if verb == "GET" || !has_body {
        return Ok((raw, None));
    }
    let whole = header(&request, CONTENT_TYPE).unwrap_or_default().to_owned();
    let kind = whole.split(';').next().unwrap_or_default().trim().to_owned();
    if kind == "multipart/form-data" {
        let (fields, upload) = multipart::receive(&server.layout, &whole, request.into_body()).await?;
        raw.extend(fields.into_iter().map(|(key, value)| (key, Value::String(value))));
        return Ok((raw, Some(upload)));
    }
    if kind != "application/x-www-form-urlencoded" && kind != "application/json" && !kind.is_empty() {
        let text = format!("upload 'Content-Type '{kind}' not implemented");
        return Err(ApiError::plain(506, &text, &text));
    }
    let limited = http_body_util::Limited::new(request.into_body(), BODY_LIMIT);
    let body = limited.collect().await.map_err(host("can't read the request's body"))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if kind == "application/json" {
        json_parameters(&mut raw, &text)?;
    } else {
        percent::form(&text).into_iter().for_each(|(key, value)| add(&mut raw, key, value));
    }
    Ok((raw, None))
}

fn has_chunks(request: &Request<Incoming>) -> bool {
    request.headers().contains_key("transfer-encoding")
}

fn json_parameters(raw: &mut Raw, text: &str) -> Result<()> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => raw.extend(map),
        Ok(_) => return Err(ApiError::plain(500, "Not a HASH reference", "Not a HASH reference\n")),
        Err(error) => {
            let text = format!("malformed JSON string: {error}");
            return Err(ApiError::plain(500, &text, &format!("{text}\n")));
        }
    }
    Ok(())
}

fn add(raw: &mut Raw, key: String, value: String) {
    let value = Value::String(value);
    match raw.remove(&key) {
        None => drop(raw.insert(key, value)),
        Some(Value::Array(mut list)) => {
            list.push(value);
            raw.insert(key, Value::Array(list));
        }
        Some(first) => drop(raw.insert(key, Value::Array(vec![first, value]))),
    }
}
