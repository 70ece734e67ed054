//! VALUES, and the one row of a SELECT without FROM, as sources that end.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, Values};
use weir_engine::{Kin, SourceNode};

use crate::error::PlanError;
use crate::identity::{Identity, Meaning, fingerprint};
use crate::lower::constant;
use crate::parse::types::flink_name;
use crate::physical::build::rows::Rows;
use crate::physical::build::{Builder, Built};
use crate::physical::lineage::Lineage;
use crate::physical::ops::{Op, Scan};
use crate::physical::tree::NewNode;

impl Builder<'_> {
    /// One row, of which nothing is read.
    pub(super) fn one_row(&mut self) -> Built<Rows> {
        let schema = Arc::new(Schema::new(vec![Field::new("row", DataType::Boolean, false)]));
        let column: ArrayRef = Arc::new(BooleanArray::from(vec![true]));
        let rows = self.planner(RecordBatch::try_new(schema, vec![column]).map_err(Into::into))?;
        Ok(self.constant(rows, "ONE ROW".to_string(), Vec::new()))
    }

    pub(super) fn values(&mut self, values: &Values) -> Built<Rows> {
        let schema: SchemaRef = Arc::new(values.schema.as_arrow().clone());
        let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::new(); schema.fields().len()];
        for row in &values.values {
            for ((value, column), field) in row.iter().zip(&mut columns).zip(schema.fields()) {
                match value.clone().unalias_nested().data {
                    Expr::Literal(value, _) => column.push(value),
                    _ => {
                        let data_type = flink_name(field.data_type());
                        return Err(PlanError::new(
                            self.place,
                            format!("a value of {} in VALUES is no constant of type {data_type}", field.name()),
                            "write SELECT … UNION ALL SELECT …, one for each row",
                        ));
                    }
                }
            }
        }
        let columns =
            columns.into_iter().map(ScalarValue::iter_to_array).collect::<datafusion_common::Result<Vec<_>>>();
        let columns = self.planner(columns)?;
        let rows = self.planner(RecordBatch::try_new(schema, columns).map_err(Into::into))?;
        let text = format!("VALUES #{}", fingerprint(&format!("{:?}", values.values)));
        let all = (0..rows.num_columns()).collect();
        Ok(self.constant(rows, text, all))
    }

    fn constant(&mut self, rows: RecordBatch, text: String, columns: Vec<usize>) -> Rows {
        let schema = rows.schema();
        let meaning = Meaning::same(text);
        let identity = Identity::of("source", &self.owner, &[&meaning]);
        self.constants += 1;
        let name = "Values".to_string();
        let of_column = |field: &Arc<Field>| Meaning::same(format!("{}.{}", meaning.text, field.name()));
        let lineage = Lineage {
            columns: schema.fields().iter().map(of_column).collect(),
            rows: Meaning::same(format!("FROM {}", meaning.text)),
            filters: Vec::new(),
        };
        let node = self.add(NewNode {
            op: Op::Scan(Box::new(Scan {
                // No declared table has it.
                serial: usize::MAX - self.constants,
                columns: (0..schema.fields().len()).collect(),
                times: vec![None; schema.fields().len()],
                primary_key: None,
                bounded: true,
                node: SourceNode {
                    identity: String::new(),
                    kin: Kin::default(),
                    name: name.clone(),
                    source: constant::source(rows),
                    prepare: None,
                    watermark: None,
                    schema: Arc::clone(&schema),
                    idle_timeout: None,
                },
            })),
            inputs: Vec::new(),
            schema,
            lineage,
            identity,
            name,
            place: self.place,
        });
        Rows::of(node, columns)
    }
}
