//! Runs a site's pipeline: builds the generation, runs the stages as a graph, reports.
//!
//! In: `pipeline.toml` and a site. Out: a converged and verified site, a journal and an HTML report of the run.

pub mod build;
pub mod cli;
mod difference;
mod forward;
mod gc;
mod generations;
mod graph;
mod images;
mod inputs;
mod journal;
pub mod pipeline;
pub mod record;
pub mod report;
mod rollback;
mod run;
mod secrets;
mod stage;
mod status;
mod tools;
mod trust;

pub use pipeline::Pipeline;
