//! The `vm-build` command.
fn main() {}
