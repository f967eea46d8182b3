//! Where things are on a guest, and what they are called.

/// The folder that holds all of Hearth's on a guest.
pub const ROOT: &str = "/var/lib/hearth";
/// The folder of layers and image configurations, each named by its SHA-256.
pub const STORE: &str = "/var/lib/hearth/store";
/// The folder with one folder a stack.
pub const STACKS: &str = "/var/lib/hearth/stacks";
/// The program that units and deployments start and stop stacks with.
pub const PROGRAM: &str = "/var/lib/hearth/bin/stack";
/// The program that restarts what dies.
pub const KEEPER: &str = "/var/lib/hearth/bin/keep-stacks";
/// The keeper's unit.
pub const KEEPER_UNIT: &str = "hearth-stacks.service";

/// The label with the site's name.
pub const SITE: &str = "dev.hearth.site/site";
/// The label with the stack's name.
pub const STACK: &str = "dev.hearth.site/stack";
/// The label with the bundle's digest.
pub const BUNDLE: &str = "dev.hearth.site/bundle";
/// The label with the secrets that a container was made with: `NAME=MARK`, with commas between them.
pub const SECRETS: &str = "dev.hearth.site/secrets";
/// The label of containers that do their work and end.
pub const ONE_SHOT: &str = "dev.hearth.site/one-shot";

/// Returns the name of a stack's unit.
pub fn unit(stack: &str) -> String {
    format!("hearth-stack-{stack}.service")
}

/// Returns the name of the unit that tries a stack's new bundle.
pub fn trial(stack: &str) -> String {
    format!("hearth-trial@{stack}.service")
}

/// Returns the place of a unit's file.
pub fn unit_file(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}")
}

/// Returns the folder of a bundle.
pub fn bundle(stack: &str, digest: &store::Digest) -> String {
    format!("{STACKS}/{stack}/bundles/{}", digest.short())
}

/// Returns the place of a secret in the guest's memory.
pub fn secret(stack: &str, name: &str) -> String {
    format!("/run/hearth/secrets/{stack}/{name}")
}

/// Returns the first line of each unit that Hearth makes for a site.
pub fn header(site: &str) -> String {
    format!("# Made by Hearth for site {site}: the next run undoes changes.")
}
