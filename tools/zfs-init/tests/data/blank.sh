lvcreate --yes --wipesignatures y --zero y --addtag hearth -L 2147483648b -n zfs-ssd pve
udevadm settle --timeout 30
found=$(wipefs -n --noheadings -O TYPE /dev/pve/zfs-ssd)
if [ -n "$found" ]; then echo /dev/pve/zfs-ssd is not blank: it holds $found >&2; exit 1; fi
zpool create -o ashift=12 -O atime=off -O compression=lz4 -O dev.hearth:site=lab tank-ssd /dev/pve/zfs-ssd
udevadm settle --timeout 30
zfs create tank-ssd/appdata
zfs create -o recordsize=16K tank-ssd/postgres
found=$(wipefs -n --noheadings -O TYPE /dev/disk/by-id/virtio-HEARTH-HDD)
if [ -n "$found" ]; then echo /dev/disk/by-id/virtio-HEARTH-HDD is not blank: it holds $found >&2; exit 1; fi
zpool create -o ashift=12 -O atime=off -O compression=lz4 -O dev.hearth:site=lab tank-hdd /dev/disk/by-id/virtio-HEARTH-HDD
udevadm settle --timeout 30
zfs create tank-hdd/media
zfs create -o quota=5G tank-hdd/photos
