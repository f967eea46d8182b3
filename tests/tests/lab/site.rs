//! The lab site from end to end: a second run, drift, each tool alone, what is refused.

use std::fs;
use std::time::Duration;

use hearth_tests::{EXTRANET, INTRANET, NODE, event, expect, hearth, on, program, project, ssh, tool};

use crate::support::{Altered, repaired, turn};

#[test]
fn a_second_run_changes_nothing_and_asks_each_host_twice() {
    let _turn = turn();
    let output = expect(0, &hearth("run").args(["--yes", "--json"]));
    let cost = event(&output, "summary")["cost"].clone();
    println!("no-op run: {cost}");
    assert_eq!(cost["ssh_sessions"], 3, "one session a host");
    assert!(cost["round_trips"].as_u64().unwrap() <= 6, "the first look and the checks, for three hosts: {cost}");
    assert!(!output.text().contains("\"planned\""), "{}", output.text());
}

#[test]
fn a_second_lab_up_finds_it_running() {
    let _turn = turn();
    let output = expect(0, &program("pve-lab").arg("up"));
    assert!(output.text().contains("up already"), "{}", output.text());
}

#[test]
fn each_tool_alone_has_nothing_to_change() {
    let _turn = turn();
    for name in ["zfs-init", "vm-build", "nfs-export", "compose-deploy"] {
        expect(0, &tool(name, "plan"));
        expect(0, &tool(name, "apply").arg("--yes"));
        expect(0, &tool(name, "check"));
    }
    expect(0, &tool("verify", "check"));
}

/// Runs a shell script as a user would, with the tools on the path and the site in the environment.
fn script(text: &str) -> String {
    let path = format!("{}:{}", hearth_tests::programs().display(), std::env::var("PATH").unwrap());
    let command = remote::Command::new("sh").args(["-eu", "-c", text]).folder(project()).env("PATH", path);
    expect(0, &command.env("HEARTH_SITE", "inventory/lab").deadline(Duration::from_secs(900))).text()
}

#[test]
fn the_tools_chain_in_a_shell_script() {
    let _turn = turn();
    on(NODE, "zfs set atime=on tank-hdd/logs");
    let printed = script(&fs::read_to_string(project().join("docs/tools/site.sh")).unwrap());
    assert!(printed.contains("zfs/pve1/tank-hdd/logs"), "{printed}");
    expect(0, &hearth("plan"));
}

#[test]
fn each_tools_page_has_a_script_that_runs() {
    let _turn = turn();
    for name in ["zfs-init", "vm-build", "nfs-export", "compose-deploy", "verify", "hearth"] {
        let page = fs::read_to_string(project().join(format!("docs/tools/{name}.md"))).unwrap();
        let (_, from) = page.split_once("```sh\n").unwrap_or_else(|| panic!("{name}.md has no script"));
        println!("{}", script(from.split_once("```").unwrap().0));
    }
}

#[test]
fn a_stopped_stack_fails_the_checks_and_comes_back() {
    let _turn = turn();
    on(INTRANET, "systemctl stop hearth-stack-media.service");
    let output = expect(1, &tool("verify", "check").args(["--only", "container/vm-intranet/media"])).text();
    assert!(output.contains("✗") && output.contains("media"), "{output}");
    assert!(expect(2, &hearth("plan")).text().contains("stack/vm-intranet/media"));
    repaired();
}

#[test]
fn the_extranet_guest_may_not_mount_the_intranets_shares() {
    let _turn = turn();
    let denied = ssh(EXTRANET, "mkdir -p /tmp/x; mount -t nfs 192.168.1.100:/tank-hdd/media /tmp/x").output().unwrap();
    assert_ne!(denied.status, 0);
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(said.contains("access denied") || said.contains("No such file"), "{said}");
}

#[test]
fn a_disk_in_use_is_refused_with_what_is_on_it() {
    let _turn = turn();
    let new = "[pools.tank-new]\nhost = \"pve1\"\ndisk_id = \"virtio-HEARTH-SSD\"\n\n[pools.tank-hdd]";
    let site = Altered::new("lab-used-disk", &[("storage.toml", "[pools.tank-hdd]", new)]);
    let refused = site.tool("zfs-init", "apply").arg("--yes").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    println!("{said}");
    assert_eq!(refused.status, 77, "{said}");
    assert!(said.contains("LVM2_member"), "{said}");
    expect(0, &hearth("plan"));
}

#[test]
fn the_generation_and_what_is_deployed_pass_their_checksums() {
    let _turn = turn();
    let mut generations: Vec<_> =
        fs::read_dir(project().join(".hearth/generations")).unwrap().map(|e| e.unwrap().path()).collect();
    generations.sort();
    let newest = generations.iter().rev().find(|path| path.join("SHA256SUMS").exists()).unwrap();
    let sums = remote::Command::new("sha256sum").args(["--quiet", "-c", "SHA256SUMS"]).folder(newest);
    expect(0, &sums.deadline(Duration::from_secs(300)));
}

#[test]
fn the_report_of_the_last_run_is_there_and_says_so() {
    let _turn = turn();
    let status = expect(0, &hearth("status")).text();
    let report = status.lines().find_map(|line| line.strip_prefix("report: ")).unwrap();
    let html = fs::read_to_string(report).unwrap();
    assert!(html.contains("Site lab") && html.contains("debian-13-docker"), "{report}");
}
