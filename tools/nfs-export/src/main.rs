//! The `nfs-export` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    converge::cli::main(&nfs_export::NfsExport)
}
