//! The command line: what each sub-command prints and how it ends.

use hearth_tests::contract::run;

const TOOL: &str = env!("CARGO_BIN_EXE_nfs-export");
const SITE: &str = include_str!("data/site.toml");

#[test]
fn the_command_line_keeps_the_contract() {
    hearth_tests::contract::holds(TOOL, "nfs-export");
}

#[test]
fn render_prints_what_would_be_deployed() {
    let rendered = run(TOOL, SITE, &["render"]);
    assert_eq!((rendered.status, rendered.stderr.as_str()), (0, ""));
    assert!(rendered.stdout.starts_with("### pve1:/etc/exports.d/hearth-lab.exports\n"), "{rendered:?}");
    let json = run(TOOL, SITE, &["render", "--json"]);
    assert_eq!(json.status, 0);
    assert!(json.stdout.starts_with("{\"place\":\"pve1:"), "{json:?}");
}

#[test]
fn a_key_that_is_not_there_keeps_every_host_out_of_reach() {
    for arguments in [&["plan"][..], &["apply", "--yes"], &["check"]] {
        let ended = run(TOOL, SITE, arguments);
        assert_eq!(ended.status, 69, "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("pve1 at 192.168.1.100:22: can't read the key DIR/"), "{ended:?}");
    }
}
