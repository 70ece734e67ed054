//! GROUPING SETS.

use std::sync::Arc;

use datafusion_common::Column;
use datafusion_expr::Expr;
use weir_operators::ExpandSpec;

use crate::identity::{Identity, Meaning, list};
use crate::logical::grouping::Expand;
use crate::logical::nodes::position;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built, internal};
use crate::physical::lineage::Lineage;
use crate::physical::ops::{Op, expand};
use crate::physical::tree::{NewNode, NodeId};

impl Builder<'_> {
    /// Each row once for every set of what is grouped by.
    pub(super) fn expand(&mut self, node: &Expand) -> Built<Rows> {
        let rows = self.rows(&node.input)?;
        let input = node.input.schema();
        // What is grouped by and is no column becomes one behind the others.
        let mut exprs: Vec<Expr> = input.iter().map(|field| Expr::Column(Column::from(field))).collect();
        let mut columns = Vec::with_capacity(node.columns.len());
        for (_, expr) in &node.columns {
            columns.push(position(expr, &node.input).unwrap_or_else(|| {
                exprs.push(expr.clone());
                exprs.len() - 1
            }));
        }
        let computed: Vec<String> =
            exprs.iter().skip(input.fields().len()).map(|expr| expr.schema_name().to_string()).collect();
        let fields = input.fields().iter().map(|field| field.name().as_str());
        let named: Vec<(&Expr, &str)> = exprs.iter().zip(fields.chain(computed.iter().map(String::as_str))).collect();
        let rows = self.compute(rows, &named, input, None)?;
        let mut all = Vec::new();
        for of in rows.nodes() {
            all.push(self.expanded(node, of, &columns)?);
        }
        Ok(Rows::union(all))
    }

    fn expanded(&mut self, node: &Expand, of: NodeId, columns: &[usize]) -> Built<Rows> {
        let Lineage { columns: meanings, rows: below, filters } = self.tree[of].lineage.clone();
        let keep = node.input.schema().fields().len();
        let name = |at: usize| node.names()[keep + at].clone();
        let spec = ExpandSpec {
            input: Arc::clone(self.tree[of].schema()),
            keep,
            columns: columns.iter().enumerate().map(|(at, column)| (*column, name(at))).collect(),
            number: name(columns.len()),
            sets: node.sets(),
        };
        let schema = expand(&spec).map_err(|error| internal(&error))?.output;
        let grouped: Vec<&Meaning> = columns.iter().map(|&column| &meanings[column]).collect();
        let numbers = node.numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let by = list(grouped.iter().copied());
        let rows = Meaning::of(|of| format!("{} SETS ({numbers}) OF {}", of(&below), of(&by)));
        let in_sets = grouped.iter().map(|meaning| Meaning::of(|of| format!("SET OF {}", of(meaning))));
        let columns: Vec<Meaning> =
            meanings.iter().take(keep).cloned().chain(in_sets).chain([Meaning::same("SET")]).collect();
        let identity = Identity::of("expand", &self.owner, &[&rows]);
        let width = schema.fields().len();
        let node = self.add(NewNode {
            op: Op::Expand(spec),
            inputs: vec![of],
            schema,
            lineage: Lineage { columns, rows, filters },
            identity,
            name: format!("Expand({} sets)", node.numbers.len()),
            place: self.place,
        });
        Ok(Rows::all(node, width))
    }
}
