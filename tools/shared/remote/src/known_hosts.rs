//! Pinned host keys, in the format of OpenSSH's `known_hosts` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ssh2::{CheckResult, KnownHostFileKind, Session};

/// What the pinned keys say about a key that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
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

/// Writes a key's fingerprint as OpenSSH does.
pub(crate) fn fingerprint(sha256: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha256))
}

/// Writes the line that pins a key. The key itself begins with its kind (RFC 4253, section 6.6).
pub(crate) fn line(place: &Place, key: &[u8]) -> Option<String> {
    let length = u32::from_be_bytes(key.get(..4)?.try_into().ok()?);
    let kind = std::str::from_utf8(key.get(4..4 + usize::try_from(length).ok()?)?).ok()?;
    let word = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_graphic());
    word.then(|| format!("{} {kind} {}", place.pattern(), STANDARD.encode(key)))
}

/// Reads the file; a missing one is empty.
pub(crate) fn read(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Pins the first key seen of a host, unless another run has pinned one meanwhile; returns what the file says then.
pub(crate) fn pin_first(file: &Path, place: &Place, key: &[u8]) -> io::Result<Verdict> {
    change(file, |text| {
        let found = verdict(text, place, key);
        if found != Verdict::Unknown {
            return Ok((None, found));
        }
        let line = line(place, key).ok_or_else(|| io::Error::other("the host key has no kind"))?;
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        Ok((Some(format!("{text}{gap}{line}\n")), Verdict::Known))
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
    fn the_first_key_is_pinned_and_a_second_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys/known_hosts");
        let (first, second) = (key("ssh-ed25519"), key("ssh-rsa"));
        assert_eq!(pin_first(&file, &place(), &first).unwrap(), Verdict::Known);
        assert_eq!(pin_first(&file, &place(), &first).unwrap(), Verdict::Known);
        assert_eq!(pin_first(&file, &place(), &second).unwrap(), Verdict::Differs);
        let other = Place { address: "10.0.0.9".into(), port: 2222 };
        assert_eq!(pin_first(&file, &other, &second).unwrap(), Verdict::Known);
        assert_eq!(read(&file).unwrap().lines().count(), 2);
        remove(&file, &place()).unwrap();
        assert!(read(&file).unwrap().starts_with("[10.0.0.9]:2222 ssh-rsa "));
        assert_eq!(verdict(&read(&file).unwrap(), &place(), &first), Verdict::Unknown);
    }
}
