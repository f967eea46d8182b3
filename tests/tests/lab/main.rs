//! Scenarios on the lab, a module a subject: each test leaves the site as it found it, verified, so that their order is
//! free. They share one lab and one site lock, so they run one after the other.
//!
//! What stands behind the feature `soak` is left out of CI, which has no time for it, or has not been seen to pass yet: it is
//! run by hand, as docs/soak/README.md says.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod bits;
#[cfg(feature = "soak")]
mod boot;
mod deploys;
mod drift;
mod generations;
mod kills;
mod locks;
mod secrets;
mod site;
#[cfg(feature = "soak")]
mod soak;
mod support;
#[cfg(feature = "soak")]
mod trials;
mod trust;
#[cfg(feature = "soak")]
mod vms;
