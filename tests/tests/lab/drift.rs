//! Drift: what people change behind Hearth's back is named with before, after and impact, and repaired; what Hearth did
//! not make is reported by nobody and touched by nobody.

use hearth_tests::api::api;
use hearth_tests::{EXTRANET, INTRANET, NODE, expect, hearth, on};

use crate::support::{repaired, turn};

#[test]
fn everything_that_drifted_is_named_at_once_and_repaired() {
    let _turn = turn();
    // The extranet guest goes first: it hangs on the dataset that is destroyed.
    api("POST", "/nodes/pve1/qemu/111/status/stop", &[]);
    api("PUT", "/nodes/pve1/qemu/111/config", &[("memory", "1152")]);
    on(
        NODE,
        "zfs set compression=off tank-hdd/media
         exportfs -u 192.168.1.111:/tank-hdd/logs; zfs unmount -f tank-hdd/logs; zfs destroy tank-hdd/logs
         sed -i '/photos/d' /etc/exports.d/hearth*.exports; exportfs -ra || true",
    );
    on(
        INTRANET,
        "systemctl stop mnt-appdata.mount
         echo '# by hand' >>/var/lib/hearth/stacks/proxy/current/nginx.conf
         systemctl stop hearth-stack-monitoring.service",
    );
    let plan = expect(2, &hearth("plan")).text();
    println!("{plan}");
    for wanted in [
        "~ zfs/pve1/tank-hdd/media\n    compression: off → lz4",
        "+ zfs/pve1/tank-hdd/logs",
        "~ vm/pve1/vm-extranet",
        "1152M → 1G",
        "power: stopped → running",
        "~ nfs/pve1/exports\n    /tank-hdd/photos 192.168.1.101: rw,sync,no_subtree_check,no_root_squash",
        "~ nfs/vm-intranet/appdata\n    mounted: no → yes",
        "stack/vm-intranet/proxy",
        "stack/vm-intranet/monitoring",
        "restarts vm-intranet/proxy",
    ] {
        assert!(plan.contains(wanted), "{wanted} is not in:\n{plan}");
    }
    repaired();
    assert_eq!(on(NODE, "zfs get -Hpo value compression tank-hdd/media"), "lz4");
    on(EXTRANET, "findmnt /mnt/logs && touch /mnt/logs/x && rm /mnt/logs/x");
    on(INTRANET, "findmnt /mnt/appdata; ! grep -q 'by hand' /var/lib/hearth/stacks/proxy/current/nginx.conf");
}

/// How the things that Hearth did not make look.
fn foreign() -> String {
    let node = "zpool get -H -o value health mine; zfs get -H -o value compression mine/data tank-hdd/mine
        exportfs -s | grep mine; lvs --noheadings -o lv_name pve | sort; grep mine /etc/fstab; cat /etc/exports.d/mine.exports";
    let guest = "cat /etc/systemd/system/mine.service; systemctl is-active mine.service; grep mine /etc/fstab
        docker inspect -f '{{.Id}} {{.State.StartedAt}} {{.State.Running}}' mine; docker volume ls -q | grep mine";
    let vm = api("GET", "/nodes/pve1/qemu/500/config", &[]);
    format!("{}\n{}\n{vm}", on(NODE, node), on(INTRANET, guest))
}

#[test]
fn what_hearth_did_not_make_is_neither_reported_nor_touched() {
    let _turn = turn();
    api("POST", "/nodes/pve1/qemu", &[("vmid", "500"), ("name", "mine"), ("memory", "256"), ("scsi0", "local:1")]);
    on(
        NODE,
        "truncate -s 128M /var/tmp/mine.img; zpool create mine /var/tmp/mine.img; zfs create -o compression=gzip mine/data
         zfs create -o compression=gzip tank-hdd/mine; lvcreate -qy -L 64M -n mine pve >/dev/null
         echo '/tank-hdd/mine 192.168.1.50(ro,no_subtree_check)' >/etc/exports.d/mine.exports; exportfs -ra
         echo '/dev/pve/mine /srv/mine ext4 noauto 0 0' >>/etc/fstab",
    );
    on(
        INTRANET,
        "printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/etc/systemd/system/mine.service; systemctl start mine
         echo 'tmpfs /srv/mine tmpfs noauto 0 0' >>/etc/fstab; docker volume create mine >/dev/null
         image=$(docker images --format '{{.Repository}}:{{.Tag}}' | grep hearth/http)
         docker run -d --name mine --network none --entrypoint /bin/sh \"$image\" -c 'sleep 100000' >/dev/null",
    );
    let before = foreign();
    let plan = expect(0, &hearth("plan")).text();
    // A run that has work to do beside them.
    on(NODE, "zfs set atime=on tank-hdd/media");
    let run = expect(0, &hearth("run").arg("--yes")).text();
    assert!(!plan.contains("mine") && !run.contains("mine"), "{plan}\n{run}");
    assert_eq!(foreign(), before);
    on(
        INTRANET,
        "docker rm -f mine >/dev/null; docker volume rm mine >/dev/null; systemctl stop mine
         rm /etc/systemd/system/mine.service; systemctl daemon-reload; sed -i /mine/d /etc/fstab",
    );
    on(
        NODE,
        "rm /etc/exports.d/mine.exports; exportfs -ra; sed -i /mine/d /etc/fstab; zpool destroy mine; rm /var/tmp/mine.img
         zfs destroy tank-hdd/mine; lvremove -qy pve/mine >/dev/null",
    );
    api("DELETE", "/nodes/pve1/qemu/500", &[]);
    expect(0, &hearth("plan"));
}
