//! The sending side of one edge: which rows go to which subtask, and when.
//!
//! A hash exchange hashes the key columns of a batch once, counts the rows of each destination, and appends them to one builder
//! a destination, so that batches do not shrink with parallelism. A builder is sent when it has [`TARGET_ROWS`] or
//! [`TARGET_BYTES`], or its first row has waited for [`LINGER`], or a barrier comes. A watermark waits for the rows that came
//! before it, and does not hurry them. Every other exchange passes batches on as they are.

use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use weir_protocol::CheckpointId;
use weir_runtime::clock;
use weir_state::{Keys, key_group, subtask_of};

use crate::api::batch::Batch;
use crate::api::error::OperatorError;
use crate::api::graph::Exchange;
use crate::api::time::{MIN_WATERMARK, Timestamp};
use crate::data::channel::Sender;
use crate::data::gather::Gather;
use crate::seam::Element;

/// Rows that a batch should have: enough that what is done once a batch costs little, few enough to stay in the cache.
pub const TARGET_ROWS: usize = 4096;
/// Bytes after which a batch is sent before it has its rows.
pub const TARGET_BYTES: usize = 1 << 20;
/// How long a row may wait for others.
pub const LINGER: Duration = Duration::from_millis(5);

/// The outputs of one subtask on one edge.
pub(crate) struct ExchangeOutput {
    route: Route,
    destinations: Vec<Destination>,
    /// Where broadcasts of signals begin has no meaning; where rebalancing goes on has.
    turn: usize,
    watermark: Timestamp,
    /// When the oldest row that is being gathered came; none while all of them wait for room.
    oldest: Option<Instant>,
    /// Rows that were due could not be sent, since their channel was full.
    held_back: bool,
}

struct Destination {
    sender: Sender,
    gather: Option<Gather>,
    /// The last watermark sent.
    sent: Timestamp,
}

enum Route {
    /// Everything to the only destination.
    One,
    /// Everything to this destination, signals to all.
    Fixed(usize),
    Broadcast,
    Rebalance,
    Hash(Box<HashRoute>),
}

/// Reused buffers of a hash exchange.
struct HashRoute {
    columns: Vec<usize>,
    keys: Keys,
    max_parallelism: u32,
    /// The owner of each key group.
    owners: Vec<u32>,
    /// The owner of each row.
    rows: Vec<u32>,
    /// Where the rows of each destination begin in `order`.
    starts: Vec<u32>,
    /// Row numbers, by destination.
    order: Vec<u32>,
}

/// The subtask that owns a key with this hash.
pub fn owner(hash: u64, max_parallelism: u32, parallelism: u32) -> u32 {
    subtask_of(key_group(hash, max_parallelism), max_parallelism, parallelism)
}

/// The subtask that owns the empty key: where [`Exchange::Single`] sends everything.
pub fn single_owner(max_parallelism: u32, parallelism: u32) -> Result<u32, OperatorError> {
    let mut keys = Keys::new();
    keys.encode(&[], 1)?;
    Ok(owner(keys.hash(0), max_parallelism, parallelism))
}

impl ExchangeOutput {
    /// `senders` has one for each subtask of the receiving stage; only one for [`Exchange::Forward`].
    pub(crate) fn new(
        exchange: &Exchange,
        subtask: u32,
        max_parallelism: u32,
        schema: &SchemaRef,
        senders: Vec<Sender>,
    ) -> Result<Self, OperatorError> {
        let width = senders.len() as u32;
        let route = match exchange {
            _ if width == 1 => Route::One,
            Exchange::Forward => Route::Fixed(subtask as usize),
            Exchange::Single => Route::Fixed(single_owner(max_parallelism, width)? as usize),
            Exchange::Broadcast => Route::Broadcast,
            Exchange::Rebalance => Route::Rebalance,
            Exchange::Hash { keys } => Route::Hash(Box::new(HashRoute::new(keys.clone(), max_parallelism, width))),
        };
        let gathers = matches!(route, Route::Hash(_));
        let destinations = senders
            .into_iter()
            .map(|sender| Destination {
                sender,
                gather: gathers.then(|| Gather::new(SchemaRef::clone(schema))),
                sent: MIN_WATERMARK,
            })
            .collect();
        Ok(Self {
            route,
            destinations,
            turn: subtask as usize,
            watermark: MIN_WATERMARK,
            oldest: None,
            held_back: false,
        })
    }

    /// Sends rows, or keeps them for a while.
    pub(crate) fn batch(&mut self, batch: Batch) -> Result<(), OperatorError> {
        match &mut self.route {
            Route::One => self.destinations[0].sender.batch(batch),
            Route::Fixed(destination) => self.destinations[*destination].sender.batch(batch),
            Route::Broadcast => {
                self.destinations.iter_mut().try_for_each(|destination| destination.sender.batch(batch.clone()))
            }
            Route::Rebalance => {
                self.turn = (self.turn + 1) % self.destinations.len();
                self.destinations[self.turn].sender.batch(batch)
            }
            Route::Hash(route) => {
                route.partition(&batch)?;
                let mut waits = false;
                for (i, destination) in self.destinations.iter_mut().enumerate() {
                    destination.add(&batch, route.rows_of(i), self.watermark)?;
                    waits |= destination.has_rows();
                }
                if !waits {
                    self.oldest = None;
                } else if self.oldest.is_none() {
                    self.oldest = Some(clock::now());
                }
                Ok(())
            }
        }
    }

    /// Some channel holds as much as it should.
    pub(crate) fn is_full(&self) -> bool {
        self.destinations.iter().any(|destination| destination.sender.is_full())
    }

    /// Looks again at channels that were full; `true` where one still is.
    pub(crate) fn look(&mut self) -> bool {
        self.destinations.iter_mut().for_each(|destination| destination.sender.look());
        let full = self.is_full();
        if self.held_back && !full {
            self.held_back = false;
            self.oldest.get_or_insert_with(clock::now);
        }
        full
    }

    /// Event time has got so far. Sent to each destination after the rows that came before.
    pub(crate) fn watermark(&mut self, watermark: Timestamp) -> Result<(), OperatorError> {
        self.watermark = watermark;
        for destination in &mut self.destinations {
            if !destination.has_rows() {
                destination.watermark(watermark, true)?;
            }
        }
        Ok(())
    }

    /// Sends all rows, and then this.
    pub(crate) fn signal(&mut self, element: &Element) -> Result<(), OperatorError> {
        self.flush()?;
        self.destinations.iter_mut().try_for_each(|destination| destination.sender.signal(element.clone()))
    }

    /// Sends a cancel, which rows need not wait for.
    pub(crate) fn cancel(&mut self, id: CheckpointId) -> Result<(), OperatorError> {
        self.destinations.iter_mut().try_for_each(|destination| destination.sender.signal(Element::Cancel(id)))
    }

    /// When rows that are being gathered have to be sent.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.oldest.map(|oldest| oldest + LINGER)
    }

    /// Sends the rows that are being gathered to wherever there is room, and the watermark that waited for them.
    pub(crate) fn flush_due(&mut self) -> Result<(), OperatorError> {
        self.oldest = None;
        for destination in &mut self.destinations {
            if destination.sender.is_full() {
                self.held_back |= destination.has_rows();
            } else {
                destination.flush(self.watermark)?;
            }
        }
        Ok(())
    }

    /// Sends all rows that are being gathered, and the watermark that waited for them.
    pub(crate) fn flush(&mut self) -> Result<(), OperatorError> {
        self.oldest = None;
        self.held_back = false;
        self.destinations.iter_mut().try_for_each(|destination| destination.flush(self.watermark))
    }
}

impl Destination {
    fn has_rows(&self) -> bool {
        self.gather.as_ref().is_some_and(|gather| !gather.is_empty())
    }

    fn add(&mut self, batch: &Batch, rows: &[u32], watermark: Timestamp) -> Result<(), OperatorError> {
        let Some(gather) = self.gather.as_mut().filter(|_| !rows.is_empty()) else { return Ok(()) };
        if rows.len() == batch.len() && gather.is_empty() && rows.len() >= TARGET_ROWS / 2 {
            return self.sender.batch(batch.clone());
        }
        gather.append(batch, rows)?;
        if gather.len() >= TARGET_ROWS || gather.bytes() >= TARGET_BYTES {
            return self.flush(watermark);
        }
        Ok(())
    }

    fn flush(&mut self, watermark: Timestamp) -> Result<(), OperatorError> {
        if let Some(gather) = self.gather.as_mut().filter(|gather| !gather.is_empty()) {
            let batch = gather.finish()?;
            self.sender.batch(batch)?;
        }
        self.watermark(watermark, false)
    }

    /// `repeat` sends it also if it has been sent, to say that this input is not idle.
    fn watermark(&mut self, watermark: Timestamp, repeat: bool) -> Result<(), OperatorError> {
        if watermark > self.sent || repeat {
            self.sent = watermark;
            self.sender.signal(Element::Watermark(watermark))?;
        }
        Ok(())
    }
}

impl HashRoute {
    fn new(columns: Vec<usize>, max_parallelism: u32, parallelism: u32) -> Self {
        let owners = (0..max_parallelism)
            .map(|group| subtask_of(weir_state::KeyGroup(group as u16), max_parallelism, parallelism))
            .collect();
        Self {
            columns,
            keys: Keys::new(),
            max_parallelism,
            owners,
            rows: Vec::new(),
            starts: vec![0; parallelism as usize + 1],
            order: Vec::new(),
        }
    }

    /// Sorts the batch's rows by destination: one pass that hashes and counts, one that places.
    fn partition(&mut self, batch: &Batch) -> Result<(), OperatorError> {
        let columns: Vec<_> = self.columns.iter().map(|column| batch.rows.column(*column).clone()).collect();
        self.keys.encode(&columns, batch.len())?;
        self.rows.clear();
        self.starts.fill(0);
        for hash in self.keys.hashes() {
            let owner = self.owners[usize::from(key_group(*hash, self.max_parallelism).0)];
            self.starts[owner as usize + 1] += 1;
            self.rows.push(owner);
        }
        for i in 1..self.starts.len() {
            self.starts[i] += self.starts[i - 1];
        }
        self.order.resize(self.rows.len(), 0);
        // Placing moves each start to where the next destination begins; `rows_of` reads them shifted by one.
        for (row, owner) in self.rows.iter().enumerate() {
            let place = &mut self.starts[*owner as usize];
            self.order[*place as usize] = row as u32;
            *place += 1;
        }
        Ok(())
    }

    fn rows_of(&self, destination: usize) -> &[u32] {
        let start = if destination == 0 { 0 } else { self.starts[destination - 1] as usize };
        &self.order[start..self.starts[destination] as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;
    use crate::api::counters::Stopwatch;
    use crate::api::source::Waker;
    use crate::data::gate::{Gate, Taken};

    const GROUPS: u32 = 128;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("key", DataType::Int64, false)]))
    }

    fn rows(range: std::ops::Range<i64>) -> Batch {
        let column = Arc::new(Int64Array::from_iter_values(range));
        Batch::inserts(RecordBatch::try_new(schema(), vec![column]).unwrap())
    }

    fn hash_into(width: u32) -> (ExchangeOutput, Vec<Arc<Gate>>) {
        hash_into_windows(width, usize::MAX)
    }

    fn hash_into_windows(width: u32, window: usize) -> (ExchangeOutput, Vec<Arc<Gate>>) {
        let gates: Vec<_> = (0..width).map(|_| Arc::new(Gate::new(&[None], window, None))).collect();
        let senders = gates.iter().map(|gate| Sender::local(Arc::clone(gate), 0, Waker::none())).collect();
        let exchange = Exchange::Hash { keys: vec![0] };
        (ExchangeOutput::new(&exchange, 0, GROUPS, &schema(), senders).unwrap(), gates)
    }

    fn take_all(gate: &Gate) -> Vec<Element> {
        let mut elements = Vec::new();
        while let Taken::Element(_, element) = gate.next(|_| false, Some(Instant::now()), &Stopwatch::default()) {
            elements.push(element);
        }
        elements
    }

    fn keys_of(element: &Element) -> &[i64] {
        match element {
            Element::Batch(batch) => batch.rows.column(0).as_primitive::<Int64Type>().values(),
            other => panic!("{other:?} is no batch"),
        }
    }

    #[test]
    fn every_row_goes_to_the_owner_of_its_key_group_in_order_and_batches_do_not_shrink() {
        let width = 7;
        let (mut output, gates) = hash_into(width);
        for i in 0..100 {
            output.batch(rows(i * 1000..(i + 1) * 1000)).unwrap();
        }
        assert!(output.deadline().is_some());
        output.flush().unwrap();
        assert_eq!(output.deadline(), None);
        let mut keys = Keys::new();
        keys.encode(&[Arc::new(Int64Array::from_iter_values(0..100_000))], 100_000).unwrap();
        for (subtask, gate) in (0..width).zip(&gates) {
            let elements = take_all(gate);
            let (_, full) = elements.split_last().unwrap();
            assert!(full.iter().all(|element| keys_of(element).len() >= TARGET_ROWS));
            let found: Vec<i64> = elements.iter().flat_map(|element| keys_of(element).to_vec()).collect();
            let owned = |row: &i64| owner(keys.hash(*row as usize), GROUPS, width) == subtask;
            assert_eq!(found, (0..100_000).filter(owned).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_watermark_comes_after_the_rows_before_it_and_does_not_hurry_them() {
        let (mut output, gates) = hash_into(2);
        output.batch(rows(0..1)).unwrap();
        output.watermark(5).unwrap();
        output.watermark(6).unwrap();
        let mut keys = Keys::new();
        keys.encode(&[Arc::new(Int64Array::from_iter_values(0..1))], 1).unwrap();
        let waits = owner(keys.hash(0), GROUPS, 2) as usize;
        assert_eq!(take_all(&gates[1 - waits]), [Element::Watermark(5), Element::Watermark(6)]);
        assert_eq!(take_all(&gates[waits]), []);
        output.signal(&Element::Barrier(CheckpointId(1))).unwrap();
        let elements = take_all(&gates[waits]);
        assert_eq!(keys_of(&elements[0]), [0]);
        assert_eq!(elements[1..], [Element::Watermark(6), Element::Barrier(CheckpointId(1))]);
        assert_eq!(take_all(&gates[1 - waits]), [Element::Barrier(CheckpointId(1))]);
    }

    #[test]
    fn a_batch_that_belongs_to_one_subtask_is_passed_on_as_it_is() {
        let (mut output, gates) = hash_into(2);
        let column = Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(3, TARGET_ROWS)));
        let batch = Batch::inserts(RecordBatch::try_new(schema(), vec![column]).unwrap());
        output.batch(batch.clone()).unwrap();
        assert_eq!(output.deadline(), None);
        let elements: Vec<_> = gates.iter().flat_map(|gate| take_all(gate)).collect();
        let Element::Batch(passed) = &elements[0] else { panic!("no batch") };
        assert!(Arc::ptr_eq(passed.rows.column(0), batch.rows.column(0)));
        assert_eq!(elements.len(), 1);
    }

    #[test]
    fn rows_for_a_full_channel_stay_gathered_until_it_has_room_or_a_barrier_comes() {
        let (mut output, gates) = hash_into_windows(2, 1);
        let all = rows(0..100);
        output.batch(all.clone()).unwrap();
        output.flush_due().unwrap();
        assert!(output.is_full() && output.look());
        output.batch(all.clone()).unwrap();
        output.flush_due().unwrap();
        assert_eq!(output.deadline(), None, "there is nothing to look at before there is room");
        let first: Vec<usize> = gates.iter().map(|gate| take_all(gate).len()).collect();
        assert_eq!(first, [1, 1]);
        assert!(!output.look());
        assert!(output.deadline().is_some());
        output.flush_due().unwrap();
        output.batch(all).unwrap();
        output.signal(&Element::Barrier(CheckpointId(1))).unwrap();
        for gate in &gates {
            let elements = take_all(gate);
            assert_eq!(elements.len(), 3, "{elements:?}");
            assert_eq!(elements[2], Element::Barrier(CheckpointId(1)));
        }
    }
}
