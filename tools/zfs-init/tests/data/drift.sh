zfs inherit atime tank-ssd/appdata
[ "$(zfs get -H -o value mounted tank-ssd/postgres)" = yes ] || zfs mount tank-ssd/postgres
zfs set compression=lz4 tank-hdd
zfs set quota=5G tank-hdd/photos
