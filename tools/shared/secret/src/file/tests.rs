use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use age::secrecy::ExposeSecret as _;

use super::*;
use crate::{ENV_FILE, ENV_KEY};

/// Made for this test with ssh-keygen.
const SSH_PUBLIC: &str = include_str!("../../tests/id_ed25519.pub");
const SSH_PRIVATE: &str = include_str!("../../tests/id_ed25519");

struct Case {
    folder: tempfile::TempDir,
    identity: String,
    recipients: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let identity = x25519::Identity::generate();
        let folder = tempfile::tempdir().unwrap();
        let recipients = vec![identity.to_public().to_string(), SSH_PUBLIC.trim().to_owned()];
        Self { folder, identity: identity.to_string().expose_secret().to_owned(), recipients }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        store::files::write_atomic(&path, bytes, 0o600).unwrap();
        path
    }

    fn sealed(&self) -> PathBuf {
        let bytes = seal(&Secret::new(b"horse battery".to_vec()), &self.recipients).unwrap();
        self.write("db.age", &bytes)
    }

    fn keys(&self) -> Keys {
        let text = self.identity.clone();
        Keys::find(&[], |name| (name == ENV_KEY).then(|| OsString::from(&text))).unwrap()
    }
}

fn plain(text: &str, case: &Case) -> String {
    text.replace(&*case.folder.path().to_string_lossy(), "DIR")
}

#[test]
fn each_recipient_opens_it_from_each_place() {
    let case = Case::new();
    let path = case.sealed();
    let ssh = case.write("id_ed25519", SSH_PRIVATE.as_bytes());
    let key = case.write("key.txt", format!("# mine\n{}\n", case.identity).as_bytes());
    let by_file = Keys::find(&[case.folder.path().join("not-there"), key], |_| None).unwrap();
    let by_ssh = Keys::find(&[], |name| (name == ENV_FILE).then(|| ssh.clone().into_os_string())).unwrap();
    for keys in [case.keys(), by_file, by_ssh] {
        assert_eq!(open(&path, &keys).unwrap().expose(), b"horse battery", "{keys:?}");
    }
    assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
}

#[test]
fn the_header_says_whom_it_is_for_as_far_as_age_tells() {
    let case = Case::new();
    let found = readers(&case.sealed()).unwrap();
    assert_eq!((found.age, found.ssh.len(), found.other.len()), (1, 1, 0));
    assert_eq!(found.differ(&case.recipients), None);
    assert_eq!(
        found.differ(&case.recipients[..1]).unwrap(),
        format!("it is for an SSH key that the site does not name (tag {})", found.ssh[0])
    );
    let two = [&case.recipients[..], &[Case::new().recipients[0].clone()]].concat();
    assert_eq!(found.differ(&two).unwrap(), "it is for 1 age keys, and the site names 2");
    let only_age = Readers { age: 1, ..Readers::default() };
    assert_eq!(only_age.differ(&case.recipients).unwrap(), "it is not for hearth-test");
}

#[test]
fn a_wrong_identity_and_none_are_told() {
    let case = Case::new();
    let path = case.sealed();
    let other = Case::new();
    let error = open(&path, &other.keys()).unwrap_err();
    assert_eq!(
        plain(&error.to_string(), &case),
        "DIR/db.age is not encrypted for the identities that are here ($HEARTH_AGE_KEY)"
    );
    assert!(error.hint().contains("hearth secrets rekey"));
    let none = Keys::find(&[case.folder.path().join("key")], |_| None).unwrap_err();
    assert_eq!(
        plain(&none.to_string(), &case),
        "there is no identity to open secrets with; looked for $HEARTH_AGE_KEY, $HEARTH_AGE_KEY_FILE, DIR/key"
    );
    let gone = Keys::find(&[], |name| (name == ENV_FILE).then(|| "/not/there".into())).unwrap_err();
    assert_eq!(
        gone.to_string(),
        "$HEARTH_AGE_KEY_FILE, /not/there, can't be used as an identity: there is no such file"
    );
}

#[test]
fn what_is_no_identity_is_not_shown() {
    let case = Case::new();
    let locked = case.write("locked", include_bytes!("../../tests/id_ed25519.locked"));
    for (text, why) in [
        ("AGE-SECRET-KEY-1SECRETSECRET", "it holds no age identity"),
        ("# nothing\n", "it holds no age identity"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn", "it is no whole SSH private key"),
    ] {
        let path = case.write("key", text.as_bytes());
        let error = Keys::find(&[path], |_| None).unwrap_err().to_string();
        assert_eq!(plain(&error, &case), format!("DIR/key can't be used as an identity: {why}"));
    }
    let error = Keys::find(&[locked], |_| None).unwrap_err().to_string();
    assert_eq!(plain(&error, &case), "DIR/locked can't be used as an identity: it is protected by a passphrase");
}

#[test]
fn every_cut_and_every_changed_byte_is_an_error() {
    let case = Case::new();
    let path = case.sealed();
    let keys = case.keys();
    let raw = bytes(&path).unwrap();
    for length in (0..raw.len()).step_by(9) {
        let cut = case.write("cut.age", &raw[..length]);
        assert!(open(&cut, &keys).is_err(), "cut at {length} of {}", raw.len());
    }
    for at in (0..raw.len()).step_by(11) {
        let mut altered = raw.clone();
        altered[at] ^= 1;
        let path = case.write("altered.age", &altered);
        // The SSH recipient's stanza is not what this identity needs, but the header's MAC covers it.
        assert!(open(&path, &keys).is_err(), "byte {at}");
    }
    let cut = case.write("cut.age", &raw[..raw.len() - 1]);
    assert!(open(&cut, &keys).unwrap_err().to_string().contains("cut.age is truncated or was altered"));
    let text = case.write("text.age", b"horse battery");
    assert!(open(&text, &keys).unwrap_err().to_string().contains("text.age is no age file"));
    assert!(readers(&text).is_err());
    let gone = open(&case.folder.path().join("web-token.age"), &keys).unwrap_err();
    assert_eq!(gone.hint(), "make it: hearth secrets set web-token");
}

#[test]
fn what_is_no_recipient_is_told_before_anything_is_written() {
    let secret = Secret::new(b"x".to_vec());
    let error = |text: &str| seal(&secret, &[text.to_owned()]).unwrap_err().to_string();
    assert_eq!(error("age1zzz"), "'age1zzz' is no recipient: its letters or its checksum are wrong");
    assert_eq!(error("ssh-ed25519 AAAA"), "'ssh-ed25519 AAAA' is no recipient: it is no whole SSH public key");
    assert!(matches!(seal(&secret, &[]), Err(Error::NoRecipients)));
}
