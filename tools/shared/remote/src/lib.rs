//! Commands and files on a host: this machine, or one reached over SSH.
//!
//! In: argument lists, scripts and files. Out: what each printed and how it ended. Every subprocess and every remote
//! step has a deadline, and a failure names the host, the command and its stderr.

mod error;
mod fleet;
pub mod local;

pub use error::Error;
pub use fleet::{Answers, Counts, Fleet, Host, Probe};
pub use local::{Command, Output};
