//! Property strings: `virtio=BC:24:11:00:00:01,bridge=vmbr0` and their kind.

use std::collections::BTreeMap;

use serde_json::Value;

use super::verify::{self, MISSING};

/// Reads a boolean as property strings spell it.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// Splits a property string into keys and values, in order; a part without `=` has no key.
pub(crate) fn split(text: &str) -> Vec<(Option<&str>, &str)> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').map_or((None, part), |(key, value)| (Some(key), value))).collect()
}

/// Parses a property string into its properties, aliases resolved and booleans as `1` and `0`.
pub(crate) fn parse(format: &Value, text: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    let default_key =
        format.as_object().into_iter().flatten().find(|(_, spec)| spec["default_key"] == 1).map(|(key, _)| key);
    for (key, value) in split(text) {
        let Some(key) = key.or(default_key.map(String::as_str)) else {
            return Err(format!("invalid format - missing key in comma-separated list property at '{value}'"));
        };
        let Some(spec) = format.get(key) else {
            out.insert(key.to_owned(), value.to_owned());
            continue;
        };
        if let (Some(named), Some(target)) = (spec["keyAlias"].as_str(), spec["alias"].as_str()) {
            out.insert(named.to_owned(), key.to_owned());
            out.insert(target.to_owned(), value.to_owned());
            continue;
        }
        let key = spec["alias"].as_str().unwrap_or(key);
        let is_switch = format[key]["type"] == "boolean";
        let value = match boolean(value).filter(|_| is_switch) {
            Some(on) => u8::from(on).to_string(),
            None => value.to_owned(),
        };
        if out.insert(key.to_owned(), value).is_some() {
            return Err(format!("{name}: duplicate key in comma-separated list property: {key}"));
        }
    }
    Ok(out)
}

/// Checks a property string; the text names each wrong part as `net0.model`.
pub(super) fn check(format: &Value, text: &str, name: &str) -> Result<(), String> {
    let found = parse(format, text, name)?;
    let mut errors = Vec::new();
    for (key, value) in &found {
        let error = match format.get(key) {
            None => Err("property is not defined in schema and the schema does not allow additional properties".into()),
            Some(spec) => verify::check(spec, key, value),
        };
        if let Err(error) = error {
            errors.push(format!("{name}.{key}: {error}\n"));
        }
        if let Some(needed) = format[key]["requires"].as_str().filter(|needed| !found.contains_key(*needed)) {
            errors.push(format!("{name}.{needed}: missing property required by '{name}.{key}'\n"));
        }
    }
    for (key, spec) in format.as_object().into_iter().flatten() {
        if spec["optional"] != 1 && spec.get("alias").is_none() && !found.contains_key(key) {
            errors.push(format!("{name}.{key}: {MISSING}\n"));
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(format!("format error\n{}", errors.concat().strip_suffix('\n').unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Release;
    use super::*;

    fn errors(key: &str, value: &str) -> String {
        verify::check(Release::V9.guest_option(key).unwrap(), key, value).unwrap_err()
    }

    #[test]
    fn wrong_parts_are_named_as_the_real_server_names_them() {
        assert_eq!(
            errors("net0", "virtio,bridge=vmbr0,speed=9"),
            "invalid format - format error\nnet0.speed: property is not defined in schema and the schema does not \
             allow additional properties\n"
        );
        assert_eq!(
            errors("memory", "1"),
            "invalid format - format error\nmemory.current: value must have a minimum value of 16\n"
        );
    }

    #[test]
    fn a_key_alias_gives_model_and_address() {
        let format = &Release::V9.guest_option("net0").unwrap()["format"];
        let net = parse(format, "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=yes", "net0").unwrap();
        assert_eq!((net["model"].as_str(), net["macaddr"].as_str()), ("virtio", "BC:24:11:00:00:01"));
        assert_eq!(net["firewall"], "1");
    }
}
