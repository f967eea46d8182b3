//! Desired against observed, with the exact texts that people see.

#![allow(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeMap;

use image::DiskImage;
use pve::{Config, Resource};
use store::{Artifact, Digest};
use support::{name, site};
use vm_build::diff::{Diff, diff, refuse};
use vm_build::mark::{self, Mark};
use vm_build::observe::{Observed, Vm};
use vm_build::wanted::{Wanted, wanted};

fn image() -> DiskImage {
    let file = Artifact { sha256: Digest::of("image"), size: 3 };
    DiskImage { name: "debian-13".into(), file, format: "qcow2".into(), virtual_size: 2 << 30 }
}

fn lab() -> Wanted {
    let site = site("https://localhost:8006", std::path::Path::new("/nowhere"));
    wanted(&site, &BTreeMap::from([(name("debian-13"), image())])).unwrap().remove(0)
}

fn vm(number: u32, status: &str, values: &[(&str, &str)]) -> (u32, Vm) {
    let values: BTreeMap<String, String> = values.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    let resource = Resource {
        kind: "qemu".into(),
        vmid: Some(number.into()),
        name: values.get("name").cloned().unwrap_or_default(),
        node: "pve1".into(),
        status: status.into(),
        tags: values.get("tags").cloned().unwrap_or_default(),
        ..Resource::default()
    };
    (number, Vm { resource, config: Some(Config { digest: String::new(), values }), ..Vm::default() })
}

/// Returns the whole lab as it is when nothing is to be done.
fn converged(wanted: &Wanted) -> Observed {
    let lab = name("lab");
    let tags = mark::tags(&lab);
    let image = image().file.sha256.to_string();
    let description = Mark::Template { image: image.clone() }.describe(&lab);
    let title = format!("debian-13-{}", &image[..12]);
    let template = [("name", title.as_str()), ("description", &description), ("tags", &tags), ("template", "1")];
    let mut observed = Observed { vms: [vm(9001, "stopped", &template)].into(), ..Observed::default() };
    for guest in &wanted.guests {
        let user_data = guest.seed.digest().to_string();
        let mark = Mark::Guest {
            template: image.clone(),
            ready: user_data.clone(),
            user_data,
            network: guest.seed.network(),
            filled: "6G".into(),
            disks: BTreeMap::new(),
        };
        let number = u32::from(guest.vmid);
        let disk = format!("local:9001/base-9001-disk-0.qcow2/{number}/vm-{number}-disk-0.qcow2,size=6G");
        let drive = format!("local:iso/{},media=cdrom,size=374K", guest.state.seed);
        let values = [
            ("name", guest.name.as_str()),
            ("description", &mark.describe(&lab)),
            ("tags", &tags),
            ("cores", "2"),
            ("memory", "1024"),
            ("onboot", "1"),
            ("scsi0", &disk),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"),
            ("ide2", &drive),
        ];
        observed.vms.extend([vm(number, "running", &values)]);
        observed.isos.insert(guest.state.seed.clone());
    }
    observed
}

fn set(observed: &mut Observed, number: u32, key: &str, value: &str) {
    let config = observed.vms.get_mut(&number).unwrap().config.as_mut().unwrap();
    config.values.insert(key.into(), value.into());
}

fn compare(observed: &Observed) -> Diff {
    diff(&name("lab"), &lab(), observed)
}

fn changes(observed: &Observed) -> String {
    let diff = compare(observed);
    assert!(diff.refused.is_empty(), "{:?}", diff.refused);
    diff.steps.iter().map(|step| format!("{}\n", step.change)).collect()
}

fn refusal(observed: &Observed) -> String {
    converge::describe(&refuse(&compare(observed).refused).unwrap_err().into())
}

#[test]
fn what_is_as_it_shall_be_needs_nothing() {
    assert_eq!(changes(&converged(&lab())), "");
}

#[test]
fn everything_is_made_where_nothing_is_templates_first() {
    let diff = compare(&Observed::default());
    let order: Vec<_> = diff.steps.iter().map(|step| (step.wave, step.lane.as_str())).collect();
    assert_eq!(order, [(0, "template/pve1/debian-13"), (1, "vm/pve1/vm-intranet"), (1, "vm/pve1/vm-extranet")]);
    let wanted = lab();
    let template = format!(
        "+ template/pve1/debian-13\n    name: debian-13-6105d6cc76af\n    image: {}\n    tags: hearth;hearth-site-lab\n    \
         template: true",
        Digest::of("image")
    );
    assert_eq!(diff.steps[0].change.to_string(), template);
    let state = &wanted.guests[0].state;
    let guest = format!(
        "+ vm/pve1/vm-intranet\n    name: vm-intranet\n    template: {}\n    cores: 2\n    memory: 1G\n    disk: 6G\n    \
         onboot: true\n    bridge: vmbr0\n    pci: []\n    tags: hearth;hearth-site-lab\n    user_data: {}\n    seed: {}\n    \
         power: running\n    ready: true\n    network: {}\n    file_system: 6G\n    disks: {{}}\n    waiting: []",
        state.template, state.user_data, state.seed, state.network
    );
    assert_eq!(diff.steps[1].change.to_string(), guest);
}

#[test]
fn each_field_differs_by_itself_and_says_what_it_costs() {
    let reboots = "\n    reboots vm-intranet\n";
    let seed = lab().guests[0].state.seed.clone();
    let cases = [
        ("name", "old", "name: old → vm-intranet\n".to_owned()),
        ("cores", "1", format!("cores: 1 → 2{reboots}")),
        ("memory", "512", format!("memory: 512M → 1G{reboots}")),
        ("memory", "current=512", format!("memory: 512M → 1G{reboots}")),
        ("onboot", "0", "onboot: false → true\n".to_owned()),
        ("tags", "hearth", "tags: hearth → hearth;hearth-site-lab\n".to_owned()),
        ("scsi0", "local:101/vm-101-disk-0.qcow2,size=2G", "disk: 2G → 6G\n".to_owned()),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr1", format!("bridge: vmbr1 → vmbr0{reboots}")),
        ("hostpci0", "mapping=igpu,pcie=1", format!("pci: [\"igpu\"] → []{reboots}")),
        ("ide2", "none,media=cdrom", format!("seed:  → {seed}\n")),
    ];
    for (key, value, wanted) in cases {
        let mut observed = converged(&lab());
        set(&mut observed, 101, key, value);
        assert_eq!(changes(&observed), format!("~ vm/pve1/vm-intranet\n    {wanted}"), "{key}");
    }
}

#[test]
fn a_stopped_guest_is_not_rebooted() {
    let mut observed = converged(&lab());
    observed.vms.get_mut(&101).unwrap().resource.status = "stopped".into();
    set(&mut observed, 101, "memory", "512");
    let wanted = "~ vm/pve1/vm-intranet\n    memory: 512M → 1G\n    power: stopped → running\n";
    assert_eq!(changes(&observed), wanted);
}

#[test]
fn a_container_a_vm_elsewhere_and_a_thing_of_the_other_kind_are_in_the_way() {
    let mut observed = converged(&lab());
    let container = Resource {
        kind: "lxc".into(),
        vmid: Some(101),
        name: "dns".into(),
        node: "pve1".into(),
        ..Resource::default()
    };
    observed.vms.insert(101, Vm { resource: container, ..Vm::default() });
    assert_eq!(
        refusal(&observed),
        "error: vm/pve1/vm-intranet: VMID 101 is taken by container 'dns' on node pve1 (no tags), not made by this site\n  \
         hint: give it another vmid, or delete 101 on pve1 yourself if nobody needs it"
    );

    let mut observed = converged(&lab());
    let elsewhere = observed.vms.get_mut(&101).unwrap();
    elsewhere.resource.node = "pve2".into();
    elsewhere.config = None;
    assert_eq!(
        refusal(&observed),
        "error: vm/pve1/vm-intranet: VMID 101 is taken by VM 'vm-intranet' on node pve2 (tags hearth;hearth-site-lab)\n  \
         hint: VMIDs are counted in the whole cluster: give it another vmid, or move 101 to pve1"
    );

    let mut observed = converged(&lab());
    let description = Mark::Template { image: "x".into() }.describe(&name("lab"));
    set(&mut observed, 101, "description", &description);
    assert!(refusal(&observed).contains("this site's own template"), "{}", refusal(&observed));
}

#[test]
fn a_changed_image_is_refused_while_clones_stand_on_the_old_one() {
    let mut observed = converged(&lab());
    set(&mut observed, 9001, "description", &Mark::Template { image: "0".repeat(64) }.describe(&name("lab")));
    assert!(changes(&observed).starts_with("~ template/pve1/debian-13\n    image: 0000"));
    observed.cloned.insert(9001);
    assert_eq!(
        refusal(&observed),
        "error: template/pve1/debian-13: image 'debian-13' is now 6105d6cc76af, and guests are linked clones of \
         000000000000\n  hint: give the new image a template of its own, with another vmid, and move the guests to it"
    );
}

#[test]
fn all_that_is_in_the_way_is_told_at_once() {
    let mut observed = converged(&lab());
    for number in [101, 111] {
        set(&mut observed, number, "description", "somebody's");
    }
    let text = refusal(&observed);
    assert!(text.contains("VMID 101 is taken") && text.contains("VMID 111 is taken"), "{text}");
}
