//! A Proxmox VE API over real QEMU guests, and the lab around it.
//!
//! In: requests of any Proxmox client, and the disk image of a node guest. Out: answers as a genuine node gives them,
//! guests that boot, and a network namespace in which they, the node and the API share a wire. Every request is checked
//! against the official schema; a method that is not there answers 501 with its name, never a made-up success.
//!
//! In API-only mode ([`Mode::ApiOnly`], [`testing::ApiOnly`]) guests are records: they start and stop in name only, and
//! a disk is a small file that notes its format and size. Everything else is the same.

mod access;
mod api;
mod auth;
pub mod cli;
mod error;
pub mod gate;
mod http;
mod lab;
mod layout;
mod process;
mod random;
mod schema;
mod serve;
mod server;
mod setup;
mod storage;
mod tasks;
pub mod testing;
mod vm;

pub use lab::accel::Accel;
pub use lab::{Error, Lab, NODE_ADDRESS, PORT, Status, UpOptions};
pub use layout::Layout;
pub use schema::Release;
pub use serve::{ServeOptions, serve};
pub use server::Mode;
