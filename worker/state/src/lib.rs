//! Keyed state of a job: tables in memory over a backend, checkpointed by freezing and persisting beside processing.
//!
//! An operator has [`Table`]s and [`SliceTable`]s, which it reads and writes a batch at a time by [`Keys`]; [`MapTable`] and
//! [`LogTable`] are ordered maps and bags over them. Those of one subtask
//! share a [`SubtaskState`] with one [`KeyedBackend`]. At a barrier the tables are frozen, which moves pointers; a persist thread
//! then writes what was frozen, takes the backend's snapshot and uploads what is new of it. FORMAT.md has every byte format.
//!
//! It knows nothing of batches' meaning, barriers or records: the engine says when to freeze, what the base is, and when a
//! record exists.
#![warn(clippy::disallowed_methods)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods))]

pub mod backend;
pub mod budget;
pub mod conformance;
pub mod describe;
pub mod error;
mod frozen;
mod guard;
pub mod keys;
mod layout;
mod local;
pub mod log;
pub mod map;
pub mod memory;
pub mod persist;
pub mod registry;
mod restore;
pub mod rocks;
mod room;
pub mod slices;
mod store;
pub mod subtask;
pub mod table;
pub mod timers;
mod uploads;

pub use backend::{BackendFactory, Carriage, KeyedBackend, LocalFile, OpenBackend, VisitEntry, WriteBatch};
pub use budget::{Shares, StateMemory};
pub use conformance::conformance;
pub use describe::{TableKind, TableShape, type_name};
pub use error::{StateError, StateErrorKind};
pub use frozen::Frozen;
pub use keys::sort::{SortKeys, SortOrder, decode_sort_keys};
pub use keys::{KeyGroup, Keys, decode_keys, key_group, key_group_range, subtask_of};
pub use layout::StateId;
pub use log::{Appends, LogPlace, LogTable};
pub use map::{Changes, MapRange, MapTable};
pub use persist::{Persist, PersistStats, Uploader};
pub use registry::BackendRegistry;
pub use slices::{Cursor, SliceTable};
pub use subtask::{OpenState, SubtaskState};
pub use table::{RowLayout, Slot, Table};
pub use timers::Timers;
