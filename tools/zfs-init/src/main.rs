//! The `zfs-init` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    converge::cli::main(&zfs_init::ZfsInit)
}
