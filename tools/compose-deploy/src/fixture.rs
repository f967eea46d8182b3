//! A small site for tests.

use std::collections::BTreeMap;
use std::path::Path;

use image::{ContainerImage, Layer};
use site::{Name, Site};
use store::{Artifact, Digest};

use crate::desired::{Desired, evaluate_with};

const SITE: &str = r#"
[site]
name = "lab"
[network]
prefix = 24
[hosts.pve1]
address = "192.168.1.100"
api = { token_file = "token", ca_file = "ca.pem" }
ssh = { key_file = "key" }
[pools.tank]
host = "pve1"
disk_id = "virtio-ONE"
[pools.tank.datasets.postgres]
[pools.tank.datasets.media]
[shares.postgres]
dataset = "tank/postgres"
mounts = { vm-a = "/mnt/postgres" }
[shares.media]
dataset = "tank/media"
mounts = { vm-a = "/mnt/media" }
[templates.debian-13]
host = "pve1"
vmid = 9001
image = "base"
[guests.vm-a]
host = "pve1"
vmid = 101
template = "debian-13"
address = "192.168.1.101"
cores = 1
memory = "1G"
disk = "6G"
user = "hearth"
authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA a"]
"#;

const STACKS: &str = r#"
[stacks.photos]
guest = "vm-a"
shares = ["postgres"]
images = { postgres = "postgres" }
[stacks.web]
guest = "vm-a"
shares = ["media"]
images = { first = "http", http = "http" }
needs = ["photos"]
deadline = 60
"#;

/// The compose file of the stack `photos`.
pub(crate) const PHOTOS: &str =
    "services:\n  postgres:\n    volumes:\n      - /mnt/postgres:/data\n      - ./start.sh:/start.sh:ro\n";

/// The compose file of the stack `web`.
pub(crate) const WEB: &str = "services:
  first:
    command: [\"true\"]
  http:
    depends_on: {first: {condition: service_completed_successfully}}
    devices: [/dev/dri/renderD128]
    volumes: [\"/mnt/media:/media:ro\"]
    ports: [\"127.0.0.1:8081:8080\"]
";

/// Writes the small site, with these compose files, below a folder and loads it.
pub(crate) fn site(folder: &Path, photos: &str, web: &str) -> Site {
    let write = |path: &str, text: &str, mode| {
        store::files::write_atomic(&folder.join(path), text, mode).unwrap();
    };
    write("pipeline.toml", "site = \"inventory\"\n", 0o644);
    for image in ["base", "postgres", "http"] {
        write(&format!("images/{image}.toml"), "", 0o644);
    }
    write("inventory/site.toml", SITE, 0o644);
    write("inventory/stacks.toml", STACKS, 0o644);
    write("inventory/stacks/photos/compose.yaml", photos, 0o644);
    write("inventory/stacks/photos/start.sh", "#!/bin/sh\n", 0o755);
    write("inventory/stacks/web/compose.yaml", web, 0o644);
    match site::load(&folder.join("inventory")) {
        Ok(site) => site,
        Err(errors) => panic!("{errors}"),
    }
}

/// Returns an image that is only named.
pub(crate) fn image(name: &str) -> ContainerImage {
    let artifact = |text: &str| Artifact { sha256: Digest::of(text), size: 1000 };
    let layer = |text: &str| Layer { blob: artifact(text), diff_id: Digest::of(format!("{text} diff")) };
    let config = artifact(&format!("{name} config"));
    let tag = format!("hearth/{name}:{}", config.sha256.short());
    ContainerImage { name: name.to_owned(), config, layers: vec![layer("base"), layer(name)], tag }
}

/// Evaluates a site's stacks with images that are only named.
pub(crate) fn evaluate(site: &Site) -> Desired {
    evaluate_with(site, &|name: &Name| Ok(image(name.as_str()))).unwrap()
}

/// Returns what a guest prints that is as it shall be.
pub(crate) fn as_wanted(desired: &Desired) -> String {
    let guest = &desired.guests["vm-a"];
    let mut lines = Vec::new();
    for (name, blob) in crate::desired::blobs(guest.images().into_values()) {
        lines.push(format!("blob|{name}|{}", blob.size));
    }
    let mut units: BTreeMap<String, &str> = [(crate::paths::KEEPER_UNIT.to_owned(), "active")].into();
    for (path, text, _) in crate::diff::RUNTIME {
        lines.push(format!("file|{path}|{}|#", Digest::of(text)));
    }
    for (stack, bundle) in &guest.bundles {
        let unit = crate::paths::unit(stack.as_str());
        let path = crate::paths::unit_file(&unit);
        lines.push(format!("file|{path}|{}|{}", Digest::of(bundle.unit()), crate::paths::header("lab")));
        units.insert(unit, "active");
        lines.push(format!("stack|{stack}|{}", Digest::of(bundle.sums())));
        for (name, secret) in &bundle.secrets {
            lines.push(format!("secret|{stack}|{name}|{}|ok", secret.mark()));
        }
        for (service, found) in &bundle.compose.services {
            let marks =
                bundle.secrets.iter().filter(|(name, _)| found.secrets.iter().any(|(_, read)| read == name.as_str()));
            let marks: Vec<_> = marks.map(|(name, secret)| format!("{name}={}", secret.mark())).collect();
            let marks = marks.join(",");
            let (shot, state, status) =
                if found.one_shot { ("yes", "exited", "Exited (0) 1 hour ago") } else { ("", "running", "Up 1 hour") };
            let digest = bundle.digest;
            lines.push(format!(
                "container|{stack}|{service}|lab|{stack}|{digest}|{shot}|{state}|{status}|{stack}-{service}-1|{marks}"
            ));
        }
    }
    for (unit, state) in units {
        lines.push(format!("unit|Id={unit}\nunit|ActiveState={state}\nunit|UnitFileState=enabled\nunit|"));
    }
    lines.push("docker|up".to_owned());
    lines.extend(guest.images().iter().map(|(tag, image)| format!("image|{tag}|sha256:{}", image.config.sha256)));
    lines.join("\n")
}
