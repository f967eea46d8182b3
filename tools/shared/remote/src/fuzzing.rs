//! What is inside, for the fuzzer alone (`fuzz/targets.rs`).

use crate::known_hosts::{HostKey, Place, methods, verdict};
use crate::{Probe, batch};

/// Takes what a host answered to two probes apart.
#[doc(hidden)]
pub fn answers(bytes: &[u8]) {
    let Ok(host) = "pve1".parse::<site::Name>() else { return };
    let probe = |id: &str| Probe { host: host.clone(), id: id.to_owned(), script: String::new() };
    let (a, b) = (probe("a"), probe("b"));
    let _ = batch::parse(&[&a, &b], bytes);
}

/// Asks a file of host keys about two places.
#[doc(hidden)]
pub fn known_hosts(text: &str) {
    for (address, port) in [("192.168.1.100", 22), ("pve1", 2222)] {
        let place = Place { address: address.to_owned(), port };
        let _ = verdict(text, &place, text.as_bytes());
        let _ = methods(text, &place);
        let _ = HostKey::of(text.as_bytes().to_vec());
        let _ = HostKey::parse(text);
    }
}
