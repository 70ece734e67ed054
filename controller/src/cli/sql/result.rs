//! The rows of a query as they come: what a worker's line says, and what of all of them is the result. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::{Map, Number, Value};

/// Rows of a result that only grows which stay in memory: some screens of them.
const KEPT: usize = 1_000;

/// Rows of a result whose rows change: all of it must be there, since any of them may go.
const MOST: usize = 1_000_000;

/// A line that says something of a result.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A row, and what it does.
    Row {
        /// Whose.
        result: String,
        /// `+I`, `-U`, `+U` or `-D`.
        kind: String,
        /// By the names of its columns.
        row: Map<String, Value>,
    },
    /// What is to come.
    Head {
        /// Of which result.
        result: String,
        /// Its columns in their order.
        columns: Vec<String>,
        /// Those whose values are numbers, although they come as texts.
        numbers: Vec<String>,
        /// How many rows are wanted.
        limit: Option<u64>,
        /// Its rows change.
        changes: bool,
    },
}

impl Line {
    /// Of what a worker has printed; none for what is no result's.
    pub fn of(text: &str) -> Option<Self> {
        text.starts_with(r#"{"result":"#).then(|| serde_json::from_str(text).ok()).flatten()
    }
}

/// A row's values in the order of the columns.
pub type Row = Vec<Value>;

/// A result so far.
#[derive(Debug, Default)]
pub struct Rows {
    /// Its columns.
    pub columns: Vec<String>,
    /// By column: its values are numbers, although they come as texts.
    numbers: Vec<bool>,
    /// Its rows change.
    pub changes: bool,
    /// How many rows are wanted.
    pub limit: Option<u64>,
    /// By their places.
    kept: BTreeMap<u64, Row>,
    /// The places of equal rows.
    places: HashMap<String, Vec<u64>>,
    /// Where rows were that went, for those that come in their stead.
    free: Vec<u64>,
    next: u64,
    /// How many rows there are, also those that are no longer kept.
    pub count: u64,
    /// There are more than can be held.
    pub overflown: bool,
}

impl Rows {
    /// The columns are known; they are told by each subtask.
    pub fn head(&mut self, columns: Vec<String>, numbers: &[String], limit: Option<u64>, changes: bool) {
        self.numbers = columns.iter().map(|column| numbers.contains(column)).collect();
        (self.columns, self.limit, self.changes) = (columns, limit, changes);
    }

    /// A row as a JSON object, behind what it does.
    pub fn json(&self, kind: Option<&str>, row: &Row) -> String {
        let op = kind.map(|kind| format!("\"op\":{}", Value::from(kind)));
        let fields = self.columns.iter().zip(&self.numbers).zip(row).map(|((name, is_number), value)| {
            let number = value.as_str().filter(|text| *is_number && serde_json::from_str::<Number>(text).is_ok());
            let value = number.map_or_else(|| value.to_string(), str::to_string);
            format!("{}:{value}", Value::from(name.as_str()))
        });
        format!("{{{}}}", op.into_iter().chain(fields).collect::<Vec<_>>().join(","))
    }

    /// A row's values in order. What it has not is NULL.
    pub fn ordered(&self, mut row: Map<String, Value>) -> Row {
        self.columns.iter().map(|column| row.remove(column).unwrap_or(Value::Null)).collect()
    }

    /// Takes a row in, or out.
    pub fn apply(&mut self, kind: &str, row: Row) {
        let key = Value::Array(row.clone()).to_string();
        match kind {
            "+I" | "+U" => {
                self.count += 1;
                let place = match self.free.pop() {
                    Some(place) if kind == "+U" => place,
                    free => {
                        self.free.extend(free);
                        self.next += 1;
                        self.next
                    }
                };
                self.kept.insert(place, row);
                if self.changes {
                    self.places.entry(key).or_default().push(place);
                    self.overflown |= self.kept.len() > MOST;
                } else if self.kept.len() > KEPT {
                    self.kept.pop_first();
                }
            }
            _ => {
                let Some(places) = self.places.get_mut(&key) else { return };
                if let Some(place) = places.pop() {
                    self.count = self.count.saturating_sub(1);
                    self.kept.remove(&place);
                    if kind == "-U" {
                        self.free.push(place);
                    }
                }
                if places.is_empty() {
                    self.places.remove(&key);
                }
            }
        }
    }

    /// All that are kept, in the order in which they came; a changed one stands where it stood.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.kept.values()
    }

    /// There are as many as are wanted.
    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.count >= limit)
    }
}

/// A value as people read it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A line of CSV.
pub fn csv<'v>(values: impl Iterator<Item = &'v Value>) -> String {
    let quoted = |value: &Value| {
        let text = if value.is_null() { return String::new() } else { shown(value) };
        let plain = !text.is_empty() && !text.contains(['"', ',', '\n', '\r']) && text.trim() == text;
        if plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
    };
    values.map(quoted).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(changes: bool, lines: &[(&str, i64)]) -> Rows {
        let mut rows = Rows::default();
        rows.head(vec!["n".to_string()], &[], None, changes);
        for (kind, n) in lines {
            rows.apply(kind, vec![json!(n)]);
        }
        rows
    }

    fn numbers(rows: &Rows) -> Vec<i64> {
        rows.rows().filter_map(|row| row[0].as_i64()).collect()
    }

    #[test]
    fn a_changed_row_stands_where_it_stood() {
        let rows = rows(true, &[("+I", 1), ("+I", 2), ("-U", 1), ("+U", 3), ("+I", 4), ("-D", 2)]);
        assert_eq!(numbers(&rows), [3, 4]);
        assert_eq!(rows.count, 2);
    }

    #[test]
    fn equal_rows_are_counted_and_what_is_not_there_does_not_go() {
        let rows = rows(true, &[("+I", 1), ("+I", 1), ("-D", 1), ("-D", 7)]);
        assert_eq!(numbers(&rows), [1]);
    }

    #[test]
    fn of_a_result_that_only_grows_the_last_rows_are_kept() {
        let all: Vec<(&str, i64)> = (0..2_500).map(|n| ("+I", n)).collect();
        let rows = rows(false, &all);
        assert_eq!(rows.count, 2_500);
        assert_eq!(numbers(&rows), (1_500..2_500).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_is_a_head_or_a_row_or_somebody_elses() {
        let head = Line::of(r#"{"result":"r","columns":["a","b"],"numbers":[],"limit":null,"changes":true}"#).unwrap();
        assert!(matches!(head, Line::Head { changes: true, limit: None, .. }), "{head:?}");
        let Some(Line::Row { row, kind, .. }) = Line::of(r#"{"result":"r","kind":"+U","row":{"b":2,"a":"x"}}"#) else {
            panic!("it is a row")
        };
        let mut rows = Rows::default();
        rows.head(vec!["a".to_string(), "b".to_string()], &[], Some(1), true);
        let row = rows.ordered(row);
        assert_eq!(row, [json!("x"), json!(2)]);
        rows.apply(&kind, row);
        assert!(rows.is_full());
        for other in ["+I[1, 2]", r#"{"a": 1}"#, r#"{"result": "r"}"#, r#"{"result":"#] {
            assert_eq!(Line::of(other), None, "{other}");
        }
    }

    #[test]
    fn numbers_that_come_as_texts_keep_their_digits() {
        let mut rows = Rows::default();
        rows.head(["d", "s", "f"].map(str::to_string).to_vec(), &["d".to_string(), "f".to_string()], None, true);
        let row = vec![json!("123456789012345678901.20"), json!("1.50"), json!("NaN")];
        assert_eq!(rows.json(Some("+I"), &row), r#"{"op":"+I","d":123456789012345678901.20,"s":"1.50","f":"NaN"}"#);
        assert_eq!(rows.json(None, &vec![json!(null); 3]), r#"{"d":null,"s":null,"f":null}"#);
    }

    #[test]
    fn csv_tells_null_from_nothing() {
        let row = [json!(null), json!(""), json!("a\"b"), json!(1.5), json!("x"), json!({"a": [1, 2]})];
        assert_eq!(csv(row.iter()), r#","","a""b",1.5,x,"{""a"":[1,2]}""#);
    }
}
