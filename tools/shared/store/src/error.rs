use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;

/// What the store's operations return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system failed.
    #[error("can't {operation} {}", path.display())]
    Io {
        /// What was done: "read", "write".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An artifact is neither in the store nor in its cache.
    #[error("artifact {0} is not in the store")]
    Missing(Digest),
    /// A file's content is not what its name says.
    #[error("{} is altered: its content has the digest {found}, its name says {wanted}; it was removed, so that the next run fetches or builds it anew", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// The digest in its name.
        wanted: Digest,
        /// The digest of its content.
        found: Digest,
    },
    /// Somebody has the store open, so that nothing can be taken out of it.
    #[error("a run or a build is using {}", .0.display())]
    InUse(PathBuf),
    /// A recipe entry or a manifest is not the JSON that it should be.
    #[error("can't understand {}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: serde_json::Error,
    },
    /// An artifact's name can't be a path inside a generation.
    #[error("'{0}' can't name an artifact: a relative path of plain names is wanted")]
    Name(String),
    /// No generation has this number.
    #[error("there is no generation {number} in {}", folder.display())]
    NoGeneration {
        /// The number asked for.
        number: u64,
        /// The folder of generations.
        folder: PathBuf,
    },
}

impl Error {
    pub(crate) fn io<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}
