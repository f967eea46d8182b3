//! The node: itself, its network.

use std::fs;

use serde_json::{Value, json};

use super::Handler;
use crate::error::{ApiError, Result};
use crate::lab::net::GATEWAY;
use crate::random;
use crate::server::{Call, NODE, Server};

pub(super) const METHODS: &[(&str, &str, Handler)] = &[
    ("GET", "/nodes", |call| Ok(json!([nodes_entry(&call.server)]))),
    ("GET", "/nodes/{node}/status", status),
    ("GET", "/nodes/{node}/time", |_| {
        Ok(json!({"timezone": "UTC", "time": random::now(), "localtime": random::now()}))
    }),
    ("GET", "/nodes/{node}/network", networks),
    ("GET", "/nodes/{node}/network/{iface}", network),
    ("GET", "/nodes/{node}/config", |_| Ok(json!({}))),
    ("GET", "/nodes/{node}/hardware/pci", |_| Ok(json!([]))),
];

fn nodes_entry(server: &Server) -> Value {
    let mut entry = summary(server);
    entry["ssl_fingerprint"] = json!(crate::setup::fingerprint(&server.layout).unwrap_or_default());
    entry
}

/// Returns the node's entry in lists.
pub(super) fn summary(server: &Server) -> Value {
    let (total, used, _) = server.storages.space();
    let memory = memory();
    json!({
        "id": format!("node/{NODE}"), "type": "node", "node": NODE, "status": "online", "level": "", "cpu": 0.0,
        "maxcpu": cpus(), "mem": memory.total - memory.available, "maxmem": memory.total, "disk": used,
        "maxdisk": total, "uptime": server.started.elapsed().as_secs(),
    })
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

struct Memory {
    total: u64,
    available: u64,
    free: u64,
}

fn memory() -> Memory {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let get = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Memory { total: get("MemTotal"), available: get("MemAvailable"), free: get("MemFree") }
}

fn status(call: &Call) -> Result<Value> {
    let memory = memory();
    let (total, used, free) = call.server.storages.space();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let version = read("/proc/sys/kernel/version").trim().to_owned();
    let load: Vec<String> = read("/proc/loadavg").split(' ').take(3).map(str::to_owned).collect();
    let info = read("/proc/cpuinfo");
    let cpu = |name: &str| {
        let value = info.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(": "));
        value.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    Ok(json!({
        "boot-info": {"mode": "legacy-bios"},
        "cpu": 0.0, "idle": 0, "wait": 0.0, "ksm": {"shared": 0},
        "cpuinfo": {
            "cores": cpus(), "cpus": cpus(), "sockets": 1, "user_hz": 100, "hvm": "0", "family": cpu("cpu family"),
            "flags": cpu("flags"), "mhz": cpu("cpu MHz"), "model": cpu("model name"), "vendor": cpu("vendor_id"),
        },
        "current-kernel": {"sysname": "Linux", "release": kernel, "version": version, "machine": "x86_64"},
        "kversion": format!("Linux {kernel} {version}"),
        "loadavg": load,
        "memory": {
            "total": memory.total, "used": memory.total - memory.available, "free": memory.free,
            "available": memory.available,
        },
        "pveversion": format!("pve-manager/{}/pve-lab", call.server.release.version().1),
        "rootfs": {"total": total, "used": used, "free": free, "avail": free},
        "swap": {"total": 0, "used": 0, "free": 0},
        "uptime": call.server.started.elapsed().as_secs(),
    }))
}

fn bridge() -> Value {
    json!({
        "active": 1, "autostart": 1, "type": "bridge", "method": "static", "method6": "manual", "families": ["inet"],
        "address": GATEWAY, "netmask": "24", "cidr": format!("{GATEWAY}/24"), "bridge_ports": "", "bridge_stp": "off",
        "bridge_fd": "0", "priority": 3,
    })
}

fn networks(call: &Call) -> Result<Value> {
    let wanted = ["bridge", "any_bridge", "any_local_bridge", "include_sdn"];
    if call.params.get("type").is_some_and(|kind| !wanted.contains(&kind)) {
        return Ok(json!([]));
    }
    let mut entry = bridge();
    entry["iface"] = json!("vmbr0");
    Ok(json!([entry]))
}

fn network(call: &Call) -> Result<Value> {
    match call.params.text("iface") {
        "vmbr0" => Ok(bridge()),
        _ => Err(ApiError::parameter("iface", "interface does not exist")),
    }
}
