//! The `verify` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    converge::cli::main(&verify::Verify)
}
