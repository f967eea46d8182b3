//! zfs-init.
