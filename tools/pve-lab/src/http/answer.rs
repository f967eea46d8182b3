//! Answers: the JSON envelope, the reason phrase, and the plain ones.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::error::{ApiError, Result};

pub(super) type Answer = Response<Full<Bytes>>;

/// How the part of the path behind `/api2/` wants its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    ExtJs,
}

/// Puts a method's result into its envelope.
pub(super) fn envelope(form: Form, result: Result<(Value, Option<usize>)>) -> Answer {
    match (form, result) {
        (form, Ok((data, total))) => {
            let mut out = json!({"data": data});
            if let Some(total) = total {
                out["total"] = json!(total);
            }
            if form == Form::ExtJs {
                out["success"] = json!(1);
            }
            body(200, "OK", &out)
        }
        (_, Err(error)) if error.bare.is_some() => bare(&error),
        (Form::Json, Err(error)) => body(error.status, error.reason(), &refusal(&error)),
        (Form::ExtJs, Err(error)) => {
            let mut out = refusal(&error);
            out["success"] = json!(0);
            // A quirk of the real server: parameter errors have the number as a text.
            out["status"] = if error.errors.is_empty() { json!(error.status) } else { json!(error.status.to_string()) };
            body(200, "OK", &out)
        }
    }
}

fn refusal(error: &ApiError) -> Value {
    let mut out = json!({"data": null, "message": error.message});
    if !error.errors.is_empty() {
        out["errors"] = json!(error.errors);
    }
    out
}

/// Gives a refusal that has no JSON body.
pub(super) fn bare(error: &ApiError) -> Answer {
    let text = error.bare.clone().unwrap_or_default();
    finish(error.status, error.reason(), Response::new(Full::new(Bytes::from(text))))
}

fn body(status: u16, reason: &str, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    let json = HeaderValue::from_static("application/json;charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    finish(status, reason, response)
}

fn finish(status: u16, reason: &str, mut response: Answer) -> Answer {
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // A reason phrase is of visible ASCII and blanks; anything else is left to the body.
    let plain: Vec<u8> = reason.bytes().filter(|b| (0x20..0x7f).contains(b)).take(400).collect();
    if let Ok(phrase) = ReasonPhrase::try_from(plain) {
        response.extensions_mut().insert(phrase);
    }
    let fixed = [("cache-control", "max-age=0"), ("pragma", "no-cache"), ("server", "pve-api-daemon/3.0")];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
