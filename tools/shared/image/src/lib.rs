//! Image recipes made into artifacts.
//!
//! In: the recipes of `images/`, and `pipeline.lock`, which pins every Debian package they are made of by SHA-256. Out:
//! bootable disks and container images in layers, as artifacts of the store. Fetching is a step of its own; the build
//! after it has no network, a cleared environment, a fixed time, and no programs but those of pinned packages. An image whose recipe and pins are as before is not
//! built again.

mod apt;
mod archive;
mod boot;
mod builder;
mod check;
mod container;
mod disk;
mod error;
mod fetch;
mod held;
pub mod iso9660;
mod layer;
mod listing;
pub mod lock;
mod plan;
pub mod recipe;
mod relock;
mod sandbox;
mod scratch;
mod toolroot;
mod tools;

pub use apt::Mirror;
pub use archive::write_docker_archive;
pub use boot::{PARTITION_START, lay_out};
pub use builder::{Builder, Settings};
pub use container::{ContainerImage, Layer};
pub use disk::DiskImage;
pub use error::{Error, Result};
pub use fetch::Fetcher;
pub use layer::{HashingWriter, unpack_layer, write_layer};
pub use recipe::{ImageRecipe, Kind};
pub use relock::{Relock, relock};
