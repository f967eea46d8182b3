//! Who may do what: users, groups, roles, tokens and access control lists, kept in one file, and what follows from them
//! for a path. The rules are Proxmox VE's (its administration guide, "User Management"; pve-access-control).

pub(crate) mod check;
pub(crate) mod extra;
pub(crate) mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::auth::{Identity, ROOT};
use crate::error::{ApiError, Result, host};
use crate::random;
use crate::schema::Release;

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) enable: bool,
    /// Seconds since 1970; 0 for never.
    pub(crate) expire: u64,
    /// Texts by their name in the API: comment, email, firstname, lastname, keys.
    pub(crate) texts: BTreeMap<String, String>,
    pub(crate) groups: BTreeSet<String>,
    /// The password's keyed digest; none for a user who can't log in, and for root, whose password has a file of its own.
    pub(crate) password: Option<String>,
    pub(crate) tokens: BTreeMap<String, Token>,
}

/// An API token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// The secret's SHA-256: secrets are random, so that this gives nothing away.
    pub(crate) digest: String,
    pub(crate) expire: u64,
    /// Whether it may do only what it is given itself, of what its user may.
    pub(crate) privsep: bool,
    pub(crate) comment: Option<String>,
}

/// Whom a list's line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Group,
    Token,
    User,
}

/// A line of an access control list, without whether it holds below its path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) path: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) ugid: String,
    pub(crate) roleid: String,
}

/// All that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) users: BTreeMap<String, User>,
    /// Groups with their comments.
    pub(crate) groups: BTreeMap<String, Option<String>>,
    /// Roles that people made.
    pub(crate) roles: BTreeMap<String, BTreeSet<String>>,
    /// Lines, and whether each holds below its path too.
    #[serde(with = "lines")]
    pub(crate) acl: BTreeMap<Line, bool>,
}

/// A map whose keys are no texts, as a list of pairs.
mod lines {
    use super::{BTreeMap, Deserialize as _, Line, Serialize as _};

    pub(super) fn serialize<S: serde::Serializer>(map: &BTreeMap<Line, bool>, out: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(out)
    }

    pub(super) fn deserialize<'d, D: serde::Deserializer<'d>>(from: D) -> Result<BTreeMap<Line, bool>, D::Error> {
        Ok(Vec::<(Line, bool)>::deserialize(from)?.into_iter().collect())
    }
}

/// Privileges on a path, and whether each holds below it too.
pub(crate) type Privileges = BTreeMap<String, bool>;

/// The lab's users and rights.
pub(crate) struct Access {
    file: PathBuf,
    release: Release,
    state: Mutex<State>,
}

/// Returns what a secret is compared by.
pub(crate) fn digest(secret: &str) -> String {
    Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn current(expire: u64) -> bool {
    expire == 0 || expire > random::now()
}

impl State {
    /// Reads the file.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        serde_json::from_slice(&std::fs::read(file)?).map_err(io::Error::other)
    }

    /// Writes the file.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        store::files::write_atomic(file, serde_json::to_vec_pretty(self)?, 0o600)
    }

    /// Finds a user who may come in.
    pub(crate) fn enabled(&self, user: &str) -> Option<&User> {
        self.users.get(user).filter(|user| user.enable && current(user.expire))
    }

    /// Finds a token that may come in, by `user@realm!name`.
    pub(crate) fn token(&self, id: &str) -> Option<&Token> {
        let (user, name) = id.split_once('!')?;
        self.enabled(user)?.tokens.get(name).filter(|token| current(token.expire))
    }

    /// Returns a role's privileges that the release has.
    pub(crate) fn role(&self, release: Release, name: &str) -> Option<BTreeSet<String>> {
        if let Some(own) = self.roles.get(name) {
            let known = roles::privileges(release);
            return Some(own.iter().filter(|name| known.contains(name.as_str())).cloned().collect());
        }
        roles::builtin(release).remove(name).map(|role| role.into_iter().map(str::to_owned).collect())
    }

    /// Returns the roles that one holds on a path, with whether each holds below it: what is said nearest to the path
    /// counts, and there what is said of the user before what is said of groups.
    fn roles_on(&self, kind: Kind, who: &str, path: &str) -> BTreeMap<String, bool> {
        let mut found = BTreeMap::new();
        let groups = self.users.get(who).map(|user| user.groups.clone()).unwrap_or_default();
        for above in ancestors(path) {
            let lines = |kind: Kind, is: &dyn Fn(&str) -> bool| -> BTreeMap<String, bool> {
                let here =
                    self.acl.iter().filter(|(line, _)| line.path == above && line.kind == kind && is(&line.ugid));
                let holds = here.filter(|(_, propagate)| **propagate || above == path);
                holds.map(|(line, propagate)| (line.roleid.clone(), *propagate)).collect()
            };
            let mut new = lines(kind, &|id| id == who);
            if new.is_empty() && kind == Kind::User {
                new = lines(Kind::Group, &|id| groups.contains(id));
            }
            if !new.is_empty() {
                found = new;
            }
        }
        if found.contains_key("NoAccess") { BTreeMap::new() } else { found }
    }

    /// Returns what someone may do on a path.
    pub(crate) fn privileges(&self, release: Release, who: &str, path: &str) -> Privileges {
        if who == ROOT {
            return roles::privileges(release).into_iter().map(|name| (name.to_owned(), true)).collect();
        }
        let (user, token) = match who.split_once('!') {
            Some((user, _)) => (user, Some(who)),
            None => (who, None),
        };
        if self.enabled(user).is_none() {
            return Privileges::new();
        }
        let Some(token) = token else { return self.sum(release, Kind::User, user, path) };
        let whole = || self.privileges(release, user, path);
        match self.token(token) {
            None => Privileges::new(),
            Some(found) if !found.privsep => whole(),
            Some(_) => {
                let of_user = whole();
                let own = self.sum(release, Kind::Token, token, path);
                let both = own.into_iter().filter_map(|(name, below)| {
                    let also = *of_user.get(&name)?;
                    Some((name, below && also))
                });
                both.collect()
            }
        }
    }

    fn sum(&self, release: Release, kind: Kind, who: &str, path: &str) -> Privileges {
        let mut all = Privileges::new();
        for (role, below) in self.roles_on(kind, who, path) {
            for name in self.role(release, &role).unwrap_or_default() {
                *all.entry(name).or_default() |= below;
            }
        }
        all
    }

    /// Returns the paths on which rights are shown: the usual ones, and those that a list names.
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        let usual = ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"];
        usual.into_iter().map(str::to_owned).chain(self.acl.keys().map(|line| line.path.clone())).collect()
    }
}

/// Returns a path and all above it, the root first.
fn ancestors(path: &str) -> Vec<&str> {
    let slashes = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
    let mut all: Vec<&str> = std::iter::once("/").chain(slashes).collect();
    if path != "/" {
        all.push(path);
    }
    all
}

/// Brings a path into its one form; none where it can't be one.
pub(crate) fn normalize(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let fine = |part: &&str| part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let whole = path.starts_with('/') && parts.iter().all(fine);
    whole.then(|| format!("/{}", parts.join("/")))
}

impl Access {
    /// Reads what [`crate::setup::prepare`] has made.
    pub(crate) fn open(file: PathBuf, release: Release) -> io::Result<Self> {
        let state = Mutex::new(State::read(&file)?);
        Ok(Self { file, release, state })
    }

    /// Returns the release whose privileges these are.
    pub(crate) fn release(&self) -> Release {
        self.release
    }

    /// Returns what is kept, as it is now.
    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is kept, on disk first.
    pub(crate) fn change<T>(&self, edit: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut held = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = held.clone();
        let outcome = edit(&mut state)?;
        state.write(&self.file).map_err(host(format!("can't write {}", self.file.display())))?;
        *held = state;
        Ok(outcome)
    }

    /// Returns what someone may do on a path.
    pub(crate) fn privileges(&self, who: &str, path: &str) -> Privileges {
        self.state().privileges(self.release, who, path)
    }

    /// Tells whether someone has one of these privileges on a path.
    pub(crate) fn has_any(&self, who: &str, path: &str, wanted: &[&str]) -> bool {
        let own = self.privileges(who, path);
        wanted.iter().any(|name| own.contains_key(*name))
    }

    /// Refuses unless someone has all of these privileges on a path; the first missing one is named.
    pub(crate) fn need(&self, who: &Identity, path: &str, wanted: &[&str]) -> Result<()> {
        let own = self.privileges(&who.name(), path);
        match wanted.iter().find(|name| !own.contains_key(**name)) {
            Some(missing) => Err(ApiError::permission(&format!("{path}, {missing}"))),
            None => Ok(()),
        }
    }

    /// Refuses unless someone has one of these privileges on a path.
    pub(crate) fn need_any(&self, who: &Identity, path: &str, wanted: &[&str]) -> Result<()> {
        if self.has_any(&who.name(), path, wanted) {
            return Ok(());
        }
        Err(ApiError::permission(&format!("{path}, {}", wanted.join("|"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, kind: Kind, ugid: &str, roleid: &str) -> Line {
        Line { path: path.into(), kind, ugid: ugid.into(), roleid: roleid.into() }
    }

    fn state() -> State {
        let token = Token { privsep: true, ..Token::default() };
        let user = User { enable: true, tokens: [("t1".into(), token)].into(), ..User::default() };
        let ann = User { groups: ["staff".into()].into(), ..user.clone() };
        State {
            users: [("ann@pve".into(), ann), ("bob@pve".into(), user)].into(),
            groups: [("staff".into(), None)].into(),
            roles: [("Two".into(), ["VM.Audit".into(), "VM.Clone".into(), "VM.Fly".into()].into())].into(),
            acl: [
                (line("/vms", Kind::Group, "staff", "PVEVMUser"), true),
                (line("/vms/101", Kind::User, "ann@pve", "NoAccess"), true),
                (line("/vms/102", Kind::User, "ann@pve", "Two"), false),
                (line("/", Kind::User, "bob@pve", "PVEVMAdmin"), true),
                (line("/vms", Kind::Token, "bob@pve!t1", "Two"), true),
                (line("/storage", Kind::Token, "bob@pve!t1", "PVEDatastoreUser"), true),
            ]
            .into(),
        }
    }

    fn names(state: &State, who: &str, path: &str) -> Vec<String> {
        state.privileges(Release::V9, who, path).into_keys().collect()
    }

    #[test]
    fn what_is_said_nearest_counts() {
        let state = state();
        assert!(names(&state, "ann@pve", "/vms/100").contains(&"VM.PowerMgmt".into()));
        assert_eq!(names(&state, "ann@pve", "/vms/101"), Vec::<String>::new());
        assert_eq!(names(&state, "ann@pve", "/vms/102"), ["VM.Audit", "VM.Clone"]);
        assert!(!state.privileges(Release::V9, "ann@pve", "/vms/102")["VM.Audit"]);
        assert_eq!(names(&state, "ann@pve", "/"), Vec::<String>::new());
    }

    #[test]
    fn a_separated_token_has_what_both_have() {
        let mut state = state();
        assert_eq!(names(&state, "bob@pve!t1", "/vms/100"), ["VM.Audit", "VM.Clone"]);
        assert_eq!(names(&state, "bob@pve!t1", "/storage/local"), Vec::<String>::new());
        state.users.get_mut("bob@pve").unwrap().tokens.get_mut("t1").unwrap().privsep = false;
        assert!(names(&state, "bob@pve!t1", "/vms/100").contains(&"VM.Allocate".into()));
        state.users.get_mut("bob@pve").unwrap().enable = false;
        assert_eq!(names(&state, "bob@pve!t1", "/vms/100"), Vec::<String>::new());
        assert_eq!(names(&state, "nobody@pve", "/vms/100"), Vec::<String>::new());
    }

    #[test]
    fn the_state_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.json");
        state().write(&file).unwrap();
        assert_eq!(State::read(&file).unwrap(), state());
    }

    #[test]
    fn paths_have_one_form() {
        assert_eq!(normalize("//vms//100/").as_deref(), Some("/vms/100"));
        assert_eq!(normalize("/pool/bad id"), None);
        assert_eq!(ancestors("/vms/100"), ["/", "/vms", "/vms/100"]);
        assert_eq!(ancestors("/"), ["/"]);
    }
}
