//! From TOML files to a [`Site`].

use std::fmt;
use std::path::{Path, PathBuf};

use crate::model::Site;

/// All that is wrong with an inventory: for each, file, line, the text and the mend. `Display` writes it for people.
#[derive(Debug)]
pub struct Errors {}

impl std::error::Error for Errors {}

impl fmt::Display for Errors {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// Finds the site's folder: the given one, else `site` in the nearest `pipeline.toml` above the current folder.
///
/// # Errors
/// Where there is none.
pub fn discover(_folder: Option<&Path>) -> Result<PathBuf, Errors> {
    Err(Errors {})
}

/// Loads and checks a site.
///
/// # Errors
/// All that is wrong with it.
pub fn load(_folder: &Path) -> Result<Site, Errors> {
    Err(Errors {})
}
