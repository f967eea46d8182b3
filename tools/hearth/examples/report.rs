//! Writes the report of a recorded run to standard output: `cargo run -p hearth --example report -- run.json`.

use std::io::Write as _;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).ok_or_else(|| anyhow::anyhow!("name a run.json"))?;
    let record = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(std::io::stdout().write_all(hearth::report::html(&record).as_bytes())?)
}
