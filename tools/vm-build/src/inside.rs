//! What is run inside a guest, as scripts: cloud-init once more, file systems grown, data disks set up.
//!
//! Each looks first, so that one that was cut off is finished by the next.

use std::fmt::Write as _;

use site::{AbsolutePath, Name, Size};
use store::Digest;

/// A data disk as its guest shall have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its name, which is its serial number.
    pub name: Name,
    /// Its size.
    pub size: Size,
    /// Where it is mounted; without one it is only waited for.
    pub mount: Option<AbsolutePath>,
}

/// What is set up inside a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The size of the system disk, which its partition and file system shall fill.
    pub disk: Size,
    /// Its data disks.
    pub disks: Vec<Mounted>,
}

/// Writes how cloud-init runs again in a running guest, as its units run it at a boot. A new instance-id makes it new
/// work. The first stage only writes the network's files and takes no interface down.
///
/// The flag tells a run that was cut off from a boot that has done it all.
pub(crate) fn reapply(seed: &Digest) -> String {
    format!(
        "cloud-init status --wait >/dev/null 2>&1 || true
if [ -e /run/hearth-reapply ] || [ \"$(cat /var/lib/cloud/data/instance-id)\" != {seed} ]; then
  touch /run/hearth-reapply
  for stage in 'init --local' init 'modules --mode=config' 'modules --mode=final'; do
    # What went wrong is in its status, which is looked at next.
    cloud-init $stage >>/var/log/cloud-init-output.log 2>&1 || true
  done
  rm /run/hearth-reapply
fi
"
    )
}

/// Writes how a guest takes up what its disks have become.
pub(crate) fn settle(inside: &Inside) -> String {
    let mut script = FUNCTIONS.to_owned();
    // Writing to a string can't fail.
    let _ = writeln!(script, "grow_root {}", inside.disk.bytes());
    for Mounted { name, size, mount } in &inside.disks {
        let _ = writeln!(script, "find_disk {name} {}", size.bytes());
        if let Some(mount) = mount {
            let _ = writeln!(script, "make_fs {name}\nmount_disk {name} '{mount}'");
        }
    }
    script
}

const FUNCTIONS: &str = r##"bytes() { echo $(( $(cat "/sys/class/block/$1/size") * 512 )); }
wait_size() {
  tries=0
  until [ "$(bytes "$1")" -ge "$2" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 60 ] || { echo "$1 has $(bytes "$1") bytes here, not $2" >&2; exit 1; }
    sleep 1
  done
}
grow_fs() {
  case $2 in
    ext*) resize2fs "$1" ;;
    xfs) xfs_growfs "$3" ;;
    btrfs) btrfs filesystem resize max "$3" ;;
    *) echo "$3 is on $2, which can't be grown by hearth" >&2; exit 1 ;;
  esac
}
grow_root() {
  part=$(readlink -f "$(findmnt -nvo SOURCE /)")
  kind=$(findmnt -no FSTYPE /)
  part=${part##*/}
  disk=$part
  if [ -e "/sys/class/block/$part/partition" ]; then
    disk=$(basename "$(dirname "$(readlink -f "/sys/class/block/$part")")")
  fi
  # A SCSI disk is asked for its size again only when it is told to.
  [ ! -e "/sys/class/block/$disk/device/rescan" ] || echo 1 >"/sys/class/block/$disk/device/rescan"
  wait_size "$disk" "$1"
  if [ "$disk" != "$part" ]; then
    code=0
    growpart "/dev/$disk" "$(cat "/sys/class/block/$part/partition")" || code=$?
    # 1: it fills the disk already (growpart(1)).
    [ "$code" -le 1 ] || exit "$code"
  fi
  grow_fs "/dev/$part" "$kind" /
}
find_disk() {
  by_id=/dev/disk/by-id/virtio-$1
  tries=0
  until [ -b "$by_id" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 60 ] || { echo "the data disk $1 does not appear as $by_id" >&2; exit 1; }
    sleep 1
  done
  device=$(readlink -f "$by_id")
  wait_size "${device##*/}" "$2"
}
make_fs() {
  code=0
  kind=$(blkid -p -s TYPE -o value "$device") || code=$?
  label=$(blkid -p -s LABEL -o value "$device") || true
  if [ "$kind" = ext4 ] && [ "$label" != hearth-half ]; then
    return
  fi
  if [ "$label" != hearth-half ]; then
    if [ "$code" != 2 ] || [ -n "$(wipefs -n "$device")" ]; then
      echo "the data disk $1 holds ${kind:-something} and not ext4: it is left as it is" >&2
      exit 1
    fi
    if [ -n "$(head -c 1048576 "$device" | tr -d '\000' | head -c 1 | od -An -c)" ]; then
      echo "the data disk $1 is not blank, and what it holds is unknown: it is left as it is" >&2
      exit 1
    fi
  fi
  # The last label is given last: a file system without it was never whole, and never mounted.
  mkfs.ext4 -q -F -L hearth-half "$device"
  sync
  e2label "$device" hearth
}
mount_disk() {
  mark="# Made by Hearth: the data disk $1."
  unit=$(systemd-escape -p --suffix=mount "$2")
  for other in $(grep -lsxF "$mark" /etc/systemd/system/*.mount || true); do
    if [ "${other##*/}" != "$unit" ]; then
      systemctl disable --now "${other##*/}"
      rm "$other"
    fi
  done
  where=$(printf %s "$2" | sed 's/%/%%/g')
  text="$mark
[Unit]
Description=Data disk $1

[Mount]
What=$by_id
Where=$where
Type=ext4

[Install]
WantedBy=local-fs.target"
  if [ "$text" != "$(cat "/etc/systemd/system/$unit" 2>/dev/null || true)" ]; then
    printf '%s\n' "$text" >"/etc/systemd/system/.hearth-$unit"
    mv "/etc/systemd/system/.hearth-$unit" "/etc/systemd/system/$unit"
    systemctl daemon-reload
  fi
  systemctl enable "$unit"
  systemctl start "$unit"
  [ "$(readlink -f "$(findmnt -nvo SOURCE -M "$2")")" = "$device" ] || { echo "$2 is not the data disk $1" >&2; exit 1; }
  grow_fs "$device" ext4 "$2"
}
"##;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_script_names_what_it_sets_up() {
        let disk = |name: &str, mount: Option<&str>| Mounted {
            name: name.parse().unwrap(),
            size: "1G".parse().unwrap(),
            mount: mount.map(|path| path.parse().unwrap()),
        };
        let inside =
            Inside { disk: "6G".parse().unwrap(), disks: vec![disk("data", Some("/srv/data")), disk("raw", None)] };
        let script = settle(&inside);
        let calls = script.strip_prefix(FUNCTIONS).unwrap();
        assert_eq!(
            calls,
            "grow_root 6442450944\nfind_disk data 1073741824\nmake_fs data\nmount_disk data '/srv/data'\n\
             find_disk raw 1073741824\n"
        );
        let parsed = remote::Command::new("/bin/sh").args(["-n", "-c", &script]).run();
        parsed.unwrap();
    }
}
