use std::io;
use std::path::{Path, PathBuf};

use store::Digest;

/// What this crate's operations return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe says something that can't be understood or can't be.
    #[error("{}:{line}: {message}\n    {text}\n  hint: {hint}", file.display())]
    Recipe {
        /// The recipe's file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What that line says.
        text: String,
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// No recipe has this name.
    #[error("there is no image '{name}': {} has {known}", folder.display())]
    NoRecipe {
        /// The name asked for.
        name: String,
        /// The folder of recipes.
        folder: PathBuf,
        /// The names that are there.
        known: String,
    },
    /// An image is of another kind than the one asked for.
    #[error("image '{name}' is no {wanted}: its kind is {found}")]
    Kind {
        /// The image.
        name: String,
        /// The kind asked for.
        wanted: &'static str,
        /// The kind it is.
        found: &'static str,
    },
    /// The lock file can't be understood.
    #[error("can't understand {}: {message}\n  hint: `hearth lock --update` writes it anew", file.display())]
    Lock {
        /// The lock file.
        file: PathBuf,
        /// The parser's reason.
        message: String,
    },
    /// The lock file pins nothing for what a recipe asks for.
    #[error("{} pins no packages for image '{image}' as its recipe is now\n  hint: run `hearth lock`", file.display())]
    NotLocked {
        /// The lock file.
        file: PathBuf,
        /// The image.
        image: String,
    },
    /// The lock file pins nothing for the programs that build.
    #[error("{} does not pin the programs that build images\n  hint: run `hearth lock`", file.display())]
    ToolsNotLocked {
        /// The lock file.
        file: PathBuf,
    },
    /// The clock is behind what was pinned.
    #[error(
        "this machine's clock says {now} s after 1970, but the packages were pinned at {pinned}: files would get wrong times\n  hint: set the clock"
    )]
    Clock {
        /// The clock's time, in seconds since 1970.
        now: u64,
        /// When the packages were pinned.
        pinned: u64,
    },
    /// An image came out another way than before.
    #[error("image '{image}' was {first} and, built again, is {again}; they differ in {what}")]
    Differs {
        /// The image.
        image: String,
        /// The digest of what was there.
        first: Digest,
        /// The digest of the second build.
        again: Digest,
        /// The first file that differs, or what else does.
        what: String,
    },
    /// A pinned package can't be had any more.
    #[error(
        "package {package} is pinned, but {url} is gone: the mirror drops superseded versions\n  hint: run `hearth lock --update`"
    )]
    Gone {
        /// Name, version and architecture.
        package: String,
        /// Where it was looked for.
        url: String,
    },
    /// There is nowhere to fetch packages from.
    #[error(
        "apt's sources name no archive of Debian\n  hint: run apt-get update, or add one to /etc/apt/sources.list.d"
    )]
    NoMirror,
    /// A download failed.
    #[error("can't fetch {url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// The reason.
        reason: String,
    },
    /// What was fetched is not what was pinned.
    #[error("{url} has the digest {found}, pinned is {wanted}")]
    Digest {
        /// The address.
        url: String,
        /// The pinned digest.
        wanted: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// A program is not installed.
    #[error("program {program} is missing\n  hint: apt-get install {package}")]
    Program {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// Images are made in a chroot, which takes root.
    #[error("image '{0}' has to be built, and building takes root: it mounts, changes root and keeps file owners")]
    NotRoot(String),
    /// A build step failed.
    #[error("image '{image}': {step} failed; the whole log is {}", log.display())]
    Step {
        /// The image.
        image: String,
        /// What was being done.
        step: String,
        /// Where all that the step printed is.
        log: PathBuf,
        /// The command's failure.
        source: Box<remote::local::Error>,
    },
    /// A command failed.
    #[error(transparent)]
    Command(#[from] Box<remote::local::Error>),
    /// A build gave something that can't be used.
    #[error("image '{image}': {message}")]
    Build {
        /// The image.
        image: String,
        /// What is wrong.
        message: String,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] store::Error),
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
}

impl Error {
    pub(crate) fn io<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

impl From<remote::local::Error> for Error {
    fn from(error: remote::local::Error) -> Self {
        Self::Command(Box::new(error))
    }
}
