//! Subprocesses on this machine: the one function that every subprocess goes through.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static STARTS: AtomicU64 = AtomicU64::new(0);

/// Returns how many processes this program has started through [`Command::run`].
pub fn process_starts() -> u64 {
    STARTS.load(Ordering::Relaxed)
}

/// A subprocess to run to its end, with a pinned locale and a deadline.
#[derive(Clone, Debug)]
pub struct Command {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    clear_env: bool,
    folder: Option<PathBuf>,
    stdin: Vec<u8>,
    deadline: Duration,
    log: Option<PathBuf>,
}

/// How a subprocess ended, and all that it printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// The argument list, as one line for people.
    pub command: String,
    /// The exit code; 128 plus the signal's number after a signal.
    pub status: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

/// Why a subprocess did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("can't start `{command}`")]
    Start {
        /// The argument list.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// It ran past its deadline and was killed.
    #[error("`{command}` did not end within {} s and was killed{}", deadline.as_secs(), said(stderr))]
    Deadline {
        /// The argument list.
        command: String,
        /// The time it had.
        deadline: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// It ended with a code other than 0.
    #[error("`{command}` ended with {status}{}", said(stderr))]
    Status {
        /// The argument list.
        command: String,
        /// The exit code.
        status: i32,
        /// The end of its standard error.
        stderr: String,
    },
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

impl Command {
    /// Begins an argument list. The deadline is 60 s until set otherwise, the locale is `C.UTF-8`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            argv: vec![program.as_ref().to_owned()],
            env: vec![("LC_ALL".into(), "C.UTF-8".into())],
            clear_env: false,
            folder: None,
            stdin: Vec::new(),
            deadline: Duration::from_secs(60),
            log: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it with no variables but those set here.
    #[must_use]
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Runs it in a folder.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Gives it these bytes as its standard input; it has none otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets how long it may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Appends what it prints to a file too, as it comes.
    #[must_use]
    pub fn log(mut self, path: impl AsRef<Path>) -> Self {
        self.log = Some(path.as_ref().to_owned());
        self
    }

    /// Returns the argument list as one line, words with blanks quoted.
    pub fn line(&self) -> String {
        let word = |word: &OsString| {
            let word = word.to_string_lossy();
            if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$&|;<>()".contains(c)) {
                format!("'{}'", word.replace('\'', "'\\''"))
            } else {
                word.into_owned()
            }
        };
        self.argv.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    /// Runs it and returns how it ended, whatever the code.
    ///
    /// # Errors
    /// [`Error::Start`] and [`Error::Deadline`].
    pub fn output(&self) -> Result<Output, Error> {
        let start = |source| Error::Start { command: self.line(), source };
        let mut child = self.spawn().map_err(start)?;
        let log = self.log.as_deref();
        let out = child.stdout.take().map(|pipe| collect(pipe, log));
        let err = child.stderr.take().map(|pipe| collect(pipe, log));
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin.clone();
            thread::spawn(move || pipe.write_all(&bytes));
        }
        let ended = wait(&mut child, self.deadline).map_err(start)?;
        if ended.is_none() {
            let _ = rustix::process::kill_process_group(pid(&child), rustix::process::Signal::KILL);
            child.wait().map_err(start)?;
        }
        let [stdout, stderr] = [out, err].map(|reader| reader.and_then(|r| r.join().ok()).unwrap_or_default());
        match ended {
            Some(status) => Ok(Output { command: self.line(), status: code(status), stdout, stderr }),
            None => Err(Error::Deadline { command: self.line(), deadline: self.deadline, stderr: tail(&stderr) }),
        }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// As [`Command::output`], and [`Error::Status`] for every code but 0.
    pub fn run(&self) -> Result<Output, Error> {
        self.output()?.success()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts processes")]
    fn spawn(&self) -> io::Result<Child> {
        use std::os::unix::process::CommandExt as _;
        STARTS.fetch_add(1, Ordering::Relaxed);
        let mut command = std::process::Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        if self.clear_env {
            command.env_clear();
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        // Nothing that is started here decrypts secrets.
        command.env_remove("HEARTH_AGE_KEY");
        command.envs(self.env.iter().map(|(name, value)| (name, value))).spawn()
    }
}

impl Output {
    /// Passes a success on.
    ///
    /// # Errors
    /// [`Error::Status`] for every code but 0.
    pub fn success(self) -> Result<Self, Error> {
        if self.status == 0 {
            return Ok(self);
        }
        let stderr = tail(if self.stderr.is_empty() { &self.stdout } else { &self.stderr });
        Err(Error::Status { command: self.command, status: self.status, stderr })
    }

    /// Returns standard output as text, bytes that are no UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Returns the last 4,000 bytes of a program's output, trimmed, as text for a message.
pub fn tail(bytes: &[u8]) -> String {
    let from = bytes.len().saturating_sub(4000);
    String::from_utf8_lossy(&bytes[from..]).trim().to_owned()
}

fn collect(mut pipe: impl Read + Send + 'static, log: Option<&Path>) -> thread::JoinHandle<Vec<u8>> {
    let mut log = log.and_then(|path| std::fs::File::options().append(true).create(true).open(path).ok());
    thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0; 1 << 16];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            all.extend_from_slice(&buffer[..n]);
            if let Some(file) = &mut log {
                let _ = file.write_all(&buffer[..n]);
            }
        }
        all
    })
}

fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let begin = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_command_code_and_stderr() {
        let error = Command::new("sh").args(["-c", "echo no such pool >&2; exit 3"]).run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'echo no such pool >&2; exit 3'` ended with 3: no such pool");
    }

    #[test]
    fn standard_input_reaches_it_and_standard_output_comes_back() {
        let big = vec![b'x'; 1 << 20];
        assert_eq!(Command::new("cat").stdin(big.clone()).run().unwrap().stdout, big);
    }

    #[test]
    fn a_deadline_kills_the_whole_group() {
        let error =
            Command::new("sh").args(["-c", "sleep 100 & wait"]).deadline(Duration::from_millis(50)).run().unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
    }

    #[test]
    fn a_missing_program_is_a_start_error() {
        let error = Command::new("/no/such/program").run().unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error}");
    }
}
