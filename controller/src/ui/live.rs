//! A view that redraws itself at the bottom of a terminal; events scroll by above it.

use std::time::Duration;

use console::style;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Ui, View, Weight, text};

/// Lines above the workers.
const HEAD_LINES: usize = 3;

/// The live view.
pub struct Live {
    screen: MultiProgress,
    head: Vec<ProgressBar>,
    workers: Vec<ProgressBar>,
}

impl Live {
    /// Nothing is drawn before the first view.
    pub fn new() -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let head = (0..HEAD_LINES).map(|i| add_line(&screen, i)).collect();
        Self { screen, head, workers: Vec::new() }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

fn add_line(screen: &MultiProgress, at: usize) -> ProgressBar {
    let bar = screen.insert(at, ProgressBar::no_length());
    let style = if at == 0 {
        ProgressStyle::with_template("{spinner:.cyan} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
    } else {
        ProgressStyle::with_template("  {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
    };
    bar.set_style(style);
    if at == 0 {
        bar.enable_steady_tick(Duration::from_millis(120));
    }
    bar
}

impl Ui for Live {
    fn event(&mut self, weight: Weight, line: &str) {
        let line = match weight {
            Weight::Routine => return,
            Weight::Change => style(line).dim(),
            Weight::Good => style(line).green(),
            Weight::Bad => style(line).red(),
        };
        let _ = self.screen.println(line.to_string());
    }

    fn printed(&mut self, line: &str) {
        self.screen.suspend(|| println!("{line}"));
    }

    fn show(&mut self, view: &View) {
        while self.workers.len() < view.workers.len() {
            self.workers.push(add_line(&self.screen, HEAD_LINES + self.workers.len()));
        }
        for gone in self.workers.drain(view.workers.len()..) {
            gone.finish_and_clear();
            self.screen.remove(&gone);
        }
        let lines = [title(view), rows(view), checkpoint(view)];
        for (bar, line) in self.head.iter().zip(lines) {
            bar.set_message(line);
        }
        for (bar, worker) in self.workers.iter().zip(&view.workers) {
            let pid = worker.pid.map_or_else(String::new, |pid| format!("pid {pid}"));
            bar.set_message(format!(
                "worker {:<3} {pid:<11} {:<9} in {:>9}   busy {:>3.0} %   state {:>9}",
                worker.number,
                worker.state,
                text::rate(worker.rate),
                worker.busy * 100.0,
                text::bytes(worker.state_bytes),
            ));
        }
    }

    fn finish(&mut self, view: &View) {
        self.show(view);
        for bar in self.head.iter().chain(&self.workers) {
            bar.finish();
        }
    }
}

fn title(view: &View) -> String {
    let state = match view.state.as_str() {
        "running" | "finished" => style(view.state.as_str()).green().bold(),
        _ => style(view.state.as_str()).yellow().bold(),
    };
    format!("{}  {state}  attempt {}  {}", style(&view.job).bold(), view.attempt, text::span(view.elapsed))
}

fn rows(view: &View) -> String {
    format!(
        "in {} ({})   out {} ({})   watermark {}   {}",
        text::count(view.rows_in.total),
        style(text::rate(view.rows_in.rate)).cyan(),
        text::count(view.rows_out.total),
        style(text::rate(view.rows_out.rate)).cyan(),
        text::watermark(view),
        text::left_out(view, "   "),
    )
}

fn checkpoint(view: &View) -> String {
    let newest = match &view.checkpoint {
        None => "no checkpoint yet".to_string(),
        Some(checkpoint) => format!(
            "checkpoint {}   took {}   state {}   uploaded {}   {} ago",
            style(format!("#{}", checkpoint.id)).cyan(),
            text::span(checkpoint.duration),
            text::bytes(checkpoint.state_bytes),
            text::bytes(checkpoint.uploaded_bytes),
            text::span(checkpoint.age),
        ),
    };
    match view.failed_checkpoints {
        0 => newest,
        failed => format!("{newest}   {}", style(format!("{failed} failed since")).red()),
    }
}
