//! Records to rows: the value's columns, the key's, and what Kafka itself says of a record.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use weir_engine::api::error::SourceError;

use super::options::{Side, Sides};
use crate::formats::decode::{OnBadRecord, Rows};
use crate::spec::TableSpec;

/// What Kafka says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampType,
    LeaderEpoch,
}

/// The names of these, as Flink has them.
pub(super) const FACTS: [&str; 6] = ["topic", "partition", "offset", "timestamp", "timestamp-type", "leader-epoch"];

impl Fact {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "topic" => Self::Topic,
            "partition" => Self::Partition,
            "offset" => Self::Offset,
            "timestamp" => Self::Timestamp,
            "timestamp-type" => Self::TimestampType,
            "leader-epoch" => Self::LeaderEpoch,
            _ => return None,
        })
    }

    /// Whether a column of this type can have it.
    pub(super) const fn fits(self, data_type: &DataType) -> bool {
        match self {
            Self::Topic | Self::TimestampType => matches!(data_type, DataType::Utf8),
            Self::Partition | Self::LeaderEpoch => matches!(data_type, DataType::Int32 | DataType::Int64),
            Self::Offset => matches!(data_type, DataType::Int64),
            Self::Timestamp => matches!(data_type, DataType::Timestamp(..)),
        }
    }

    /// The types that fit, for messages.
    pub(super) const fn types(self) -> &'static str {
        match self {
            Self::Topic | Self::TimestampType => "STRING",
            Self::Partition | Self::LeaderEpoch => "INT or BIGINT",
            Self::Offset => "BIGINT",
            Self::Timestamp => "TIMESTAMP_LTZ(3)",
        }
    }
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) leader_epoch: i32,
    /// Its time is the log's, and not its producer's.
    pub(super) log_append_time: bool,
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) within: Within<'a>,
    pub(super) offset: i64,
    pub(super) timestamp: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is a row.
    Row,
    /// It stands for no row.
    Nothing,
    /// It could not be read, and is to be skipped.
    Skipped,
}

/// Where a column's values come from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Key(usize),
    Value(usize),
    Fact(Fact),
}

/// Gathers rows.
#[derive(Clone)]
pub(super) struct Decoder {
    key: Option<Reader>,
    value: Reader,
    origins: Vec<Origin>,
    schema: SchemaRef,
    facts: Facts,
    rows: usize,
}

#[derive(Clone)]
struct Reader {
    rows: Rows,
    on_bad: OnBadRecord,
    skips_by: Option<String>,
    name: &'static str,
}

impl Reader {
    /// Of the columns that are `needed`, says which of its own it has.
    fn new(side: &Side, needed: &[usize], name: &'static str) -> Result<(Self, Vec<usize>), SourceError> {
        let columns: Vec<usize> = side.columns.iter().copied().filter(|column| needed.contains(column)).collect();
        let own = columns.iter().filter_map(|column| side.columns.iter().position(|own| own == column));
        let rows = Rows::new(&side.format, &side.schema, &own.collect::<Vec<_>>())?;
        Ok((Self { rows, on_bad: side.on_bad, skips_by: side.skips_by.clone(), name }, columns))
    }
}

#[derive(Clone, Default)]
struct Facts {
    wanted: Vec<Fact>,
    topics: Vec<Arc<str>>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    log_append_times: Vec<bool>,
    leader_epochs: Vec<i32>,
}

impl Decoder {
    pub(super) fn new(table: &TableSpec, sides: &Sides) -> Result<Self, SourceError> {
        let needed = table.needed();
        let (value, of_value) = Reader::new(&sides.value, &needed, "value")?;
        // What is in both is taken from the value.
        let of_key: Vec<usize> = needed.iter().copied().filter(|column| !of_value.contains(column)).collect();
        let key = sides.key.as_ref().map(|side| Reader::new(side, &of_key, "key")).transpose()?;
        let mut origins = Vec::with_capacity(needed.len());
        for column in &needed {
            let place = |of: &[usize]| of.iter().position(|own| own == column);
            let fact = table.metadata.get(column).and_then(|metadata| Fact::named(&metadata.key));
            let origin = fact.map(Origin::Fact).or_else(|| place(&of_value).map(Origin::Value));
            let origin = origin.or_else(|| key.as_ref().and_then(|(_, own)| place(own)).map(Origin::Key));
            let unread = || {
                let name = table.schema.field(*column).name();
                SourceError::bad_input(format!("neither key nor value has the column {name}"))
            };
            origins.push(origin.ok_or_else(unread)?);
        }
        let wanted = origins.iter().filter_map(|origin| match origin {
            Origin::Fact(fact) => Some(*fact),
            _ => None,
        });
        let facts = Facts { wanted: wanted.collect(), ..Facts::default() };
        Ok(Self { key: key.map(|(key, _)| key), value, origins, schema: table.projected_schema(), facts, rows: 0 })
    }

    pub(super) const fn len(&self) -> usize {
        self.rows
    }

    /// Appends a record; an error names its place, and what can be done.
    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<Pushed, SourceError> {
        let row = self.rows;
        let sides = self.key.iter_mut().map(|key| (key, record.key)).chain([(&mut self.value, record.value)]);
        let mut pushed = Pushed::Row;
        for (reader, bytes) in sides {
            pushed = match reader.rows.push_message(bytes, row) {
                Ok(true) => continue,
                Ok(false) => Pushed::Nothing,
                Err(_) if reader.on_bad == OnBadRecord::Skip => Pushed::Skipped,
                Err(reason) => return Err(bad(record, reader, &reason)),
            };
            break;
        }
        if pushed == Pushed::Row {
            self.facts.push(record);
            self.rows += 1;
        } else {
            self.key.iter_mut().for_each(|key| key.rows.truncate(row));
            self.value.rows.truncate(row);
        }
        Ok(pushed)
    }

    /// All rows, and none are left.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let value = self.value.rows.finish()?;
        let key = self.key.as_mut().map(|key| key.rows.finish()).transpose()?.unwrap_or_default();
        let mut columns = Vec::with_capacity(self.origins.len());
        for (origin, field) in self.origins.iter().zip(self.schema.fields()) {
            columns.push(match *origin {
                Origin::Value(index) => Arc::clone(&value[index]),
                Origin::Key(index) => Arc::clone(&key[index]),
                Origin::Fact(fact) => self.facts.column(fact, field)?,
            });
        }
        self.facts.clear();
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }
}

fn bad(record: &Record<'_>, reader: &Reader, reason: &str) -> SourceError {
    let Within { topic, partition, .. } = record.within;
    let remedy = reader.skips_by.as_ref().map_or_else(
        || "read it as BYTES".to_string(),
        |option| format!("set '{option}' = 'true' to skip and count such records"),
    );
    SourceError::bad_input(format!(
        "topic {topic}, partition {partition}, offset {}: its {}: {reason}; {remedy}, or start behind it with 'scan.startup.mode' = \
         'specific-offsets'",
        record.offset, reader.name
    ))
}

impl Facts {
    fn push(&mut self, record: &Record<'_>) {
        for fact in &self.wanted {
            match fact {
                Fact::Topic => {
                    // Rows of a batch are mostly of one topic.
                    let same = self.topics.last().filter(|last| ***last == *record.within.topic).map(Arc::clone);
                    self.topics.push(same.unwrap_or_else(|| Arc::from(record.within.topic)));
                }
                Fact::Partition => self.partitions.push(record.within.partition),
                Fact::Offset => self.offsets.push(record.offset),
                Fact::Timestamp => self.timestamps.push(record.timestamp),
                Fact::TimestampType => self.log_append_times.push(record.within.log_append_time),
                Fact::LeaderEpoch => self.leader_epochs.push(record.within.leader_epoch),
            }
        }
    }

    fn column(&self, fact: Fact, field: &Field) -> Result<ArrayRef, ArrowError> {
        // A fact that two columns want was noted twice for each record.
        let twice = self.wanted.iter().filter(|wanted| **wanted == fact).count().max(1);
        let array: ArrayRef = match fact {
            Fact::Topic => Arc::new(StringArray::from_iter_values(self.topics.iter().step_by(twice))),
            Fact::Partition => Arc::new(Int32Array::from_iter_values(self.partitions.iter().copied().step_by(twice))),
            Fact::Offset => Arc::new(Int64Array::from_iter_values(self.offsets.iter().copied().step_by(twice))),
            Fact::Timestamp => return times(self.timestamps.iter().copied().step_by(twice), field),
            Fact::TimestampType => {
                let name = |log: &bool| if *log { "LogAppendTime" } else { "CreateTime" };
                Arc::new(StringArray::from_iter_values(self.log_append_times.iter().step_by(twice).map(name)))
            }
            Fact::LeaderEpoch => {
                let known = |epoch: i32| Some(epoch).filter(|epoch| *epoch >= 0);
                Arc::new(self.leader_epochs.iter().copied().step_by(twice).map(known).collect::<Int32Array>())
            }
        };
        if array.data_type() == field.data_type() { Ok(array) } else { cast(&array, field.data_type()) }
    }

    fn clear(&mut self) {
        *self = Self { wanted: std::mem::take(&mut self.wanted), ..Self::default() };
    }
}

/// Milliseconds as the column's times.
fn times(millis: impl Iterator<Item = i64>, field: &Field) -> Result<ArrayRef, ArrowError> {
    let DataType::Timestamp(unit, zone) = field.data_type() else {
        return Err(ArrowError::CastError(format!("'timestamp' is no {}", field.data_type())));
    };
    let array = TimestampMillisecondArray::from_iter_values(millis).with_timezone_opt(zone.clone());
    match unit {
        TimeUnit::Millisecond => Ok(Arc::new(array)),
        _ => cast(&array, field.data_type()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, Int64Type, Schema, TimestampMillisecondType};

    use super::*;
    use crate::kafka::options::sides;
    use crate::options::Options;
    use crate::spec::Metadata;

    fn table() -> TableSpec {
        let fields = vec![
            Field::new("k_id", DataType::Int32, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), true),
            Field::new("name", DataType::Utf8, true),
            Field::new("part", DataType::Int64, true),
            Field::new("offset", DataType::Int64, true),
        ];
        let mut table = TableSpec::new("t", Arc::new(Schema::new(fields)))
            .with("format", "json")
            .with("key.format", "json")
            .with("key.fields", "k_id")
            .with("key.fields-prefix", "k_")
            .with("value.fields-include", "EXCEPT_KEY");
        for (index, key) in [(1, "timestamp"), (3, "partition"), (4, "offset")] {
            table.metadata.insert(index, Metadata { key: key.to_string(), is_virtual: true });
        }
        table
    }

    fn decoder(table: &TableSpec) -> Decoder {
        Decoder::new(table, &sides(table, &Options::of(table)).unwrap()).unwrap()
    }

    fn record<'a>(offset: i64, key: Option<&'a str>, value: Option<&'a str>) -> Record<'a> {
        let within = Within { topic: "orders", partition: 3, leader_epoch: 7, log_append_time: false };
        let bytes = |text: Option<&'a str>| text.map(str::as_bytes);
        Record { within, offset, timestamp: 1000 + offset, key: bytes(key), value: bytes(value) }
    }

    #[test]
    fn key_value_and_what_kafka_says_come_into_one_row() {
        let mut decoder = decoder(&table());
        let good = [(5, r#"{"id":1}"#, r#"{"name":"a"}"#), (6, r#"{"id":null}"#, r#"{"name":"b","id":9}"#)];
        for (offset, key, value) in good {
            assert_eq!(decoder.push(&record(offset, Some(key), Some(value))).unwrap(), Pushed::Row);
        }
        // A tombstone, and a record without a key, are no rows to Flink either.
        assert_eq!(decoder.push(&record(7, Some(r#"{"id":1}"#), None)).unwrap(), Pushed::Nothing);
        assert_eq!(decoder.push(&record(8, None, Some(r#"{"name":"c"}"#))).unwrap(), Pushed::Nothing);
        let rows = decoder.finish().unwrap();
        assert_eq!(rows.num_rows(), 2);
        assert_eq!(rows.column(0).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), None]);
        assert_eq!(rows.column(1).as_primitive::<TimestampMillisecondType>().values(), &[1005, 1006]);
        assert_eq!(rows.column(2).as_string::<i32>().value(1), "b");
        assert_eq!(rows.column(3).as_primitive::<Int64Type>().values(), &[3, 3]);
        assert_eq!(rows.column(4).as_primitive::<Int64Type>().values(), &[5, 6]);
        assert_eq!(decoder.len(), 0);
    }

    #[test]
    fn a_bad_record_names_its_place_and_leaves_nothing_behind() {
        let mut decoder = decoder(&table());
        let error = decoder.push(&record(41, Some(r#"{"id":1}"#), Some(r#"{"name":"#))).unwrap_err().to_string();
        assert!(error.starts_with("topic orders, partition 3, offset 41: its value: "), "{error}");
        assert!(error.contains("'json.ignore-parse-errors' = 'true'"), "{error}");
        let error = decoder.push(&record(42, Some("1"), Some("{}"))).unwrap_err().to_string();
        assert!(error.contains("offset 42: its key: ") && error.contains("'key.json.ignore-parse-errors'"), "{error}");
        let mut skipping = self::decoder(&table().with("json.ignore-parse-errors", "true"));
        assert_eq!(skipping.push(&record(1, Some(r#"{"id":1}"#), Some("{"))).unwrap(), Pushed::Skipped);
        assert_eq!(skipping.push(&record(2, Some(r#"{"id":2}"#), Some(r#"{"name":"x"}"#))).unwrap(), Pushed::Row);
        let rows = skipping.finish().unwrap();
        assert_eq!((rows.num_rows(), rows.column(0).len()), (1, 1));
        assert_eq!(rows.column(0).as_primitive::<Int32Type>().value(0), 2);
    }

    #[test]
    fn what_is_in_key_and_value_is_taken_from_the_value() {
        let fields = vec![Field::new("id", DataType::Int32, true), Field::new("name", DataType::Utf8, true)];
        let table = TableSpec::new("t", Arc::new(Schema::new(fields)))
            .with("value.format", "csv")
            .with("key.format", "raw")
            .with("key.fields", "name");
        let mut decoder = decoder(&table);
        decoder.push(&record(0, Some("of the key"), Some("1,of the value"))).unwrap();
        let rows = decoder.finish().unwrap();
        assert_eq!(rows.column(1).as_string::<i32>().value(0), "of the value");
    }
}
