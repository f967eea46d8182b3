//! What must not be shown.
//!
//! In: plain bytes, age files (<https://age-encryption.org/v1>), identities. Out: a type that neither prints nor serializes
//! what it holds and clears it when it is dropped, and, with the feature `age`, files that are encrypted to recipients.

#[cfg(feature = "age")]
mod error;
#[cfg(feature = "age")]
mod file;
#[cfg(feature = "age")]
mod keys;
mod value;

#[cfg(feature = "age")]
pub use error::Error;
#[cfg(feature = "age")]
pub use file::{Readers, open, readers, seal};
#[cfg(feature = "age")]
pub use keys::{ENV_FILE, ENV_KEY, Keys};
pub use value::Secret;
