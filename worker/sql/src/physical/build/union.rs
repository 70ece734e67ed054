//! UNION ALL: the rows of several queries. They meet at the next exchange, or before a sink.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_expr::Union;
use datafusion_physical_expr::expressions::lit;

use crate::error::Place;
use crate::identity::{Identity, Meaning, list};
use crate::physical::build::rows::{Computed, Rows};
use crate::physical::build::{Builder, Built};
use crate::physical::ops::Op;
use crate::physical::tree::{NewNode, NodeId};

impl Builder<'_> {
    pub(super) fn union(&mut self, union: &Union) -> Built<Rows> {
        let output: SchemaRef = Arc::new(Schema::new(union.schema.fields().clone()));
        let mut all = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let rows = self.rows(input)?.of_union();
            all.push(if output.fields().is_empty() {
                self.counted(rows)?
            } else {
                self.pass_all(rows, Some(&output))?
            });
        }
        Ok(Rows::union(all))
    }

    /// Rows of which no column is read: with one that is the same in all queries, so that they can be counted.
    fn counted(&mut self, rows: Rows) -> Built<Rows> {
        self.project(rows, None, |_, _| {
            let field = Field::new("row", DataType::Boolean, false);
            Ok(vec![Computed { expr: lit(true), field, meaning: Meaning::same("TRUE") }])
        })
    }

    /// One node with all the rows.
    pub(super) fn together(&mut self, rows: &Rows) -> NodeId {
        let mut nodes = rows.nodes();
        if let (Some(only), None) = (nodes.next(), nodes.next()) {
            return only;
        }
        let lineage = self.lineage(rows);
        let identity = Identity::of("union", &self.owner, &[&lineage.rows, &list(&lineage.columns)]);
        self.add(NewNode {
            op: Op::Union,
            inputs: rows.nodes().collect(),
            schema: self.schema(rows),
            lineage,
            identity,
            name: String::new(),
            place: Place::default(),
        })
    }
}
