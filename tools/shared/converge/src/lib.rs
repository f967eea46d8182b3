//! converge.
