//! The lock of a host: a program there that holds an `flock` for as long as its channel is open.
//!
//! The kernel drops the lock when that program ends, and it ends when its standard input does: with our channel, with our
//! connection, and so with us, however we end.

use std::time::{Duration, Instant};

use ssh2::Channel;

use crate::error::Error;
use crate::host::Host;
use crate::link::{Link, Trouble};
use crate::quote::quote;

/// The file on the host. It holds the name of the last holder; what counts is the lock on it.
const FILE: &str = "/run/hearth.lock";
/// How long the answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long is waited for the lock on a new session, while the host finds out that our old one is dead, in seconds.
const PATIENCE: u64 = 20;
const TAKEN: &str = "hearth-lock taken";
const HELD: &str = "hearth-lock held";

/// What asking for a lock came to.
enum Answer {
    Taken,
    Held(String),
}

impl Host {
    /// Takes the host's lock for as long as this host is in use, and once more whenever its session is renewed; does
    /// nothing where it is taken already. `holder` says who we are, for whoever comes second.
    ///
    /// Returns whether it was taken now: what was observed before that may have changed since.
    ///
    /// # Errors
    /// [`Error::Locked`] that names the holder, and as [`Host::run`].
    pub fn hold(&self, holder: &str) -> Result<bool, Error> {
        let mut kept = self.kept();
        if kept.is_some() {
            return Ok(false);
        }
        self.connect()?;
        let mut link = self.lock();
        let Some(open) = link.as_mut() else { return self.broken("can't take its lock", "the session is gone") };
        take(open, self.target(), holder, 0)?;
        self.count_round_trip();
        *kept = Some(holder.to_owned());
        Ok(true)
    }

    fn broken<T>(&self, step: &str, why: &str) -> Result<T, Error> {
        let source = std::io::Error::other(why.to_owned());
        Err(Error::Broken { host: self.target().name.clone(), step: step.to_owned(), source })
    }
}

/// Takes the lock again on a new session, where it was held on the one before.
pub(crate) fn renew(link: &mut Link, target: &crate::link::Target, holder: &str) -> Result<(), Error> {
    take(link, target, holder, PATIENCE)
}

fn take(link: &mut Link, target: &crate::link::Target, holder: &str, patience: u64) -> Result<(), Error> {
    let command = command(&target.user, holder, patience);
    let end = Instant::now() + ANSWER + Duration::from_secs(patience);
    let host = || target.name.clone();
    let step = || "can't take its lock".to_owned();
    let broken = |why: String| Error::Broken { host: host(), step: step(), source: std::io::Error::other(why) };
    let asked = link.begin(&command, end).and_then(|mut channel| Ok((link.line(&mut channel, end)?, channel)));
    let (line, channel): (String, Channel) = asked.map_err(|trouble| match trouble {
        Trouble::Deadline => broken(format!("it did not answer within {} s", ANSWER.as_secs() + patience)),
        Trouble::Broken(source) | Trouble::NotStarted(source) => Error::Broken { host: host(), step: step(), source },
    })?;
    match understand(&line) {
        Some(Answer::Taken) => {
            link.keep(channel);
            Ok(())
        }
        Some(Answer::Held(holder)) => Err(Error::Locked { host: host(), holder }),
        None => Err(broken(format!("it answered '{line}'"))),
    }
}

fn understand(line: &str) -> Option<Answer> {
    if line == TAKEN {
        return Some(Answer::Taken);
    }
    let holder = line.strip_prefix(HELD)?.trim();
    // The holder writes its name once it has the lock: a moment in which there is none.
    Some(Answer::Held(if holder.is_empty() { "a run that has just begun".to_owned() } else { holder.to_owned() }))
}

/// Writes the command that takes the lock, says so and then waits for the end of its standard input.
fn command(user: &str, holder: &str, patience: u64) -> String {
    let wait = if patience == 0 { "-n".to_owned() } else { format!("-w {patience}") };
    let holder: String = holder.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let script = format!(
        "umask 022; exec 9>>{FILE} || exit 1; \
         if ! flock {wait} 9; then read -r who <{FILE} || :; echo \"{HELD} ${{who:-}}\"; exit 0; fi; \
         printf '%s\\n' {} >{FILE}; echo '{TAKEN}'; exec cat >/dev/null",
        quote(&holder)
    );
    let sudo = if user == "root" { "" } else { "sudo -n " };
    format!("exec {sudo}env LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin sh -c {}", quote(&script))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the command as a host would, on a file of this test; it ends at once, since it has no input.
    fn run(folder: &std::path::Path, holder: &str) -> String {
        let file = folder.join("lock");
        let line = command("root", holder, 0).replace(FILE, &file.display().to_string());
        crate::Command::new("sh").args(["-c", &line]).run().unwrap().text()
    }

    #[test]
    fn the_lock_is_taken_and_a_second_taker_reads_the_holders_name() {
        let folder = tempfile::tempdir().unwrap();
        let holder = "me@here, process 1 (`hearth run`), since\nnow";
        assert_eq!(run(folder.path(), holder), "hearth-lock taken\n");
        let file = std::fs::File::open(folder.path().join("lock")).unwrap();
        file.try_lock().expect("the lock is gone with the program that held it");
        let line = run(folder.path(), "you");
        assert_eq!(line, "hearth-lock held me@here, process 1 (`hearth run`), since now\n");
        assert!(matches!(understand(line.trim_end()), Some(Answer::Held(who)) if who.starts_with("me@here")));
        drop(file);
        assert_eq!(run(folder.path(), "you"), "hearth-lock taken\n");
    }

    #[test]
    fn an_answer_without_a_name_and_one_that_is_none() {
        assert!(
            matches!(understand("hearth-lock held "), Some(Answer::Held(who)) if who == "a run that has just begun")
        );
        assert!(matches!(understand("hearth-lock taken"), Some(Answer::Taken)));
        assert!(understand("sh: 1: flock: not found").is_none());
    }
}
