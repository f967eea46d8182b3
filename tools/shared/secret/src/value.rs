use std::fmt;
use std::io::{self, Read};

use zeroize::Zeroizing;

/// Bytes that must not be shown: it prints as `[secret]`, does not serialize, and is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// Whatever reading fails with.
    pub fn read(mut from: impl Read) -> io::Result<Self> {
        // A vector that grows leaves its old places uncleared; a secret is seldom larger than this.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 << 16));
        from.read_to_end(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Returns the bytes themselves. Whoever asks must neither print nor keep them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one line break off the end, as `echo` puts it there.
    #[must_use]
    pub fn without_newline(self) -> Self {
        let kept = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
        Self::new(kept.strip_suffix(b"\r").unwrap_or(kept).to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::new(b"horse battery".to_vec());
        let printed = format!("{secret} {secret:?} {:?} {:#?}", Some(&secret), (&secret, 1));
        assert!(!printed.contains("horse") && printed.contains("[secret]"), "{printed}");
        assert!(!printed.contains("104"), "{printed}");
    }

    #[test]
    fn one_line_break_is_taken_off() {
        for (given, kept) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("\n", "")] {
            assert_eq!(Secret::new(given.as_bytes().to_vec()).without_newline().expose(), kept.as_bytes());
        }
    }
}
