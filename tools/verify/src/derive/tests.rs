use std::path::Path;

use image::{ContainerImage, Layer};
use store::{Artifact, Digest};

use super::*;

fn image(name: &Name) -> anyhow::Result<ContainerImage> {
    let artifact = |text: &str| Artifact { sha256: Digest::of(text), size: 1000 };
    let layer = Layer { blob: artifact("base"), diff_id: Digest::of("diff") };
    let config = artifact(name.as_str());
    let tag = format!("hearth/{name}:{}", config.sha256.short());
    Ok(ContainerImage { name: name.to_string(), config, layers: vec![layer], tag })
}

fn lab() -> (Site, Desired) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../inventory/lab");
    let site = match site::load(&folder) {
        Ok(site) => site,
        Err(errors) => panic!("{errors}"),
    };
    let desired = compose_deploy::desired::evaluate_with(&site, &image).unwrap();
    (site, desired)
}

#[test]
fn the_lab_s_checks_are_these() {
    let (site, desired) = lab();
    let derived = derive(&site, &desired);
    let names: String = derived.checks.iter().map(|check| format!("{}\n", check.name)).collect();
    assert_eq!(names, include_str!("../../tests/golden/lab.checks"));
    for check in &derived.checks {
        let asked = derived.probes.iter().filter(|probe| probe.host == check.host && probe.id == check.probe);
        assert_eq!(asked.count(), 1, "{} asks {} for '{}'", check.name, check.host, check.probe);
    }
}

#[test]
fn every_question_is_posix_shell() {
    let (site, desired) = lab();
    for probe in derive(&site, &desired).probes {
        remote::Command::new("sh").args(["-n", "-c", &probe.script]).run().unwrap();
    }
}

#[test]
fn containers_and_files_are_judged_by_what_the_guest_says() {
    let (site, desired) = lab();
    let derived = derive(&site, &desired);
    let bundle = &desired.guests["vm-intranet"].bundles["media"];
    let judge = |name: &str, text: &str| {
        let check = derived.checks.iter().find(|check| check.name == name).unwrap();
        let stdout = text.as_bytes().to_vec();
        (check.judge)(&Output { command: String::new(), status: 0, stdout, stderr: Vec::new() })
    };
    let sums = Digest::of(bundle.sums());
    let facts = |state: &str, digest: &str, altered: &str| {
        format!(
            "docker|up\nstack|media|{sums}\n{altered}\
             container|media|http|lab|media|{digest}||{state}|media-http-1\n\
             container|media|welcome|lab|media|{digest}|yes|exited|Exited (0) now|media-welcome-1\n"
        )
    };
    let digest = bundle.digest.to_string();
    let (http, files) = ("container/vm-intranet/media/http", "bundle/vm-intranet/media");
    let good = facts("running|Up (healthy)", &digest, "");
    assert_eq!(judge(http, &good).unwrap(), "running");
    assert_eq!(judge("container/vm-intranet/media/welcome", &good).unwrap(), "done");
    assert_eq!(judge(files, &good).unwrap(), bundle.digest.short());
    let bad = facts("running|Up (unhealthy)", &digest, "altered|media|compose.yaml\n");
    assert_eq!(judge(http, &bad).unwrap_err(), "unhealthy, not running");
    assert!(judge(files, &bad).unwrap_err().starts_with("its files: altered: compose.yaml, not "));
    let old = facts("running|Up", &Digest::of("old").to_string(), "");
    assert!(judge(files, &old).unwrap_err().starts_with("its containers' bundle: "));
    assert_eq!(judge(http, "docker|none").unwrap_err(), "not there, not running");
    assert_eq!(
        judge("unit/vm-intranet/docker.service", "Id=docker.service\nActiveState=failed\n").unwrap_err(),
        "it is failed ()"
    );
    assert!(judge("image/vm-intranet/http", &good).unwrap_err().ends_with("is not loaded"));
}
