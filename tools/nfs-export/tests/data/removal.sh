rm -f -- /etc/exports.d/hearth-lab.exports /etc/systemd/system/nfs-server.service.d/hearth-lab.conf
systemctl daemon-reload
exportfs -ra
systemctl disable --now -- mnt-media.mount
rm -f -- /etc/systemd/system/mnt-media.mount
systemctl daemon-reload
systemctl disable --now -- 'mnt-my\x2ddata.mount'
rm -f -- '/etc/systemd/system/mnt-my\x2ddata.mount'
systemctl daemon-reload
rm -f -- /etc/systemd/system/hearth-mount-retry@.service
systemctl daemon-reload
