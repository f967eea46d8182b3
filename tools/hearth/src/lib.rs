//! Runs a site's pipeline: builds the generation, runs the stages as a graph, reports.
//!
//! In: `pipeline.toml` and a site. Out: a converged and verified site, a journal and an HTML report of the run.

pub mod build;
pub mod cli;
mod forward;
mod graph;
mod images;
mod journal;
pub mod pipeline;
pub mod record;
pub mod report;
mod run;
mod stage;
mod status;
mod tools;

pub use pipeline::Pipeline;
