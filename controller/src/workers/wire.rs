//! What all gRPC with workers has in common: how large a message may be, and who is at the other end.

use std::{fmt, sync::Arc};

/// Parts and records may carry state of up to 5 MiB for each of some subtasks. More than this fits into no record, and a worker may
/// run a tenant's own code: what it says must not fill a process that serves other jobs too.
pub const MAX_MESSAGE: usize = 64 << 20;

/// How workers' gRPC is reached, and what the controller shows them of itself. PEM.
#[derive(Clone)]
pub struct SessionTls {
    /// Who may have signed a worker's certificate.
    pub ca: Arc<[u8]>,
    /// The controller's own certificate.
    pub cert: Arc<[u8]>,
    /// Its key.
    pub key: Arc<[u8]>,
    /// The name that a worker's certificate must be for: `worker.weir`.
    pub server_name: String,
}

impl fmt::Debug for SessionTls {
    /// Keys appear in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
