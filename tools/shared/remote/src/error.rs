use std::io;

/// Why a remote step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host does not answer, or does not let us in.
    #[error("can't reach {host} at {address}")]
    Unreachable {
        /// The host or guest.
        host: String,
        /// `ADDRESS:PORT`.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// The host shows another key than the pinned one.
    #[error("{host} shows the SSH host key {seen}, and {pinned} is pinned in {file}")]
    HostKey {
        /// The host or guest.
        host: String,
        /// The fingerprint seen, as `SHA256:…`.
        seen: String,
        /// The fingerprints pinned.
        pinned: String,
        /// The file with the pinned keys.
        file: String,
    },
    /// No key is pinned for the host.
    #[error("{host} shows the SSH host key {seen}, and none is pinned for it in {file}")]
    UnknownKey {
        /// The host.
        host: String,
        /// The fingerprint seen, as `SHA256:…`.
        seen: String,
        /// The files in which one could be.
        file: String,
    },
    /// A step ran past its deadline.
    #[error("{host}: `{command}` did not end within {seconds} s")]
    Deadline {
        /// The host or guest.
        host: String,
        /// The step's first line.
        command: String,
        /// The time it had.
        seconds: u64,
    },
    /// A command failed.
    #[error("{host}: `{command}` ended with {status}: {stderr}")]
    Status {
        /// The host or guest.
        host: String,
        /// The step's first line.
        command: String,
        /// The exit code; 128 plus the signal's number after a signal.
        status: i32,
        /// The end of its standard error.
        stderr: String,
    },
    /// Another run has the host's lock.
    #[error("{host} is locked by {holder}")]
    Locked {
        /// The host.
        host: String,
        /// Who has it, in the words that it left there.
        holder: String,
    },
    /// The connection broke in the middle of a step, or a file could not be sent.
    #[error("{host}: {step}")]
    Broken {
        /// The host or guest.
        host: String,
        /// What was being done.
        step: String,
        /// The reason.
        source: io::Error,
    },
}
