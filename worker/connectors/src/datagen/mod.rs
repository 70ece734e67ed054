//! Made-up rows: sequences and random values, with Flink's options.
//!
//! A row is a function of the seed and its number, so that splits can be read again from anywhere and give the same rows.
//! The one exception are times and dates, which are those at which a row is made, as in Flink.

mod columns;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, SchemaRef};
use weir_engine::api::clock::Clock;
use weir_engine::api::error::SourceError;
use weir_engine::api::sink::SinkFactory;
use weir_engine::api::source::{Source, SourceContext, SourceFactory};
use weir_protocol::script;

use self::columns::{Column, Values};
use crate::error::ConnectorError;
use crate::nexmark::random::mix;
use crate::options::Options;
use crate::spec::{ConnectorFactory, OptionDoc, TableSpec};
use crate::strided::{Numbered, Strided, initial_splits};

/// Flink's defaults.
const DEFAULT_ROWS_PER_SECOND: u64 = 10_000;
const DEFAULT_LENGTH: usize = 100;
/// The longest text: what a record of a file may have.
const MAX_LENGTH: usize = 16 << 20;
/// A batch has as many rows as have texts of so many bytes, or one.
const BATCH_BYTES: usize = 4 << 20;

/// `'connector' = 'datagen'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Datagen;

const OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "rows-per-second",
        expects: "a whole number of at least 1",
        default: Some("10000"),
        about: "Rows per second for the whole job.",
    },
    OptionDoc {
        name: "number-of-rows",
        expects: "a whole number of at least 1",
        default: Some("no end"),
        about: "How many rows there are. The table also ends with its first sequence that does.",
    },
    OptionDoc {
        name: "seed",
        expects: "a whole number",
        default: Some("0"),
        about: "Another seed gives other random values.",
    },
    OptionDoc {
        name: "fields.#.kind",
        expects: "'random' or 'sequence'",
        default: Some("random"),
        about: "How the values of the column are made. Times and dates are always those at which the row is made.",
    },
    OptionDoc {
        name: "fields.#.min",
        expects: "a number of the column's type",
        default: Some("the type's least"),
        about: "Random: the least value.",
    },
    OptionDoc {
        name: "fields.#.max",
        expects: "a number of the column's type",
        default: Some("the type's greatest"),
        about: "Random: the greatest value.",
    },
    OptionDoc {
        name: "fields.#.length",
        expects: "a whole number of characters, from 1 to 16777216",
        default: Some("100"),
        about: "Random texts: their length.",
    },
    OptionDoc {
        name: "fields.#.var-len",
        expects: "'true' or 'false'",
        default: Some("false"),
        about: "Random texts: their lengths are from 1 up to the length.",
    },
    OptionDoc {
        name: "fields.#.max-past",
        expects: "a duration such as '10 s'",
        default: Some("0"),
        about: "Timestamps: how long at most before the row is made they are.",
    },
    OptionDoc {
        name: "fields.#.null-rate",
        expects: "a number from 0 to 1",
        default: Some("0"),
        about: "Random: how many of the values are NULL.",
    },
    OptionDoc { name: "fields.#.start", expects: "a whole number", default: None, about: "Sequence: the first value." },
    OptionDoc {
        name: "fields.#.end",
        expects: "a whole number, not below the start",
        default: Some("no end"),
        about: "Sequence: the last value.",
    },
];

impl ConnectorFactory for Datagen {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        let options = Options::of(table);
        let seed = options.parsed("seed", "a whole number", |_: &u64| true)?.unwrap_or(0);
        check_columns_exist(table, &options)?;
        let mut rows = options.count("number-of-rows")?;
        let mut columns = Vec::new();
        for (i, field) in table.schema.fields().iter().enumerate() {
            let (values, length) = values(table, &options, field)?;
            if let Some(length) = length {
                rows = Some(rows.map_or(length, |rows| rows.min(length)));
            }
            let rate = format!("fields.{}.null-rate", field.name());
            let null_rate = options.parsed(&rate, "a number from 0 to 1", |rate: &f64| (0.0..=1.0).contains(rate))?;
            let null_rate = null_rate.unwrap_or(0.0);
            if null_rate > 0.0 && !field.is_nullable() {
                return Err(options.unsupported(Some(&rate), "the column is NOT NULL", "take one of them out"));
            }
            let seed = mix(seed ^ mix(i as u64 + 1));
            columns.push(Column { data_type: field.data_type().clone(), values, seed, null_rate });
        }
        Ok(Arc::new(DatagenSourceFactory {
            columns: table.needed().iter().map(|&column| columns[column].clone()).collect(),
            schema: table.projected_schema(),
            rows,
            rows_per_second: options.count("rows-per-second")?.unwrap_or(DEFAULT_ROWS_PER_SECOND),
        }))
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        Err(Options::of(table).unsupported(
            Some("connector"),
            "'datagen' is a source and cannot be written to",
            "write to 'filesystem', 'print' or 'blackhole'",
        ))
    }

    fn options(&self) -> &[OptionDoc] {
        OPTIONS
    }
}

/// `fields.<name>.…` must name a column.
pub(crate) fn check_columns_exist(table: &TableSpec, options: &Options<'_>) -> Result<(), ConnectorError> {
    for option in table.options.keys() {
        let Some((name, _)) = option.strip_prefix("fields.").and_then(|rest| rest.rsplit_once('.')) else {
            continue;
        };
        if table.schema.field_with_name(name).is_err() {
            let names: Vec<_> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
            let remedy = format!("name a physical column: {}", names.join(", "));
            return Err(options.unsupported(Some(option), &format!("there is no column '{name}'"), &remedy));
        }
    }
    Ok(())
}

/// How a column's values are made, and how many there are.
fn values(table: &TableSpec, options: &Options<'_>, field: &Field) -> Result<(Values, Option<u64>), ConnectorError> {
    let key = |what: &str| format!("fields.{}.{what}", field.name());
    let refuse = |option: &str, why: &str, remedy: &str| {
        if options.text(&key(option)).is_some() {
            return Err(options.unsupported(Some(&key(option)), why, remedy));
        }
        Ok(())
    };
    let whole = whole_bounds(field.data_type());
    let counts = whole.is_some()
        || matches!(
            field.data_type(),
            DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) | DataType::Utf8
        );
    match options.text(&key("kind")) {
        None | Some("random") => {}
        Some("sequence") if counts => {
            for option in ["min", "max", "length", "var-len", "max-past", "null-rate"] {
                refuse(option, "a sequence has a start and an end", "take it out, or give the kind 'random'")?;
            }
            return sequence(options, &key, whole);
        }
        Some("sequence") => {
            return Err(options.unsupported(
                Some(&key("kind")),
                &format!("there are no sequences of type {}", field.data_type()),
                "give the kind 'random', or compute the column from a sequence",
            ));
        }
        Some(_) => return Err(options.invalid(&key("kind"), "'random' or 'sequence'")),
    }
    for option in ["start", "end"] {
        refuse(option, "random values have no start and no end", "give the kind 'sequence'")?;
    }
    let values = match field.data_type() {
        DataType::Boolean => Values::Flag,
        DataType::Utf8 => Values::Text {
            varies: options.flag(&key("var-len"), false)?,
            length: options
                .parsed(&key("length"), "a whole number from 1 to 16777216", |length: &usize| {
                    (1..=MAX_LENGTH).contains(length)
                })?
                .unwrap_or(DEFAULT_LENGTH),
        },
        DataType::Timestamp(..) => Values::Now { past: past(options, &key("max-past"))? },
        DataType::Date32 => Values::Now { past: 0 },
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
            real_range(options, &key, field.data_type())?
        }
        _ => match whole {
            Some(bounds) => whole_range(options, &key, bounds)?,
            None => {
                return Err(ConnectorError::Column {
                    table: table.name.clone(),
                    column: field.name().clone(),
                    what: format!("has the type {}, of which datagen makes no values", field.data_type()),
                    remedy: "compute it from columns of simple types".to_string(),
                });
            }
        },
    };
    let bounded = matches!(values, Values::Whole { .. } | Values::Real { .. });
    for option in ["min", "max"].into_iter().filter(|_| !bounded) {
        refuse(option, "only numbers have a least and a greatest value", "take it out")?;
    }
    if !matches!(values, Values::Text { .. }) {
        refuse("length", "only texts have a length", "take it out")?;
        refuse("var-len", "only texts have a length", "take it out")?;
    }
    if !matches!(field.data_type(), DataType::Timestamp(..)) {
        refuse("max-past", "only timestamps lie in the past", "take it out")?;
    }
    Ok((values, None))
}

/// How far back timestamps reach, in milliseconds.
fn past(options: &Options<'_>, key: &str) -> Result<i64, ConnectorError> {
    let Some(text) = options.text(key) else { return Ok(0) };
    let past = script::duration(text).and_then(|past| i64::try_from(past.as_millis()).ok());
    past.ok_or_else(|| options.invalid(key, "a duration such as '10 s' or '1 d'"))
}

const fn whole_bounds(data_type: &DataType) -> Option<(i64, i64)> {
    match data_type {
        DataType::Int8 => Some((i8::MIN as i64, i8::MAX as i64)),
        DataType::Int16 => Some((i16::MIN as i64, i16::MAX as i64)),
        DataType::Int32 => Some((i32::MIN as i64, i32::MAX as i64)),
        DataType::Int64 => Some((i64::MIN, i64::MAX)),
        _ => None,
    }
}

fn sequence(
    options: &Options<'_>,
    key: &impl Fn(&str) -> String,
    whole: Option<(i64, i64)>,
) -> Result<(Values, Option<u64>), ConnectorError> {
    let (least, greatest) = whole.unwrap_or((i64::MIN, i64::MAX));
    let within = |value: &i64| (least..=greatest).contains(value);
    let expected = "a whole number that the column's type holds";
    options.required(&key("start"), "the first value of the sequence")?;
    let start = options.parsed(&key("start"), expected, within)?.unwrap_or(least);
    let end = options.parsed(
        &key("end"),
        "a whole number, not below the start, that the column's type holds",
        |&end: &i64| within(&end) && end >= start,
    )?;
    // A sequence without an end stops before it would start again.
    let last = end.unwrap_or(greatest);
    let length = (i128::from(last) - i128::from(start) + 1) as u128;
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    Ok((Values::Sequence { start }, (end.is_some() || whole.is_some_and(|(_, top)| top < i64::MAX)).then_some(length)))
}

fn whole_range(
    options: &Options<'_>,
    key: &impl Fn(&str) -> String,
    (least, greatest): (i64, i64),
) -> Result<Values, ConnectorError> {
    let expected = "a whole number that the column's type holds";
    let min = options.parsed(&key("min"), expected, |value: &i64| *value >= least && *value <= greatest)?;
    let min = min.unwrap_or(least);
    let max = options.parsed(
        &key("max"),
        "a whole number that the column's type holds, not below 'min'",
        |&value: &i64| value >= min && value <= greatest,
    )?;
    Ok(Values::Whole { min, max: max.unwrap_or(greatest) })
}

fn real_range(
    options: &Options<'_>,
    key: &impl Fn(&str) -> String,
    data_type: &DataType,
) -> Result<Values, ConnectorError> {
    let top = match data_type {
        DataType::Decimal128(precision, scale) => 10_f64.powi(i32::from(*precision) - i32::from(*scale)),
        DataType::Float32 => f64::from(f32::MAX) / 2.0,
        _ => f64::MAX / 2.0,
    };
    let min = options.parsed(&key("min"), "a number that the column's type holds", |value: &f64| value.abs() < top)?;
    let min = min.unwrap_or(if matches!(data_type, DataType::Decimal128(..)) { 0.0 } else { -top });
    let max =
        options.parsed(&key("max"), "a number that the column's type holds, not below 'min'", |&value: &f64| {
            value >= min && value <= top
        })?;
    Ok(Values::Real { min, max: max.unwrap_or(top * 0.999) })
}

#[derive(Debug)]
struct DatagenSourceFactory {
    columns: Vec<Column>,
    schema: SchemaRef,
    rows: Option<u64>,
    rows_per_second: u64,
}

impl SourceFactory for DatagenSourceFactory {
    fn splits(&self, parallelism: u32) -> Result<Vec<serde_json::Value>, SourceError> {
        initial_splits(parallelism)
    }

    fn create(&self, ctx: &SourceContext) -> Result<Box<dyn Source>, SourceError> {
        let generator = Generator {
            columns: self.columns.clone(),
            schema: Arc::clone(&self.schema),
            clock: Arc::clone(&ctx.clock),
        };
        Ok(Box::new(Strided::new(generator, ctx, self.rows, Some(self.rows_per_second))?))
    }

    fn bounded(&self) -> bool {
        self.rows.is_some()
    }
}

struct Generator {
    columns: Vec<Column>,
    schema: SchemaRef,
    clock: Arc<dyn Clock>,
}

impl Numbered for Generator {
    fn batch(&mut self, first: u64, step: u64, count: usize) -> Result<RecordBatch, SourceError> {
        let now = self.clock.now_ms();
        let numbers = || (0..count).map(|i| first + i as u64 * step);
        let columns = self.columns.iter().map(|column| column.array(numbers(), now)).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn at_once(&self) -> usize {
        let length = |column: &Column| if let Values::Text { length, .. } = column.values { length } else { 0 };
        BATCH_BYTES / self.columns.iter().map(length).sum::<usize>().max(1)
    }
}
