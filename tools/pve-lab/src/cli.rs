//! The `pve-lab` command line.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::lab::{Error, Lab, UpOptions};
use crate::schema::Release;
use crate::serve::{ServeOptions, serve};
use crate::server::Mode;

/// It worked.
pub const OK: u8 = 0;
/// It failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 64;
/// Another `up` or `down` is at work on the lab.
pub const LOCKED: u8 = 75;

#[derive(Parser)]
#[command(name = "pve-lab", version, about = "A Proxmox VE API over real QEMU guests")]
struct Cli {
    /// The lab's folder
    #[arg(long, global = true, default_value = ".hearth/lab")]
    dir: PathBuf,
    /// The lab's network namespace
    #[arg(long, global = true, default_value = "hearth-lab")]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the lab up: network, node guest, API server
    Up {
        /// The node guest's disk image, qcow2; needed the first time
        #[arg(long, value_name = "FILE")]
        image_node: Option<PathBuf>,
    },
    /// End everything that runs and remove the network
    Down {
        /// End guests at once, and remove the lab's folder with all disks
        #[arg(long)]
        wipe: bool,
    },
    /// Show what of the lab is there; ends 1 unless all is
    Status,
    /// Keep the lab as it is under a name: memory, disks, the API's state; it goes on running
    Save {
        /// Letters, digits and -
        name: String,
    },
    /// Bring the lab back as it was saved; whatever runs now is ended at once
    Restore {
        /// The name that it was saved under
        name: String,
    },
    /// Serve the API in the foreground
    Serve(Serve),
    /// Run a command inside the lab's network
    Exec {
        /// The command and its arguments
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
}

#[derive(Args)]
struct Serve {
    /// The address and port to listen on; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8006")]
    listen: SocketAddr,
    /// Keep guests as records: nothing of QEMU runs, disks are notes
    #[arg(long)]
    api_only: bool,
    /// Print `listening ADDR:PORT` when it listens
    #[arg(long)]
    print_port: bool,
    /// The release whose API is spoken
    #[arg(long, value_enum, default_value = "9.1")]
    schema: Release,
    /// Refuse wrong credentials at once, not after three seconds
    #[arg(long)]
    no_delay: bool,
    /// A file that holds the process's number while it serves
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
}

/// Runs the command line and returns the exit code.
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // A closed pipe is no reason to fail here.
            let _ = error.print();
            return if wrong { USAGE } else { OK };
        }
    };
    match execute(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("pve-lab: {error}");
            if matches!(error, Error::Locked(_)) { LOCKED } else { FAILED }
        }
    }
}

fn execute(cli: &Cli) -> Result<u8, Error> {
    let lab = Lab::open(&cli.dir)?.namespace(&cli.namespace);
    match &cli.command {
        Command::Up { image_node } => up(&lab, image_node.clone()),
        Command::Down { wipe } => {
            let ended = lab.down(*wipe, &|step| eprintln!("down: {step}"))?;
            println!("{}", if ended { "the lab is down" } else { "the lab was down already" });
            Ok(OK)
        }
        Command::Status => Ok(status(&lab)),
        Command::Save { name } => {
            let begin = std::time::Instant::now();
            lab.save(name)?;
            println!("the lab is saved as '{name}' after {:.1} s", begin.elapsed().as_secs_f64());
            Ok(OK)
        }
        Command::Restore { name } => {
            let begin = std::time::Instant::now();
            let options = UpOptions { node_image: None, server: None, progress: Arc::new(|_| {}) };
            lab.restore(name, &options)?;
            println!("the lab is back at '{name}' after {:.1} s", begin.elapsed().as_secs_f64());
            Ok(OK)
        }
        Command::Serve(args) => serve_command(&cli.dir, args),
        Command::Exec { words } => Err(exec(&lab, words)),
    }
}

fn up(lab: &Lab, node_image: Option<PathBuf>) -> Result<u8, Error> {
    let begin = std::time::Instant::now();
    let progress = Arc::new(move |step: &str| eprintln!("up: {:>5.1} s  {step}", begin.elapsed().as_secs_f64()));
    let made = lab.up(&UpOptions { node_image, server: None, progress })?;
    if made {
        println!("the lab is up at {} after {:.1} s", lab.url(), begin.elapsed().as_secs_f64());
    } else {
        println!("the lab is up already at {}", lab.url());
    }
    Ok(OK)
}

fn status(lab: &Lab) -> u8 {
    let status = lab.status();
    let process = |pid: Option<i32>| pid.map_or_else(|| "-".to_owned(), |pid| format!("process {pid}"));
    println!("network  {}", if status.network { "there" } else { "-" });
    println!("server   {}", process(status.server));
    println!("node     {}", process(status.node));
    for (vmid, pid) in &status.guests {
        println!("{vmid:<8} process {pid}");
    }
    if status.is_up() { OK } else { FAILED }
}

fn serve_command(dir: &Path, args: &Serve) -> Result<u8, Error> {
    let options = ServeOptions {
        dir: dir.to_owned(),
        listen: args.listen,
        mode: if args.api_only { Mode::ApiOnly } else { Mode::Real },
        release: args.schema,
        slow_refusals: !args.no_delay,
        pid_file: args.pid_file.clone(),
        gate: crate::gate::Gate::default(),
    };
    let ready = |address| {
        if args.print_port {
            use std::io::Write as _;
            let mut out = std::io::stdout().lock();
            writeln!(out, "listening {address}")?;
            out.flush()?;
        }
        Ok(())
    };
    let failed = |source| Error::File { doing: format!("serve {} on {}", dir.display(), args.listen), source };
    serve(&options, ready, None).map(|()| OK).map_err(failed)
}

/// Becomes the command, so that its terminal, signals and exit code are its own. Returns only if that fails.
fn exec(lab: &Lab, words: &[String]) -> Error {
    let prefix = match lab.exec_words() {
        Ok(prefix) => prefix,
        Err(error) => return error,
    };
    let source = std::process::Command::new(&prefix[0]).args(&prefix[1..]).args(words).exec();
    Error::File { doing: format!("run `{}` in the lab", words.join(" ")), source }
}
