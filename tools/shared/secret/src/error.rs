use std::io;
use std::path::PathBuf;

/// Why a secret could not be read or written. No message has a piece of a secret or of an identity in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not there.
    #[error("there is no secret file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not what age writes.
    #[error("{} is no age file, or its beginning is damaged: {why}", path.display())]
    NotAge {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The file's end is missing, or its bytes are others than were written.
    #[error("{} is truncated or was altered: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// None of the identities opens the file.
    #[error("{} is not encrypted for the identities that are here ({})", path.display(), tried.join(", "))]
    WrongIdentity {
        /// The file.
        path: PathBuf,
        /// Where the identities are from.
        tried: Vec<String>,
    },
    /// There is no identity at all.
    #[error("there is no identity to open secrets with; looked for {}", looked.join(", "))]
    NoIdentity {
        /// Where was looked.
        looked: Vec<String>,
    },
    /// A source of identities holds none that can be used.
    #[error("{place} can't be used as an identity: {why}")]
    Identity {
        /// The file or variable.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// A recipient is none.
    #[error("'{text}' is no recipient: {why}")]
    Recipient {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// There are no recipients.
    #[error("the site names no recipients, so that nobody could open what is written")]
    NoRecipients,
    /// Encrypting failed.
    #[error("can't encrypt")]
    Seal(#[source] io::Error),
}

impl Error {
    /// Says what to do about it.
    pub fn hint(&self) -> String {
        let name = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Self::Missing { path } => format!("make it: hearth secrets set {}", name(path)),
            Self::Io { .. } => "see whether it is a file that you may read".to_owned(),
            Self::NotAge { path, .. } | Self::Damaged { path, .. } => {
                format!("take it from version control again, or write it anew: hearth secrets set {}", name(path))
            }
            Self::WrongIdentity { .. } => {
                "give another identity with HEARTH_AGE_KEY_FILE, or add your public key to `recipients` of [secrets] and \
                 have somebody who can open it run: hearth secrets rekey"
                    .to_owned()
            }
            Self::NoIdentity { .. } => {
                "name a file with HEARTH_AGE_KEY_FILE or `identity_files` of [secrets]: an age identity or an SSH private \
                 key without a passphrase"
                    .to_owned()
            }
            Self::Identity { .. } => {
                "an identity is a line AGE-SECRET-KEY-1…, or a file of an SSH ed25519 key without a passphrase".to_owned()
            }
            Self::Recipient { .. } => {
                "a recipient is an age public key, age1…, or a line ssh-ed25519 AAAA…; mend `recipients` of [secrets]"
                    .to_owned()
            }
            Self::NoRecipients => "add a table [secrets] with `recipients = [\"age1…\"]`".to_owned(),
            Self::Seal(_) => "try again".to_owned(),
        }
    }
}
