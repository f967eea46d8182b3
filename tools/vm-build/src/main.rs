//! The `vm-build` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    converge::cli::main(&vm_build::VmBuild::default())
}
