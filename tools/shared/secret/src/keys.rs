use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use age::ssh;
use zeroize::Zeroizing;

use crate::Error;

/// The variable that holds age identities, one a line.
pub const ENV_KEY: &str = "HEARTH_AGE_KEY";
/// The variable that names a file of age identities, or an SSH private key.
pub const ENV_FILE: &str = "HEARTH_AGE_KEY_FILE";

/// Identities that open secrets, and where they are from.
#[derive(Default)]
pub struct Keys {
    pub(crate) identities: Vec<Box<dyn age::Identity>>,
    places: Vec<String>,
}

impl Keys {
    /// Gathers the identities of the environment and of files; a file that is not there is left out.
    ///
    /// # Errors
    /// [`Error::Identity`] where one holds none; [`Error::NoIdentity`] where there is none at all.
    pub fn find(files: &[PathBuf], variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let mut keys = Self::default();
        let mut looked = Vec::new();
        match variable(ENV_KEY) {
            Some(text) if !text.is_empty() => {
                let text = Zeroizing::new(text.into_encoded_bytes());
                keys.add(&format!("${ENV_KEY}"), &text)?;
            }
            _ => looked.push(format!("${ENV_KEY}")),
        }
        match variable(ENV_FILE) {
            Some(path) if !path.is_empty() => {
                let path = PathBuf::from(path);
                if !keys.add_file(&path)? {
                    let place = format!("${ENV_FILE}, {},", path.display());
                    return Err(Error::Identity { place, why: "there is no such file".to_owned() });
                }
            }
            _ => looked.push(format!("${ENV_FILE}")),
        }
        for path in files {
            if !keys.add_file(path)? {
                looked.push(path.display().to_string());
            }
        }
        if keys.identities.is_empty() { Err(Error::NoIdentity { looked }) } else { Ok(keys) }
    }

    /// Returns where the identities are from.
    pub fn places(&self) -> &[String] {
        &self.places
    }

    /// Adds the identities of a file; tells whether it is there.
    fn add_file(&mut self, path: &Path) -> Result<bool, Error> {
        match std::fs::read(path) {
            Ok(bytes) => self.add(&path.display().to_string(), &Zeroizing::new(bytes)).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Io { path: path.to_owned(), source }),
        }
    }

    fn add(&mut self, place: &str, bytes: &[u8]) -> Result<(), Error> {
        // The parsers' own messages are not passed on: they may show what they could not parse.
        let wrong = |why: &str| Error::Identity { place: place.to_owned(), why: why.to_owned() };
        if bytes.starts_with(b"-----BEGIN ") {
            match ssh::Identity::from_buffer(bytes, None).map_err(|_| wrong("it is no whole SSH private key"))? {
                ssh::Identity::Unencrypted(key) => self.identities.push(Box::new(ssh::Identity::from(key))),
                ssh::Identity::Encrypted(_) => return Err(wrong("it is protected by a passphrase")),
                ssh::Identity::Unsupported(_) => return Err(wrong("SSH keys of its kind can't decrypt")),
            }
        } else {
            let file = age::IdentityFile::from_buffer(bytes).map_err(|_| wrong("it holds no age identity"))?;
            let found = file.into_identities().map_err(|_| wrong("it holds no age identity"))?;
            if found.is_empty() {
                return Err(wrong("it holds no age identity"));
            }
            self.identities.extend(found.into_iter().map(|identity| identity as Box<dyn age::Identity>));
        }
        self.places.push(place.to_owned());
        Ok(())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.places).finish()
    }
}
