//! The `compose-deploy` command.
fn main() {}
