use crate::exit;

/// Why a tool ended without success; picks the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The command line is wrong.
    Usage,
    /// The inventory, a manifest or an image file is wrong.
    Config,
    /// A host or an API can't be reached.
    Unreachable,
    /// Another run holds the lock.
    Locked,
    /// Refused for safety.
    Refused,
    /// Anything else.
    Failed,
}

impl Reason {
    /// Returns the exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Usage => exit::USAGE,
            Self::Config => exit::CONFIG,
            Self::Unreachable => exit::UNREACHABLE,
            Self::Locked => exit::LOCKED,
            Self::Refused => exit::REFUSED,
            Self::Failed => exit::FAILED,
        }
    }
}

/// An error that knows its reason and what its user can do. Put it anywhere in a chain of causes.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// What failed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// Returns a failure without a hint.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns a refusal for safety.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Reason::Refused, message)
    }

    /// Returns an error of configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Reason::Config, message)
    }
}

/// Finds an error's reason in its chain of causes.
pub fn reason(error: &anyhow::Error) -> Reason {
    error
        .chain()
        .find_map(|cause| {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return Some(failure.reason);
            }
            if cause.is::<site::Errors>() {
                return Some(Reason::Config);
            }
            if matches!(cause.downcast_ref::<store::Error>(), Some(store::Error::InUse(_))) {
                return Some(Reason::Locked);
            }
            if let Some(error) = cause.downcast_ref::<image::Error>() {
                return image_reason(error);
            }
            match cause.downcast_ref::<remote::Error>()? {
                remote::Error::Unreachable { .. } => Some(Reason::Unreachable),
                remote::Error::Locked { .. } => Some(Reason::Locked),
                remote::Error::HostKey { .. } | remote::Error::UnknownKey { .. } => Some(Reason::Refused),
                _ => None,
            }
        })
        .unwrap_or(Reason::Failed)
}

/// Tells errors of recipes and lock file from those of fetching and building.
fn image_reason(error: &image::Error) -> Option<Reason> {
    use image::Error::{Digest, Fetch, Gone, Kind, Lock, NoRecipe, NotLocked, Recipe};
    match error {
        Recipe { .. } | NoRecipe { .. } | Kind { .. } | Lock { .. } | NotLocked { .. } => Some(Reason::Config),
        Digest { .. } => Some(Reason::Refused),
        Fetch { .. } | Gone { .. } => Some(Reason::Unreachable),
        _ => None,
    }
}

/// Finds the hint in an error's chain of causes.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| match cause.downcast_ref::<Failure>() {
        Some(failure) => failure.hint.clone(),
        None => key_hint(cause.downcast_ref::<remote::Error>()?),
    })
}

/// Says what to do about a lock that is taken, or a host key that is not the pinned one.
pub(crate) fn key_hint(error: &remote::Error) -> Option<String> {
    match error {
        remote::Error::Locked { .. } => Some("wait for it to end, or stop it".to_owned()),
        remote::Error::HostKey { host, .. } => Some(format!(
            "if {host} has got a new key of its own, compare it there (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), \
             then: hearth trust {host} --replace; otherwise someone is in between"
        )),
        remote::Error::UnknownKey { host, .. } => Some(format!(
            "compare it on {host} itself (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then: hearth trust {host}"
        )),
        _ => None,
    }
}

/// Writes an error once, for people: what failed, its causes, then the hint.
pub fn describe(error: &anyhow::Error) -> String {
    if let Some(errors) = error.downcast_ref::<site::Errors>() {
        return errors.render(false).trim_end().to_owned();
    }
    let mut lines = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !lines.ends_with(&cause) {
            lines += &format!("\n  because: {cause}");
        }
    }
    if let Some(hint) = hint(error) {
        lines += &format!("\n  hint: {hint}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_reason_is_found_below_added_context() {
        let error = Err::<(), _>(Failure::refused("sda holds ext4").hint("name another disk"))
            .context("can't make pool tank")
            .unwrap_err();
        assert_eq!(reason(&error), Reason::Refused);
        assert_eq!(
            describe(&error),
            "error: can't make pool tank\n  because: sda holds ext4\n  hint: name another disk"
        );
    }

    #[test]
    fn a_recipe_that_is_not_there_is_configuration() {
        let error = image::Error::NoRecipe { name: "x".into(), folder: "images".into(), known: "none".into() };
        assert_eq!(reason(&anyhow::Error::new(error).context("can't build")), Reason::Config);
    }

    #[test]
    fn an_unknown_error_is_a_plain_failure() {
        assert_eq!(reason(&anyhow::anyhow!("x")).code(), exit::FAILED);
    }
}
