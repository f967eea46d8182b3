//! Who asks: API tokens, passwords, tickets. What they may do then is [`crate::access`]'s.

use std::fs;
use std::io;

use sha2::{Digest as _, Sha256};

use crate::access::{Access, digest};
use crate::error::{ApiError, Result};
use crate::layout::Layout;
use crate::random;

/// Tickets are good for two hours, as the real server's.
const TICKET_SECONDS: u64 = 2 * 60 * 60;
/// The one who may do everything; a token of theirs is somebody else.
pub(crate) const ROOT: &str = "root@pam";

/// Whoever a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) token: Option<String>,
}

/// The lab's credentials.
pub(crate) struct Auth {
    password: String,
    key: String,
}

impl Identity {
    /// Returns the name that a UPID carries: `root@pam` or `root@pam!hearth`.
    pub(crate) fn name(&self) -> String {
        self.token.as_ref().map_or_else(|| self.user.clone(), |token| format!("{}!{token}", self.user))
    }

    /// Returns whether this is root itself: a token of root is not.
    pub(crate) fn is_root(&self) -> bool {
        self.user == ROOT && self.token.is_none()
    }
}

/// The headers that carry credentials.
pub(crate) struct Credentials<'a> {
    pub(crate) authorization: Option<&'a str>,
    pub(crate) cookie: Option<&'a str>,
    pub(crate) csrf: Option<&'a str>,
    pub(crate) writes: bool,
}

impl Auth {
    /// Reads the lab's credentials.
    pub(crate) fn open(layout: &Layout) -> io::Result<Self> {
        let password = fs::read_to_string(layout.password())?.trim().to_owned();
        let key = fs::read_to_string(layout.state("ticket.key"))?.trim().to_owned();
        Ok(Self { password, key })
    }

    /// Finds out who asks.
    pub(crate) fn identify(&self, access: &Access, given: &Credentials<'_>) -> Result<Identity> {
        let failed = || ApiError::empty(401, "Authentication failed!");
        if let Some(token) = given.authorization.and_then(|header| header.strip_prefix("PVEAPIToken")) {
            let (id, secret) = token.get(1..).and_then(|rest| rest.split_once('=')).ok_or_else(failed)?;
            let known = access.state().token(id).is_some_and(|token| same(&digest(secret), &token.digest));
            let (user, name) = id.split_once('!').ok_or_else(failed)?;
            return known.then(|| Identity { user: user.into(), token: Some(name.into()) }).ok_or_else(failed);
        }
        let ticket = given.cookie.and_then(|cookie| {
            cookie.split(';').find_map(|part| part.trim().strip_prefix("PVEAuthCookie=")).map(unescape)
        });
        let ticket = ticket.ok_or_else(|| ApiError::empty(401, "No ticket"))?;
        let user = self.ticket_user(&ticket).ok_or_else(failed)?;
        access.state().enabled(&user).ok_or_else(failed)?;
        if given.writes && !given.csrf.is_some_and(|csrf| self.csrf_valid(&user, csrf)) {
            return Err(ApiError::empty(401, "Permission denied - invalid csrf token"));
        }
        Ok(Identity { user, token: None })
    }

    /// Checks a password, or a still good ticket in its place, and returns the full user name.
    pub(crate) fn log_in(&self, access: &Access, user: &str, realm: Option<&str>, password: &str) -> Result<String> {
        let full = match realm {
            Some(realm) if !user.ends_with(&format!("@{realm}")) => format!("{user}@{realm}"),
            _ => user.to_owned(),
        };
        let refused = || ApiError { status: 401, message: "authentication failure\n".into(), ..ApiError::default() };
        let state = access.state();
        let known = state.enabled(&full).ok_or_else(refused)?;
        let own = match (&known.password, full.as_str()) {
            (Some(digest), _) => same(&self.password_digest(&full, password), digest),
            (None, ROOT) => same(password, &self.password),
            (None, _) => false,
        };
        let good = own || self.ticket_user(password).as_deref() == Some(full.as_str());
        if good { Ok(full) } else { Err(refused()) }
    }

    /// Returns what a user's password is compared by.
    pub(crate) fn password_digest(&self, user: &str, password: &str) -> String {
        self.sign(&format!("password:{user}:{password}"))
    }

    /// Makes a ticket for a user.
    pub(crate) fn ticket(&self, user: &str) -> String {
        let time = format!("{:08X}", random::now());
        format!("PVE:{user}:{time}::{}", self.sign(&format!("ticket:{user}:{time}")))
    }

    /// Makes the token that a write by ticket must carry.
    pub(crate) fn csrf(&self, user: &str) -> String {
        let time = format!("{:08X}", random::now());
        // 43 characters, as the base64 of a SHA-256 without its padding has.
        format!("{time}:{}", &self.sign(&format!("csrf:{user}:{time}"))[..43])
    }

    fn ticket_user(&self, ticket: &str) -> Option<String> {
        let (head, signature) = ticket.strip_prefix("PVE:")?.split_once("::")?;
        let (user, time) = head.rsplit_once(':')?;
        let good = fresh(time) && same(signature, &self.sign(&format!("ticket:{user}:{time}")));
        good.then(|| user.to_owned())
    }

    fn csrf_valid(&self, user: &str, token: &str) -> bool {
        let Some((time, signature)) = token.split_once(':') else { return false };
        fresh(time) && same(signature, &self.sign(&format!("csrf:{user}:{time}"))[..43])
    }

    /// Keyed digest; two rounds, so that a longer text can't be built upon a known one.
    fn sign(&self, text: &str) -> String {
        let inner = Sha256::new().chain_update(&self.key).chain_update(text).finalize();
        let outer = Sha256::new().chain_update(&self.key).chain_update(inner).finalize();
        outer.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn fresh(time: &str) -> bool {
    let now = random::now();
    u64::from_str_radix(time, 16).is_ok_and(|made| made <= now + 300 && now < made + TICKET_SECONDS)
}

fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (x, y)| all | (x ^ y)) == 0
}

fn unescape(text: &str) -> String {
    crate::http::percent::decode(text, false)
}
