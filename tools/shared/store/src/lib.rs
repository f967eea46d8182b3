//! Artifacts, recipes and generations.
//!
//! In: bytes to keep and recipes that determine them. Out: immutable files named by their SHA-256, re-hashed whenever
//! they leave the store, and numbered generations with a `SHA256SUMS` that `sha256sum -c` reads.

mod blobs;
mod digest;
mod error;
pub mod files;
mod gc;
mod generation;
mod hold;
mod mend;
mod recipe;

pub use blobs::{Artifact, Store, StoreWriter, VerifiedReader};
pub use digest::{Digest, ParseDigestError};
pub use error::{Error, Result};
pub use gc::Freed;
pub use generation::{Generation, Generations};
pub use recipe::{Outputs, Recipe};
