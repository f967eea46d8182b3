//! The inventory of one homelab.
//!
//! In: a folder of TOML files, merged. Out: a [`Site`] in which every reference resolves and every value has been checked,
//! or all that is wrong with it, each with file, line, the text and the mend.

mod check;
mod load;
mod model;
mod names;
mod nearest;
mod read;
mod reader;
mod report;
mod scope;
mod tree;
pub mod trust;
mod words;

pub use load::{discover, load, load_before_secrets, load_copy};
pub use model::*;
pub use names::*;
pub use nearest::nearest;
pub use report::{Errors, Problem};
