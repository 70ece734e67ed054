//! One row of each key.

use std::sync::Arc;

use weir_engine::Exchange;
use weir_operators::{DeduplicateSpec, Keep, RankFunction, TimeSource};
use weir_state::SortOrder;

use crate::identity::{Identity, Meaning, list};
use crate::logical::columns::{Time, partition_window};
use crate::logical::nodes::Deduplicate;
use crate::logical::optimize::place_of;
use crate::physical::build::rows::Rows;
use crate::physical::build::topn::First;
use crate::physical::build::{Builder, Built, internal};
use crate::physical::lineage::{Lineage, names};
use crate::physical::ops::{Dedup, Op};
use crate::physical::tree::NewNode;

impl Builder<'_> {
    pub(super) fn deduplicate(&mut self, node: &Deduplicate) -> Built<Rows> {
        let place = place_of(node.keys.iter().chain([&node.order])).or(self.place);
        let rows = self.rows(&node.input)?;
        let rows = self.trim(rows)?;
        let keys = node.keys.iter().map(|key| self.column(key, &node.input)).collect::<Built<Vec<usize>>>()?;
        let order = self.column(&node.order, &node.input)?;
        if partition_window(&node.keys, &node.input).is_some() && node.time_kind == Time::Event {
            let last_first = node.keep == Keep::Last;
            let ways = if last_first { SortOrder::DESCENDING } else { SortOrder::ASCENDING };
            let first = First {
                partition: keys,
                order: vec![(order, ways)],
                function: RankFunction::RowNumber,
                from: 1,
                to: 1,
                rank: None,
            };
            return self.first_of_windows(rows, &node.input, first, Some(node.keep), place);
        }
        if rows.nodes().any(|input| self.tree[input].traits.kinds.changes()) {
            // What replaced the row that stays may be taken back: all rows are needed.
            let ways = if node.keep == Keep::First { SortOrder::ASCENDING } else { SortOrder::DESCENDING };
            let order = vec![(order, ways)];
            let function = RankFunction::RowNumber;
            return self.first_rows(
                rows,
                First { partition: keys, order, function, from: 1, to: 1, rank: None },
                place,
            );
        }
        let input = self.schema(&rows);
        let dedup = Dedup {
            spec: DeduplicateSpec {
                input: Arc::clone(&input),
                keys: keys.clone(),
                order: match node.time_kind {
                    Time::Event => TimeSource::Event(order),
                    Time::Processing => TimeSource::Processing,
                },
                keep: node.keep,
                update_before: true,
            },
        };
        let schema = dedup.make(true).map_err(|error| internal(&error))?.output;
        let Lineage { columns, rows: below, filters } = self.lineage(&rows);
        let by = list(keys.iter().map(|&key| &columns[key]));
        let keep = if node.keep == Keep::First { "first" } else { "last" };
        let of = Meaning::of(|of| format!("{} KEEP {keep} BY {} OF {}", of(&below), of(&columns[order]), of(&by)));
        let identity = Identity::of("deduplicate", &self.owner, &[&of, &list(&columns)]);
        let name = format!("Deduplicate(keep {keep} row of {})", names(keys.iter().map(|&key| input.field(key))));
        let exchange = if keys.is_empty() { Exchange::Single } else { Exchange::Hash { keys } };
        let exchange = self.exchange(&rows, exchange, &identity);
        let width = schema.fields().len();
        let node = self.add(NewNode {
            op: Op::Deduplicate(dedup),
            inputs: vec![exchange],
            schema,
            lineage: Lineage { columns, rows: of, filters },
            identity,
            name,
            place,
        });
        Ok(Rows::all(node, width))
    }
}
