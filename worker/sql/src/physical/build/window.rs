//! Windows over rows.

use std::sync::Arc;

use weir_engine::Exchange;
use weir_operators::{SessionSpec, TimeSource, WindowAssignSpec, WindowKind, WindowShape};

use crate::identity::{Identity, Meaning, list};
use crate::logical::nodes::{WINDOW_COLUMNS, WindowTvf};
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built, internal};
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Op, duration, session_assign, window_assign, window_text};
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
        if window.shape.kind == WindowKind::Session {
            return self.sessions(window, &rows, time);
        }
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

impl Builder<'_> {
    /// Rows meet at their partition, which alone knows when its sessions are over.
    fn sessions(&mut self, window: &WindowTvf, rows: &Rows, time: TimeSource) -> Built<Rows> {
        let partition =
            window.partition.iter().map(|key| self.column(key, &window.input)).collect::<Built<Vec<usize>>>()?;
        let input = self.schema(rows);
        let spec =
            SessionSpec { input: Arc::clone(&input), partition: partition.clone(), time, gap: window.shape.size };
        let schema = session_assign(&spec).map_err(|error| internal(&error))?.output;
        let Lineage { mut columns, rows: below, filters } = self.lineage(rows);
        let of_time = time_meaning(&columns, time);
        let by = list(partition.iter().map(|&column| &columns[column]));
        let windows = rows_in_windows(window.shape, &below, &of_time);
        let of = Meaning::of(|of| format!("{} OF {}", of(&windows), of(&by)));
        let identity = Identity::of("session", &self.owner, &[&of, &list(&columns)]);
        let by = names(partition.iter().map(|&column| input.field(column)));
        let by = if by.is_empty() { by } else { format!("by {by}, ") };
        let name = format!("SessionAssign({by}{})", window_text(window.shape, &of_time.text, duration));
        columns.extend(WINDOW_COLUMNS.iter().map(|column| Meaning::same(*column)));
        let exchange = if partition.is_empty() { Exchange::Single } else { Exchange::Hash { keys: partition.clone() } };
        let exchange = self.exchange(rows, exchange, &identity);
        let width = schema.fields().len();
        let node = self.add(NewNode {
            op: Op::SessionAssign(spec),
            inputs: vec![exchange],
            schema,
            lineage: Lineage { columns, rows: of, filters },
            identity,
            name,
            place: window.place.or(self.place),
        });
        Ok(Rows::all(node, width))
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
