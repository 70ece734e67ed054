//! From the workers' counts to what a person sees.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weir_protocol::{WorkerId, record::Record, rpc};
use weir_runtime::clock;

use super::roster::Roster;
use crate::ui::{CheckpointView, Flow, View};

/// What a subtask reports before it has any event time, and after the end of its input.
const NO_WATERMARK: i64 = i64::MIN;
const END_OF_INPUT: i64 = i64::MAX;

/// Adds up what the workers count.
pub struct Traffic {
    view: View,
    begun: Instant,
    completed: Option<Instant>,
    /// The longest pause of the checkpoint under way, by its id.
    pause: (u64, Duration),
    /// What the attempts before this one have counted.
    before: Counts,
    /// What this one's workers have counted, also those that are lost by now.
    current: BTreeMap<WorkerId, Counts>,
}

/// Rows, as the workers count them.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rows_in: u64,
    rows_out: u64,
    late: u64,
    skipped: u64,
}

impl Traffic {
    /// Of this job, of which so many checkpoints have failed since the newest that completed.
    pub fn new(job: String, failed_checkpoints: u32) -> Self {
        let view = View { job, state: "starting".to_string(), failed_checkpoints, ..View::default() };
        Self {
            view,
            begun: clock::now(),
            completed: None,
            pause: (0, Duration::ZERO),
            before: Counts::default(),
            current: BTreeMap::new(),
        }
    }

    /// One word for what is going on.
    pub fn state(&mut self, state: &str) {
        self.view.state = state.to_string();
    }

    /// Checkpoints aborted since the newest that completed.
    pub fn failed_checkpoints(&self) -> u32 {
        self.view.failed_checkpoints
    }

    /// Another attempt begins: its workers count from nothing, the run does not. What is read again counts again.
    pub fn attempt(&mut self, attempt: u64) {
        self.view.attempt = attempt;
        self.before = self.counted();
        self.current.clear();
        (self.view.rows_in.rate, self.view.rows_out.rate) = (0.0, 0.0);
    }

    /// By all attempts.
    fn counted(&self) -> Counts {
        let add = |sum: Counts, more: &Counts| Counts {
            rows_in: sum.rows_in + more.rows_in,
            rows_out: sum.rows_out + more.rows_out,
            late: sum.late + more.late,
            skipped: sum.skipped + more.skipped,
        };
        self.current.values().fold(self.before, add)
    }

    /// One worker's part of a checkpoint is there.
    pub fn acked(&mut self, acked: &rpc::Acked) {
        let pause = Duration::from_micros(acked.pause_us);
        self.pause = if self.pause.0 == acked.id { (acked.id, self.pause.1.max(pause)) } else { (acked.id, pause) };
    }

    /// A checkpoint is complete. Its longest pause, where known.
    pub fn completed(&mut self, record: &Record) -> Option<Duration> {
        let pause = (self.pause.0 == record.id.0).then_some(self.pause.1);
        self.completed = Some(clock::now());
        self.view.failed_checkpoints = 0;
        self.view.checkpoint = Some(CheckpointView {
            id: record.id.0,
            duration: Duration::from_millis(record.duration_ms),
            state_bytes: record.state_bytes,
            uploaded_bytes: record.uploaded_bytes,
            pause,
            age: Duration::ZERO,
        });
        pause
    }

    /// Checkpoints have failed.
    pub fn failed(&mut self, in_a_row: u32) {
        self.view.failed_checkpoints = in_a_row;
    }

    /// A worker has counted anew.
    pub fn update(&mut self, roster: &Roster) {
        let attempt = self.view.attempt;
        let (mut rate_in, mut rate_out) = (0.0, 0.0);
        let mut watermark: Option<i64> = None;
        for (worker, stats) in roster.stats().filter(|(_, stats)| stats.newest.attempt == attempt) {
            let newest = &stats.newest;
            let counts = Counts {
                rows_in: newest.source_rows,
                rows_out: newest.sink_rows,
                late: newest.late_rows,
                skipped: newest.skipped_rows,
            };
            self.current.insert(worker.clone(), counts);
            rate_in += stats.rows_in;
            rate_out += stats.rows_out;
            watermark = Some(watermark.map_or(newest.watermark_ms, |least| least.min(newest.watermark_ms)));
        }
        let counted = self.counted();
        self.view.rows_in = Flow { total: counted.rows_in, rate: rate_in };
        self.view.rows_out = Flow { total: counted.rows_out, rate: rate_out };
        (self.view.late_rows, self.view.skipped_rows) = (counted.late, counted.skipped);
        self.view.input_ended = watermark == Some(END_OF_INPUT);
        self.view.watermark_ms = watermark.filter(|ms| *ms != NO_WATERMARK && *ms != END_OF_INPUT);
    }

    /// As it is now.
    pub fn view(&mut self, roster: &Roster) -> View {
        self.view.elapsed = clock::since(self.begun);
        self.view.workers = roster.views();
        if let (Some(checkpoint), Some(completed)) = (&mut self.view.checkpoint, self.completed) {
            checkpoint.age = clock::since(completed);
        }
        self.view.clone()
    }
}
