//! Locks and builds images by name: `build lock|update|refresh|NAME…`, from the project's folder.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use hearth_image::{Builder, Kind, Relock, Settings, relock};
use store::Store;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  cause: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let start = Instant::now();
    let progress = move |line: &str| eprintln!("{:7.1} {line}", start.elapsed().as_secs_f64());
    let home = std::env::var("HOME")?;
    let store = Store::open(Path::new(".hearth/store"))?.with_cache(&Path::new(&home).join(".cache/hearth/store"))?;
    let settings = || Settings {
        store: store.clone(),
        images_dir: "images".into(),
        lock_path: "pipeline.lock".into(),
        scratch_dir: ".hearth/scratch".into(),
        progress: &progress,
    };
    for word in std::env::args().skip(1) {
        let which = match word.as_str() {
            "lock" => Some(Relock::Missing),
            "refresh" => Some(Relock::Stale),
            "update" => Some(Relock::All),
            _ => None,
        };
        if let Some(which) = which {
            relock(&settings(), which)?.iter().for_each(|line| println!("{line}"));
            continue;
        }
        let builder = Builder::new(settings())?;
        progress(&format!("{word}: {}", if builder.is_cached(&word)? { "cached" } else { "to build" }));
        if let Kind::Container(_) = builder.recipe(&word)?.kind {
            let image = builder.container(&word)?;
            let sizes: Vec<String> =
                image.layers.iter().map(|l| format!("{:.1} MB", l.blob.size as f64 / 1e6)).collect();
            progress(&format!("{}: id {}, layers {}", image.tag, image.config.sha256, sizes.join(" + ")));
        } else {
            let disk = builder.disk(&word)?;
            let (size, virtual_size) = (disk.file.size as f64 / 1e6, disk.virtual_size >> 20);
            progress(&format!(
                "{word}: {} {}, {size:.1} MB, disk of {virtual_size} MiB",
                disk.format, disk.file.sha256
            ));
        }
    }
    Ok(())
}
