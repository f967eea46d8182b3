//! The lab as a whole: up, down, status. Everything it starts is known by a pid file, everything it makes is below its
//! folder or inside its namespace, so that `down` can leave nothing behind.

pub(crate) mod accel;
pub(crate) mod net;
mod node;
mod probe;
mod saved;

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use remote::local::Command;
use rustix::fs::FlockOperation;
use rustix::process::{Signal, kill_process};

pub use node::ADDRESS as NODE_ADDRESS;

use crate::layout::Layout;
use crate::process;
use crate::setup;

/// The port that the API listens on, as Proxmox's.
pub const PORT: u16 = 8006;
/// How long the server may take to answer first, and to end.
const SERVER: Duration = Duration::from_secs(20);
/// What the lab needs of the machine.
const PROGRAMS: [&str; 6] = ["qemu-system-x86_64", "qemu-img", "ip", "ssh", "ssh-keygen", "setsid"];

/// Why the lab could not be brought up or down.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the lab can't be read or written.
    #[error("can't {doing}: {source}")]
    File {
        /// The operation and the file.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program failed.
    #[error(transparent)]
    Command(#[from] remote::local::Error),
    /// Programs are missing.
    #[error("the lab needs {0}: install the Debian packages qemu-system-x86 qemu-utils iproute2 openssh-client")]
    Missing(String),
    /// Another `up` or `down` is at work.
    #[error("another pve-lab works on {0} right now")]
    Locked(PathBuf),
    /// Something did not come up in time, or not at all.
    #[error("{what}; the end of {log}:\n{tail}")]
    NotUp {
        /// What did not come up.
        what: String,
        /// The log's file.
        log: PathBuf,
        /// The log's end.
        tail: String,
    },
    /// The lab is not as the request supposes.
    #[error("{0}")]
    State(String),
}

fn file(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let doing = doing.into();
    move |source| Error::File { doing, source }
}

fn not_up(what: impl Into<String>, log: PathBuf) -> Error {
    let tail = fs::read(&log).map(|bytes| remote::local::tail(&bytes)).unwrap_or_default();
    Error::NotUp { what: what.into(), log, tail }
}

/// How to bring the lab up.
#[derive(Clone)]
pub struct UpOptions {
    /// The node's disk image, qcow2; needed the first time.
    pub node_image: Option<PathBuf>,
    /// The `pve-lab` program that serves; without it, the one beside the program that runs.
    pub server: Option<PathBuf>,
    /// Told each step as it begins.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

/// What of a lab is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The namespace is there.
    pub network: bool,
    /// The API server's process.
    pub server: Option<i32>,
    /// The node guest's process.
    pub node: Option<i32>,
    /// Running guests by VMID, with their processes.
    pub guests: Vec<(u32, i32)>,
}

impl Status {
    /// Returns whether all that `up` makes is there.
    pub fn is_up(&self) -> bool {
        self.network && self.server.is_some() && self.node.is_some()
    }

    /// Returns whether nothing is left.
    pub fn is_down(&self) -> bool {
        !self.network && self.server.is_none() && self.node.is_none() && self.guests.is_empty()
    }
}

/// One lab.
#[derive(Clone, Debug)]
pub struct Lab {
    layout: Layout,
    namespace: String,
}

impl Lab {
    /// Names the lab in a folder, whether it is up or not. Its namespace is `hearth-lab`.
    ///
    /// # Errors
    /// When the working folder can't be found.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let layout = Layout::new(dir).map_err(file(format!("find {}", dir.display())))?;
        Ok(Self { layout, namespace: "hearth-lab".into() })
    }

    /// Gives the namespace another name, for a second lab on the same machine.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        name.clone_into(&mut self.namespace);
        self
    }

    pub(crate) fn namespace_name(&self) -> &str {
        &self.namespace
    }

    /// Returns where the lab's files are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the API's address.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", net::GATEWAY)
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.layout.run("lock");
        fs::create_dir_all(self.layout.run("")).map_err(file(format!("make {}", self.layout.run("").display())))?;
        let lock = File::create(&path).map_err(file(format!("open {}", path.display())))?;
        // The kernel drops it with the process, however that ends.
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::Locked(self.layout.dir().to_owned()))?;
        Ok(lock)
    }

    /// Brings up what is not up yet and returns whether there was anything to do.
    ///
    /// # Errors
    /// What did not come up, with the end of its log.
    pub fn up(&self, options: &UpOptions) -> Result<bool, Error> {
        let _lock = self.lock()?;
        if self.status().is_up() && self.layout.run("ready").exists() {
            return Ok(false);
        }
        let missing: Vec<&str> = PROGRAMS.into_iter().filter(|name| !in_path(name)).collect();
        if !missing.is_empty() {
            return Err(Error::Missing(missing.join(", ")));
        }
        let say = |text: &str| (options.progress)(text);
        setup::prepare(&self.layout, crate::schema::Release::default())
            .map_err(file(format!("prepare {}", self.layout.dir().display())))?;
        let node = node::Node::new(&self.layout, &self.namespace);
        let image = node.prepare(options.node_image.as_deref())?;
        if !net::exists(&self.namespace) {
            say("network");
            net::make(&self.namespace)?;
        }
        say("acceleration");
        let accel = accel::probe(&self.layout, &image).map_err(file("find out whether KVM works"))?;
        if node.pid().is_none() {
            say(&format!("node guest ({accel:?})"));
            node.start(accel)?;
        }
        if self.server_pid().is_none() {
            say("API server");
            self.start_server(options)?;
        }
        self.wait_for_server()?;
        say("node guest boots");
        node.wait()?;
        store::files::write_atomic(&self.layout.run("ready"), "", 0o644).map_err(file("note that the lab is up"))?;
        Ok(true)
    }

    fn server_pid(&self) -> Option<rustix::process::Pid> {
        process::of_pid_file(&self.layout.run("server.pid"))
    }

    fn start_server(&self, options: &UpOptions) -> Result<(), Error> {
        let program = match &options.server {
            Some(program) => program.clone(),
            None => own_program()?,
        };
        let log = self.layout.run("server.log");
        let [ns, listen] = [self.namespace.clone(), format!("{}:{PORT}", net::GATEWAY)];
        // `setsid --fork` returns at once; the shell only gives the server its log in place of our pipes.
        let script = "log=$1; shift; exec setsid --fork \"$@\" >>\"$log\" 2>&1 </dev/null";
        let command = Command::new("sh").args(["-c", script, "sh"]).arg(&log);
        let command = command.args(["ip", "netns", "exec", &ns]).arg(program);
        let command = command.arg("--dir").arg(self.layout.dir()).args(["serve", "--listen", &listen, "--pid-file"]);
        command.arg(self.layout.run("server.pid")).run()?;
        Ok(())
    }

    fn wait_for_server(&self) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            let answer = self.inside(|| probe::version(&self.layout, (net::GATEWAY_ADDRESS, PORT)))?;
            match answer {
                Ok(()) => return Ok(()),
                Err(_) if begin.elapsed() < SERVER => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => {
                    let what = format!("the API server does not answer on {}: {error}", self.url());
                    return Err(not_up(what, self.layout.run("server.log")));
                }
            }
        }
    }

    /// Runs a function on a thread inside the lab's network. What it opens stays usable outside.
    ///
    /// # Errors
    /// When there is no such namespace, or it can't be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let path = net::path(&self.namespace);
        let namespace = File::open(&path).map_err(file(format!("open the namespace {}", path.display())))?;
        let entered = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                use std::os::fd::AsFd as _;
                let network = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(namespace.as_fd(), network)?;
                Ok::<T, rustix::io::Errno>(work())
            });
            thread.join()
        });
        match entered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(file(format!("enter the namespace {}", path.display()))(error.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Returns what of the lab is there.
    pub fn status(&self) -> Status {
        let number = |pid: rustix::process::Pid| pid.as_raw_nonzero().get();
        let node = node::Node::new(&self.layout, &self.namespace);
        let mut guests: Vec<(u32, i32)> = Vec::new();
        for entry in fs::read_dir(self.layout.run("")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let vmid = name.strip_suffix(".pid").and_then(|id| id.parse().ok());
            let pid = process::of_pid_file(&entry.path());
            guests.extend(vmid.zip(pid.map(number)));
        }
        guests.sort_unstable();
        let server = self.server_pid().map(number);
        Status { network: net::exists(&self.namespace), server, node: node.pid().map(number), guests }
    }

    /// Ends everything that runs and removes the network. Guests are shut down first, then the node, as they use its
    /// shares; `wipe` ends them at once and removes the lab's folder too.
    ///
    /// # Errors
    /// What would not end.
    pub fn down(&self, wipe: bool, progress: &dyn Fn(&str)) -> Result<bool, Error> {
        let lock = self.lock()?;
        let before = self.status();
        let _ = fs::remove_file(self.layout.run("ready"));
        if !before.guests.is_empty() {
            progress("guests");
            node::end(&self.layout, before.guests.iter().map(|(vmid, _)| vmid.to_string()), wipe)?;
        }
        if let Some(pid) = self.server_pid() {
            progress("API server");
            kill_process(pid, Signal::TERM).map_err(|error| file("stop the API server")(error.into()))?;
            let begin = Instant::now();
            while self.server_pid().is_some() && begin.elapsed() < SERVER {
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.server_pid().is_some() {
                kill_process(pid, Signal::KILL).map_err(|error| file("stop the API server")(error.into()))?;
            }
        }
        if before.node.is_some() {
            progress("node guest");
            node::end(&self.layout, ["node".to_owned()], wipe)?;
        }
        if before.network {
            progress("network");
            net::remove(&self.namespace)?;
        }
        let left = self.status();
        if !left.is_down() {
            return Err(Error::State(format!("not all of the lab ended: {left:?}")));
        }
        drop(lock);
        if wipe && self.layout.dir().exists() {
            let dir = self.layout.dir();
            fs::remove_dir_all(dir).map_err(file(format!("remove {}", dir.display())))?;
        }
        Ok(!before.is_down())
    }

    /// Returns the words before a command that make it run inside the lab's network.
    ///
    /// # Errors
    /// When the lab has no network.
    pub fn exec_words(&self) -> Result<Vec<String>, Error> {
        if !net::exists(&self.namespace) {
            return Err(Error::State(format!("the lab is not up: there is no namespace {}", self.namespace)));
        }
        Ok(["ip", "netns", "exec", &self.namespace].map(str::to_owned).to_vec())
    }

    /// Returns the node guest's address, for SSH as root with the lab's key.
    pub fn node_address(&self) -> Ipv4Addr {
        NODE_ADDRESS
    }
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Returns the `pve-lab` program: this one, or the one beside it.
fn own_program() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(file("find the running program"))?;
    let beside = own.with_file_name("pve-lab");
    // A test's program is one folder deeper.
    let above = own.parent().and_then(Path::parent).map(|folder| folder.join("pve-lab"));
    let found = [Some(beside), above].into_iter().flatten().find(|path| path.is_file());
    found.ok_or_else(|| Error::State(format!("there is no program `pve-lab` beside {}", own.display())))
}
