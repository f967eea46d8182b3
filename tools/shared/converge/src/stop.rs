//! Ctrl-C and SIGTERM: the first asks for an end at the next safe point, the second ends at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::exit;
use crate::failure::{Failure, Reason};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Begins to listen for SIGINT and SIGTERM. Processes that this one has started do not get a Ctrl-C: each is in a group
/// of its own, and ends its work.
///
/// # Errors
/// Where the system does not let it.
pub fn listen() -> Result<()> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down and raises it, the second finds it up.
        flag::register_conditional_shutdown(signal, i32::from(exit::INTERRUPTED), Arc::clone(asked))
            .and_then(|_| flag::register(signal, Arc::clone(asked)))
            .with_context(|| format!("can't listen for signal {signal}"))?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("can't listen for signals")?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("stopping at the next safe point; once more ends it at once");
        }
    });
    Ok(())
}

/// Tells whether an end was asked for.
pub fn asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// Goes on, unless an end was asked for. `before` is what would come next.
///
/// # Errors
/// A failure that says where it stopped.
pub fn safe_point(before: &str) -> Result<()> {
    if asked() { Err(failure(format!("stopped before {before}, as it was asked to")).into()) } else { Ok(()) }
}

pub(crate) fn failure(message: String) -> Failure {
    Failure::new(Reason::Failed, message).hint("run it again: it goes on from here")
}
