//! Where workers come from: processes of this machine ([`local`]); pods, later.

pub mod local;

use std::fmt;

use async_trait::async_trait;
use weir_protocol::WorkerId;

/// One process that a platform was asked to start, by the number of the request, from 1. Never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessNumber(pub u64);

impl fmt::Display for ProcessNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a platform tells, in the order in which it happens to one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformEvent {
    /// The process listens.
    Started {
        /// Which.
        process: ProcessNumber,
        /// The id that it made for itself.
        worker: WorkerId,
        /// host:port of its gRPC server.
        address: String,
        /// Its process id, where it has one.
        pid: Option<u32>,
    },
    /// It could not be started, or ended before it listened. Nothing more comes of it.
    StartFailed {
        /// Which.
        process: ProcessNumber,
        /// For people: why, and what to do.
        reason: String,
        /// Trying again will not help: the binary is missing, or of another version.
        hopeless: bool,
    },
    /// It has ended. Nothing more comes of it.
    Died {
        /// Which.
        process: ProcessNumber,
        /// For people: by which signal, or with which code.
        how: String,
    },
    /// A line that it printed for people, such as a row of the print connector.
    Printed {
        /// Which.
        process: ProcessNumber,
        /// The line.
        line: String,
    },
}

/// Starts and stops worker processes.
///
/// The contract: a process that was started is told of by exactly one `Started` or `StartFailed`, and after `Started` by
/// exactly one `Died`, also when it was stopped. `Died` comes as soon as the platform knows, and a process told dead never
/// runs again. All started processes end when the platform is dropped.
#[async_trait]
pub trait Platform: Send {
    /// Starts one more process. Returns at once; the answer is an event.
    fn start(&mut self) -> ProcessNumber;

    /// Ends a process: asked first, then forced after a grace period.
    fn stop(&mut self, process: ProcessNumber);

    /// Ends a process at once.
    fn kill(&mut self, process: ProcessNumber);

    /// Waits until all processes are gone.
    async fn finish(&mut self);
}
