//! Whole-site scenarios.
