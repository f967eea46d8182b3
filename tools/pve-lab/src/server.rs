//! What one running server knows: the lab's paths, its mode, its guests, its tasks.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::access::Access;
use crate::auth::{Auth, Identity};
use crate::gate::Gate;
use crate::layout::Layout;
use crate::schema::{Params, Release};
use crate::storage::{Disks, Storages};
use crate::tasks::Tasks;
use crate::vm::Guests;

/// The name of the lab's only node.
pub(crate) const NODE: &str = "pve1";

/// What a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A record: it starts and stops in name only, and its disks are notes of format and size. Nothing of QEMU runs.
    ApiOnly,
    /// A QEMU process with real disks, on a bridge of the namespace that the server runs in.
    Real,
}

/// One server's state.
pub(crate) struct Server {
    pub(crate) layout: Layout,
    pub(crate) mode: Mode,
    pub(crate) release: Release,
    pub(crate) auth: Auth,
    pub(crate) access: Access,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) guests: Guests,
    pub(crate) storages: Storages,
    pub(crate) started: Instant,
    /// Whether a refused login waits three seconds, as the real server does.
    pub(crate) slow_refusals: bool,
    /// What stands before the API.
    pub(crate) gate: Gate,
}

/// One request, checked against the schema, with all that a handler needs.
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) who: Identity,
    pub(crate) params: Params,
    pub(crate) upload: Option<crate::http::multipart::Upload>,
    /// How many entries there are beyond those in the answer; stands beside `data` where the real server has it.
    pub(crate) total: std::cell::Cell<Option<usize>>,
}

impl Server {
    /// Opens a lab's state, which [`crate::setup::prepare`] has made.
    pub(crate) fn open(layout: Layout, mode: Mode, release: Release) -> io::Result<Arc<Self>> {
        let disks = if mode == Mode::Real { Disks::Qemu } else { Disks::Recorded };
        let server = Arc::new(Self {
            auth: Auth::open(&layout)?,
            access: Access::open(layout.state("access.json"), release)?,
            tasks: Tasks::open(layout.state("tasks"), NODE)?,
            guests: Guests::open(layout.state("qemu"))?,
            storages: Storages::new(layout.clone(), disks),
            started: Instant::now(),
            slow_refusals: true,
            gate: Gate::default(),
            layout,
            mode,
            release,
        });
        crate::vm::create::forget_halves(&server).map_err(|error| io::Error::other(error.line()))?;
        Ok(server)
    }
}
