//! Boot order: guests that come up before their file server, and a file server whose power goes while stacks write.

use std::time::{Duration, Instant};

use hearth_tests::{EXTRANET, INTRANET, NODE, expect, hearth, on, program, project, ssh};
use remote::Command;

use crate::support::{turn, wait_until};

const ACTIVE: &str =
    "for s in photos media monitoring proxy backup; do systemctl is-active --quiet hearth-stack-$s; done";
/// Fails where a container runs that uses a share which is not mounted.
const ALL_MOUNTED: &str = "for c in $(docker ps -q); do
    for m in $(docker inspect -f '{{range .Mounts}}{{.Source}} {{end}}' $c); do
        case $m in /mnt/*) test \"$(findmnt -n -o FSTYPE -T $m | cut -c1-3)\" = nfs || { echo $c runs without $m; exit 1; } ;; esac
    done
done";
/// Asks the database; its client stands in its container.
const PSQL: &str = "docker exec -u postgres photos-postgres-1 psql -h /run/postgresql -qtA -v ON_ERROR_STOP=1";

/// The node's power goes: its process is killed, and nothing of it is synced or stopped.
fn cut_the_node() {
    let file = project().join(".hearth/lab/run/node.pid");
    let pid = std::fs::read_to_string(file).unwrap();
    expect(0, &Command::new("kill").args(["-9", pid.trim()]));
}

/// The node's power comes back.
fn start_the_node() {
    println!("{}", expect(0, &program("pve-lab").arg("up")).text());
}

/// Waits until all stacks are up and healthy without help, and asserts that they run on their mounts.
fn all_come_back(since: Instant) {
    wait_until(INTRANET, "all stacks are active", ACTIVE);
    for stack in ["photos", "media", "monitoring", "proxy", "backup"] {
        wait_until(INTRANET, stack, &format!("/var/lib/hearth/bin/stack well {stack}"));
    }
    println!("all stacks are healthy {} s after the node's power came back", since.elapsed().as_secs());
    on(INTRANET, ALL_MOUNTED);
    expect(0, &hearth("plan"));
    expect(0, &hearth("run").arg("--yes"));
}

#[test]
fn guests_that_boot_before_the_server_get_their_stacks_when_it_comes() {
    let _turn = turn();
    cut_the_node();
    for guest in [INTRANET, EXTRANET] {
        let _ = ssh(guest, "echo b >/proc/sysrq-trigger").deadline(Duration::from_secs(10)).output();
    }
    std::thread::sleep(Duration::from_secs(5));
    // Nothing that a login needs waits for the server.
    let begin = Instant::now();
    for guest in [INTRANET, EXTRANET] {
        wait_until(guest, "a login", "true");
    }
    println!("logins {} s after the reset, with no file server", begin.elapsed().as_secs());
    wait_until(INTRANET, "a mount has failed once", "systemctl show -P Result mnt-media.mount | grep -qvx success");
    on(INTRANET, ALL_MOUNTED);
    let early = "docker ps --format '{{.Names}}' | grep -E 'photos|media|backup' || true; ls -A /mnt/postgres";
    assert_eq!(on(INTRANET, early), "", "containers without their mounts");
    let since = Instant::now();
    start_the_node();
    all_come_back(since);
}

#[test]
fn the_last_acknowledged_row_survives_the_node_s_power() {
    let _turn = turn();
    on(
        INTRANET,
        &format!(
            "{PSQL} -c 'drop table if exists rows; create table rows (n int primary key)'
             systemd-run --quiet --collect --unit=writes sh -c 'n=0; while true; do n=$((n + 1)); \
             {PSQL} -c \"insert into rows values ($n)\" && echo $n >>/run/acknowledged; done'"
        ),
    );
    wait_until(INTRANET, "rows are written", "test $(wc -l </run/acknowledged) -ge 10");
    cut_the_node();
    std::thread::sleep(Duration::from_secs(20));
    let since = Instant::now();
    start_the_node();
    all_come_back(since);
    let acknowledged = on(INTRANET, "systemctl stop writes; tail -n 1 /run/acknowledged");
    let found = on(INTRANET, &format!("{PSQL} -c 'select count(*) from rows where n = {acknowledged}'"));
    assert_eq!(found, "1", "row {acknowledged} was acknowledged");
    let lost = format!(
        "{PSQL} -c 'select n from rows order by n' >/run/rows; while read -r n; do grep -qx \"$n\" /run/rows || echo $n; \
         done </run/acknowledged"
    );
    assert_eq!(on(INTRANET, &lost), "", "acknowledged rows that are lost");
    println!("{acknowledged} rows acknowledged, none lost");
    // Reads every page of the table and of its index.
    on(
        INTRANET,
        &format!(
            "{PSQL} -c 'reindex table rows; select sum(n) from rows; drop table rows'; rm /run/acknowledged /run/rows"
        ),
    );
    on(NODE, "test \"$(zpool status -x)\" = 'all pools are healthy'");
}
