//! What would be deployed, as text.

use converge::Rendered;
use serde_json::Value;
use site::Name;

use crate::apply::template_form;
use crate::apply_disk::disk_form;
use crate::apply_guest::mark_of;
use crate::wanted::{Wanted, WantedDisk, WantedGuest};

/// Writes a host's templates and guests.
pub fn render(site: &Name, wanted: &Wanted) -> Vec<Rendered> {
    let mut all = Vec::new();
    for template in &wanted.templates {
        let form = template_form(wanted, template, site);
        let text = form.iter().map(|(key, value)| line(key, value)).collect();
        all.push(Rendered { place: wanted.template_address(&template.name).to_string(), text });
    }
    for disk in wanted.disks() {
        let form = disk_form(wanted, disk, site);
        let text = form.iter().map(|(key, value)| line(key, value)).collect();
        all.push(Rendered { place: wanted.disk_address(disk).to_string(), text });
    }
    for guest in &wanted.guests {
        let address = wanted.guest_address(&guest.name);
        all.push(Rendered { place: address.to_string(), text: config(site, wanted, guest) });
        let files = [
            ("user-data", &guest.seed.user_data),
            ("meta-data", &guest.seed.meta_data),
            ("network-config", &guest.seed.network_config),
        ];
        all.extend(files.map(|(file, text)| Rendered { place: format!("{address}/{file}"), text: text.clone() }));
    }
    all
}

/// Writes a guest's configuration as Proxmox shows it.
fn config(site: &Name, wanted: &Wanted, guest: &WantedGuest) -> String {
    let state = &guest.state;
    let mut lines = vec![
        line("vmid", &guest.vmid.to_string()),
        line("clone of", &guest.template.to_string()),
        line("name", &state.name),
        line("description", &mark_of(state, true).describe(site)),
        line("tags", &state.tags),
        line("cores", &state.cores.to_string()),
        line("memory", &state.memory.mib().to_string()),
        line("onboot", &u8::from(state.onboot).to_string()),
        line("scsi0", &format!("size={}", state.disk)),
        line("net0", &format!("virtio,bridge={}", state.bridge)),
        line("ide2", &format!("{}:iso/{},media=cdrom", wanted.storage, state.seed)),
    ];
    let devices = state.pci.iter().enumerate();
    let disks = guest.disks.iter().enumerate();
    lines.extend(disks.map(|(number, disk)| line(&format!("virtio{number}"), &disk_line(disk))));
    lines.extend(devices.map(|(number, mapping)| line(&format!("hostpci{number}"), &format!("mapping={mapping}"))));
    lines.concat()
}

/// Writes a data disk's drive, whose volume's name is only known when it is made.
fn disk_line(disk: &WantedDisk) -> String {
    let WantedDisk { vmid, mounted, state, .. } = disk;
    format!("the volume of VM {vmid},serial={},size={}", mounted.name, state.size)
}

/// Writes one key; the further lines of a value are set in.
fn line(key: &str, value: &str) -> String {
    format!("{key}: {}\n", value.replace('\n', "\n    ").replace("\n    \n", "\n\n"))
}

/// Returns what the generation keeps of a host: everything but the texts, which are artifacts.
pub fn desired(wanted: &Wanted) -> Value {
    let templates = wanted.templates.iter().map(|template| {
        (template.name.to_string(), serde_json::json!({"vmid": template.vmid, "state": template.state}))
    });
    let guests = wanted.guests.iter().map(|guest| {
        let value = serde_json::json!({"vmid": guest.vmid, "template": guest.template, "state": guest.state});
        (guest.name.to_string(), value)
    });
    serde_json::json!({
        "node": wanted.node,
        "storage": wanted.storage,
        "templates": templates.collect::<serde_json::Map<_, _>>(),
        "guests": guests.collect::<serde_json::Map<_, _>>(),
    })
}
