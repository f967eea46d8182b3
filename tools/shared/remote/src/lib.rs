//! Commands and files on a host: this machine, or one reached over SSH.
//!
//! In: argument lists, scripts and files. Out: what each printed and how it ended. Every subprocess and every remote
//! step has a deadline, and a failure names the host, the command and its stderr.

pub mod local;

pub use local::{Command, Output};
