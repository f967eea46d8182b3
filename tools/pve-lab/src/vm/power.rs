//! Starting and stopping guests: QEMU processes, or in API-only mode a note that says so.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::qmp::Qmp;
use super::{Power, cloudinit, config, qemu, update};
use crate::auth::Identity;
use crate::error::{ApiError, Result, host};
use crate::random;
use crate::schema::Params;
use crate::server::{Mode, Server};
use crate::tasks::Log;

/// How long a guest may take to shut down. An emulated one takes its time, so it is three times Proxmox's minute.
const SHUTDOWN: Duration = Duration::from_secs(180);
/// How long QEMU itself may take to go.
const QUIT: Duration = Duration::from_secs(10);

/// Returns the monitor's socket.
pub(crate) fn qmp_socket(server: &Server, vmid: u32) -> PathBuf {
    server.layout.run(&format!("{vmid}.qmp"))
}

/// Returns the agent's socket.
pub(crate) fn agent_socket(server: &Server, vmid: u32) -> PathBuf {
    server.layout.run(&format!("{vmid}.qga"))
}

fn pid_file(server: &Server, vmid: u32) -> PathBuf {
    server.layout.run(&format!("{vmid}.pid"))
}

/// Returns the process of a guest. A number alone proves nothing, as numbers are used again: its command line must
/// name the guest's own pid file.
pub(crate) fn pid(server: &Server, vmid: u32) -> Option<Pid> {
    crate::process::of_pid_file(&pid_file(server, vmid))
}

/// Returns whether a guest runs.
pub(crate) fn is_running(server: &Server, vmid: u32) -> Result<bool> {
    match server.mode {
        Mode::Real => Ok(pid(server, vmid).is_some()),
        Mode::ApiOnly => Ok(server.guests.load(vmid)?.power.is_some()),
    }
}

/// Starts a guest in a task.
pub(crate) fn start(server: &Arc<Server>, who: &Identity, vmid: u32, _timeout: Option<u64>) -> Result<String> {
    let lab = Arc::clone(server);
    server.tasks.spawn(who, "qmstart", &vmid.to_string(), move |log| start_now(&lab, vmid, log))
}

fn start_now(server: &Server, vmid: u32, log: &Log) -> Result<()> {
    let lock = server.guests.lock(vmid);
    let _held = lock.take()?;
    let mut guest = server.guests.load(vmid)?;
    guest.check_lock()?;
    if guest.is_template() {
        return Err(ApiError::failed("you can't start a vm if it's a template"));
    }
    if is_running(server, vmid)? {
        return Err(ApiError::failed(format!("VM {vmid} already running")));
    }
    update::settle(server, vmid, &mut guest, false)?;
    server.guests.save(vmid, &guest)?;
    if cloudinit::write_drive(server, vmid, &guest)? {
        log.say("generating cloud-init ISO");
    }
    match server.mode {
        Mode::Real => qemu::launch(server, vmid, &guest.config),
        Mode::ApiOnly => {
            guest.power = Some(Power { since: random::now(), paused: false });
            server.guests.save(vmid, &guest)
        }
    }
}

/// What to do with a running guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Stop,
    Shutdown,
    Reset,
    Reboot,
    Suspend,
    Resume,
}

impl Action {
    fn task(self) -> &'static str {
        match self {
            Self::Stop => "qmstop",
            Self::Shutdown => "qmshutdown",
            Self::Reset => "qmreset",
            Self::Reboot => "qmreboot",
            Self::Suspend => "qmpause",
            Self::Resume => "qmresume",
        }
    }
}

/// Does it in a task. Stopping what is stopped is fine, everything else needs a running guest.
pub(crate) fn act(server: &Arc<Server>, who: &Identity, params: &Params, action: Action) -> Result<String> {
    let vmid = super::create::vmid(params, "vmid")?;
    let stops = matches!(action, Action::Stop | Action::Shutdown);
    if params.flag("todisk") {
        return Err(ApiError::not_implemented("parameter 'todisk' not implemented in pve-lab"));
    }
    if !stops && !is_running(server, vmid)? {
        return Err(ApiError::failed(format!("VM {vmid} not running")));
    }
    let (timeout, force) = (params.number("timeout").map(Duration::from_secs), params.flag("forceStop"));
    let lab = Arc::clone(server);
    server.tasks.spawn(who, action.task(), &vmid.to_string(), move |log| {
        let lock = lab.guests.lock(vmid);
        let held = lock.take()?;
        lab.guests.load(vmid)?.check_lock()?;
        match action {
            Action::Stop => stop(&lab, vmid, timeout),
            Action::Shutdown => shutdown(&lab, vmid, timeout, force, log),
            Action::Reboot => {
                shutdown(&lab, vmid, timeout, false, log)?;
                drop(held);
                start_now(&lab, vmid, log)
            }
            Action::Reset => monitor(&lab, vmid, "system_reset", None),
            Action::Suspend => monitor(&lab, vmid, "stop", Some(true)),
            Action::Resume => monitor(&lab, vmid, "cont", Some(false)),
        }
    })
}

/// Sends one command to the monitor; in API-only mode only the pause is noted.
fn monitor(server: &Server, vmid: u32, command: &str, pause: Option<bool>) -> Result<()> {
    if server.mode == Mode::Real {
        return Qmp::connect(&qmp_socket(server, vmid))?.run(command, &Value::Null).map(drop);
    }
    let mut guest = server.guests.load(vmid)?;
    if let (Some(power), Some(pause)) = (&mut guest.power, pause) {
        power.paused = pause;
    }
    server.guests.save(vmid, &guest)
}

fn stop(server: &Server, vmid: u32, timeout: Option<Duration>) -> Result<()> {
    if is_running(server, vmid)? && server.mode == Mode::Real {
        // A monitor that hangs is what the signal below is for.
        if let Ok(mut qmp) = Qmp::connect(&qmp_socket(server, vmid)) {
            let _ = qmp.last("quit", &Value::Null);
        }
        if !gone(server, vmid, timeout.unwrap_or(QUIT).min(QUIT)) {
            kill(server, vmid)?;
        }
    }
    ended(server, vmid)
}

fn shutdown(server: &Server, vmid: u32, timeout: Option<Duration>, force: bool, log: &Log) -> Result<()> {
    if !is_running(server, vmid)? {
        return Ok(());
    }
    if server.mode == Mode::ApiOnly {
        return shutdown_recorded(server, vmid, timeout, force, log);
    }
    let config = server.guests.load(vmid)?.config;
    let agent =
        || Qmp::agent(&agent_socket(server, vmid), Duration::from_secs(3))?.last("guest-shutdown", &Value::Null);
    if !config::has_agent(&config) || agent().is_err() {
        Qmp::connect(&qmp_socket(server, vmid))?.run("system_powerdown", &Value::Null)?;
    }
    if !gone(server, vmid, timeout.unwrap_or(SHUTDOWN)) {
        if !force {
            return Err(ApiError::failed("VM quit/powerdown failed - got timeout"));
        }
        log.say("VM still running - terminating now with SIGTERM");
        return stop(server, vmid, None);
    }
    ended(server, vmid)
}

/// A recorded guest is one that hears the power button if it has a disk to boot from, or an agent.
fn shutdown_recorded(server: &Server, vmid: u32, timeout: Option<Duration>, force: bool, log: &Log) -> Result<()> {
    let config = server.guests.load(vmid)?.config;
    let listens = super::drives::boot_size(server, &config) > 0 || config::has_agent(&config);
    if !listens {
        std::thread::sleep(timeout.unwrap_or(SHUTDOWN));
        if !force {
            return Err(ApiError::failed("VM quit/powerdown failed - got timeout"));
        }
        log.say("VM still running - terminating now with SIGTERM");
    }
    ended(server, vmid)
}

fn gone(server: &Server, vmid: u32, deadline: Duration) -> bool {
    let begin = Instant::now();
    while pid(server, vmid).is_some() {
        if begin.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

fn kill(server: &Server, vmid: u32) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        if let Some(pid) = pid(server, vmid) {
            kill_process(pid, signal).map_err(host(format!("can't stop process {pid} of VM {vmid}")))?;
        }
        if gone(server, vmid, QUIT) {
            return Ok(());
        }
    }
    Err(ApiError::failed(format!("VM {vmid} does not end, even by SIGKILL")))
}

/// Tidies up behind a guest that runs no more, and makes its pending changes so.
fn ended(server: &Server, vmid: u32) -> Result<()> {
    let mut guest = server.guests.load(vmid)?;
    guest.power = None;
    server.guests.save(vmid, &guest)?;
    tidy(server, vmid)?;
    update::settle(server, vmid, &mut guest, false)?;
    server.guests.save(vmid, &guest)
}

/// Removes what a destroyed guest has left behind, its serial log included.
pub(crate) fn forget(server: &Server, vmid: u32) -> Result<()> {
    tidy(server, vmid)?;
    qemu::forget_log(server, vmid)
}

/// Removes what a guest that ended has left behind.
fn tidy(server: &Server, vmid: u32) -> Result<()> {
    if server.mode == Mode::Real { qemu::clean(server, vmid) } else { Ok(()) }
}

/// What is known of a guest's power: `running` or `paused`, its process, and the seconds it has run.
pub(crate) struct Runs {
    pub(crate) paused: bool,
    pub(crate) pid: i32,
    pub(crate) uptime: u64,
}

/// Finds out whether and how a guest runs. `ask` goes to the monitor to see whether it is paused.
pub(crate) fn runs(server: &Server, vmid: u32, ask: bool) -> Option<Runs> {
    if server.mode == Mode::ApiOnly {
        let power = server.guests.load(vmid).ok()?.power?;
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        return Some(Runs { paused: power.paused, pid, uptime: random::now().saturating_sub(power.since) });
    }
    let pid = pid(server, vmid)?;
    let since = fs::metadata(pid_file(server, vmid)).and_then(|data| data.modified()).ok()?;
    let query = || Qmp::connect(&qmp_socket(server, vmid))?.run("query-status", &json!({}));
    let paused = ask && query().is_ok_and(|answer| answer["status"] == "paused");
    Some(Runs { paused, pid: pid.as_raw_nonzero().get(), uptime: since.elapsed().map_or(0, |time| time.as_secs()) })
}
