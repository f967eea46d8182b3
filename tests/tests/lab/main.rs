//! Scenarios on the lab, a module a subject: each test leaves the site as it found it, verified, so that their order is
//! free. They share one lab and one site lock, so they run one after the other.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod bits;
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
mod trust;
mod vms;
