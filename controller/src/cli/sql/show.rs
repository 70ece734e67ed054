//! Results on their way to whoever looks: a table that is kept up to date in a terminal; changes, CSV or JSON for programs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use console::Term;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use weir_runtime::clock;

use super::result::{Line, Rows, csv, shown};
use crate::{
    supervisor::Control,
    ui::{Ui, View, Weight, text},
};

/// From one drawing of the table to the next.
const REDRAW: Duration = Duration::from_millis(150);

/// Characters of one value in a table.
const WIDEST: usize = 60;

/// Lines of the screen that are not rows: the head, the frame, what stands below, and where the cursor is.
const AROUND: usize = 7;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Kept up to date; in a terminal.
    Table,
    /// What each row does, and the row.
    Changelog,
    /// With a first column `op` where rows change.
    Csv,
    /// An object a line; with `op` where rows change.
    Json,
}

/// Shows the results of a run, and nothing else of it but what goes wrong.
pub struct Results {
    form: Form,
    shown: BTreeMap<String, Rows>,
    terminal: Term,
    drawn: usize,
    last: Option<Instant>,
    stale: bool,
    /// Ends the run when there are as many rows as are wanted.
    control: mpsc::Sender<Control>,
    stopping: bool,
    input_rate: f64,
}

impl Results {
    /// Nothing has come yet.
    pub fn new(form: Form, control: mpsc::Sender<Control>) -> Self {
        Self {
            form,
            shown: BTreeMap::new(),
            terminal: Term::stdout(),
            drawn: 0,
            last: None,
            stale: false,
            control,
            stopping: false,
            input_rate: 0.0,
        }
    }

    fn line(&mut self, line: Line) {
        match line {
            Line::Head { result, columns, numbers, limit, changes } => {
                let is_new = !self.shown.contains_key(&result);
                self.shown.entry(result).or_default().head(columns.clone(), &numbers, limit, changes);
                if is_new && self.form == Form::Csv {
                    let op = changes.then(|| Value::from("op"));
                    let names: Vec<Value> = op.into_iter().chain(columns.into_iter().map(Value::from)).collect();
                    say(&csv(names.iter()));
                }
                self.stale = true;
            }
            Line::Row { result, kind, row } => self.row(&result, &kind, row),
        }
    }

    fn row(&mut self, result: &str, kind: &str, row: Map<String, Value>) {
        let several = self.shown.len() > 1;
        let rows = self.shown.entry(result.to_string()).or_default();
        if rows.is_full() {
            return;
        }
        let row = rows.ordered(row);
        match self.form {
            Form::Table => {}
            Form::Changelog => {
                let values: Vec<String> = row.iter().map(shown).collect();
                let of = if several { format!("{result}> ") } else { String::new() };
                say(&format!("{of}{kind}[{}]", values.join(", ")));
            }
            Form::Csv => {
                let op = rows.changes.then(|| Value::from(kind));
                say(&csv(op.iter().chain(&row)));
            }
            Form::Json => say(&rows.json(rows.changes.then_some(kind), &row)),
        }
        rows.apply(kind, row);
        self.stale = true;
        let is_full = rows.is_full();
        if rows.overflown {
            self.stop("the result has more rows than can be shown: add a WHERE, or write them into a table");
        } else if is_full && self.shown.values().all(Rows::is_full) {
            self.stop("there are as many rows as were asked for");
        }
    }

    fn stop(&mut self, why: &str) {
        if !std::mem::replace(&mut self.stopping, true) {
            // A full queue holds another wish to end.
            let _ = self.control.try_send(Control::Stop { last_checkpoint: false, why: why.to_string() });
        }
    }

    /// The table anew, over the one before.
    fn draw(&mut self, last: bool) {
        if self.form != Form::Table || (!self.stale && !last) {
            return;
        }
        if !last && self.last.is_some_and(|last| clock::since(last) < REDRAW) {
            return;
        }
        (self.last, self.stale) = (Some(clock::now()), false);
        let (height, width) = self.terminal.size();
        let room = (usize::from(height).saturating_sub(AROUND) / self.shown.len().max(1)).max(3);
        let mut screen = String::new();
        for rows in self.shown.values() {
            screen.push_str(&table(rows, if last { usize::MAX } else { room }, width));
            screen.push('\n');
        }
        if !last {
            let rate = text::rate(self.input_rate);
            let _ = writeln!(screen, "reading {rate}; Ctrl-C ends the query");
        }
        let _ = self.terminal.clear_last_lines(self.drawn);
        let _ = self.terminal.write_str(&screen);
        let _ = self.terminal.flush();
        self.drawn = if last { 0 } else { screen.lines().count() };
    }
}

/// The last rows of a result that fit, with how many there are.
fn table(rows: &Rows, room: usize, width: u16) -> String {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_header(&rows.columns);
    let mut last: Vec<_> = rows.rows().rev().take(room).collect();
    last.reverse();
    for row in &last {
        table.add_row(row.iter().map(|value| {
            let text: String = shown(value).replace(['\n', '\r', '\t'], " ");
            if text.chars().count() <= WIDEST {
                text
            } else {
                text.chars().take(WIDEST - 1).chain(std::iter::once('…')).collect()
            }
        }));
    }
    let count = rows.count;
    let shown = last.len() as u64;
    let of = if shown < count { format!(", the last {shown} are shown") } else { String::new() };
    format!("{table}\n{count} row{}{of}", if count == 1 { "" } else { "s" })
}

/// What a script has been told where it asked.
pub fn answer(answer: &Value) -> String {
    let rows = answer.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let values = |row: &Value| row.as_array().into_iter().flatten().map(shown).collect::<Vec<_>>();
    let columns = answer.get("columns").map(values).unwrap_or_default();
    // A text of several lines stands alone.
    if let ([_], [row]) = (columns.as_slice(), rows)
        && let [text] = values(row).as_slice()
        && text.contains('\n')
    {
        return text.clone();
    }
    if rows.is_empty() {
        return "there are none".to_string();
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(columns);
    for row in rows {
        table.add_row(values(row).iter().map(|text| if text == "NULL" { "" } else { text }));
    }
    table.to_string()
}

fn say(line: &str) {
    // A reader that has gone away, such as `head`, must not end the job; the next line tells.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

impl Ui for Results {
    fn event(&mut self, weight: Weight, line: &str) {
        if weight == Weight::Bad {
            let _ = self.terminal.clear_last_lines(self.drawn);
            self.drawn = 0;
            eprintln!("{line}");
        }
    }

    fn printed(&mut self, line: &str) {
        match Line::of(line) {
            Some(line) => self.line(line),
            // A table of the script's own prints.
            None => say(line),
        }
        self.draw(false);
    }

    fn show(&mut self, view: &View) {
        self.input_rate = view.rows_in.rate;
        self.stale |= !self.shown.is_empty();
        self.draw(false);
    }

    fn finish(&mut self, _view: &View) {
        self.draw(true);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_shows_the_last_rows_and_how_many_there_are() {
        let mut rows = Rows::default();
        rows.head(vec!["n".to_string(), "text".to_string()], &[], None, false);
        for n in 0..5 {
            rows.apply("+I", vec![json!(n), json!(null)]);
        }
        let text = table(&rows, 2, 80);
        assert!(text.contains("│ 3 ┆ NULL │") && text.contains("│ 4 ┆ NULL │"), "{text}");
        assert!(!text.contains("│ 2 "), "{text}");
        assert!(text.ends_with("5 rows, the last 2 are shown"), "{text}");
        assert!(table(&rows, 10, 80).ends_with("5 rows"));
    }

    #[tokio::test]
    async fn a_limit_ends_the_run_once() {
        let (control, mut told) = mpsc::channel(8);
        let mut results = Results::new(Form::Table, control);
        results.printed(r#"{"result":"r","columns":["a"],"numbers":[],"limit":2,"changes":false}"#);
        for n in 0..4 {
            results.printed(&format!(r#"{{"result":"r","kind":"+I","row":{{"a":{n}}}}}"#));
        }
        assert!(matches!(told.recv().await, Some(Control::Stop { last_checkpoint: false, .. })));
        assert!(told.try_recv().is_err());
        assert_eq!(results.shown["r"].count, 2);
    }
}
