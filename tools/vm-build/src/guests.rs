//! What is done inside a guest: its SSH host key is asked for, it is waited for, cloud-init runs again, disks are taken up.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use converge::{Context, Event, Failure};
use pve::Vm;
use remote::HostKey;
use site::Name;
use store::Digest;

use crate::api::explain;
use crate::inside::{self, Inside};

/// How long a guest may take until it lets us in. Under emulation on a busy machine a boot takes minutes.
const LOGIN: Duration = Duration::from_secs(900);
/// How long its agent may take to tell its host key, which cloud-init makes at the first boot.
const KEY: Duration = Duration::from_secs(900);
/// Where the key is; every sshd since 2014 has one of this kind.
const KEY_FILE: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
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

    /// Waits until a guest that was just started lets us in and has taken up its seed. `vm` is it at the API: where no
    /// host key is pinned for the guest, its agent is asked for it there.
    ///
    /// # Errors
    /// Where it does not in time, or where cloud-init failed: then with cloud-init's own words.
    fn wait(&self, cx: &Context<'_>, vm: &Vm<'_>, name: &Name, seed: &Digest) -> Result<()>;

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

    fn wait(&self, cx: &Context<'_>, vm: &Vm<'_>, name: &Name, seed: &Digest) -> Result<()> {
        if cx.fleet.pinned_keys(name)?.is_empty() {
            let host = cx.site.guests.get(name).map_or(name, |guest| &guest.host);
            let key = told_key(vm, host, name, KEY)?;
            cx.fleet.pin_key(name, &key)?;
            let fingerprint = key.fingerprint();
            let message = format!("{name}: its agent tells the SSH host key {fingerprint}; it is pinned");
            cx.events.emit(&Event::Note { message });
        }
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

/// Has a guest's agent tell its SSH host key, which comes over the pinned connection to its host's API; waits while the
/// guest boots.
///
/// # Errors
/// A refusal where the agent does not tell it in time: nobody else can vouch for it. At once what waiting can't mend.
pub fn told_key(vm: &Vm<'_>, host: &Name, name: &Name, deadline: Duration) -> Result<HostKey> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_secs(1);
    loop {
        let why = match vm.read_file(KEY_FILE) {
            Ok(text) => match HostKey::parse(&text) {
                Some(key) => return Ok(key),
                None => format!("{KEY_FILE} holds no whole key"),
            },
            // No agent yet, or no key yet: the guest is booting.
            Err(pve::Error::Answered(answered)) if answered.status == 500 => answered.text().to_owned(),
            Err(error) => {
                return Err(explain(host, error).context(format!("can't ask {name}'s agent for its SSH host key")));
            }
        };
        if Instant::now() + pause >= end {
            let message =
                format!("{name}'s agent has not told its SSH host key within {} s: {why}", deadline.as_secs());
            return Err(Failure::refused(message)
                .hint(format!(
                    "no other key is trusted; see that qemu-guest-agent runs in {name} (`qm agent VMID ping` on the \
                     node), then run again"
                ))
                .into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(8));
    }
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
