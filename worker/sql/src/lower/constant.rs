//! Rows that stand in the script: VALUES, and the one row of a SELECT without FROM.

use std::sync::Arc;

use arrow::array::RecordBatch;
use serde_json::{Value, json};
use weir_engine::api::error::SourceError;
use weir_engine::api::source::{Source, SourceContext, SourceFactory, SourcePoll};

/// Gives each row once, and ends.
pub struct ConstantRows(pub RecordBatch);

impl SourceFactory for ConstantRows {
    fn splits(&self, _parallelism: u32) -> Result<Vec<Value>, SourceError> {
        Ok(vec![position(0)])
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let given = ctx.splits.iter().map(|split| split.get("given").and_then(Value::as_u64));
        let given = given.map(|given| given.and_then(|given| usize::try_from(given).ok()));
        let given = given.collect::<Option<Vec<usize>>>();
        let given = given.ok_or_else(|| SourceError::bad_input("a position among VALUES is a number of rows"))?;
        Ok(Box::new(Rows { all: self.0.clone(), told: vec![false; given.len()], given }))
    }

    fn bounded(&self) -> bool {
        true
    }
}

fn position(given: usize) -> Value {
    json!({ "given": given })
}

struct Rows {
    all: RecordBatch,
    /// How many rows each split has given.
    given: Vec<usize>,
    /// Which splits have said that they are finished.
    told: Vec<bool>,
}

impl Source for Rows {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        for (split, given) in self.given.iter_mut().enumerate() {
            let rest = self.all.num_rows().saturating_sub(*given);
            if rest > 0 {
                let rows = self.all.slice(*given, rest.min(max_rows.max(1)));
                *given += rows.num_rows();
                return Ok(SourcePoll::Rows { split, rows });
            }
            if !std::mem::replace(&mut self.told[split], true) {
                return Ok(SourcePoll::SplitFinished(split));
            }
        }
        Ok(SourcePoll::End)
    }

    fn snapshot(&mut self) -> Result<Vec<Value>, SourceError> {
        Ok(self.given.iter().map(|given| position(*given)).collect())
    }
}

/// A source of these rows.
pub fn source(rows: RecordBatch) -> Arc<dyn SourceFactory> {
    Arc::new(ConstantRows(rows))
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::{DataType, Field, Int32Type, Schema};

    use super::*;

    fn read(source: &mut Rows, polls: usize) -> Vec<i32> {
        let mut read = Vec::new();
        for _ in 0..polls {
            match source.poll(2).unwrap() {
                SourcePoll::Rows { rows, .. } => {
                    read.extend(rows.column(0).as_primitive::<Int32Type>().values().iter().copied());
                }
                SourcePoll::End => break,
                _ => {}
            }
        }
        read
    }

    #[test]
    fn each_row_is_given_once_also_after_a_restore_anywhere() {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, false)]));
        let rows = RecordBatch::try_new(schema, vec![Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5]))]).unwrap();
        let at = |given: usize| Rows { all: rows.clone(), given: vec![given], told: vec![false] };
        assert_eq!(read(&mut at(0), 10), [1, 2, 3, 4, 5]);
        for polls in 0..6 {
            let mut first = at(0);
            let mut all = read(&mut first, polls);
            let given = first.snapshot().unwrap()[0]["given"].as_u64().unwrap() as usize;
            all.extend(read(&mut at(given), 10));
            assert_eq!(all, [1, 2, 3, 4, 5], "after {polls} polls");
        }
        let mut none = Rows { all: rows, given: Vec::new(), told: Vec::new() };
        assert!(matches!(none.poll(1).unwrap(), SourcePoll::End));
    }
}
