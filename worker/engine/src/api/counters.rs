//! What one subtask counts. Written by its thread, read by whoever reports.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use weir_runtime::clock;

use crate::api::time::MIN_WATERMARK;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What has been added up.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down; nothing as long as nobody has said it.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Default for Gauge {
    fn default() -> Self {
        Self(AtomicI64::new(Self::UNSAID))
    }
}

impl Gauge {
    const UNSAID: i64 = i64::MIN;

    /// It is this now.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What was said last.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|n| *n != Self::UNSAID)
    }
}

/// Adds up the time that one thread spends waiting; a wait that goes on counts too.
#[derive(Debug)]
pub struct Stopwatch {
    epoch: Instant,
    /// Microseconds of all waits that have ended.
    total: AtomicU64,
    /// When the wait that goes on began, in microseconds after the epoch, plus one; 0 for none.
    since: AtomicU64,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self { epoch: clock::now(), total: AtomicU64::new(0), since: AtomicU64::new(0) }
    }
}

impl Stopwatch {
    /// Measures a wait.
    pub fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.since.store(self.micros() + 1, Ordering::Relaxed);
        let result = wait();
        let began = self.since.swap(0, Ordering::Relaxed).saturating_sub(1);
        self.total.fetch_add(self.micros().saturating_sub(began), Ordering::Relaxed);
        result
    }

    /// Microseconds up to now.
    pub fn get(&self) -> u64 {
        let total = self.total.load(Ordering::Relaxed);
        match self.since.load(Ordering::Relaxed) {
            0 => total,
            since => total + self.micros().saturating_sub(since - 1),
        }
    }

    fn micros(&self) -> u64 {
        clock::since(self.epoch).as_micros() as u64
    }
}

/// The counters of one subtask.
#[derive(Debug)]
pub struct Counters {
    /// Rows that came out of the source, before any filter.
    pub source_rows: Counter,
    /// Rows that went into the sink.
    pub sink_rows: Counter,
    /// Rows that came after the watermark had passed them, and were left out.
    pub late_rows: Counter,
    /// Rows that were taken back though they were not there.
    pub unmatched_retractions: Counter,
    /// Input rows that could not be read and were skipped because an option says so.
    pub skipped_rows: Counter,
    /// Records that are there and not read, where the source knows.
    pub source_lag: Gauge,
    /// Time spent waiting for input.
    pub idle: Stopwatch,
    /// Time spent waiting for room in an output channel.
    pub backpressured: Stopwatch,
    /// Rows that came into each operator of the chain, and behind the last one, out of it.
    passed: Vec<Counter>,
    watermark: AtomicI64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            source_rows: Counter::default(),
            sink_rows: Counter::default(),
            late_rows: Counter::default(),
            unmatched_retractions: Counter::default(),
            skipped_rows: Counter::default(),
            source_lag: Gauge::default(),
            idle: Stopwatch::default(),
            backpressured: Stopwatch::default(),
            passed: Vec::new(),
            watermark: AtomicI64::new(MIN_WATERMARK),
        }
    }
}

impl Counters {
    /// For a chain of so many operators.
    pub(crate) fn of_chain(operators: usize) -> Self {
        Self { passed: std::iter::repeat_with(Counter::default).take(operators + 1).collect(), ..Self::default() }
    }

    /// Rows have come to the operator with this index; the number of operators stands for what is behind the last.
    pub(crate) fn pass(&self, index: usize, rows: usize) {
        if let Some(counter) = self.passed.get(index) {
            counter.add(rows as u64);
        }
    }

    /// Rows that have come so far to the operator with this index.
    pub(crate) fn passed(&self, index: usize) -> u64 {
        self.passed.get(index).map_or(0, Counter::get)
    }

    /// The event time that the subtask has reached.
    pub fn watermark(&self) -> i64 {
        self.watermark.load(Ordering::Relaxed)
    }

    pub(crate) fn set_watermark(&self, watermark: i64) {
        self.watermark.store(watermark, Ordering::Relaxed);
    }
}
