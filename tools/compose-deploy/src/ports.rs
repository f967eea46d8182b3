//! Ports that a guest gives out: each to one container only.

use std::collections::BTreeMap;

use converge::Failure;
use indexmap::IndexMap;
use site::{Name, Site};

use crate::bundle::File;
use crate::compose::{Compose, Published};

/// A port, with the stack, the service and its line in the compose file.
type Taken<'a> = (&'a Published, &'a Name, &'a str, u64);

/// Makes sure that no two containers of a guest publish the same port: Docker would start whichever comes first.
///
/// # Errors
/// The first two that do, each with stack, service and line.
pub(crate) fn unique(site: &Site, read: &IndexMap<&Name, (Compose, BTreeMap<String, File>)>) -> Result<(), Failure> {
    let mut guests: BTreeMap<&Name, Vec<Taken<'_>>> = BTreeMap::new();
    for (name, (compose, _)) in read {
        let Some(stack) = site.stacks.get(*name) else { continue };
        let name: &Name = name;
        let taken = guests.entry(&stack.guest).or_default();
        for (service, found) in &compose.services {
            for port in &found.ports {
                if let Some((_, other, first, line)) = taken.iter().find(|(there, ..)| clash(there, port)) {
                    let place = |name: &Name, line: u64| {
                        let path =
                            site.stacks.get(name).map(|stack| stack.folder.join("compose.yaml")).unwrap_or_default();
                        format!("{}:{line}", path.strip_prefix(&site.project).unwrap_or(&path).display())
                    };
                    let message = format!(
                        "port {} of '{}' is published twice:\n  {}: by service '{first}' of stack '{other}'\n  {}: by service \
                         '{service}' of stack '{name}'",
                        port.port,
                        stack.guest,
                        place(other, *line),
                        place(name, found.line),
                    );
                    return Err(Failure::config(message).hint("publish one of them at another port of the guest"));
                }
                taken.push((port, name, service.as_str(), found.line));
            }
        }
    }
    Ok(())
}

/// Tells whether both can't be had at once: without an address, a port is taken at all of them.
fn clash(a: &Published, b: &Published) -> bool {
    let all = |port: &Published| port.address.as_deref().is_none_or(|address| address == "0.0.0.0");
    a.port == b.port && (all(a) || all(b) || a.address == b.address)
}
