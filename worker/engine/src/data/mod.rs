//! The data plane: subtasks, the gates and exchanges between them, barriers and watermarks. Synchronous code, a thread a subtask.

pub mod alignment;
pub(crate) mod chain;
pub mod channel;
pub mod dataflow;
pub(crate) mod eventtime;
pub mod exchange;
pub mod gate;
pub mod gather;
pub mod splits;
pub(crate) mod subtask;
pub mod watermark;
pub mod wire;
