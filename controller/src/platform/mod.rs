//! Where workers come from: processes of this machine ([`local`]), or pods of a cluster
//! ([`kubernetes`]).

pub mod kubernetes;
pub mod local;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

/// One process that a platform was asked to start, by the number of the request, from 1. Never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessNumber(pub u64);

impl fmt::Display for ProcessNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a worker process is made from. Two with the same hash are interchangeable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerTemplate {
    /// Tells one from another: the hash of the image and of everything else that only another process can have. Empty where
    /// all processes are the same, as on this machine.
    pub hash: String,
    /// In a cluster: the pod, with `generateName`, labels and owner, but without the label that names the hash.
    pub pod: Option<Arc<Pod>>,
}

/// Why a process that was asked for does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What sort of obstacle.
    pub kind: ObstacleKind,
    /// For people.
    pub reason: String,
}

/// Sorts of obstacles, what needs help most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObstacleKind {
    /// A quota is used up.
    Quota,
    /// A policy, a limit or a webhook refuses it.
    Refused,
    /// Its image, or that of something beside it, cannot be had.
    Image,
    /// Something in it ends again and again.
    Crash,
    /// No node has room for it.
    NoRoom,
    /// No node takes it, however much room there is.
    NoPlace,
    /// Anything else.
    Other,
    /// Nothing is wrong yet: what comes before it in its pod is not done.
    Initializing,
}

impl ObstacleKind {
    /// It would come if another process went.
    pub const fn is_room(self) -> bool {
        matches!(self, Self::Quota | Self::NoRoom)
    }

    /// The API server refuses it.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Quota | Self::Refused)
    }

    /// Something is wrong.
    pub const fn is_in_the_way(self) -> bool {
        !matches!(self, Self::Initializing)
    }
}

/// What is wrong with something beside a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// It will not mend by itself.
    pub lasting: bool,
    /// For people: which, and how.
    pub reason: String,
}

/// What a platform tells, in the order in which it happens to one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformEvent {
    /// These were there before this platform was asked for any: the job's workers that another controller has left. Told
    /// once, before anything else, by a platform whose processes outlive it; `Started` or `StartFailed` follows for each.
    Found {
        /// Their numbers, and the hashes of the templates that they are made from.
        processes: Vec<(ProcessNumber, String)>,
    },
    /// What is in the way of a process that was asked for and is not there yet: no node has room for it, its image cannot be
    /// pulled. It may still come. Told when it changes.
    Waiting {
        /// Which.
        process: ProcessNumber,
        /// None: nothing any more.
        obstacle: Option<Obstacle>,
    },
    /// What is wrong with something that the user has put beside a process that was started. Told when it changes.
    Beside {
        /// Which.
        process: ProcessNumber,
        /// None: nothing any more.
        trouble: Option<Trouble>,
    },
    /// The process listens.
    Started {
        /// Which.
        process: ProcessNumber,
        /// How people call it: `worker 2 (pid 4711)`, a pod's name.
        name: String,
        /// host:port of its gRPC server.
        address: String,
        /// Its process id, where it has one.
        pid: Option<u32>,
        /// The hash of the template that it is made from.
        template: String,
    },
    /// It has been told to go, by somebody else than this platform's user: its node is drained, or it is preempted. It
    /// works until it is stopped, or until its time is over.
    Leaving {
        /// Which.
        process: ProcessNumber,
        /// For people.
        reason: String,
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
/// runs again, or, where it was cut off and may still be alive, is fenced by its attempt's number.
#[async_trait]
pub trait Platform: Send {
    /// Starts one more process. Returns at once; the answer is an event.
    fn start(&mut self, template: &WorkerTemplate) -> ProcessNumber;

    /// Ends a process: asked first, then forced after a grace period.
    fn stop(&mut self, process: ProcessNumber);

    /// Ends a process at once.
    fn kill(&mut self, process: ProcessNumber);

    /// Ends all processes, and waits until they are gone.
    async fn finish(&mut self);

    /// Lets go of all processes: another supervisor takes them over, or has. Where they cannot live without this platform
    /// they end.
    async fn release(&mut self);
}
