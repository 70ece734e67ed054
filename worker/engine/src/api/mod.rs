//! What connectors and operators see of the engine: batches, the traits they implement, the graph they are placed in, time, errors and
//! counters. It knows nothing of how data moves, of checkpoints or of other workers.

pub mod batch;
pub mod clock;
pub mod counters;
pub mod error;
pub mod failure;
pub mod graph;
pub mod lookup;
pub mod operator;
pub mod sink;
pub mod source;
pub mod time;
