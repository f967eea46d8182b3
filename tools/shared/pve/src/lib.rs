//! A small synchronous client of the Proxmox VE API: only the calls that Hearth makes, typed.
//!
//! In: where the API is, a token's file, and the authority or fingerprint that its certificate is pinned to. Out: answers
//! with open enums, and errors that keep all that the server said. Every call has a deadline. One [`Client`] keeps its
//! connections open, can be shared by threads, and counts its calls.

mod client;
mod error;
mod form;
mod multipart;
mod node;
mod task;
mod tls;
mod transport;
mod types;
mod vm;

pub use client::Client;
pub use error::{Answered, Error};
pub use form::Form;
pub use multipart::Upload;
pub use node::Node;
pub use tls::{Pin, Token, fingerprint, shown};
pub use types::{Config, Pending, Power, Resource, Version, Volume};
pub use vm::Vm;
