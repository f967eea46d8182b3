//! The API server as a process: open the lab's state, listen, serve until told to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::gate::Gate;
use crate::layout::Layout;
use crate::schema::Release;
use crate::server::{Mode, Server};
use crate::{http, setup};

/// How long running tasks have to end when the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(10);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The lab's folder; made if it is missing.
    pub dir: PathBuf,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// What a guest is.
    pub mode: Mode,
    /// Which release's API is spoken.
    pub release: Release,
    /// Whether a refused login waits three seconds, as the real server does.
    pub slow_refusals: bool,
    /// A file that holds this process's number while it serves.
    pub pid_file: Option<PathBuf>,
    /// What stands before the API.
    pub gate: Gate,
}

/// Serves until SIGINT or SIGTERM, or until `stop` is sent or dropped. `ready` gets the address once it is bound.
///
/// # Errors
/// When the folder can't be prepared, the address can't be bound, or the runtime can't start.
pub fn serve(
    options: &ServeOptions,
    ready: impl FnOnce(SocketAddr) -> io::Result<()>,
    stop: Option<oneshot::Receiver<()>>,
) -> io::Result<()> {
    let layout = Layout::new(&options.dir)?;
    setup::prepare(&layout, options.release)?;
    let mut server = Server::open(layout.clone(), options.mode, options.release)?;
    if let Some(server) = Arc::get_mut(&mut server) {
        server.slow_refusals = options.slow_refusals;
        server.gate = options.gate.clone();
    }
    let tls = setup::tls(&layout)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = http::bind(options.listen).await?;
        let address = listener.local_addr()?;
        if let Some(path) = &options.pid_file {
            store::files::write_atomic(path, format!("{}\n", std::process::id()), 0o644)?;
        }
        ready(address)?;
        http::serve(listener, tls, Arc::clone(&server), until(stop)).await;
        io::Result::Ok(())
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    server.tasks.wait_idle(FAREWELL);
    match &options.pid_file {
        Some(path) => fs::remove_file(path),
        None => Ok(()),
    }
}

async fn until(stop: Option<oneshot::Receiver<()>>) {
    use tokio::signal::unix::{SignalKind, signal};
    if let Some(stop) = stop {
        // Sent or dropped: either way the owner wants it to end.
        let _ = stop.await;
        return;
    }
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match (interrupt, terminate) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => eprintln!("pve-lab: can't wait for signals: {error}"),
    }
}
