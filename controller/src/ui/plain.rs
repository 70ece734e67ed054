//! Plain lines on standard output: one for each event, and one with the rates every few seconds.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use weir_runtime::clock;

use super::{Ui, View, Weight, text};

/// From one line with rates to the next.
const RATES_INTERVAL: Duration = Duration::from_secs(3);

/// Writes plain lines.
pub struct Plain {
    begun: Instant,
    shown: Instant,
}

impl Plain {
    /// Begins to count the time now.
    pub fn new() -> Self {
        let now = clock::now();
        Self { begun: now, shown: now }
    }

    fn line(&self, line: &str) {
        // A reader that has gone away, such as `head`, must not end the job.
        let _ = writeln!(std::io::stdout().lock(), "{:>8.3}  {line}", clock::since(self.begun).as_secs_f64());
    }
}

impl Default for Plain {
    fn default() -> Self {
        Self::new()
    }
}

impl Ui for Plain {
    fn event(&mut self, _weight: Weight, line: &str) {
        self.line(line);
    }

    fn printed(&mut self, line: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }

    fn show(&mut self, view: &View) {
        if clock::since(self.shown) < RATES_INTERVAL || view.attempt == 0 {
            return;
        }
        self.shown = clock::now();
        self.line(&rates(view));
    }

    fn finish(&mut self, view: &View) {
        if view.attempt > 0 {
            self.line(&rates(view));
        }
    }
}

fn rates(view: &View) -> String {
    format!(
        "{}: in {} ({}), out {} ({}), watermark {}, {}",
        view.state,
        text::count(view.rows_in.total),
        text::rate(view.rows_in.rate),
        text::count(view.rows_out.total),
        text::rate(view.rows_out.rate),
        text::watermark(view),
        text::left_out(view, ", "),
    )
}
