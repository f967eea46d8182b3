//! The command line: what each sub-command prints and how it ends.

const TOOL: &str = env!("CARGO_BIN_EXE_compose-deploy");

#[test]
fn the_command_line_keeps_the_contract() {
    hearth_tests::contract::holds(TOOL, "compose-deploy");
}
