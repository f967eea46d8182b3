//! The `pve-lab` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(pve_lab::cli::run(std::env::args_os()))
}
