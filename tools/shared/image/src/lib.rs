//! image.

pub mod iso9660;
