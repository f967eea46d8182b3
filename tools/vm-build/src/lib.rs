//! vm-build.
