lvcreate --yes --wipesignatures y --zero y --addtag hearth -L 2147483648b -n zfs-ssd pve
udevadm settle --timeout 30
note() { printf '%s %s %s %s\n' "$1" "$2" "$(lsblk -dnro SERIAL "$3")" "$(blockdev --getsize64 "$3")"; }
found=$(wipefs -n --noheadings -O TYPE /dev/pve/zfs-ssd)
if [ -n "$found" ]; then echo /dev/pve/zfs-ssd is not blank: it holds $found >&2; exit 1; fi
mkdir -p /var/lib/hearth/zpool-create
note lab tank-ssd /dev/pve/zfs-ssd >/var/lib/hearth/zpool-create/tank-ssd.new
sync -- /var/lib/hearth/zpool-create/tank-ssd.new
mv -fT -- /var/lib/hearth/zpool-create/tank-ssd.new /var/lib/hearth/zpool-create/tank-ssd
sync -- /var/lib/hearth/zpool-create
zpool create -o ashift=12 -O atime=off -O compression=lz4 -O dev.hearth:site=lab tank-ssd /dev/pve/zfs-ssd
udevadm settle --timeout 30
rm -f -- /var/lib/hearth/zpool-create/tank-ssd
zfs create tank-ssd/appdata
zfs create -o recordsize=16K tank-ssd/postgres
note() { printf '%s %s %s %s\n' "$1" "$2" "$(lsblk -dnro SERIAL "$3")" "$(blockdev --getsize64 "$3")"; }
found=$(wipefs -n --noheadings -O TYPE /dev/disk/by-id/virtio-HEARTH-HDD)
if [ -n "$found" ]; then echo /dev/disk/by-id/virtio-HEARTH-HDD is not blank: it holds $found >&2; exit 1; fi
mkdir -p /var/lib/hearth/zpool-create
note lab tank-hdd /dev/disk/by-id/virtio-HEARTH-HDD >/var/lib/hearth/zpool-create/tank-hdd.new
sync -- /var/lib/hearth/zpool-create/tank-hdd.new
mv -fT -- /var/lib/hearth/zpool-create/tank-hdd.new /var/lib/hearth/zpool-create/tank-hdd
sync -- /var/lib/hearth/zpool-create
zpool create -o ashift=12 -O atime=off -O compression=lz4 -O dev.hearth:site=lab tank-hdd /dev/disk/by-id/virtio-HEARTH-HDD
udevadm settle --timeout 30
rm -f -- /var/lib/hearth/zpool-create/tank-hdd
zfs create tank-hdd/media
zfs create -o quota=5G tank-hdd/photos
