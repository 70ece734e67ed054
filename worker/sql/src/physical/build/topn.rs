//! The first rows of each partition.

use std::sync::Arc;

use datafusion_expr::LogicalPlan;
use weir_engine::Exchange;
use weir_operators::{Keep, RankFunction, TopNSpec, WindowTopNSpec};
use weir_state::SortOrder;

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::columns::{Traits, WindowColumn, traits, windowing};
use crate::logical::topn;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built, internal};
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Op, TopN, WindowTop};
use crate::physical::tree::NewNode;

/// Which rows of each partition are kept, as places among the columns of rows.
pub(super) struct First {
    pub partition: Vec<usize>,
    pub order: Vec<(usize, SortOrder)>,
    pub function: RankFunction,
    pub from: u64,
    pub to: u64,
    /// The name of the column with the number.
    pub rank: Option<String>,
}

impl Builder<'_> {
    pub(super) fn top_n(&mut self, node: &topn::TopN) -> Built<Rows> {
        let rows = self.rows(&node.input)?;
        let partition =
            node.partition.iter().map(|key| self.column(key, &node.input)).collect::<Built<Vec<usize>>>()?;
        let mut order: Vec<(usize, SortOrder)> = Vec::with_capacity(node.order.len());
        for sort in &node.order {
            let column = self.column(&sort.expr, &node.input)?;
            order.push((column, SortOrder { descending: !sort.asc, nulls_first: sort.nulls_first }));
        }
        let rank = node.rank.as_ref().map(|(_, field)| field.name().clone());
        let first = First { partition, order, function: node.function, from: node.from, to: node.to, rank };
        let place = node.place.or(self.place);
        if node.window().is_some() {
            return self.first_of_windows(rows, &node.input, first, None, place);
        }
        self.first_rows(rows, first, place)
    }

    /// Keeps the first rows of each partition of a window until it closes; with `keep` that row which comes first or last by its time.
    pub(super) fn first_of_windows(
        &mut self,
        rows: Rows,
        input: &LogicalPlan,
        first: First,
        keep: Option<Keep>,
        place: Place,
    ) -> Built<Rows> {
        self.refuse_updating(&rows, "the first rows of windows", place)?;
        let rows = self.trim(rows)?;
        self.refuse_unstable(&rows, &format!("{}()", first.function.name()), place)?;
        let First { partition, order, function, from, to, rank } = first;
        let known = traits(input);
        let of_partition: Vec<Traits> = partition.iter().filter_map(|&key| known.get(key).copied()).collect();
        let windows = windowing(&of_partition);
        let is_end = |&&key: &&usize| known[key].window == windows.map(|of| (WindowColumn::End, of));
        let Some(&end) = partition.iter().find(is_end) else {
            return Err(internal(&std::io::Error::other("rows of windows are not partitioned by the end of these")));
        };
        let times = (0..known.len()).filter(|&column| windows.is_some_and(|of| known[column].is_last(of))).collect();
        let input = self.schema(&rows);
        let spec = WindowTopNSpec {
            input: Arc::clone(&input),
            partition: partition.clone(),
            end,
            order: order.clone(),
            last_first: keep == Some(Keep::Last),
            from,
            to,
            rank,
        };
        let with_number = spec.rank.is_some();
        let op = WindowTop { spec, times, is_one: keep.is_some() };
        let made = op.make().map_err(|error| {
            PlanError::new(place, error.to_string(), "partition by, and order by, columns of plain types")
        })?;
        let lineage = self.lineage(&rows);
        let meaning = FirstMeaning::of(&lineage, &partition, &order, (function, from, to));
        let kept = keep.map_or("", |keep| if keep == Keep::First { "KEEP first" } else { "KEEP last" });
        let of = Meaning::of(|of| format!("WINDOW {kept} {}", of(&meaning.rows)));
        let Lineage { mut columns, filters, .. } = lineage;
        let identity = Identity::of("window-top-n", &self.owner, &[&of, &list(&columns)]);
        if with_number {
            columns.push(meaning.number);
        }
        let of_each = names(partition.iter().map(|&key| input.field(key)));
        let name = match keep {
            Some(keep) => {
                let keep = if keep == Keep::First { "first" } else { "last" };
                format!("{}(keep {keep} row of {of_each})", Op::WindowTopN(op.clone()).kind())
            }
            None => {
                let column = |column: usize| input.field(column).name().as_str();
                let each: Vec<String> =
                    order.iter().map(|(at, order)| format!("{} {}", column(*at), way(*order))).collect();
                let range = if from == to { to.to_string() } else { format!("{from} to {to}") };
                format!("WindowTopN({} {range} by {} of each {of_each})", function.name(), each.join(", "))
            }
        };
        let exchange = self.exchange(&rows, Exchange::Hash { keys: partition }, &identity);
        let schema = made.output;
        let width = schema.fields().len();
        let lineage = Lineage { columns, rows: of, filters };
        let op = Op::WindowTopN(op);
        let node = self.add(NewNode { op, inputs: vec![exchange], schema, lineage, identity, name, place });
        Ok(Rows::all(node, width))
    }

    /// Keeps the first rows of each partition.
    pub(super) fn first_rows(&mut self, rows: Rows, first: First, place: Place) -> Built<Rows> {
        let rows = self.trim(rows)?;
        self.refuse_unstable(&rows, &format!("{}()", first.function.name()), place)?;
        let First { partition, order, function, from, to, rank } = first;
        let input = self.schema(&rows);
        let retract = rows.nodes().any(|node| self.tree[node].traits.kinds.changes());
        let spec = TopNSpec {
            input: Arc::clone(&input),
            partition: partition.clone(),
            order: order.clone(),
            function,
            from,
            to,
            rank,
            retract_input: retract,
            update_before: true,
        };
        let with_number = spec.rank.is_some();
        let op = TopN { spec };
        let made = op.make(retract, true).map_err(|error| {
            PlanError::new(place, error.to_string(), "partition by, and order by, columns of plain types")
        })?;
        let lineage = self.lineage(&rows);
        let FirstMeaning { rows: of, number } = FirstMeaning::of(&lineage, &partition, &order, (function, from, to));
        let Lineage { mut columns, filters, .. } = lineage;
        let identity = Identity::of("top-n", &self.owner, &[&of, &list(&columns)]);
        if with_number {
            columns.push(number);
        }
        let column = |column: usize| input.field(column).name().as_str();
        let each: Vec<String> = order.iter().map(|(at, order)| format!("{} {}", column(*at), way(*order))).collect();
        let of_each = names(partition.iter().map(|&key| input.field(key)));
        let of_each = if of_each.is_empty() { of_each } else { format!(" of each {of_each}") };
        let range = if from == to { to.to_string() } else { format!("{from} to {to}") };
        let name = format!("TopN({} {range} by {}{of_each})", function.name(), each.join(", "));
        let exchange = if partition.is_empty() { Exchange::Single } else { Exchange::Hash { keys: partition } };
        let exchange = self.exchange(&rows, exchange, &identity);
        let schema = made.output;
        let width = schema.fields().len();
        let lineage = Lineage { columns, rows: of, filters };
        let op = Op::TopN(op);
        let node = self.add(NewNode { op, inputs: vec![exchange], schema, lineage, identity, name, place });
        Ok(Rows::all(node, width))
    }
}

/// What the first rows mean, and their number.
struct FirstMeaning {
    rows: Meaning,
    number: Meaning,
}

impl FirstMeaning {
    fn of(
        below: &Lineage,
        partition: &[usize],
        order: &[(usize, SortOrder)],
        (function, from, to): (RankFunction, u64, u64),
    ) -> Self {
        let numbers = format!("{} FROM {from} TO {to}", function.name());
        let by = list(partition.iter().map(|&key| &below.columns[key]));
        let sorted = Meaning::of(|of| {
            let each = order.iter().map(|(column, order)| format!("{} {}", of(&below.columns[*column]), way(*order)));
            each.collect::<Vec<String>>().join(", ")
        });
        Self {
            rows: Meaning::of(|of| format!("{} {numbers} BY {} OF {}", of(&below.rows), of(&sorted), of(&by))),
            number: Meaning::of(|of| format!("{}() OVER ({} BY {})", function.name(), of(&by), of(&sorted))),
        }
    }
}

/// Of a column that rows are ordered by; nulls where Flink has them are not told.
fn way(order: SortOrder) -> &'static str {
    match (order.descending, order.nulls_first) {
        (false, true) => "ASC",
        (true, false) => "DESC",
        (false, false) => "ASC NULLS LAST",
        (true, true) => "DESC NULLS FIRST",
    }
}
