//! A gate before the API, for tests of clients that are stopped in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the calls that change something, and lets none through after a given number: a client that was killed sends
/// no more of them either.
#[derive(Clone, Debug)]
pub struct Gate {
    seen: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { seen: Arc::default(), most: Arc::new(AtomicU64::new(u64::MAX)) }
    }
}

impl Gate {
    /// Counts from zero again and shuts after so many changing calls; none opens it for good.
    pub fn shut_after(&self, calls: Option<u64>) {
        self.seen.store(0, Ordering::SeqCst);
        self.most.store(calls.unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Returns how many changing calls there were since the count began.
    pub fn changes(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Tells whether a call may pass, and counts it.
    pub(crate) fn passes(&self, verb: &str) -> bool {
        verb == "GET" || self.seen.fetch_add(1, Ordering::SeqCst) < self.most.load(Ordering::SeqCst)
    }
}
