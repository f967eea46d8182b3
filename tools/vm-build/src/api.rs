//! The hosts' API clients, and what their errors mean to a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use converge::{Failure, Reason};
use pve::Client;
use site::{Name, Site};

use crate::rights;

/// One client a host, opened when first asked for.
#[derive(Debug, Default)]
pub struct Clients(Mutex<BTreeMap<Name, Arc<Client>>>);

impl Clients {
    /// Returns a host's client.
    ///
    /// # Errors
    /// Where its token or its certificate's pin can't be used.
    pub fn of(&self, site: &Site, host: &Name) -> Result<Arc<Client>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = open.get(host) {
            return Ok(client.clone());
        }
        let api = &site.hosts.get(host).with_context(|| format!("the site has no host '{host}'"))?.api;
        let client = Arc::new(Client::open(api).map_err(|error| explain(host, error))?);
        open.insert(host.clone(), client.clone());
        Ok(client)
    }

    /// Returns how many calls all of them have made.
    pub fn calls(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|client| client.calls()).sum()
    }
}

/// Gives an API error its reason and its hint; a run ends with the code that belongs to them.
pub fn explain(host: &Name, error: pve::Error) -> anyhow::Error {
    let (reason, hint) = if error.is_unreachable() {
        (Reason::Unreachable, None)
    } else if error.is_certificate() {
        let hint = format!(
            "if {host} has got a new certificate, compare it there (pvenode cert info), then: hearth trust {host} \
             --replace, or change what the inventory pins; otherwise someone is in between"
        );
        (Reason::Refused, Some(hint))
    } else if error.is_unpinned() {
        (Reason::Config, Some(format!("look at it and pin it with: hearth trust {host}")))
    } else if error.is_setup() {
        (Reason::Config, None)
    } else if let Some((path, privilege)) = error.missing() {
        let hint = rights::mend(&[(path.to_owned(), privilege.to_owned())]);
        (Reason::Refused, Some(hint))
    } else if error.is_denied() {
        (Reason::Refused, Some(format!("look at the API token of {host} and what it may do (docs/trust.md)")))
    } else {
        return anyhow::Error::new(error).context(format!("the API of {host} failed"));
    };
    let mut message = format!("{host}: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        message += &format!(": {inner}");
        cause = inner.source();
    }
    Failure { reason, message, hint }.into()
}
