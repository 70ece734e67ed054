//! What a table of an operator's state is, in words that stay: a part carries them, and a restore holds them against what the
//! plan wants. Names of types are SQL's, written here and nowhere taken from a library.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use weir_protocol::part::{Layout, Table};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{keys::HASH_SEED, layout::StateId, table::RowLayout};

pub use weir_protocol::part::TableKind;

/// Separates what is hashed; it occurs in no name.
const SEPARATOR: char = '\u{1f}';

/// A table that an operator opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableShape {
    /// Its name within the operator.
    pub name: String,
    /// How its keys stand in the backend.
    pub kind: TableKind,
    /// The types of the key's columns, see [`type_name`].
    pub key: Vec<String>,
    /// What a row holds, in order, with types.
    pub row: Vec<String>,
    /// How long rows are.
    pub layout: RowLayout,
    /// By which code a row becomes bytes, with a version.
    pub codec: &'static str,
}

impl TableShape {
    /// As it stands in a part, for an operator whose rows stand under this name.
    pub fn describe(&self, rows_under: &str) -> Table {
        let layout = match self.layout {
            RowLayout::Fixed(bytes) => Layout::Fixed(bytes as u64),
            RowLayout::Variable => Layout::Variable,
        };
        let mut table = Table {
            name: self.name.clone(),
            id: StateId::of(rows_under, &self.name).0,
            kind: self.kind,
            key: self.key.clone(),
            row: self.row.clone(),
            layout,
            codec: self.codec.to_string(),
            schema: String::new(),
        };
        table.schema = schema_hash(&table);
        table
    }
}

/// 16 hexadecimal digits over kind, key, row, layout and codec. FORMAT.md has the text that is hashed.
fn schema_hash(table: &Table) -> String {
    let kind = match table.kind {
        TableKind::Table => "table",
        TableKind::Slices => "slices",
    };
    let layout = match table.layout {
        Layout::Fixed(bytes) => bytes.to_string(),
        Layout::Variable => "variable".to_string(),
    };
    let mut text = String::from(kind);
    for part in [&table.key.join(", "), &table.row.join(", "), &layout, &table.codec] {
        text.push(SEPARATOR);
        text.push_str(part);
    }
    format!("{:016x}", xxh3_64_with_seed(text.as_bytes(), HASH_SEED))
}

/// The SQL name of a column's type as it stands in parts. Two types with one name have the same bytes as keys and in rows.
pub fn type_name(data_type: &DataType) -> String {
    let digits = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    let plain = match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 => "HALF",
        DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "STRING",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTES",
        DataType::Date32 => "DATE",
        DataType::Date64 => "DATE MILLISECONDS",
        DataType::Interval(IntervalUnit::YearMonth) => "INTERVAL YEAR TO MONTH",
        DataType::Interval(IntervalUnit::DayTime) => "INTERVAL DAY TO MILLISECOND",
        DataType::Interval(IntervalUnit::MonthDayNano) => "INTERVAL MONTH TO NANOSECOND",
        DataType::FixedSizeBinary(bytes) => return format!("BINARY({bytes})"),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => return decimal(data_type, *precision, *scale),
        DataType::Time32(unit) | DataType::Time64(unit) => return format!("TIME({})", digits(unit)),
        DataType::Duration(unit) => return format!("DURATION({})", digits(unit)),
        DataType::Timestamp(unit, None) => return format!("TIMESTAMP({})", digits(unit)),
        DataType::Timestamp(unit, Some(_)) => return format!("TIMESTAMP_LTZ({})", digits(unit)),
        DataType::Dictionary(_, values) => return type_name(values),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{} {}", field.name(), type_name(field.data_type()))).collect();
            return format!("ROW<{}>", fields.join(", "));
        }
        DataType::List(element) => return format!("ARRAY<{}>", type_name(element.data_type())),
        DataType::Map(entries, _) => {
            let of = match entries.data_type() {
                DataType::Struct(fields) => fields.iter().map(|field| type_name(field.data_type())).collect(),
                other => vec![type_name(other)],
            };
            return format!("MAP<{}>", of.join(", "));
        }
        // Neither a key nor a row can have these; the name only has to be another than all above.
        other => return format!("UNKNOWN<{other}>"),
    };
    plain.to_string()
}

/// Decimals of 16 bytes are the usual ones; the others have other bytes.
fn decimal(data_type: &DataType, precision: u8, scale: i8) -> String {
    let bytes = match data_type {
        DataType::Decimal32(..) => " OF 4 BYTES",
        DataType::Decimal64(..) => " OF 8 BYTES",
        DataType::Decimal256(..) => " OF 32 BYTES",
        _ => "",
    };
    format!("DECIMAL({precision}, {scale}){bytes}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn shape() -> TableShape {
        TableShape {
            name: "groups".into(),
            kind: TableKind::Table,
            key: vec!["INT".into(), "STRING".into()],
            row: vec!["SUM BIGINT".into()],
            layout: RowLayout::Fixed(9),
            codec: "accumulators/1",
        }
    }

    #[test]
    fn the_schema_hash_is_that_of_the_format() {
        let format = include_str!("../FORMAT.md");
        let line = |what: &str, hash: &str| {
            let line = format!("| {what} | `{hash}` |");
            assert!(format.contains(&line), "FORMAT.md lacks the line\n{line}");
        };
        line("table, INT and STRING → SUM BIGINT, 9 bytes, `accumulators/1`", &shape().describe("o").schema);
        let slices = TableShape { kind: TableKind::Slices, layout: RowLayout::Variable, ..shape() };
        line("the same in slices, rows of any length", &slices.describe("o").schema);
    }

    #[test]
    fn whatever_changes_the_bytes_changes_the_hash_and_a_name_does_not() {
        let plain = shape().describe("o").schema;
        let changed = [
            TableShape { kind: TableKind::Slices, ..shape() },
            TableShape { key: vec!["BIGINT".into(), "STRING".into()], ..shape() },
            TableShape { key: vec!["INT".into()], ..shape() },
            TableShape { row: vec!["SUM DOUBLE".into()], ..shape() },
            TableShape { layout: RowLayout::Fixed(10), ..shape() },
            TableShape { codec: "accumulators/2", ..shape() },
        ];
        for changed in changed {
            assert_ne!(changed.describe("o").schema, plain, "{changed:?}");
        }
        let renamed = TableShape { name: "other".into(), ..shape() }.describe("p");
        assert_eq!(renamed.schema, plain);
        assert_ne!(renamed.id, shape().describe("o").id);
    }

    #[test]
    fn types_of_other_bytes_have_other_names() {
        let types = [
            DataType::Boolean,
            DataType::Int32,
            DataType::Int64,
            DataType::UInt64,
            DataType::Float32,
            DataType::Float64,
            DataType::Utf8,
            DataType::Binary,
            DataType::FixedSizeBinary(2),
            DataType::Date32,
            DataType::Time32(TimeUnit::Millisecond),
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            DataType::Duration(TimeUnit::Millisecond),
            DataType::Interval(IntervalUnit::YearMonth),
            DataType::Decimal64(10, 2),
            DataType::Decimal128(10, 2),
            DataType::Decimal128(10, 3),
        ];
        let mut names: Vec<String> = types.iter().map(type_name).collect();
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "{names:?}");
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8View));
        assert_eq!(type_name(&dictionary), "STRING");
        let zone: Option<Arc<str>> = Some("Europe/Berlin".into());
        assert_eq!(type_name(&DataType::Timestamp(TimeUnit::Millisecond, zone)), "TIMESTAMP_LTZ(3)");
    }
}
