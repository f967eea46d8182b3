//! Loads a site and prints it as JSON, or all that is wrong with it.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1);
    match hearth_site::discover(folder.as_deref().map(Path::new)).and_then(|folder| hearth_site::load(&folder)) {
        Ok(site) => {
            println!("{}", serde_json::to_string_pretty(&site).expect("a site can be written as JSON"));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(78)
        }
    }
}
