//! Scripts and files on one host.

use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::batch;
use crate::error::Error;
use crate::fleet::{Answers, Counters, Probe};
use crate::link::{Ended, Link, Target, Trouble};
use crate::local::{Output, tail};
use crate::lock;
use crate::quote::quote;

/// How long is tried to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// How much longer than its script a session waits: the host ends the script itself when its time is over.
const GRACE: Duration = Duration::from_secs(6);
/// The last line of every script that is sent; a script without it was cut off on its way and is not run.
const WHOLE: &str = "#hearth-whole";
/// What follows standard error after a success; where it is missing, the connection was lost, which looks like 0 too.
const ENDED: &[u8] = b"\0hearth-ended\0";

/// One host or guest, with at most one session; scripts wait for each other.
pub struct Host {
    target: Target,
    link: Mutex<Option<Link>>,
    /// Who we are, where we hold the host's lock.
    kept: Mutex<Option<String>>,
    counters: Arc<Counters>,
}

impl Host {
    pub(crate) fn new(target: Target, counters: Arc<Counters>) -> Self {
        Self { target, link: Mutex::new(None), kept: Mutex::new(None), counters }
    }

    /// Runs a script as root with `sh -eu` and returns what it printed. Its commands have no standard input.
    ///
    /// After the deadline the host ends the script and all that it has started.
    ///
    /// # Errors
    /// [`Error::Status`] for every code but 0, [`Error::Deadline`], [`Error::Broken`].
    pub fn run(&self, script: &str, deadline: Duration) -> Result<Output, Error> {
        self.execute(script, None, deadline)
    }

    /// Runs a script as root with these bytes as its standard input, and returns what it printed.
    ///
    /// Where the connection is lost, the script sees the end of its input: it must know how much, or what, is to come,
    /// before it puts the bytes in a place where they count.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn feed(&self, script: &str, input: &mut dyn Read, deadline: Duration) -> Result<Output, Error> {
        self.execute(script, Some(input), deadline)
    }

    /// Writes a file whole as root: beside its name, synced, then renamed. Makes its folder where it is missing.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), Error> {
        let megabytes = u64::try_from(bytes.len() >> 20).unwrap_or(u64::MAX);
        let deadline = Duration::from_secs(60).saturating_add(Duration::from_secs(megabytes));
        self.feed(&write_script(path, bytes.len(), mode), &mut Cursor::new(bytes), deadline)?;
        Ok(())
    }

    /// Asks all the questions in one round trip.
    pub(crate) fn ask(&self, probes: &[&Probe]) -> Result<Answers, Error> {
        let per_probe = Duration::from_secs(batch::PROBE_SECONDS);
        let count = u32::try_from(probes.len()).unwrap_or(u32::MAX);
        let output = self.run(&batch::script(probes), per_probe.saturating_mul(count).max(per_probe))?;
        batch::parse(probes, &output.stdout).map_err(|why| {
            let step = "the answers to its questions are garbled".to_owned();
            Error::Broken { host: self.target.name.clone(), step, source: io::Error::other(why) }
        })
    }

    /// Opens the session where there is none, trying for a while.
    pub(crate) fn connect(&self) -> Result<(), Error> {
        self.linked(&mut self.lock(), Instant::now() + CONNECT)
    }

    /// Waits until the host lets us in.
    pub(crate) fn wait(&self, deadline: Duration) -> Result<(), Error> {
        self.linked(&mut self.lock(), Instant::now() + deadline)
    }

    /// Closes the session.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who holds the host's lock for us. To be asked for before the session, never while that is held by the same thread.
    pub(crate) fn kept(&self) -> MutexGuard<'_, Option<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count_round_trip(&self) {
        Counters::add(&self.counters.round_trips, 1);
    }

    fn linked(&self, link: &mut Option<Link>, end: Instant) -> Result<(), Error> {
        let mut pause = Duration::from_millis(200);
        while link.is_none() {
            let left = end.saturating_duration_since(Instant::now()).clamp(Duration::from_secs(1), CONNECT / 2);
            match Link::open(&self.target, left) {
                Ok(mut open) => {
                    Counters::add(&self.counters.sessions, 1);
                    self.renew(&mut open)?;
                    *link = Some(open);
                }
                Err(error @ Error::Unreachable { .. }) => {
                    if Instant::now() + pause >= end || is_hopeless(&error) {
                        return Err(error);
                    }
                    std::thread::sleep(pause);
                    // A server that is asked too often in vain shuts us out for a while (sshd_config(5),
                    // PerSourcePenalties).
                    pause = (pause * 2).min(Duration::from_secs(4));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the host's lock again, where it was held on the session before.
    fn renew(&self, link: &mut Link) -> Result<(), Error> {
        // Whoever is taking the lock at this moment has the guard, and takes it on this very session.
        let Ok(kept) = self.kept.try_lock() else { return Ok(()) };
        kept.as_deref().map_or(Ok(()), |holder| lock::renew(link, &self.target, holder))
    }

    fn execute(&self, script: &str, input: Option<&mut dyn Read>, deadline: Duration) -> Result<Output, Error> {
        let text = format!("{script}\n{WHOLE}");
        let command = command(&self.target.user, text.len(), input.is_some(), deadline);
        let mut nothing = io::empty();
        let input: &mut dyn Read = input.unwrap_or(&mut nothing);
        let mut input = Cursor::new(text.as_bytes()).chain(input);
        let mut link = self.lock();
        let begin = Instant::now();
        let ended = self.attempt(&mut link, &command, &mut input, deadline);
        if ended.is_err() {
            // Nobody knows what is still on its way over this session.
            *link = None;
        }
        drop(link);
        self.outcome(label(script), ended?, begin.elapsed(), deadline)
    }

    /// Runs the command, on a new session where the old one turns out to be dead before it starts.
    fn attempt(
        &self,
        link: &mut Option<Link>,
        command: &str,
        input: &mut dyn Read,
        deadline: Duration,
    ) -> Result<Result<Ended, Trouble>, Error> {
        let mut fresh = false;
        loop {
            if link.is_none() {
                self.linked(link, Instant::now() + CONNECT)?;
                fresh = true;
            }
            let Some(open) = link.as_mut() else { continue };
            match open.exec(command, input, deadline.saturating_add(GRACE)) {
                Err(Trouble::NotStarted(_)) if !fresh => *link = None,
                Ok(ended) => {
                    Counters::add(&self.counters.round_trips, 1);
                    Counters::add(&self.counters.sent, ended.sent);
                    let received = ended.stdout.len() + ended.stderr.len();
                    Counters::add(&self.counters.received, u64::try_from(received).unwrap_or(u64::MAX));
                    return Ok(Ok(ended));
                }
                Err(trouble) => {
                    *link = None;
                    return Ok(Err(trouble));
                }
            }
        }
    }

    fn outcome(
        &self,
        command: String,
        ended: Result<Ended, Trouble>,
        took: Duration,
        deadline: Duration,
    ) -> Result<Output, Error> {
        let host = self.target.name.clone();
        let late = |host, command| Error::Deadline { host, command, seconds: deadline.as_secs() };
        let mut ended = match ended {
            Ok(ended) => ended,
            Err(Trouble::Deadline) => return Err(late(host, command)),
            Err(Trouble::Broken(source) | Trouble::NotStarted(source)) => {
                let step = format!("the connection was lost in `{command}`");
                return Err(Error::Broken { host, step, source });
            }
        };
        let whole = ended.stderr.ends_with(ENDED);
        if whole {
            ended.stderr.truncate(ended.stderr.len() - ENDED.len());
        }
        if matches!(ended.status, 124 | 137) && took >= deadline {
            return Err(late(host, command));
        }
        if ended.status != 0 {
            let stderr = tail(if ended.stderr.is_empty() { &ended.stdout } else { &ended.stderr });
            return Err(Error::Status { host, command, status: ended.status, stderr });
        }
        if !whole {
            let step = format!("the connection was lost before the end of `{command}`");
            return Err(Error::Broken { host, step, source: io::ErrorKind::UnexpectedEof.into() });
        }
        Ok(Output { command, status: 0, stdout: ended.stdout, stderr: ended.stderr })
    }
}

/// Tells whether trying again can't help: our own key can't be read. A network does not fail with these.
fn is_hopeless(error: &Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied};
    matches!(error, Error::Unreachable { source, .. } if matches!(source.kind(), NotFound | PermissionDenied))
}

/// Writes the command that the host's shell is given. The script itself comes as the first bytes of standard input: there
/// it has no limit of length, and no other user of the host sees it in the list of processes.
fn command(user: &str, length: usize, keeps_input: bool, deadline: Duration) -> String {
    let input = if keeps_input { "" } else { "exec </dev/null; " };
    // The subshell is not part of a condition, since `set -e` has no effect there.
    let bootstrap = format!(
        "s=$(head -c {length}); case $s in *'{WHOLE}') ;; *) echo 'the script came incomplete' >&2; exit 97 ;; esac; \
         {input}(set -eu; eval \"$s\"); r=$?; [ $r -ne 0 ] || printf '\\0hearth-ended\\0' >&2; exit $r"
    );
    let sudo = if user == "root" { "" } else { "sudo -n " };
    let seconds = deadline.as_millis().div_ceil(1000).max(1);
    format!(
        "exec {sudo}env LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
         timeout -k 3 {seconds} sh -c {}",
        quote(&bootstrap)
    )
}

fn write_script(path: &str, length: usize, mode: u32) -> String {
    let folder = match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => ".",
    };
    let (path, folder) = (quote(path), quote(folder));
    // The size is compared because a lost connection ends the input too.
    format!(
        "# write {path}\n\
         mkdir -p -- {folder}\n\
         t=$(mktemp -p {folder} .hearth.XXXXXXXX)\n\
         trap 'rm -f -- \"$t\"' EXIT\n\
         cat >\"$t\"\n\
         [ \"$(stat -c %s -- \"$t\")\" = {length} ] || {{ echo 'the file came incomplete' >&2; exit 97; }}\n\
         chmod {mode:o} -- \"$t\"\n\
         sync -- \"$t\"\n\
         mv -fT -- \"$t\" {path}\n\
         sync -- {folder}\n"
    )
}

/// Returns the line of a script that names it in messages: its first one that is not empty.
fn label(script: &str) -> String {
    let line = script.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let line = line.trim_start_matches("# ");
    match line.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    /// Runs a command line as a host's shell would.
    fn shell(script: &str, data: Option<&[u8]>, seconds: u64) -> Output {
        let text = format!("{script}\n{WHOLE}");
        let line = command("root", text.len(), data.is_some(), Duration::from_secs(seconds));
        let mut input = text.into_bytes();
        input.extend(data.unwrap_or_default());
        Command::new("sh").args(["-c", &line]).stdin(input).output().unwrap()
    }

    #[test]
    fn a_script_is_run_with_errors_on_and_its_end_is_marked() {
        let output = shell("echo a; echo b >&2; read -r x || echo none", None, 5);
        assert_eq!((output.status, output.text().as_str()), (0, "a\nnone\n"));
        assert_eq!(output.stderr, [b"b\n", ENDED].concat());
        let output = shell("echo a\nfalse\necho b", None, 5);
        assert_eq!((output.status, output.text().as_str(), output.stderr.len()), (1, "a\n", 0));
        assert_eq!(shell("echo $no_such_variable", None, 5).status, 2);
        assert_eq!(shell("exit 7", None, 5).status, 7);
        assert_eq!(shell("exit 0", None, 5).stderr, ENDED);
    }

    #[test]
    fn a_script_may_be_long_and_its_input_follows_it_to_the_byte() {
        let script = format!("{}\ncat", "# a long script\n".repeat(10_000));
        let output = shell(&script, Some(b"\0first\nlast"), 5);
        assert_eq!(output.stdout, b"\0first\nlast");
    }

    #[test]
    fn a_script_that_was_cut_off_is_not_run() {
        let line = command("root", 100, false, Duration::from_secs(5));
        let output = Command::new("sh").args(["-c", &line]).stdin("echo half\n#hearth-wh").output().unwrap();
        assert_eq!((output.status, output.text().as_str()), (97, ""));
    }

    #[test]
    fn the_host_ends_a_script_whose_time_is_over() {
        assert_eq!(shell("sleep 30 & wait", None, 1).status, 124);
    }

    #[test]
    fn another_user_goes_through_sudo_without_a_password() {
        let line = command("hearth", 1, false, Duration::from_secs(5));
        assert!(line.starts_with("exec sudo -n env LC_ALL=C.UTF-8 PATH=/usr/local/sbin:"), "{line}");
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/it's");
        let path = path.to_str().unwrap();
        assert_eq!(shell(&write_script(path, 4, 0o640), Some(b"new\n"), 5).status, 0);
        assert_eq!(std::fs::read(path).unwrap(), b"new\n");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o640);
        let output = shell(&write_script(path, 4, 0o640), Some(b"ne"), 5);
        assert_eq!((output.status, output.stderr.as_slice()), (97, &b"the file came incomplete\n"[..]));
        assert_eq!(std::fs::read(path).unwrap(), b"new\n");
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn a_script_is_named_by_its_first_line() {
        assert_eq!(label("\n# write /etc/a\nmkdir"), "write /etc/a");
        assert_eq!(label(&"ä".repeat(200)).chars().count(), 121);
    }
}
