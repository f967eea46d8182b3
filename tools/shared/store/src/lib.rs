//! Artifacts, recipes and generations.
//!
//! In: bytes to keep and recipes that determine them. Out: immutable files named by their SHA-256, re-hashed whenever
//! they leave the store, and numbered generations with a `SHA256SUMS` that `sha256sum -c` reads.

mod digest;
pub mod files;

pub use digest::{Digest, ParseDigestError};
