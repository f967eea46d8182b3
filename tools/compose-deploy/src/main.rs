//! The `compose-deploy` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    converge::cli::main(&compose_deploy::ComposeDeploy::new())
}
