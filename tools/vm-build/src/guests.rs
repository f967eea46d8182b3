//! What is done inside a guest: it is waited for, cloud-init runs again, disks are taken up.

use std::time::Duration;

use anyhow::{Context as _, Result};
use converge::{Context, Event};
use site::Name;
use store::Digest;

use crate::inside::{self, Inside};

/// How long a guest may take until it lets us in. Under emulation on a busy machine a boot takes minutes.
const LOGIN: Duration = Duration::from_secs(900);
/// How long cloud-init may take from there.
const CLOUD_INIT: Duration = Duration::from_secs(900);
/// How long file systems may take to be made and to grow.
const DISKS: Duration = Duration::from_secs(600);

/// Reaches into guests. Tests that have no machines bring their own.
pub trait Guests: Send + Sync {
    /// Forgets what is known of a guest, because it is about to be made anew with keys of its own.
    ///
    /// # Errors
    /// Where the pinned keys can't be changed.
    fn forget(&self, cx: &Context<'_>, name: &Name) -> Result<()>;

    /// Waits until a guest that was just started lets us in and has taken up its seed.
    ///
    /// # Errors
    /// Where it does not in time, or where cloud-init failed: then with cloud-init's own words.
    fn wait(&self, cx: &Context<'_>, name: &Name, seed: &Digest) -> Result<()>;

    /// Has cloud-init take up a seed in a guest that runs, without a reboot.
    ///
    /// # Errors
    /// As [`Guests::wait`].
    fn reapply(&self, cx: &Context<'_>, name: &Name, seed: &Digest) -> Result<()>;

    /// Has a guest that runs take up its disks: partition and file systems grow, blank data disks get one, and are mounted.
    ///
    /// # Errors
    /// Where a disk does not appear, holds something else, or can't be mounted.
    fn settle(&self, cx: &Context<'_>, name: &Name, inside: &Inside) -> Result<()>;
}

/// Guests reached over SSH.
#[derive(Debug, Default)]
pub struct OverSsh;

impl Guests for OverSsh {
    fn forget(&self, cx: &Context<'_>, name: &Name) -> Result<()> {
        Ok(cx.fleet.forget_key(name)?)
    }

    fn wait(&self, cx: &Context<'_>, name: &Name, seed: &Digest) -> Result<()> {
        cx.fleet.forget(name);
        let host =
            cx.fleet.wait(name, LOGIN).with_context(|| format!("{name} was started but can't be logged in to"))?;
        done(cx, name, &host, &script(seed))
    }

    fn reapply(&self, cx: &Context<'_>, name: &Name, seed: &Digest) -> Result<()> {
        let host = cx.fleet.wait(name, LOGIN).with_context(|| format!("{name} runs but can't be logged in to"))?;
        done(cx, name, &host, &(inside::reapply(seed) + &script(seed)))
    }

    fn settle(&self, cx: &Context<'_>, name: &Name, inside: &Inside) -> Result<()> {
        let host = cx.fleet.wait(name, LOGIN).with_context(|| format!("{name} runs but can't be logged in to"))?;
        host.run(&inside::settle(inside), DISKS).with_context(|| format!("{name} did not take up its disks"))?;
        Ok(())
    }
}

/// Runs a script that ends when cloud-init is done, and tells what it warns of.
fn done(cx: &Context<'_>, name: &Name, host: &remote::Host, script: &str) -> Result<()> {
    let output =
        host.run(script, CLOUD_INIT).with_context(|| format!("{name} is up, but cloud-init did not set it up"))?;
    let said = output.text();
    if !said.trim().is_empty() {
        let message = format!("{name}: cloud-init is done, with a warning: {}", said.trim());
        cx.events.emit(&Event::Note { message });
    }
    Ok(())
}

/// Waits for cloud-init and says what it says where it is not well. Its exit code 2 (since 23.4) means: done, but
/// something was amiss that it could recover from; the manual has `cloud-init status` say what.
fn script(seed: &Digest) -> String {
    format!(
        ": cloud-init status --wait
code=0
cloud-init status --wait >/dev/null 2>&1 || code=$?
if [ \"$code\" = 2 ]; then
  cloud-init status --long || [ \"$?\" = 2 ]
elif [ \"$code\" != 0 ]; then
  cloud-init status --long >&2 || true
  exit \"$code\"
fi
seen=$(cat /var/lib/cloud/data/instance-id)
if [ \"$seen\" != {seed} ]; then
  echo \"it has taken up the seed $seen, not {seed}\" >&2
  exit 1
fi
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use remote::Command;

    /// Runs the script with a `cloud-init` and a `cat` of our own.
    fn run(code: u8, instance: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let text = format!("#!/bin/sh\n{text}\n");
            store::files::write_atomic(&folder.path().join(name), text, 0o755).unwrap();
        };
        program("cloud-init", &format!("[ $2 = --wait ] || echo 'status: sick'; exit {code}"));
        program("cat", &format!("echo {instance}"));
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let command = Command::new("/bin/sh").args(["-euc", &script(&Digest::of("a"))]).env("PATH", path);
        command.run().map(|output| output.text()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_guest_is_ready_when_cloud_init_is_done_with_this_seed() {
        let seed = Digest::of("a").to_string();
        assert_eq!(run(0, &seed).unwrap(), "");
        assert_eq!(run(2, &seed).unwrap().trim(), "status: sick");
        assert!(run(1, &seed).unwrap_err().contains("status: sick"));
        assert!(run(0, "other").unwrap_err().contains("taken up the seed other"));
    }
}
