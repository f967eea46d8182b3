//! Pinned host keys, in the format of OpenSSH's `known_hosts` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::Digest as _;
use ssh2::{CheckResult, KnownHostFileKind, Session};

/// What the pinned keys say about a key that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is pinned.
    Known,
    /// Other keys are pinned for this host.
    Differs,
    /// No key is pinned for this host.
    Unknown,
}

/// Where a host is: what its lines in the file begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) address: String,
    pub(crate) port: u16,
}

impl Place {
    /// Returns the name as the file has it: `[ADDRESS]:PORT` where the port is not 22.
    pub(crate) fn pattern(&self) -> String {
        if self.port == 22 { self.address.clone() } else { format!("[{}]:{}", self.address, self.port) }
    }
}

/// A line that pins a key for the host that is asked about.
struct Pin<'a> {
    kind: &'a str,
    key: Vec<u8>,
}

/// Returns the pin of a line, where the line is about this host. Marked lines (`@revoked`, `@cert-authority`) are none.
fn pin<'a>(line: &'a str, place: &Place) -> Option<Pin<'a>> {
    let mut words = line.split_ascii_whitespace();
    let (names, kind, key) = (words.next()?, words.next()?, words.next()?);
    if names.starts_with(['#', '@']) {
        return None;
    }
    let key = STANDARD.decode(key).ok()?;
    let hashed = || names.starts_with("|1|") && hashed_name_matches(line, place, &key);
    let about = names.split(',').any(|name| name == place.pattern()) || hashed();
    about.then_some(Pin { kind, key })
}

/// Asks libssh2 whether a hashed line is about this host: it is where the line's own key is found for it.
fn hashed_name_matches(line: &str, place: &Place, key: &[u8]) -> bool {
    let check = || -> Result<CheckResult, ssh2::Error> {
        let mut hosts = Session::new()?.known_hosts()?;
        hosts.read_str(line, KnownHostFileKind::OpenSSH)?;
        Ok(hosts.check_port(&place.address, place.port, key))
    };
    matches!(check(), Ok(CheckResult::Match))
}

/// Compares a key that was seen with the file's text.
pub(crate) fn verdict(text: &str, place: &Place, seen: &[u8]) -> Verdict {
    let mut pins = text.lines().filter_map(|line| pin(line, place)).peekable();
    if pins.peek().is_none() {
        return Verdict::Unknown;
    }
    if pins.any(|pin| pin.key == seen) { Verdict::Known } else { Verdict::Differs }
}

/// Returns the host key methods to offer, those of the pinned keys first: a server that has several keys shows the one
/// that its client prefers, and an unpinned kind would look like another host.
pub(crate) fn methods(text: &str, place: &Place) -> String {
    let kinds = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];
    let pinned: Vec<&str> = text.lines().filter_map(|line| Some(pin(line, place)?.kind)).collect();
    let wanted = kinds.iter().filter(|kind| pinned.is_empty() || pinned.contains(*kind));
    let names = wanted.map(|kind| if *kind == "ssh-rsa" { "rsa-sha2-512,rsa-sha2-256" } else { kind });
    let names = names.collect::<Vec<_>>().join(",");
    if names.is_empty() { kinds[0].to_owned() } else { names }
}

/// Returns the fingerprints of the keys that are pinned for a host, for messages.
pub(crate) fn pinned(text: &str, place: &Place) -> String {
    let pins = text.lines().filter_map(|line| Some(fingerprint(&pin(line, place)?.key)));
    pins.collect::<Vec<_>>().join(", ")
}

fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha2::Sha256::digest(key)))
}

/// An SSH host key. It prints as `KIND BASE64`, the form of OpenSSH's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    kind: String,
    key: Vec<u8>,
}

impl HostKey {
    /// Reads the line of a public key's file: `KIND BASE64` and, maybe, a comment. None where it is no whole key.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (kind, key) = (words.next()?, words.next()?);
        let key = Self::of(STANDARD.decode(key).ok()?)?;
        (key.kind == kind).then_some(key)
    }

    /// Takes the key's bytes, which begin with its kind (RFC 4253, section 6.6) and are fields of a length each.
    pub(crate) fn of(key: Vec<u8>) -> Option<Self> {
        let mut rest = key.as_slice();
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (field, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            fields.push(field);
            rest = after;
        }
        let kind = std::str::from_utf8(fields.first()?).ok()?.to_owned();
        let word = fields.len() > 1 && !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_graphic());
        word.then_some(Self { kind, key })
    }

    /// Returns the fingerprint as OpenSSH writes it: `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.key)
    }

    /// Returns its kind, as `ssh-ed25519`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, STANDARD.encode(&self.key))
    }
}

/// Reads the file; a missing one is empty.
pub(crate) fn read(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Pins a host's key in place of those it had.
pub(crate) fn pin_only(file: &Path, place: &Place, key: &HostKey) -> io::Result<()> {
    change(file, |text| {
        let mut kept: String = text.split_inclusive('\n').filter(|line| pin(line, place).is_none()).collect();
        if !kept.is_empty() && !kept.ends_with('\n') {
            kept.push('\n');
        }
        Ok((Some(format!("{kept}{} {key}\n", place.pattern())), ()))
    })
}

/// Removes a host's lines.
pub(crate) fn remove(file: &Path, place: &Place) -> io::Result<()> {
    change(file, |text| {
        let kept: String = text.split_inclusive('\n').filter(|line| pin(line, place).is_none()).collect();
        Ok(((kept != text).then_some(kept), ()))
    })
}

/// Changes the file under a lock beside it, so that two runs don't lose each other's lines.
fn change<T>(file: &Path, edit: impl FnOnce(&str) -> io::Result<(Option<String>, T)>) -> io::Result<T> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().write(true).create(true).truncate(false).open(name)?;
    lock.lock()?;
    let (text, outcome) = edit(&read(file)?)?;
    if let Some(text) = text {
        store::files::write_atomic(file, text, 0o600)?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIIJ8S8ZyZ5Cgn7VjTBp1c4ZbSjVYtjJX3qfJtWf0j1kL";

    fn place() -> Place {
        Place { address: "192.168.1.101".into(), port: 22 }
    }

    fn key(kind: &str) -> Vec<u8> {
        let mut key = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
        key.extend(kind.as_bytes());
        key.extend([0, 0, 0, 4, 1, 2, 3, 4]);
        key
    }

    #[test]
    fn a_key_is_known_other_or_unknown() {
        let text = format!("# note\n192.168.1.1,192.168.1.101 ssh-ed25519 {ED25519} root@pve1\n");
        assert_eq!(verdict(&text, &place(), &STANDARD.decode(ED25519).unwrap()), Verdict::Known);
        assert_eq!(verdict(&text, &place(), &key("ssh-ed25519")), Verdict::Differs);
        let elsewhere = Place { port: 2222, ..place() };
        assert_eq!(verdict(&text, &elsewhere, &key("ssh-ed25519")), Verdict::Unknown);
        assert_eq!(verdict(&format!("@revoked {text}"), &elsewhere, &key("ssh-ed25519")), Verdict::Unknown);
    }

    #[test]
    fn a_hashed_line_is_found_by_its_host_alone() {
        let hashed = format!("|1|nN/xPuz4MhNxUNbkGjI1cud+UOg=|FUlXC1Rxm2crSIiKf6SnrG3aaqY= ssh-ed25519 {ED25519}\n");
        let here = Place { address: "192.168.1.61".into(), port: 22 };
        assert_eq!(verdict(&hashed, &here, &STANDARD.decode(ED25519).unwrap()), Verdict::Known);
        assert_eq!(verdict(&hashed, &place(), &STANDARD.decode(ED25519).unwrap()), Verdict::Unknown);
    }

    #[test]
    fn the_pinned_kinds_are_the_ones_asked_for() {
        let rsa = STANDARD.encode(key("ssh-rsa"));
        let text = format!("192.168.1.101 ssh-rsa {rsa}\n10.0.0.1 ssh-ed25519 {ED25519}\n");
        assert_eq!(methods(&text, &place()), "rsa-sha2-512,rsa-sha2-256");
        assert!(methods("", &place()).starts_with("ssh-ed25519,ecdsa"));
    }

    #[test]
    fn a_pinned_key_takes_the_place_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys/known_hosts");
        let (first, second) = (key("ssh-ed25519"), key("ssh-rsa"));
        let host_key = |bytes: &[u8]| HostKey::of(bytes.to_vec()).unwrap();
        let other = Place { address: "10.0.0.9".into(), port: 2222 };
        pin_only(&file, &other, &host_key(&second)).unwrap();
        for key in [&first, &second] {
            pin_only(&file, &place(), &host_key(key)).unwrap();
            let text = read(&file).unwrap();
            assert_eq!((text.lines().count(), verdict(&text, &place(), key)), (2, Verdict::Known), "{text}");
        }
        assert_eq!(verdict(&read(&file).unwrap(), &place(), &first), Verdict::Differs);
        remove(&file, &place()).unwrap();
        assert!(read(&file).unwrap().starts_with("[10.0.0.9]:2222 ssh-rsa "));
        assert_eq!(verdict(&read(&file).unwrap(), &place(), &first), Verdict::Unknown);
    }

    #[test]
    fn a_host_key_is_whole_or_none() {
        let line = format!("ssh-ed25519 {ED25519} root@web\n");
        let key = HostKey::parse(&line).unwrap();
        assert_eq!((key.kind(), key.to_string()), ("ssh-ed25519", format!("ssh-ed25519 {ED25519}")));
        assert!(key.fingerprint().starts_with("SHA256:"));
        assert_eq!(pinned(&format!("192.168.1.101 {line}"), &place()), key.fingerprint());
        let cut = format!("ssh-ed25519 {}", &ED25519[..40]);
        for bad in ["", "ssh-ed25519", &cut, &format!("ssh-rsa {ED25519}"), "ssh-ed25519 AAAA"] {
            assert!(HostKey::parse(bad).is_none(), "{bad}");
        }
    }
}
