use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// Why a call of the API failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client can't be set up: a token, an authority or an address that can't be used.
    #[error("{what}")]
    Setup {
        /// What can't be used, with its file.
        what: String,
        /// The system's reason, where there is one.
        source: Option<io::Error>,
    },
    /// No certificate is pinned.
    #[error("no certificate is pinned for {url}")]
    Unpinned {
        /// The base address.
        url: String,
    },
    /// The API does not answer, or the connection broke.
    #[error("can't reach the Proxmox API at {url} ({call})")]
    Unreachable {
        /// The base address.
        url: String,
        /// Method and path.
        call: String,
        /// The reason.
        source: io::Error,
    },
    /// The server's certificate is not the pinned one, or not of the pinned authority.
    #[error("the certificate that {url} shows is not to be trusted: {reason}")]
    Certificate {
        /// The base address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The API answered with an error.
    #[error("{0}")]
    Answered(Box<Answered>),
    /// A task ended with an error.
    #[error("the Proxmox task {kind} of {what} failed: {exit}{}", tail(log))]
    Task {
        /// The task's kind, as `qmcreate`.
        kind: String,
        /// What it was for: a VMID, mostly.
        what: String,
        /// Its exit status.
        exit: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// A call or a task ran past its deadline.
    #[error("{what} did not end within {seconds} s")]
    Deadline {
        /// The call or the task.
        what: String,
        /// The time it had.
        seconds: u64,
    },
    /// A successful answer has another shape than the API's description says.
    #[error("can't make sense of the answer to {call}")]
    Shape {
        /// Method and path.
        call: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// An error that the API answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The method, as `PUT`.
    pub method: String,
    /// The path below `/api2/json`.
    pub path: String,
    /// The HTTP status.
    pub status: u16,
    /// The reason phrase, in which the text of an error often stands alone.
    pub reason: String,
    /// The body's message, where it has one.
    pub message: String,
    /// What is wrong with each parameter.
    pub errors: BTreeMap<String, String>,
}

impl Answered {
    /// Returns the server's own words: the message, or the reason phrase where there is none.
    pub fn text(&self) -> &str {
        let message = self.message.trim();
        if message.is_empty() { self.reason.trim() } else { message }
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, status, reason: _, message: _, errors } = self;
        // The message repeats the reason phrase and is the longer of the two where they differ.
        let text = self.text();
        write!(f, "{method} {path} was answered with {status}: {text}")?;
        for (parameter, what) in errors {
            write!(f, "\n    {parameter}: {}", what.trim())?;
        }
        Ok(())
    }
}

fn tail(log: &[String]) -> String {
    log.iter().map(|line| format!("\n    {line}")).collect()
}

impl Error {
    /// Tells whether the API, or the node behind it, can't be reached.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // 595 and 596 are what one node's proxy answers where it can't connect to another.
            Self::Answered(answered) => matches!(answered.status, 595 | 596),
            _ => false,
        }
    }

    /// Tells whether no certificate is pinned.
    pub fn is_unpinned(&self) -> bool {
        matches!(self, Self::Unpinned { .. })
    }

    /// Tells whether the server showed a certificate that is not the pinned one.
    pub fn is_certificate(&self) -> bool {
        matches!(self, Self::Certificate { .. })
    }

    /// Tells whether the token was not accepted, or may not do this.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Answered(answered) if matches!(answered.status, 401 | 403))
    }

    /// Returns what the API says the token may not do: a path and a privilege, or several of which one would do. Some
    /// refusals say nothing.
    pub fn missing(&self) -> Option<(&str, &str)> {
        let Self::Answered(answered) = self else { return None };
        let text = if answered.message.is_empty() { &answered.reason } else { &answered.message };
        let inner = text.trim().strip_prefix("Permission check failed (")?.strip_suffix(')')?;
        let (path, privileges) = inner.split_once(", ")?;
        (answered.status == 403 && path.starts_with('/')).then_some((path, privileges))
    }

    /// Tells whether the client could not be set up from its configuration.
    pub fn is_setup(&self) -> bool {
        matches!(self, Self::Setup { .. })
    }

    /// Tells whether another call held a lock file: the one error that goes away by waiting.
    ///
    /// `VM is locked (backup)` is none: that lock stays until its holder or a person removes it.
    pub fn is_contention(&self) -> bool {
        match self {
            Self::Answered(answered) => {
                answered.status == 500 && (contended(&answered.reason) || contended(&answered.message))
            }
            Self::Task { exit, .. } => contended(exit),
            _ => false,
        }
    }

    /// Tells whether the API says that this VM, volume or task is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Answered(answered)
            if answered.status == 500 && answered.reason.contains("does not exist"))
    }
}

fn contended(text: &str) -> bool {
    text.contains("can't lock file") && text.contains("got timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, reason: &str) -> Error {
        Error::Answered(Box::new(Answered {
            method: "PUT".into(),
            path: "/nodes/pve1/qemu/101/config".into(),
            status,
            reason: reason.into(),
            message: String::new(),
            errors: BTreeMap::new(),
        }))
    }

    #[test]
    fn only_a_lock_file_is_worth_waiting_for() {
        let lock = "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout";
        assert!(answered(500, lock).is_contention());
        assert!(!answered(500, "VM is locked (backup)").is_contention());
        assert!(!answered(400, lock).is_contention());
    }

    #[test]
    fn an_answer_is_written_with_its_parameters() {
        let Error::Answered(mut error) = answered(400, "Parameter verification failed.") else { panic!() };
        error.errors.insert("cores".into(), "type check ('integer') failed - got 'x'\n".into());
        assert_eq!(
            error.to_string(),
            "PUT /nodes/pve1/qemu/101/config was answered with 400: Parameter verification failed.\n    \
             cores: type check ('integer') failed - got 'x'"
        );
    }

    #[test]
    fn kinds_follow_the_status() {
        assert!(answered(595, "No route to host").is_unreachable());
        assert!(answered(401, "Authentication failed!").is_denied());
        assert!(answered(403, "Permission check failed").is_denied());
        assert!(!answered(500, "Authentication failed!").is_denied());
    }

    #[test]
    fn a_refusal_names_what_is_missing() {
        let denied = |text| answered(403, text).missing().map(|(path, what)| (path.to_owned(), what.to_owned()));
        let pair = |path: &str, what: &str| Some((path.to_owned(), what.to_owned()));
        assert_eq!(denied("Permission check failed (/vms/101, VM.Audit)"), pair("/vms/101", "VM.Audit"));
        let any = "Permission check failed (/storage/local, Datastore.Audit|Datastore.AllocateSpace)";
        assert_eq!(denied(any), pair("/storage/local", "Datastore.Audit|Datastore.AllocateSpace"));
        assert_eq!(denied("Permission check failed"), None);
        assert_eq!(denied("Permission check failed (pool 'x' does not exist)"), None);
    }
}
