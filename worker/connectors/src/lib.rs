//! Sources and sinks, and the formats they read and write.
//!
//! A [`ConnectorFactory`] turns the declaration of a table, a [`TableSpec`], into the engine's `SourceFactory` or
//! `SinkFactory`; the [`ConnectorRegistry`] knows the factories by name and refuses options that they do not know.
//!
//! # Sources
//!
//! A source's position is data: JSON from which any subtask of any worker can go on. Reading from a position gives the same
//! rows again, whatever the batches before were; that, and nothing else, makes a restore exact. Hence every source here is
//! a function of its position: `nexmark` and `datagen` of a row's number, `filesystem` of a file and an offset between two
//! records.
//!
//! # Why the sink's contract has two phases, and what else it fits
//!
//! `Sink::prepare(id)` cuts what was written and answers, beside processing, with *pending commits*; they stand in the
//! part, and so in the record. `Committer::commit` publishes them once the record exists: from any process, in any order,
//! twice or late, with the same outcome. The trait asks for three things: what is pending is durable before it is
//! answered; a pending commit carries all that is needed to publish it; its names are fixed before the record is.
//!
//! | | `write` | `prepare` | a pending commit | `commit` | `clean` |
//! |---|---|---|---|---|---|
//! | files | append to a hidden file | cut; then fsync file and folder | hidden name, final name | mark, rename, fsync folder; done if there is a mark and no hidden file | delete hidden files of older attempts that nothing pending names |
//! | an object store | upload parts under a hidden name | cut; then upload the rest, and complete the upload | bucket, hidden name, final name | copy, mark, then delete; done if there is a mark | delete hidden objects of older attempts that nothing pending names |
//! | Kafka | send rows within a transaction | flush; then begin another transaction, of another id | transactional id, producer id, epoch, and the version of the request that ends it | end the transaction; where the answer leaves a doubt, ask what became of it | abort what older attempts have left open and nothing pending names |
//!
//! - *An object store* has no rename, but a copy within the bucket is whole or absent, and needs nothing but two names. The
//!   names hold attempt, worker, subtask and a number, so that no two objects have the same, and a late copy changes
//!   nothing. To complete a multipart upload only at the commit would save the copy, and has the weakness that a part of
//!   the servers (MinIO is one) lose an upload whose completion is cut off, which nobody can repeat.
//! - *Kafka* ends a transaction for whoever names its ids and its epoch, from any process. So the rows
//!   are in Kafka before the commit, where nobody who reads what is committed sees them, and a pending commit is these few numbers.
//!   The id is used again only once a record stands that does not name it: else a commit that comes late would end another
//!   transaction. That is why `commit` is asynchronous, and why it must not assume that it runs where the rows were written.
//! - *A mark* says that a commit was carried out: the newest record's comes again after every restore, and a reader may have moved
//!   away what was published. What is neither hidden nor published and has no mark is lost, and the job ends with that.
//!   Once a record stands that does not name it `forget` removes it.
//! - What none of them needs is a call at an abort: an aborted checkpoint's cut stays pending in every later part, so no
//!   sink must undo anything while it runs. Only a restore drops what is newer, and for that there is `clean`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod console;
mod datagen;
mod error;
mod filesystem;
mod formats;
mod kafka;
mod nexmark;
mod options;
mod pace;
mod registry;
mod results;
mod spec;
mod strided;
#[cfg(test)]
mod testing;

pub use console::{Blackhole, Print};
pub use datagen::Datagen;
pub use error::ConnectorError;
pub use filesystem::Filesystem;
pub use kafka::{Kafka, UpsertKafka};
pub use nexmark::{Nexmark, event_schema as nexmark_schema};
pub use registry::ConnectorRegistry;
pub use results::RESULTS;
pub use spec::{Accepts, ChangelogMode, ConnectorFactory, Metadata, OptionDoc, TableSpec};
