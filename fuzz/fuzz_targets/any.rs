//! Any of the targets, named by `HEARTH_FUZZ_TARGET`: one program is linked instead of one for each.

#![no_main]

#[path = "../targets.rs"]
mod targets;

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let run = TARGET.get_or_init(|| {
        let name = std::env::var("HEARTH_FUZZ_TARGET").expect("HEARTH_FUZZ_TARGET names a target of fuzz/targets.rs");
        targets::TARGETS.iter().find(|target| target.name == name).expect("there is such a target").run
    });
    run(bytes);
});
