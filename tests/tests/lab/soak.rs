//! The long form of the tests that draw their cases: as many tries as one has time for, resumed where they stopped.

use std::fs;
use std::io::Write as _;

use hearth_tests::{project, restore};

use crate::kills::{Try, attempt};
use crate::support::turn;

/// The long form: `HEARTH_SOAK_TRIES` tries from `HEARTH_SOAK_SEED`, less those that the record has already.
#[test]
fn soak() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, tries) = (number("HEARTH_SOAK_SEED").unwrap_or(1), number("HEARTH_SOAK_TRIES").unwrap_or(50));
    let record = project().join("docs/soak/interruption.jsonl");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    let _turn = turn();
    for index in 0..tries {
        let done = fs::read_to_string(&record).unwrap_or_default();
        let key = format!("{{\"seed\":{seed},\"try\":{index},");
        if done.lines().any(|line| line.starts_with(&key)) {
            continue;
        }
        let outcome = std::panic::catch_unwind(|| attempt(Try::draw(seed, index)));
        let one = Try::draw(seed, index);
        let found = match outcome {
            Ok(line) => line,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".into());
                let text: String = text.chars().take(1500).collect();
                serde_json::json!({"work": format!("{:?}", one.work), "blow": format!("{:?}", one.blow), "found": text})
            }
        };
        let mut line = serde_json::json!({"seed": seed, "try": index});
        line.as_object_mut().unwrap().extend(found.as_object().unwrap().clone());
        println!("{line}");
        let mut file = fs::File::options().append(true).create(true).open(&record).unwrap();
        writeln!(file, "{line}").unwrap();
    }
    restore("converged");
}
