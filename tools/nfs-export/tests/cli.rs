//! The command line: what each sub-command prints and how it ends.

const TOOL: &str = env!("CARGO_BIN_EXE_nfs-export");

#[test]
fn the_command_line_keeps_the_contract() {
    hearth_tests::contract::holds(TOOL, "nfs-export");
}

#[test]
fn it_prints_what_it_would_deploy_and_reaches_nobody_without_a_key() {
    hearth_tests::contract::asks_hosts(TOOL, include_str!("data/site.toml"), "pve1:/etc/exports.d/hearth-lab.exports");
}
