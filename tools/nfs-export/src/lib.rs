//! nfs-export.
