//! A guest's QEMU process: the command line that its configuration means, and what is left to tidy up behind it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use remote::local::Command;

use super::config::{self, Config, card};
use super::drives::{self, Drive};
use super::{power, taps};
use crate::error::{ApiError, Result, host};
use crate::lab::accel::{self, Accel};
use crate::schema::{boolean, split_properties};
use crate::server::Server;

/// QEMU detaches itself when the machine is set up; before that it only opens files.
const LAUNCH: Duration = Duration::from_secs(60);

/// Starts the guest. Taps are made first and removed again if QEMU refuses.
pub(super) fn launch(server: &Server, vmid: u32, config: &Config) -> Result<()> {
    let mut args = machine(server, vmid, config)?;
    args.extend(channels(server, vmid, config));
    args.extend(disks(server, config)?);
    let cards = cards(server, vmid, config)?;
    let mut linked = Vec::new();
    for one in &cards {
        args.extend(one.args.clone());
        if let Some((tap, bridge)) = &one.tap {
            taps::add(tap, bridge)?;
            linked.push(tap.clone());
        }
    }
    let started = Command::new("qemu-system-x86_64").args(&args).deadline(LAUNCH).run();
    if let Err(error) = started {
        linked.iter().try_for_each(|tap| taps::remove(tap))?;
        return Err(ApiError::failed(format!("start failed: {error}")));
    }
    for one in cards.iter().filter(|one| one.down) {
        let arguments = serde_json::json!({"name": one.device, "up": false});
        super::qmp::Qmp::connect(&power::qmp_socket(server, vmid))?.run("set_link", &arguments)?;
    }
    Ok(())
}

/// Removes the taps and the sockets of a guest that has ended.
pub(super) fn clean(server: &Server, vmid: u32) -> Result<()> {
    for number in 0..32 {
        let tap = taps::name(vmid, number);
        let known = server.guests.load(vmid)?.config.contains_key(&format!("net{number}"));
        if known {
            taps::remove(&tap)?;
        }
    }
    for ending in ["pid", "qmp", "qga", "serial"] {
        let path = server.layout.run(&format!("{vmid}.{ending}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(host(format!("can't remove {}", path.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the serial log of a guest that is destroyed; the next one with its VMID begins a new one.
pub(super) fn forget_log(server: &Server, vmid: u32) -> Result<()> {
    let path = server.layout.run(&format!("{vmid}.serial.log"));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(host(format!("can't remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Escapes a path for an option of QEMU's, where a comma ends the value.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn machine(server: &Server, vmid: u32, config: &Config) -> Result<Vec<String>> {
    let get = |key: &str| config.get(key).map(String::as_str);
    if get("bios") == Some("ovmf") {
        return Err(ApiError::failed("bios 'ovmf' not implemented in pve-lab"));
    }
    let kind = if is_q35(config) { "q35" } else { "pc" };
    let accel = match get("kvm") {
        Some("0") => Accel::Tcg,
        _ => accel::known(&server.layout).map_err(|error| ApiError::failed(error.to_string()))?,
    };
    let name = get("name").map_or_else(|| format!("VM{vmid}"), str::to_owned);
    let mut args = vec!["-name".into(), format!("{name},process=kvm-{vmid}"), "-machine".into(), kind.into()];
    args.extend(accel.args());
    let number = |key: &str| get(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let (sockets, cores) = (number("sockets"), number("cores"));
    let smp = format!("{},sockets={sockets},cores={cores},maxcpus={}", config::cpus(config), sockets * cores);
    args.extend(["-smp".into(), smp, "-m".into(), format!("{}M", config::memory(config))]);
    let smbios = split_properties(get("smbios1").unwrap_or_default());
    if let Some((_, uuid)) = smbios.iter().find(|(key, _)| *key == Some("uuid")) {
        args.extend(["-smbios".into(), format!("type=1,uuid={uuid}")]);
    }
    let vga = get("vga").map_or("std", |text| text.split(',').next().unwrap_or("std").trim_start_matches("type="));
    let vga = if vga.starts_with("serial") || vga == "none" { "none" } else { "std" };
    let fixed = ["-nodefaults", "-no-user-config", "-display", "none", "-daemonize", "-vga", vga];
    args.extend(fixed.map(str::to_owned));
    args.extend(["-pidfile".into(), server.layout.run(&format!("{vmid}.pid")).display().to_string()]);
    if get("onboot").is_some() && get("reboot") == Some("0") {
        args.push("-no-reboot".into());
    }
    Ok(args)
}

fn is_q35(config: &Config) -> bool {
    config
        .get("machine")
        .is_some_and(|machine| machine.trim_start_matches("type=").starts_with("q35") || machine.contains("-q35-"))
}

/// Monitor, serial console with its log, agent, random numbers, balloon.
fn channels(server: &Server, vmid: u32, config: &Config) -> Vec<String> {
    let path = |ending: &str| escape(&server.layout.run(&format!("{vmid}.{ending}")));
    let socket = |id: &str, path: String| format!("socket,id={id},path={path},server=on,wait=off");
    let mut args = vec![
        "-chardev".into(),
        socket("qmp", path("qmp")),
        "-mon".into(),
        "chardev=qmp,mode=control".into(),
        "-chardev".into(),
        format!("{},logfile={},logappend=on", socket("serial", path("serial")), path("serial.log")),
        "-device".into(),
        "isa-serial,chardev=serial".into(),
        "-device".into(),
        "virtio-rng-pci".into(),
    ];
    if config::has_agent(config) {
        args.extend(["-chardev".into(), socket("qga", path("qga"))]);
        let port = "virtserialport,chardev=qga,name=org.qemu.guest_agent.0";
        args.extend(["-device", "virtio-serial-pci", "-device", port].map(str::to_owned));
    }
    if config.get("balloon").is_none_or(|size| size != "0") {
        args.extend(["-device", "virtio-balloon-pci"].map(str::to_owned));
    }
    args
}

fn disks(server: &Server, config: &Config) -> Result<Vec<String>> {
    let order = drives::boot_order(config);
    let hardware = config.get("scsihw").map_or("lsi", String::as_str);
    let mut args: Vec<String> = Vec::new();
    let mut controllers = Vec::new();
    for (key, drive) in drives::all(server, config) {
        if key == "efidisk0" || key == "tpmstate0" {
            return Err(ApiError::failed(format!("drive '{key}' not implemented in pve-lab")));
        }
        args.extend(["-drive".into(), backend(server, &key, &drive)?]);
        let base = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let number: u32 = key[base.len()..].parse().unwrap_or_default();
        let (controller, mut device) = frontend(base, number, hardware, is_q35(config), drive.is_cdrom())?;
        if let Some(controller) = controller.filter(|controller| !controllers.contains(controller)) {
            let at = args.len() - 2;
            args.splice(at..at, ["-device".to_owned(), controller.clone()]);
            controllers.push(controller);
        }
        device = format!("{device},drive=drive-{key},id={key}");
        if let Some(place) = order.iter().position(|own| *own == key) {
            device = format!("{device},bootindex={}", 100 + place);
        }
        if let Some(serial) = drive.options.get("serial") {
            device = format!("{device},serial={}", crate::http::percent::decode(serial, false).replace(',', ",,"));
        }
        args.extend(["-device".into(), device]);
    }
    Ok(args)
}

/// Returns the half of a drive that is the host's.
pub(super) fn backend(server: &Server, key: &str, drive: &Drive) -> Result<String> {
    let mut text = format!("if=none,id=drive-{key}");
    if drive.is_cdrom() {
        text += ",media=cdrom,readonly=on";
    }
    if matches!(drive.file.as_str(), "none" | "cdrom") {
        return Ok(text);
    }
    let (volume, path) = server.storages.existing(&drive.file)?;
    let format = if volume.kind == "images" { volume.format() } else { "raw" };
    text += &format!(",file={},format={format}", escape(&path));
    // Unless asked otherwise, a guest's flushes stay in the host's cache. They survive the end of QEMU, though not a power
    // cut of the host, and a lab's disks need no more.
    let cache = drive.options.get("cache").map_or("unsafe", String::as_str);
    if !drive.is_cdrom() {
        text += &format!(",cache={cache}");
        if drive.options.get("discard").is_some_and(|discard| discard == "on") {
            text += ",discard=unmap,detect-zeroes=unmap";
        }
        if drive.options.get("ro").is_some_and(|on| on == "1") {
            text += ",readonly=on";
        }
    }
    Ok(text)
}

/// Returns the controller that a drive needs, if it is not there by itself, and the start of the drive's device.
fn frontend(base: &str, number: u32, hardware: &str, q35: bool, cdrom: bool) -> Result<(Option<String>, String)> {
    let kind = if cdrom { "cd" } else { "hd" };
    Ok(match base {
        "scsi" => {
            let (controller, bus, id) = match hardware {
                "virtio-scsi-single" => {
                    (format!("virtio-scsi-pci,id=virtioscsi{number}"), format!("virtioscsi{number}"), 0)
                }
                "virtio-scsi-pci" => ("virtio-scsi-pci,id=scsihw0".to_owned(), "scsihw0".to_owned(), number),
                "lsi" | "lsi53c810" if number < 7 => ("lsi53c895a,id=scsihw0".to_owned(), "scsihw0".to_owned(), number),
                "lsi" | "lsi53c810" => {
                    (format!("lsi53c895a,id=scsihw{}", number / 7), format!("scsihw{}", number / 7), number % 7)
                }
                other => return Err(ApiError::failed(format!("scsihw '{other}' not implemented in pve-lab"))),
            };
            (Some(controller), format!("scsi-{kind},bus={bus}.0,scsi-id={id}"))
        }
        "virtio" => (None, "virtio-blk-pci".to_owned()),
        "sata" => (Some("ahci,id=ahci0".into()), format!("ide-{kind},bus=ahci0.{number}")),
        _ if q35 => (None, format!("ide-{kind},bus=ide.{number}")),
        _ => (None, format!("ide-{kind},bus=ide.{},unit={}", number / 2, number % 2)),
    })
}

struct Card {
    args: Vec<String>,
    device: String,
    tap: Option<(String, String)>,
    down: bool,
}

fn cards(server: &Server, vmid: u32, config: &Config) -> Result<Vec<Card>> {
    let order = drives::boot_order(config);
    let mut out = Vec::new();
    for number in 0..32 {
        let key = format!("net{number}");
        let Some(text) = config.get(&key) else { continue };
        let options = card(server.release, &key, text)?;
        let get = |name: &str| options.get(name).map(String::as_str);
        for name in ["tag", "trunks"] {
            if get(name).is_some() {
                return Err(ApiError::failed(format!("{key}: VLAN option '{name}' not implemented in pve-lab")));
            }
        }
        let tap = get("bridge").map(|bridge| (taps::name(vmid, number), bridge.to_owned()));
        let backend = match &tap {
            Some((tap, _)) => format!("tap,id=netdev-{key},ifname={tap},script=no,downscript=no"),
            None => format!("user,id=netdev-{key}"),
        };
        let model = match get("model").unwrap_or("virtio") {
            "virtio" => "virtio-net-pci",
            other => other,
        };
        let mut device = format!("{model},id={key},netdev=netdev-{key},mac={}", get("macaddr").unwrap_or_default());
        if !is_q35(config) && number < 6 {
            // Proxmox's own slot, so that the guest names the card ens18 as it would there.
            device += &format!(",addr=0x{:x}", 0x12 + number);
        }
        if let Some(place) = order.iter().position(|own| *own == key) {
            device += &format!(",bootindex={}", 100 + place);
        }
        let down = get("link_down").and_then(boolean).unwrap_or(false);
        out.push(Card { args: vec!["-netdev".into(), backend, "-device".into(), device], device: key, tap, down });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bus_has_its_controller_and_place() {
        let front = |base, number, hardware, q35, cdrom| frontend(base, number, hardware, q35, cdrom).unwrap();
        assert_eq!(
            front("scsi", 3, "virtio-scsi-single", false, false),
            (Some("virtio-scsi-pci,id=virtioscsi3".into()), "scsi-hd,bus=virtioscsi3.0,scsi-id=0".into())
        );
        assert_eq!(front("ide", 3, "lsi", false, true).1, "ide-cd,bus=ide.1,unit=1");
        assert_eq!(front("ide", 3, "lsi", true, true).1, "ide-cd,bus=ide.3");
        assert!(frontend("scsi", 0, "megasas", false, false).is_err());
    }
}
