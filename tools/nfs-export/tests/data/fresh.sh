mkdir -p -- /etc/systemd/system/nfs-server.service.d
t=$(mktemp -p /etc/systemd/system/nfs-server.service.d .hearth.XXXXXXXX)
printf %s '# Made by Hearth for site lab; changes are undone by the next run.
# Where a dataset is not mounted, the empty folder in its place would be exported.
[Unit]
After=zfs-mount.service
AssertPathIsMountPoint=/tank/media
AssertPathIsMountPoint=/srv/my-data/inner
' >"$t"
chmod 644 -- "$t"
sync -- "$t"
mv -fT -- "$t" /etc/systemd/system/nfs-server.service.d/hearth-lab.conf
systemctl enable --no-reload nfs-server.service
systemctl daemon-reload
systemctl start nfs-server.service
for p in /tank/media /srv/my-data/inner; do mountpoint -q "$p" || { echo "$p is not mounted" >&2; exit 1; }; done
mkdir -p -- /etc/exports.d
t=$(mktemp -p /etc/exports.d .hearth.XXXXXXXX)
printf %s '# Made by Hearth for site lab; changes are undone by the next run.
/tank/media 192.168.1.101(rw,sync,no_subtree_check,no_root_squash)
/srv/my-data/inner 192.168.1.101(ro,sync,no_subtree_check)
' >"$t"
chmod 644 -- "$t"
sync -- "$t"
mv -fT -- "$t" /etc/exports.d/hearth-lab.exports
exportfs -ra
mkdir -p -- /etc/systemd/system
t=$(mktemp -p /etc/systemd/system .hearth.XXXXXXXX)
printf %s '# Made by Hearth for site lab; changes are undone by the next run.
[Unit]
Description=Another try of %i
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStartPre=/bin/sleep 15
ExecStart=/bin/systemctl --no-block start %i
' >"$t"
chmod 644 -- "$t"
sync -- "$t"
mv -fT -- "$t" /etc/systemd/system/hearth-mount-retry@.service
mkdir -p -- /etc/systemd/system
t=$(mktemp -p /etc/systemd/system .hearth.XXXXXXXX)
printf %s '# Made by Hearth for site lab; changes are undone by the next run.
[Unit]
Description=Share media
# Not before remote-fs.target, which logins wait for: the server may come up later than this machine.
DefaultDependencies=no
Wants=network-online.target
After=network.target network-online.target remote-fs-pre.target
Conflicts=umount.target
Before=umount.target
StartLimitIntervalSec=0
OnFailure=hearth-mount-retry@%n.service

[Mount]
What=192.168.1.100:/tank/media
Where=/mnt/media
Type=nfs
Options=defaults,_netdev
TimeoutSec=60

[Install]
WantedBy=multi-user.target
' >"$t"
chmod 644 -- "$t"
sync -- "$t"
mv -fT -- "$t" /etc/systemd/system/mnt-media.mount
systemctl enable --no-reload -- mnt-media.mount
systemctl daemon-reload
systemctl start -- mnt-media.mount || { systemctl status --no-pager --lines 10 -- mnt-media.mount >&2; exit 1; }
mkdir -p -- /etc/systemd/system
t=$(mktemp -p /etc/systemd/system .hearth.XXXXXXXX)
printf %s '# Made by Hearth for site lab; changes are undone by the next run.
[Unit]
Description=Share inner
# Not before remote-fs.target, which logins wait for: the server may come up later than this machine.
DefaultDependencies=no
Wants=network-online.target
After=network.target network-online.target remote-fs-pre.target
Conflicts=umount.target
Before=umount.target
StartLimitIntervalSec=0
OnFailure=hearth-mount-retry@%n.service

[Mount]
What=192.168.1.100:/srv/my-data/inner
Where=/mnt/my-data
Type=nfs
Options=ro,_netdev
TimeoutSec=60

[Install]
WantedBy=multi-user.target
' >"$t"
chmod 644 -- "$t"
sync -- "$t"
mv -fT -- "$t" '/etc/systemd/system/mnt-my\x2ddata.mount'
systemctl enable --no-reload -- 'mnt-my\x2ddata.mount'
systemctl daemon-reload
systemctl start -- 'mnt-my\x2ddata.mount' || { systemctl status --no-pager --lines 10 -- 'mnt-my\x2ddata.mount' >&2; exit 1; }
