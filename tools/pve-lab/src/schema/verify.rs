//! Parameters against the schema, with the real server's texts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{format, propstr};
use crate::error::{ApiError, Result};

const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";
pub(super) const MISSING: &str = "property is missing and it is not optional";

/// Checked parameters, each as the text that a form would carry; `true` is `1`, a list is joined by commas.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(pub(crate) BTreeMap<String, String>);

impl Params {
    /// Returns a parameter's text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a parameter that the schema requires; empty if it is not there after all.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Returns whether a switch is on.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// Returns a number that the schema has checked.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Removes a parameter and returns it.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }
}

/// Finds a property's schema; `scsi[n]` answers for `scsi0` up to its last index.
pub(crate) fn property<'a>(properties: &'a Value, key: &str) -> Option<&'a Value> {
    if let Some(plain) = properties.get(key) {
        return Some(plain).filter(|_| !key.ends_with("[n]"));
    }
    let base = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &key[base.len()..];
    let index: u64 = digits.parse().ok()?;
    let indexed = properties.get(format!("{base}[n]"))?;
    let canonical = index.to_string() == digits;
    (canonical && index <= indexed["last"].as_u64().unwrap_or(255)).then_some(indexed)
}

/// Checks raw parameters against a method's schema and returns them as text.
pub(crate) fn verify(schema: &Value, raw: BTreeMap<String, Value>) -> Result<Params> {
    let properties = &schema["properties"];
    let closed = schema["additionalProperties"] == 0;
    let mut errors = BTreeMap::new();
    let mut out = BTreeMap::new();
    for (key, value) in raw {
        match property(properties, &key) {
            None if closed => drop(errors.insert(key, UNKNOWN.to_owned())),
            None => drop(out.insert(key, plain(&value))),
            Some(spec) => match text(spec, &value).and_then(|t| check(spec, &key, &t).map(|()| t)) {
                Ok(text) => drop(out.insert(key, text)),
                Err(error) => drop(errors.insert(key, error)),
            },
        }
    }
    for (name, spec) in properties.as_object().into_iter().flatten() {
        let here = out.contains_key(name) || errors.contains_key(name);
        if here {
            if let Some(needed) = spec["requires"].as_str().filter(|n| !out.contains_key(*n)) {
                errors.entry(needed.to_owned()).or_insert(format!("missing property required by '{name}'"));
            }
        } else if spec["optional"] != 1 && !name.ends_with("[n]") {
            errors.insert(name.clone(), MISSING.to_owned());
        }
    }
    if errors.is_empty() { Ok(Params(out)) } else { Err(ApiError::parameters(errors)) }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(on) => u8::from(*on).to_string(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn text(spec: &Value, value: &Value) -> std::result::Result<String, String> {
    let kind = spec["type"].as_str().unwrap_or("string");
    let list = kind == "array" || spec["format"].as_str().is_some_and(|f| f.ends_with("-list"));
    match value {
        Value::Array(items) if list => Ok(items.iter().map(plain).collect::<Vec<_>>().join(",")),
        Value::Array(_) => Err(format!("type check ('{kind}') failed - got ARRAY")),
        Value::Object(_) => Err(format!("type check ('{kind}') failed - got HASH")),
        other => Ok(plain(other)),
    }
}

fn whole(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Checks one value; also used for the parts of a property string.
pub(super) fn check(spec: &Value, name: &str, value: &str) -> std::result::Result<(), String> {
    let kind = spec["type"].as_str().unwrap_or("string");
    let fits = match kind {
        "integer" => whole(value),
        "number" => value.parse::<f64>().is_ok_and(f64::is_finite),
        "boolean" => matches!(value, "0" | "1"),
        _ => true,
    };
    if !fits {
        return Err(format!("type check ('{kind}') failed - got '{value}'"));
    }
    match &spec["format"] {
        Value::String(name_of) => {
            format::check(name_of, value, name).map_err(|error| format!("invalid format - {error}\n"))?;
        }
        Value::Object(_) => {
            propstr::check(&spec["format"], value, name).map_err(|error| format!("invalid format - {error}\n"))?;
        }
        _ => {}
    }
    bounds(spec, kind, value)
}

fn bounds(spec: &Value, kind: &str, value: &str) -> std::result::Result<(), String> {
    if let Some(allowed) = spec["enum"].as_array() {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        if !allowed.contains(&value) {
            let all = allowed.join(", ");
            return Err(format!("value '{value}' does not have a value in the enumeration '{all}'"));
        }
    }
    if let Some(pattern) = spec["pattern"].as_str() {
        matches(pattern, value)?;
    }
    if kind == "string" {
        let length = value.chars().count() as u64;
        if let Some(most) = spec["maxLength"].as_u64().filter(|most| length > *most) {
            return Err(format!("value may only be {most} characters long"));
        }
        if let Some(least) = spec["minLength"].as_u64().filter(|least| length < *least) {
            return Err(format!("value must be at least {least} characters long"));
        }
        return Ok(());
    }
    let Ok(number) = value.parse::<f64>() else { return Ok(()) };
    let bound = |key: &str| spec[key].as_f64().or_else(|| spec[key].as_str().and_then(|t| t.parse().ok()));
    if let Some(least) = bound("minimum").filter(|least| number < *least) {
        return Err(format!("value must have a minimum value of {least}"));
    }
    if let Some(most) = bound("maximum").filter(|most| number > *most) {
        return Err(format!("value must have a maximum value of {most}"));
    }
    Ok(())
}

/// Matches a Perl pattern. What Rust's expressions can't say (look-ahead) is let through: the real server is stricter.
fn matches(pattern: &str, value: &str) -> std::result::Result<(), String> {
    let rust = pattern.replace("(?^:", "(?:").replace("{,", "{0,");
    match regex_lite::Regex::new(&format!("^(?:{rust})$")) {
        Ok(regex) if !regex.is_match(value) => Err("value does not match the regex pattern".to_owned()),
        _ => Ok(()),
    }
}
