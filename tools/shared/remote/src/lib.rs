//! Commands and files on a host: this machine, or one reached over SSH.
//!
//! In: argument lists, scripts and files. Out: what each printed and how it ended. Every subprocess and every remote
//! step has a deadline, and a failure names the host, the command and its stderr.

mod batch;
mod error;
mod fleet;
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod known_hosts;
mod link;
pub mod local;
mod lock;
mod quote;

pub use error::Error;
pub use fleet::{Answers, Counts, Fleet, Probe};
pub use host::Host;
pub use known_hosts::{HostKey, Verdict};
pub use local::{Command, Output};
pub use quote::quote;
