//! The `zfs-init` command.
fn main() {}
