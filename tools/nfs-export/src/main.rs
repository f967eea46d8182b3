//! The `nfs-export` command.
fn main() {}
