//! The first rows of each partition.

use std::sync::Arc;

use weir_engine::Exchange;
use weir_operators::{RankFunction, TopNSpec};
use weir_state::SortOrder;

use crate::error::{Place, PlanError};
use crate::identity::{Identity, Meaning, list};
use crate::logical::topn;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built};
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Op, TopN};
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
        self.first_rows(rows, first, node.place.or(self.place))
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
        let Lineage { mut columns, rows: below, filters } = self.lineage(&rows);
        let numbers = format!("{} FROM {from} TO {to}", function.name());
        let by = list(partition.iter().map(|&key| &columns[key]));
        let sorted = Meaning::of(|of| {
            let each: Vec<String> =
                order.iter().map(|(column, order)| format!("{} {}", of(&columns[*column]), way(*order))).collect();
            each.join(", ")
        });
        let of = Meaning::of(|of| format!("{} {numbers} BY {} OF {}", of(&below), of(&sorted), of(&by)));
        let identity = Identity::of("top-n", &self.owner, &[&of, &list(&columns)]);
        if with_number {
            columns.push(Meaning::of(|of| format!("{}() OVER ({} BY {})", function.name(), of(&by), of(&sorted))));
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

/// Of a column that rows are ordered by; nulls where Flink has them are not told.
fn way(order: SortOrder) -> &'static str {
    match (order.descending, order.nulls_first) {
        (false, true) => "ASC",
        (true, false) => "DESC",
        (false, false) => "ASC NULLS LAST",
        (true, true) => "DESC NULLS FIRST",
    }
}
