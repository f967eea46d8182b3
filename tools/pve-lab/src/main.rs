//! The `pve-lab` command.
fn main() {}
