//! The cloud-config that a site adds to a guest's: read as cloud-init reads it, and what it would ignore is told.

use std::path::Path;

use anyhow::Result;
use converge::Failure;
use serde_json::{Map, Value};

/// Keys that cloud-init's modules read. It ignores what it does not know, so a slip would go unseen; words that are near
/// none of these are left to modules of other distributions.
const KNOWN: [&str; 38] = [
    "apt",
    "bootcmd",
    "ca_certs",
    "chpasswd",
    "disable_root",
    "disk_setup",
    "final_message",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "hostname",
    "keyboard",
    "locale",
    "manage_etc_hosts",
    "mounts",
    "ntp",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "packages",
    "phone_home",
    "power_state",
    "preserve_hostname",
    "resize_rootfs",
    "resolv_conf",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_genkeytypes",
    "ssh_keys",
    "ssh_pwauth",
    "swap",
    "timezone",
    "user",
    "users",
    "vendor_data",
    "write_files",
];

/// Reads a guest's cloud-config.
///
/// # Errors
/// What is wrong with it, with file and line where there is one.
pub(crate) fn read(path: &Path) -> Result<Map<String, Value>> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| Failure::config(format!("can't read {shown}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::config(format!("{shown}:{line}: this is no UTF-8")).hint("save the file as UTF-8")
    })?;
    parse(&text, &shown.to_string()).map_err(Into::into)
}

/// Reads a cloud-config as YAML 1.1 has it, which is what cloud-init reads it as.
pub(crate) fn parse(text: &str, shown: &str) -> Result<Map<String, Value>, Failure> {
    if text.starts_with("#!") {
        let hint = "put its lines below `runcmd:`, one list item each";
        return Err(Failure::config(format!("{shown}:1: this is a script and no cloud-config")).hint(hint));
    }
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let table = match serde_saphyr::from_str_with_options(text, options) {
        Ok(Value::Object(table)) => table,
        Ok(_) => {
            let failure = Failure::config(format!("{shown}: a cloud-config is a table of keys"));
            return Err(failure.hint("begin with a key, as `packages: [htop]`"));
        }
        Err(error) => {
            let line = error.location().map(|location| format!(":{}", location.line())).unwrap_or_default();
            let message = error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned();
            let hint =
                "YAML is indented with blanks, a key stands once in a table, and a text with ': ' in it needs quotes";
            return Err(Failure::config(format!("{shown}{line}: {message}")).hint(hint));
        }
    };
    for (key, value) in &table {
        if !KNOWN.contains(&key.as_str())
            && let Some(near) = site::nearest(key, KNOWN)
        {
            let line = text.lines().position(|line| line.starts_with(key.as_str())).map_or(1, |index| index + 1);
            let failure =
                Failure::config(format!("{shown}:{line}: cloud-init does not know `{key}` and would ignore it"));
            return Err(failure.hint(format!("did you mean `{near}`?")));
        }
        if ["packages", "runcmd", "users", "write_files", "bootcmd"].contains(&key.as_str()) && !value.is_array() {
            let line = text.lines().position(|line| line.starts_with(key.as_str())).map_or(1, |index| index + 1);
            let failure = Failure::config(format!("{shown}:{line}: `{key}` must be a list"));
            return Err(failure.hint(format!("write one line for each below `{key}:`, with `- ` in front")));
        }
    }
    Ok(table)
}
