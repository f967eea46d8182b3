//! What the API answers when it refuses: status, message and errors by parameter, as the real server words them.

use std::collections::BTreeMap;

/// A refusal, on its way to the client.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) errors: BTreeMap<String, String>,
    /// The answer has no JSON body: nothing, or the message as plain text.
    pub(crate) bare: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    /// Says what went wrong while doing it: status 500.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { status: 500, message: format!("{}\n", message.into()), ..Self::default() }
    }

    /// Names one wrong parameter: status 400.
    pub(crate) fn parameter(name: &str, text: impl Into<String>) -> Self {
        Self::parameters(BTreeMap::from([(name.to_owned(), text.into())]))
    }

    /// Names every wrong parameter: status 400.
    pub(crate) fn parameters(errors: BTreeMap<String, String>) -> Self {
        Self { status: 400, message: "Parameter verification failed.\n".into(), errors, bare: None }
    }

    /// Refuses for want of permission: status 403.
    pub(crate) fn permission(text: &str) -> Self {
        Self { status: 403, message: format!("Permission check failed ({text})\n"), ..Self::default() }
    }

    /// Refuses for want of permission, without a word on which.
    pub(crate) fn no_permission() -> Self {
        Self { status: 403, message: "Permission check failed\n".into(), ..Self::default() }
    }

    /// Says that a method is not there: status 501.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self { status: 501, message: message.into(), ..Self::default() }
    }

    /// Refuses with a reason phrase and no body.
    pub(crate) fn empty(status: u16, reason: &str) -> Self {
        Self { status, message: reason.into(), bare: Some(String::new()), ..Self::default() }
    }

    /// Refuses with a reason phrase and the same as plain text.
    pub(crate) fn plain(status: u16, reason: &str, body: &str) -> Self {
        Self { status, message: reason.into(), bare: Some(body.into()), ..Self::default() }
    }

    /// Returns the reason phrase: the message's first line.
    pub(crate) fn reason(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }

    /// Returns the message as one line, for a task's exit status.
    pub(crate) fn line(&self) -> String {
        let mut line = self.message.trim().replace('\n', " ");
        for (name, text) in &self.errors {
            line = format!("{line} {name}: {}", text.trim());
        }
        line
    }
}

/// Turns a failure of the host (file, process) into a 500 that names what was being done.
pub(crate) fn host<E: std::fmt::Display>(doing: impl std::fmt::Display) -> impl FnOnce(E) -> ApiError {
    move |error| ApiError::failed(format!("{doing}: {error}"))
}
