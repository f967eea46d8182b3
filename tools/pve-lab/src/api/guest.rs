//! Guests: lists, configuration, power, agent.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Handler;
use crate::error::{ApiError, Result};
use crate::server::{Call, Server};
use crate::vm::create::vmid;
use crate::vm::power::{self, Action};
use crate::vm::{self, Config, cloudinit, config, drives, update};

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/nodes/{node}/qemu", list),
    ("POST", "/nodes/{node}/qemu", |call| Ok(json!(vm::create::create(&call.server, &call.who, &call.params)?))),
    ("DELETE", "/nodes/{node}/qemu/{vmid}", |call| {
        Ok(json!(vm::create::destroy(&call.server, &call.who, &call.params)?))
    }),
    ("GET", "/nodes/{node}/qemu/{vmid}/config", show),
    ("PUT", "/nodes/{node}/qemu/{vmid}/config", |call| update::put(&call.server, &call.who, &call.params)),
    ("POST", "/nodes/{node}/qemu/{vmid}/config", |call| update::post(&call.server, &call.who, &call.params)),
    ("GET", "/nodes/{node}/qemu/{vmid}/pending", pending),
    ("POST", "/nodes/{node}/qemu/{vmid}/clone", |call| {
        Ok(json!(vm::clone::clone(&call.server, &call.who, &call.params)?))
    }),
    ("POST", "/nodes/{node}/qemu/{vmid}/template", |call| {
        Ok(json!(update::template(&call.server, &call.who, &call.params)?))
    }),
    ("PUT", "/nodes/{node}/qemu/{vmid}/resize", |call| {
        Ok(json!(update::resize(&call.server, &call.who, &call.params)?))
    }),
    ("PUT", "/nodes/{node}/qemu/{vmid}/unlink", unlink),
    ("GET", "/nodes/{node}/qemu/{vmid}/status/current", current),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/start", start),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/stop", |call| act(call, Action::Stop)),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown", |call| act(call, Action::Shutdown)),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/reset", |call| act(call, Action::Reset)),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/reboot", |call| act(call, Action::Reboot)),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/suspend", |call| act(call, Action::Suspend)),
    ("POST", "/nodes/{node}/qemu/{vmid}/status/resume", |call| act(call, Action::Resume)),
    ("GET", "/nodes/{node}/qemu/{vmid}/cloudinit", |call| {
        let guest = call.server.guests.load(vmid(&call.params, "vmid")?)?;
        Ok(cloudinit::show(call.server.release, &guest))
    }),
    ("PUT", "/nodes/{node}/qemu/{vmid}/cloudinit", |call| {
        cloudinit::regenerate(&call.server, vmid(&call.params, "vmid")?)
    }),
    ("GET", "/nodes/{node}/qemu/{vmid}/cloudinit/dump", |call| {
        let id = vmid(&call.params, "vmid")?;
        let config = call.server.guests.load(id)?.effective();
        Ok(json!(cloudinit::dump(call.server.release, id, &config, call.params.text("type"))?))
    }),
    ("POST", "/nodes/{node}/qemu/{vmid}/agent/ping", |call| ask(call, "guest-ping")),
    ("GET", "/nodes/{node}/qemu/{vmid}/agent/info", |call| ask(call, "guest-info")),
    ("GET", "/nodes/{node}/qemu/{vmid}/agent/get-osinfo", |call| ask(call, "guest-get-osinfo")),
    ("GET", "/nodes/{node}/qemu/{vmid}/agent/get-host-name", |call| ask(call, "guest-get-host-name")),
    ("GET", "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces", |call| ask(call, "guest-network-get-interfaces")),
    ("GET", "/nodes/{node}/qemu/{vmid}/agent/file-read", file_read),
];

/// Returns a guest's entry in lists.
pub(super) fn entry(server: &Server, id: u32, full: bool) -> Result<Value> {
    let guest = server.guests.load(id)?;
    let config = &guest.config;
    let runs = power::runs(server, id, full);
    let mut out = json!({
        "vmid": id, "name": config.get("name").cloned().unwrap_or_else(|| format!("VM {id}")),
        "status": if runs.is_some() { "running" } else { "stopped" }, "cpus": config::cpus(config), "cpu": 0,
        "maxmem": config::memory(config) << 20, "maxdisk": drives::boot_size(server, config), "mem": 0, "memhost": 0,
        "disk": 0, "netin": 0, "netout": 0, "uptime": runs.as_ref().map_or(0, |runs| runs.uptime),
    });
    for key in ["tags", "lock"] {
        if let Some(text) = config.get(key).filter(|text| !text.trim().is_empty()) {
            out[key] = json!(text);
        }
    }
    if guest.is_template() {
        out["template"] = json!(1);
    }
    if full {
        out["qmpstatus"] = json!(match &runs {
            Some(runs) if runs.paused => "paused",
            Some(_) => "running",
            None => "stopped",
        });
    }
    if let Some(runs) = runs {
        out["pid"] = json!(runs.pid);
        for name in ["cpu", "io", "memory"] {
            out[format!("pressure{name}some")] = json!(0);
            out[format!("pressure{name}full")] = json!(0);
        }
    }
    Ok(out)
}

/// Returns whether the caller may see a guest.
pub(super) fn audits(call: &Call, id: u32) -> bool {
    call.server.access.has_any(&call.who.name(), &format!("/vms/{id}"), &["VM.Audit"])
}

fn list(call: &Call) -> Result<Value> {
    let full = call.params.flag("full");
    let mut ids = call.server.guests.ids()?;
    ids.retain(|id| audits(call, *id));
    // A guest may be destroyed between the two reads; it is not in the list then.
    let entries = ids.into_iter().filter_map(|id| entry(&call.server, id, full).ok());
    Ok(entries.filter(|entry| !full || entry["template"] != 1).collect())
}

fn current(call: &Call) -> Result<Value> {
    let id = vmid(&call.params, "vmid")?;
    let mut out = entry(&call.server, id, true)?;
    let config: Config = call.server.guests.load(id)?.config;
    out["ha"] = json!({"managed": 0});
    if config::has_agent(&config) {
        out["agent"] = json!(1);
    }
    if config.keys().any(|key| key.strip_prefix("serial").is_some_and(|n| n.parse::<u8>().is_ok())) {
        out["serial"] = json!(1);
        out["clipboard"] = Value::Null;
    }
    let cards = (0..32).filter(|n| config.contains_key(&format!("net{n}")));
    let nics: serde_json::Map<String, Value> =
        cards.map(|n| (format!("tap{id}i{n}"), json!({"netin": 0, "netout": 0}))).collect();
    if out["status"] == "running" && !nics.is_empty() {
        out["nics"] = Value::Object(nics);
    }
    Ok(out)
}

fn show(call: &Call) -> Result<Value> {
    if call.params.get("snapshot").is_some() {
        return Err(ApiError::not_implemented("parameter 'snapshot' not implemented in pve-lab"));
    }
    let guest = call.server.guests.load(vmid(&call.params, "vmid")?)?;
    let digest = config::digest(&guest);
    if call.params.flag("current") {
        return Ok(config::show_all(call.server.release, &guest.config, &digest));
    }
    let mut shown = guest.config.clone();
    shown.extend(guest.pending.clone());
    for key in &guest.delete {
        shown.remove(key);
    }
    Ok(config::show_all(call.server.release, &shown, &digest))
}

fn pending(call: &Call) -> Result<Value> {
    let guest = call.server.guests.load(vmid(&call.params, "vmid")?)?;
    Ok(config::show_pending(call.server.release, &guest))
}

fn unlink(call: &Call) -> Result<Value> {
    let mut params = call.params.clone();
    let list = params.take("idlist").unwrap_or_default();
    params.0.insert("delete".into(), list);
    update::put(&call.server, &call.who, &params)
}

fn start(call: &Call) -> Result<Value> {
    let id = vmid(&call.params, "vmid")?;
    Ok(json!(power::start(&call.server, &call.who, id, call.params.number("timeout"))?))
}

fn act(call: &Call, action: Action) -> Result<Value> {
    Ok(json!(power::act(&call.server, &call.who, &call.params, action)?))
}

/// Connects to the guest's agent.
fn agent(call: &Call) -> Result<vm::qmp::Qmp> {
    let id = vmid(&call.params, "vmid")?;
    let config = call.server.guests.load(id)?.config;
    if !config::has_agent(&config) {
        return Err(ApiError::failed("No QEMU guest agent configured"));
    }
    if !power::is_running(&call.server, id)? {
        return Err(ApiError::failed(format!("VM {id} is not running")));
    }
    let socket = power::agent_socket(&call.server, id);
    let dead = |_| ApiError::failed("QEMU guest agent is not running");
    vm::qmp::Qmp::agent(&socket, Duration::from_secs(3)).map_err(dead)
}

/// Has the guest's agent run a command.
fn ask(call: &Call, command: &str) -> Result<Value> {
    Ok(json!({"result": agent(call)?.run(command, &Value::Null)?}))
}

/// The most that is read of a file.
const READ: usize = 16 << 20;

/// Reads a file in the guest.
fn file_read(call: &Call) -> Result<Value> {
    let mut agent = agent(call)?;
    let most = call.params.number("count").and_then(|count| usize::try_from(count).ok()).unwrap_or(READ);
    let bytes = agent.read_file(call.params.text("file"), most)?;
    let whole = bytes.whole;
    let plain = call.params.get("decode").is_none_or(|on| on == "1");
    let content =
        if plain { String::from_utf8_lossy(&bytes.content).into_owned() } else { STANDARD.encode(&bytes.content) };
    let mut out = json!({"content": content, "bytes-read": bytes.content.len()});
    if !whole {
        out["truncated"] = json!(1);
    }
    Ok(out)
}
