//! The programs that a build needs on this machine.

use std::path::PathBuf;

use crate::{Error, Result};

/// Checks that a program is installed.
pub(crate) fn need(program: &'static str, package: &'static str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .any(|folder| folder.join(program).is_file());
    if found { Ok(()) } else { Err(Error::Program { program, package }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        need("sh", "dash").unwrap();
        let error = need("no-such-program", "no-such-package").unwrap_err();
        assert_eq!(error.to_string(), "program no-such-program is missing\n  hint: apt-get install no-such-package");
    }
}
