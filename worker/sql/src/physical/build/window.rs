//! Windows over rows.

use std::sync::Arc;

use weir_operators::{TimeSource, WindowAssignSpec, WindowShape};

use crate::identity::{Identity, Meaning};
use crate::logical::nodes::{WINDOW_COLUMNS, WindowTvf};
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built, internal};
use crate::physical::lineage::Lineage;
use crate::physical::ops::{Op, duration, window_assign, window_text};
use crate::physical::tree::NewNode;

impl Builder<'_> {
    /// A window function that no aggregation takes in.
    pub(super) fn assign(&mut self, window: &WindowTvf) -> Built<Rows> {
        let rows = self.rows(&window.input)?;
        self.refuse_updating(&rows, "a window", window.place)?;
        let rows = self.trim(rows)?;
        let time = match &window.time {
            Some(time) => TimeSource::Event(self.column(time, &window.input)?),
            None => TimeSource::Processing,
        };
        let mut all = Vec::new();
        for input in rows.nodes() {
            let Lineage { mut columns, rows, filters } = self.tree[input].lineage.clone();
            let spec = WindowAssignSpec { input: Arc::clone(self.tree[input].schema()), window: window.shape, time };
            let schema = window_assign(&spec).map_err(|error| internal(&error))?.output;
            let of = time_meaning(&columns, time);
            let name = format!("WindowAssign({})", window_text(window.shape, &of.text, duration));
            let rows = rows_in_windows(window.shape, &rows, &of);
            columns.extend(WINDOW_COLUMNS.iter().map(|column| Meaning::same(*column)));
            let identity = Identity::of("window-assign", &self.owner, &[&rows]);
            let width = schema.fields().len();
            let node = self.add(NewNode {
                op: Op::WindowAssign(spec),
                inputs: vec![input],
                schema,
                lineage: Lineage { columns, rows, filters },
                identity,
                name,
                place: window.place,
            });
            all.push(Rows::all(node, width));
        }
        Ok(Rows::union(all))
    }
}

/// What the time is that windows are cut by.
pub fn time_meaning(columns: &[Meaning], time: TimeSource) -> Meaning {
    match time {
        TimeSource::Event(column) => columns[column].clone(),
        TimeSource::Processing => Meaning::same("processing time"),
    }
}

/// Rows, each in its windows.
pub fn rows_in_windows(shape: WindowShape, rows: &Meaning, time: &Meaning) -> Meaning {
    let now = window_text(shape, &time.text, |millis| format!("{millis} ms"));
    let before = window_text(shape, &time.before, duration);
    Meaning { text: format!("{} {now}", rows.text), before: format!("{} {before}", rows.before) }
}
