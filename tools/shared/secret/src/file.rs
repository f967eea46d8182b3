use std::io::{self, Read as _, Write as _};
use std::path::Path;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{DecryptError, Decryptor, Encryptor, ssh, x25519};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use store::Digest;

use crate::{Error, Keys, Secret};

/// Encrypts to recipients: age's public keys and lines of SSH ed25519 keys. The file is text (armor), so that a version
/// control shows that it changed.
///
/// # Errors
/// [`Error::Recipient`], [`Error::NoRecipients`] and [`Error::Seal`].
pub fn seal(secret: &Secret, recipients: &[String]) -> Result<Vec<u8>, Error> {
    let parsed = recipients.iter().map(|text| recipient(text)).collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() {
        return Err(Error::NoRecipients);
    }
    let each = parsed.iter().map(AsRef::as_ref);
    let encryptor = Encryptor::with_recipients(each).map_err(|error| Error::Seal(io::Error::other(error)))?;
    let write = || {
        let mut writer = encryptor.wrap_output(ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?)?;
        writer.write_all(secret.expose())?;
        writer.finish()?.finish()
    };
    write().map_err(Error::Seal)
}

fn recipient(text: &str) -> Result<Box<dyn age::Recipient>, Error> {
    let wrong = |why: &str| Error::Recipient { text: text.to_owned(), why: why.to_owned() };
    if text.starts_with("ssh-") {
        let key: ssh::Recipient = text.parse().map_err(|_| wrong("it is no whole SSH public key"))?;
        return match key {
            ssh::Recipient::SshEd25519(..) => Ok(Box::new(key)),
            _ => Err(wrong("of SSH keys only ed25519 can be used")),
        };
    }
    let key: x25519::Recipient = text.parse().map_err(|_| wrong("its letters or its checksum are wrong"))?;
    Ok(Box::new(key))
}

/// Reads a file, armored or not, as age's own bytes.
fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let file = std::fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        _ => Error::Io { path: path.to_owned(), source },
    })?;
    if !file.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") && !file.starts_with(b"age-encryption.org/") {
        return Err(Error::NotAge { path: path.to_owned(), why: "its first line is another".to_owned() });
    }
    let mut bytes = Vec::new();
    ArmoredReader::new(file.as_slice())
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Damaged { path: path.to_owned(), why: error.to_string() })?;
    Ok(bytes)
}

/// Decrypts a file.
///
/// # Errors
/// All of [`Error`] that a file can give.
pub fn open(path: &Path, keys: &Keys) -> Result<Secret, Error> {
    let bytes = bytes(path)?;
    let not_age = |why: &str| Error::NotAge { path: path.to_owned(), why: why.to_owned() };
    let damaged = |why: String| Error::Damaged { path: path.to_owned(), why };
    let decryptor = Decryptor::new_buffered(bytes.as_slice()).map_err(|error| match error {
        DecryptError::UnknownFormat => not_age("it is of another version of the format"),
        _ => not_age("its header is not understood"),
    })?;
    let identities = keys.identities.iter().map(AsRef::as_ref);
    let reader = decryptor.decrypt(identities).map_err(|error| match error {
        DecryptError::NoMatchingKeys => Error::WrongIdentity { path: path.to_owned(), tried: keys.places().to_vec() },
        DecryptError::InvalidMac => damaged("its header is not the one that was written".to_owned()),
        _ => damaged("its header can't be decrypted".to_owned()),
    })?;
    Secret::read(reader).map_err(|error| damaged(error.to_string()))
}

/// Whom a file is encrypted for, as far as age lets one know: an X25519 recipient leaves no name, an SSH recipient leaves
/// four bytes of its key's hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readers {
    /// How many age keys (age1…) it is for.
    pub age: usize,
    /// The tags of the SSH keys that it is for.
    pub ssh: Vec<String>,
    /// Kinds of recipients that Hearth does not write, as `scrypt`.
    pub other: Vec<String>,
}

/// Reads whom a file is encrypted for from its header, without opening it.
///
/// # Errors
/// [`Error::Missing`], [`Error::Io`], [`Error::Damaged`] and [`Error::NotAge`].
pub fn readers(path: &Path) -> Result<Readers, Error> {
    let bytes = bytes(path)?;
    let mut found = Readers::default();
    let mut lines = bytes.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
    if lines.next().as_deref() != Some("age-encryption.org/v1") {
        return Err(Error::NotAge { path: path.to_owned(), why: "its first line is another".to_owned() });
    }
    for line in lines.take_while(|line| !line.starts_with("---")) {
        let Some(stanza) = line.strip_prefix("-> ") else { continue };
        let mut words = stanza.split(' ');
        match (words.next().unwrap_or_default(), words.next()) {
            ("X25519", _) => found.age += 1,
            ("ssh-ed25519", Some(tag)) => found.ssh.push(tag.to_owned()),
            // What an implementation puts in between so that others don't stumble over new kinds.
            (kind, _) if kind.ends_with("-grease") => {}
            (kind, _) => found.other.push(kind.to_owned()),
        }
    }
    Ok(found)
}

impl Readers {
    /// Says how they differ from the wanted recipients; none where no difference can be seen.
    pub fn differ(&self, recipients: &[String]) -> Option<String> {
        let (ssh, age): (Vec<&String>, Vec<&String>) = recipients.iter().partition(|text| text.starts_with("ssh-"));
        let tags: Vec<(String, &str)> = ssh.iter().filter_map(|line| Some((tag(line)?, short(line)))).collect();
        let mut said = Vec::new();
        if self.age != age.len() {
            said.push(format!("it is for {} age keys, and the site names {}", self.age, age.len()));
        }
        for (_, name) in tags.iter().filter(|(tag, _)| !self.ssh.contains(tag)) {
            said.push(format!("it is not for {name}"));
        }
        for tag in self.ssh.iter().filter(|tag| !tags.iter().any(|(known, _)| known == *tag)) {
            said.push(format!("it is for an SSH key that the site does not name (tag {tag})"));
        }
        for kind in &self.other {
            said.push(format!("it is for a recipient of kind {kind}"));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }
}

/// Returns an SSH key's comment, or the whole line where it has none.
fn short(line: &str) -> &str {
    line.splitn(3, ' ').nth(2).unwrap_or(line)
}

/// Returns the tag that age gives an SSH key: four bytes of the SHA-256 of its binary form, in base 64.
fn tag(line: &str) -> Option<String> {
    let key = STANDARD.decode(line.split(' ').nth(1)?).ok()?;
    let digest = Digest::of(key).to_string();
    let bytes: Option<Vec<u8>> =
        (0..4).map(|at| u8::from_str_radix(digest.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    Some(STANDARD_NO_PAD.encode(bytes?))
}

#[cfg(test)]
mod tests;
