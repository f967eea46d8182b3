use std::fmt::{self, Write as _};

/// The parameters of a call: a query string, or a form as the body.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// Returns a form without parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter. A truth value must go through [`Form::flag`]: the API refuses `yes` and `on`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds a truth value as `1` or `0`.
    #[must_use]
    pub fn flag(self, key: &str, value: bool) -> Self {
        self.set(key, u8::from(value))
    }

    /// Adds `sshkeys`, which is stored URL-encoded and so is encoded once more than other values.
    #[must_use]
    pub fn ssh_keys(self, keys: &str) -> Self {
        let encoded = escape(keys);
        self.set("sshkeys", encoded)
    }

    /// Tells whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the parameters in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Writes it as `application/x-www-form-urlencoded`, a space as `%20`.
    pub(crate) fn encode(&self) -> String {
        let pairs = self.0.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value)));
        pairs.collect::<Vec<_>>().join("&")
    }
}

impl fmt::Debug for Form {
    /// Writes the keys only: a value can be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

/// Escapes everything but RFC 3986's unreserved characters.
pub(crate) fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_never_a_plus() {
        let form = Form::new().set("description", "a b+c\nd").flag("onboot", true);
        assert_eq!(form.encode(), "description=a%20b%2Bc%0Ad&onboot=1");
    }

    #[test]
    fn ssh_keys_are_encoded_twice() {
        assert_eq!(Form::new().ssh_keys("ssh-ed25519 AA+B").encode(), "sshkeys=ssh-ed25519%2520AA%252BB");
    }

    #[test]
    fn debug_shows_no_value() {
        assert_eq!(format!("{:?}", Form::new().set("cipassword", "geheim")), r#"{"cipassword"}"#);
    }
}
