//! Steps with a name and a time: a spinner on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// The steps of one task, with the time of each.
pub struct Steps {
    begin: Instant,
    done: Vec<(String, Duration)>,
    terminal: bool,
}

/// How many lines of a failed command are shown.
const TAIL: usize = 60;

impl Steps {
    /// Begins to count.
    pub fn begin() -> Self {
        Self { begin: Instant::now(), done: Vec::new(), terminal: std::io::stderr().is_terminal() }
    }

    /// Runs a command as a step; what it prints is shown as it comes on a terminal, and its end where it fails.
    ///
    /// # Errors
    /// Where the command can't be started or ends with another code than 0.
    pub fn run(&mut self, name: &str, command: &mut Command) -> Result<()> {
        self.time(name, |bar| follow(command, |line| bar.set_message(line.to_owned())))
    }

    /// Runs a command as a step and passes on all that it prints.
    ///
    /// # Errors
    /// As [`Steps::run`].
    pub fn show(&mut self, name: &str, command: &mut Command) -> Result<()> {
        println!("── {name}");
        let begin = Instant::now();
        let status = command.status().with_context(|| format!("can't start {:?}", command.get_program()))?;
        if !status.success() {
            bail!("{name}: {:?} ended with {status}", command.get_program());
        }
        self.end(name, begin);
        Ok(())
    }

    /// Runs commands at the same time, each as a step; what they print is passed on line by line, named.
    ///
    /// # Errors
    /// The first of those that fail; the others are waited for.
    pub fn together(&mut self, commands: Vec<(&'static str, Command)>) -> Result<()> {
        let begin = Instant::now();
        let outcomes: Vec<_> = thread::scope(|scope| {
            let start = |(name, mut command): (&'static str, Command)| {
                scope.spawn(move || {
                    let line = |line: &str| println!("  [{name}] {}", line.trim());
                    (name, follow(&mut command, line), begin.elapsed())
                })
            };
            let threads: Vec<_> = commands.into_iter().map(start).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        for (name, outcome, time) in outcomes {
            outcome.with_context(|| name.to_owned())?;
            self.note(name, time);
        }
        Ok(())
    }

    /// Times any work as a step.
    ///
    /// # Errors
    /// Whatever the work fails with.
    pub fn time<T>(&mut self, name: &str, work: impl FnOnce(&ProgressBar) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let bar = if self.terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {prefix} {elapsed} {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        let outcome = work(&bar).with_context(|| name.to_owned());
        bar.finish_and_clear();
        if outcome.is_ok() {
            self.end(name, begin);
        }
        outcome
    }

    fn end(&mut self, name: &str, begin: Instant) {
        self.note(name, begin.elapsed());
    }

    fn note(&mut self, name: &str, time: Duration) {
        println!("✓ {name:<44} {:>8.1} s", time.as_secs_f64());
        self.done.push((name.to_owned(), time));
    }

    /// Prints every step with its time, and the whole.
    pub fn summary(&self) {
        println!("\n{:<46} {:>10}", "step", "time");
        for (name, time) in &self.done {
            println!("{name:<46} {:>8.1} s", time.as_secs_f64());
        }
        println!("{:<46} {:>8.1} s", "all", self.begin.elapsed().as_secs_f64());
    }
}

/// Runs a command and hands on each line that it prints; an error has the last ones.
fn follow(command: &mut Command, mut show: impl FnMut(&str)) -> Result<()> {
    let program = format!("{:?}", command.get_program());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("can't start {program}"))?;
    let (sender, lines) = mpsc::channel();
    let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);
    let mut tail = VecDeque::new();
    for line in lines {
        show(&line);
        tail.push_back(line);
        if tail.len() > TAIL {
            tail.pop_front();
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let tail: Vec<String> = tail.into();
        bail!("{program} ended with {status}; the end of what it said:\n{}", tail.join("\n"));
    }
    Ok(())
}

/// Returns the workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Begins a cargo command line in the workspace, by the cargo that runs this.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Begins a command line of one of the workspace's programs, which must be built.
pub fn program(name: &str, args: &[&str]) -> Command {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut command = Command::new(target.join("debug").join(name));
    command.args(args).current_dir(root());
    command
}
