//! An API-only server in the test's own process, for tests of clients.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::gate::Gate;
use crate::layout::Layout;
use crate::schema::Release;
use crate::serve::{ServeOptions, serve};
use crate::server::Mode;

/// A running API-only server; dropping it stops it.
pub struct ApiOnly {
    /// Its address, such as `https://127.0.0.1:40123`.
    pub url: String,
    /// The certificate authority to trust, as PEM text.
    pub ca_pem: String,
    /// The API token of the least privileges, as `hearth@pve!hearth=UUID`.
    pub token: String,
    /// A token of root that may do everything.
    pub root_token: String,
    /// The password of `root@pam`.
    pub password: String,
    /// The lab's folder.
    pub dir: PathBuf,
    gate: Gate,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// The folder, if the server made it itself: removed last.
    _own: Option<tempfile::TempDir>,
}

impl ApiOnly {
    /// Starts a server in a folder of its own. Refusals are not delayed.
    ///
    /// # Errors
    /// When the folder can't be made or the server can't start.
    pub fn start() -> io::Result<Self> {
        let own = tempfile::tempdir()?;
        let mut server = Self::start_in(own.path(), Release::default())?;
        server._own = Some(own);
        Ok(server)
    }

    /// Returns the gate before the API.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Starts a server on a folder that may have a state already.
    ///
    /// # Errors
    /// As [`ApiOnly::start`].
    pub fn start_in(dir: &Path, release: Release) -> io::Result<Self> {
        let options = ServeOptions {
            dir: dir.to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            mode: Mode::ApiOnly,
            release,
            slow_refusals: false,
            pid_file: None,
            gate: Gate::default(),
        };
        let gate = options.gate.clone();
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("pve-lab".into())
            .spawn(move || serve(&options, |address| ready.send(address).map_err(io::Error::other), Some(stopped)))?;
        let Ok(address) = bound.recv() else {
            let ended = thread.join().map_err(|_| io::Error::other("the server panicked"))?;
            return Err(ended.err().unwrap_or_else(|| io::Error::other("the server ended before it was bound")));
        };
        let layout = Layout::new(dir)?;
        Ok(Self {
            url: format!("https://{address}"),
            ca_pem: fs::read_to_string(layout.ca())?,
            token: fs::read_to_string(layout.token())?.trim().to_owned(),
            root_token: fs::read_to_string(layout.root_token())?.trim().to_owned(),
            password: fs::read_to_string(layout.password())?.trim().to_owned(),
            dir: dir.to_owned(),
            gate,
            stop: Some(stop),
            thread: Some(thread),
            _own: None,
        })
    }
}

impl fmt::Debug for ApiOnly {
    /// Leaves token and password out.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ApiOnly").field("url", &self.url).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Drop for ApiOnly {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("pve-lab: the test's server failed: {error}"),
                Err(_) => eprintln!("pve-lab: the test's server panicked"),
            }
        }
    }
}
