//! The whole pipeline on the lab, from a clean clone.

use anyhow::{Context as _, Result, bail};

use crate::packages;
use crate::steps::{Steps, cargo, program, root};

const SITE: &str = "inventory/lab";

/// Brings the lab up and runs the pipeline; ends well only where verification passed.
///
/// # Errors
/// The first step's failure.
pub fn up() -> Result<()> {
    let mut steps = Steps::begin();
    steps.time("Debian packages", |_| packages::install())?;
    if !packages::is_root() {
        bail!("the lab needs root: it makes a network namespace, and images are made in a chroot");
    }
    steps.run("build the tools", &mut cargo(&["build", "--workspace", "--bins"]))?;
    images(&mut steps)?;
    lab(&mut steps)?;
    steps.show("run the pipeline", &mut program("hearth", &["run", "--site", SITE, "--yes"]))?;
    steps.summary();
    println!(
        "\nthe lab is up and verified. Look around: {} exec -- ssh …",
        program("pve-lab", &[]).get_program().display()
    );
    println!("again: cargo xtask demo     stop it: cargo xtask demo --down");
    Ok(())
}

/// Builds every image, the lab's node and what the site deploys, at the same time.
///
/// # Errors
/// The first failure.
pub fn images(steps: &mut Steps) -> Result<()> {
    steps.show("pin the images' packages", &mut program("hearth", &["lock", "--refresh", "--site", SITE]))?;
    steps.together(vec![
        ("the lab's node image", program("hearth", &["build", "--site", SITE, "--image", "lab-node"])),
        ("the site's generation", program("hearth", &["build", "--site", SITE])),
    ])
}

/// Brings the lab up, from the node image that was built, or the one that the lab has.
///
/// # Errors
/// Where the image is not there, or the lab does not come up.
pub fn lab(steps: &mut Steps) -> Result<()> {
    let mut up = if root().join(".hearth/lab/disks").exists() {
        program("pve-lab", &["up"])
    } else {
        let output = program("hearth", &["build", "--site", SITE, "--image", "lab-node", "--path"]).output()?;
        if !output.status.success() {
            bail!("hearth can't tell where the node's image is: {}", String::from_utf8_lossy(&output.stderr));
        }
        program("pve-lab", &["up", "--image-node", String::from_utf8(output.stdout)?.trim()])
    };
    steps.show("bring the lab up", &mut up)
}

/// Stops the lab.
///
/// # Errors
/// Where something of it can't be stopped.
pub fn down() -> Result<()> {
    let mut steps = Steps::begin();
    let pve_lab = program("pve-lab", &[]).get_program().to_owned();
    if !std::path::Path::new(&pve_lab).exists() {
        steps.run("build pve-lab", &mut cargo(&["build", "-p", "pve-lab"]))?;
    }
    steps.show("stop the lab", &mut program("pve-lab", &["down"]))?;
    let left = std::fs::read_to_string("/proc/mounts").context("can't read /proc/mounts")?;
    let here = root().join(".hearth");
    if let Some(line) = left.lines().find(|line| line.contains(&*here.to_string_lossy())) {
        bail!("this is still mounted: {line}");
    }
    Ok(())
}
