//! The Debian packages that building and the lab need.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::steps::Steps;

/// What is needed, by what for.
const PACKAGES: &[(&str, &[&str])] = &[
    ("to build the tools", &["gcc", "libc6-dev", "pkg-config", "libssl-dev", "make"]),
    ("to build images", &["debian-archive-keyring", "tar", "util-linux"]),
    ("for the tests", &["strace", "libfaketime", "openssh-server"]),
    ("for the lab", &["iproute2", "openssh-client"]),
];

/// QEMU, for images and the lab. Debian 12 has 7.2, whose emulation is slower and whose packages clash with newer
/// utilities; there it comes from backports.
const QEMU: &[&str] = &["qemu-system-x86", "qemu-utils", "seabios"];

const BACKPORTS: &str = "/etc/apt/sources.list.d/hearth-backports.list";

/// Installs what is missing.
///
/// # Errors
/// Where this is no Debian 12 or 13, or packages are missing and may not be installed: then all are listed.
pub fn install() -> Result<()> {
    let version = debian_version()?;
    let wanted: BTreeSet<&str> = PACKAGES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !installed(name)).collect();
    let qemu: Vec<&str> = QEMU.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() && qemu.is_empty() {
        println!("✓ every Debian package that is needed is there");
        return Ok(());
    }
    let backports = version == 12 && !qemu.is_empty();
    if !is_root() {
        bail!("{}", by_hand(&missing, &qemu, backports));
    }
    let mut steps = Steps::begin();
    if backports && !Path::new(BACKPORTS).exists() {
        steps.run("package lists", &mut apt(&["update"]))?;
        println!("adding bookworm-backports as a package source, for QEMU: {BACKPORTS}");
        let source = format!("deb {} bookworm-backports main\n", mirror()?);
        std::fs::write(BACKPORTS, source).with_context(|| format!("can't write {BACKPORTS}"))?;
    }
    steps.run("package lists", &mut apt(&["update"]))?;
    if !missing.is_empty() {
        steps.run(&format!("install {}", missing.join(" ")), apt(&INSTALL).args(&missing))?;
    }
    if !qemu.is_empty() {
        let from: &[&str] = if backports { &["-t", "bookworm-backports"] } else { &[] };
        steps.run(&format!("install {}", qemu.join(" ")), apt(&INSTALL).args(from).args(&qemu))?;
    }
    Ok(())
}

/// Returns the mirror that the system has its packages from.
fn mirror() -> Result<String> {
    let output =
        apt(&["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().map(|line| line.trim_end_matches('/')).find(|uri| uri.ends_with("/debian"));
    found.map(str::to_owned).context("apt's sources name no mirror of Debian 12 to add backports from")
}

const INSTALL: [&str; 4] = ["install", "-y", "-q", "--no-install-recommends"];

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    command
}

fn by_hand(missing: &[&str], qemu: &[&str], backports: bool) -> String {
    let mut text = "these Debian packages are missing, and only root may install them:\n".to_owned();
    for (what, names) in PACKAGES {
        let here: Vec<_> = names.iter().filter(|name| missing.contains(name)).copied().collect();
        if !here.is_empty() {
            text += &format!("  {what}: {}\n", here.join(" "));
        }
    }
    if !qemu.is_empty() {
        let from = if backports { " (from bookworm-backports)" } else { "" };
        text += &format!("  to run machines{from}: {}\n", qemu.join(" "));
    }
    let install = "apt-get install --no-install-recommends";
    if !missing.is_empty() {
        text += &format!("install them with: {install} {}\n", missing.join(" "));
    }
    if !qemu.is_empty() {
        let from = if backports { "-t bookworm-backports " } else { "" };
        text += &format!("install QEMU with: {install} {from}{}\n", qemu.join(" "));
    }
    text.trim_end().to_owned()
}

fn debian_version() -> Result<u32> {
    let text = std::fs::read_to_string("/etc/os-release").context("can't read /etc/os-release")?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    match (value("ID").as_deref(), value("VERSION_ID").and_then(|version| version.parse().ok())) {
        (Some("debian"), Some(version @ (12 | 13))) => Ok(version),
        (id, version) => bail!("the lab needs Debian 12 or 13; this is {} {version:?}", id.unwrap_or("unknown")),
    }
}

fn installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Tells whether this process runs as root.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
    })
}
