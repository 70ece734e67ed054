//! What the time between a death and the first output of the new attempt was spent on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_protocol::rpc;
use weir_runtime::clock;

use super::why::Why;
use crate::ui::text;

/// The stages from a failure (or a start) to running again, as spans since it was seen.
#[derive(Clone, Debug)]
pub struct Breakdown {
    cause: &'static str,
    seen: Instant,
    attempt: u64,
    term: Option<Duration>,
    worker: Option<Duration>,
    deploying: Option<Duration>,
    running: Option<Duration>,
    output: Option<Duration>,
    stop: Duration,
    restore: Duration,
    local_bytes: u64,
    downloaded_bytes: u64,
}

impl Breakdown {
    /// Something ended the attempt just now: `start`, `resume`, `worker`, `task` or `change`.
    pub fn new(cause: &'static str) -> Self {
        Self {
            cause,
            seen: clock::now(),
            attempt: 0,
            term: None,
            worker: None,
            deploying: None,
            running: None,
            output: None,
            stop: Duration::ZERO,
            restore: Duration::ZERO,
            local_bytes: 0,
            downloaded_bytes: 0,
        }
    }

    /// Nothing was lost: this run has just begun.
    fn is_start(&self) -> bool {
        self.cause == "start"
    }

    /// Why the next term is opened.
    pub fn why(&self) -> Why {
        match self.cause {
            "start" => Why::Start,
            "resume" => Why::Resume,
            "change" => Why::Change,
            _ => Why::Failure,
        }
    }

    /// The job runs again.
    pub fn is_over(&self) -> bool {
        self.running.is_some()
    }

    /// The next term stands.
    pub fn term_opened(&mut self) {
        if !self.is_over() {
            self.term = Some(clock::since(self.seen));
        }
    }

    /// A new worker is there.
    pub fn worker_ready(&mut self) {
        if !self.is_over() {
            self.worker = Some(clock::since(self.seen));
        }
    }

    /// The workers are told what to do.
    pub fn deploying(&mut self, attempt: u64) {
        if !self.is_over() {
            self.attempt = attempt;
            self.deploying = Some(clock::since(self.seen));
            (self.stop, self.restore) = (Duration::ZERO, Duration::ZERO);
            (self.local_bytes, self.downloaded_bytes) = (0, 0);
        }
    }

    /// One of them has done it.
    pub fn deployed(&mut self, deployed: &rpc::Deployed) {
        if deployed.attempt == self.attempt {
            self.stop = self.stop.max(Duration::from_millis(deployed.stop_ms));
            self.restore = self.restore.max(Duration::from_millis(deployed.restore_ms));
            self.local_bytes += deployed.local_bytes;
            self.downloaded_bytes += deployed.downloaded_bytes;
        }
    }

    /// `Run` is sent.
    pub fn running(&mut self) {
        if !self.is_over() {
            self.running = Some(clock::since(self.seen));
        }
    }

    /// How long it took to run, and what that was spent on.
    pub fn running_in_words(&self) -> String {
        let total = self.running.unwrap_or_else(|| clock::since(self.seen));
        let again = if self.is_start() { "running" } else { "running again" };
        let mut made_of = Vec::new();
        if let Some(term) = self.term {
            made_of.push(format!("new term at {}", text::span(term)));
        }
        if let Some(worker) = self.worker {
            made_of.push(format!("worker ready at {}", text::span(worker)));
        }
        if let Some(deploying) = self.deploying {
            made_of.push(format!("deployed in {}", text::span(total.saturating_sub(deploying))));
        }
        let moved = if self.local_bytes + self.downloaded_bytes > 0 {
            format!(
                "; state: {} from here, {} downloaded",
                text::bytes(self.local_bytes),
                text::bytes(self.downloaded_bytes)
            )
        } else {
            String::new()
        };
        format!("{again} after {} ({}{moved})", text::span(total), made_of.join(", "))
    }

    /// A row left a sink so long after `Run`. True the first time.
    pub fn first_output(&mut self, attempt: u64, after_run: Duration) -> bool {
        match self.running {
            Some(running) if attempt == self.attempt && self.output.is_none() => {
                self.output = Some(running + after_run);
                true
            }
            _ => false,
        }
    }

    /// When the first row left a sink.
    pub fn first_output_in_words(&self) -> Option<String> {
        let since = match self.cause {
            "start" => "the start",
            "change" => "the change began",
            _ => "the failure was seen",
        };
        Some(format!("first output {} after {since}", text::span(self.output?)))
    }

    /// All of it, in milliseconds, for tests and measurements.
    pub fn facts(&self) -> Value {
        let ms = |span: Option<Duration>| span.map(|span| span.as_secs_f64() * 1e3);
        json!({
            "cause": self.cause,
            "attempt": self.attempt,
            "termMs": ms(self.term),
            "workerReadyMs": ms(self.worker),
            "deployingMs": ms(self.deploying),
            "runningMs": ms(self.running),
            "firstOutputMs": ms(self.output),
            "stopMs": ms(Some(self.stop)),
            "restoreMs": ms(Some(self.restore)),
            "localBytes": self.local_bytes,
            "downloadedBytes": self.downloaded_bytes,
        })
    }
}
