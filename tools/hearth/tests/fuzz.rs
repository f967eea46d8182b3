//! The fuzzer's targets, each with seeds changed at random from a fixed number, so that a slice runs in every test.
//!
//! `HEARTH_FUZZ_SECONDS=600` runs each target for so long, from a number of its own; `HEARTH_FUZZ_TARGET=site` only one.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use targets::{TARGETS, Target};

/// A generator of numbers (Marsaglia's xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Pieces that parsers stumble over.
const PIECES: &[&[u8]] = &[
    b"",
    b"0",
    b"-1",
    b"4294967296",
    b"18446744073709551616",
    b"9999999999999999T",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\0",
    b"\n",
    b"\r\n",
    b"\t",
    b"\"",
    b"'",
    b"\\",
    b"[[",
    b"]",
    b"{",
    b"}",
    b"=",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"|",
    b"/",
    b"..",
    b"%",
    b"$",
    b"null",
    b"true",
    b"\xc3\xa9",
    b"\xf0\x9f\x94\xa5",
];

/// Changes an input in one to six places: a bit, a piece put in, a part taken out, doubled, moved or cut off, or one of another seed.
fn change(seeds: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(24)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 | 2 => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..end.max(at), piece.iter().copied());
            }
            3 => drop(bytes.drain(at..end.max(at))),
            4 => {
                let part = bytes[at..end.max(at)].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                let part = &other[from..(from + random.below(64)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes.truncate(1 << 16);
    bytes
}

/// Runs a target until `more` says no; returns how often.
fn run(target: &Target, seed: u64, mut more: impl FnMut(u64) -> bool) -> u64 {
    let mut random = Random(seed | 1);
    for seed in target.seeds {
        (target.run)(seed);
    }
    let mut count = 0;
    while more(count) {
        let input = change(target.seeds, &mut random);
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        let slow = begin.elapsed() > Duration::from_secs(10);
        assert!(
            outcome.is_ok() && !slow,
            "target {} {} on {} bytes:\n{}",
            target.name,
            if slow { "is slow" } else { "panics" },
            input.len(),
            input.escape_ascii()
        );
        count += 1;
    }
    count
}

#[test]
fn no_target_panics_on_changed_seeds() {
    let seconds: Option<u64> = std::env::var("HEARTH_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let only = std::env::var("HEARTH_FUZZ_TARGET").unwrap_or_default();
    for target in TARGETS.iter().filter(|target| only.is_empty() || target.name == only) {
        let begin = Instant::now();
        let count = match seconds {
            None => run(target, 1, |count| count < 200),
            Some(seconds) => {
                let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
                run(target, u64::try_from(seed & u128::from(u64::MAX)).unwrap(), |_| {
                    begin.elapsed().as_secs() < seconds
                })
            }
        };
        println!("{}: {count} executions in {} ms", target.name, begin.elapsed().as_millis());
    }
}
