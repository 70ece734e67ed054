//! What a table says: topics, places to start and to end at, formats of key and value, and Kafka's own properties.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use regex::Regex;
use weir_kafka::{Properties, Purpose};

use crate::error::ConnectorError;
use crate::formats::decode::{Format, OnBadRecord, carries};
use crate::formats::registry::{Declared, FORMATS, MESSAGE_FORMATS, Part, declared, no_form};
use crate::options::Options;
use crate::spec::{OptionDoc, TableSpec};

/// What stands before Kafka's own names for settings.
const PROPERTIES: &str = "properties.";
/// Flink's default of `scan.topic-partition-discovery.interval`.
const DISCOVERY: Duration = Duration::from_mins(5);

const fn doc(
    name: &'static str,
    expects: &'static str,
    default: Option<&'static str>,
    about: &'static str,
) -> OptionDoc {
    OptionDoc { name, expects, default, about }
}

const MILLIS_FORM: &str = "a number of milliseconds since 1970-01-01 00:00:00 UTC";
const OFFSETS_FORM: &str = "a list such as 'partition:0,offset:42;partition:1,offset:300'";
const START_FORM: &str = "'group-offsets', 'earliest-offset', 'latest-offset', 'timestamp' or 'specific-offsets'";
const BOUND_FORM: &str = "'unbounded', 'latest-offset', 'group-offsets', 'timestamp' or 'specific-offsets'";
const INTERVAL_FORM: &str = "a time such as '5 min' or '30 s'; '0' for never";
const PARTITIONER_FORM: &str = "'default', 'fixed' or 'round-robin'";
const GUARANTEE_FORM: &str = "'at-least-once', 'exactly-once' or 'none'";
const FIELDS_FORM: &str = "names of columns with semicolons between them: 'user_id;item_id'";
const OF_FORMAT: &str = "as an option of the format";

pub(super) const OPTIONS: &[OptionDoc] = &[
    doc(
        "topic",
        "a name; of a source several, with semicolons between them",
        None,
        "The topics that are read, or the one that is written.",
    ),
    doc(
        "topic-pattern",
        "a regular expression",
        Some("none"),
        "Source, in place of 'topic': all topics whose whole name it matches, also those that are made later.",
    ),
    doc(
        "properties.#",
        "as Kafka's documentation says",
        Some("Kafka's own; 'properties.bootstrap.servers' is required"),
        "Kafka's own settings; docs/connectors/kafka.md lists them.",
    ),
    doc(
        "format",
        MESSAGE_FORMATS,
        Some("required, if not 'value.format'"),
        "How values are written; the same as 'value.format'.",
    ),
    doc("value.format", MESSAGE_FORMATS, Some("as 'format'"), "How values are written."),
    doc("key.format", FORMATS, Some("keys are not read, and not written"), "How keys are written."),
    doc(
        "key.fields",
        FIELDS_FORM,
        Some("required with 'key.format'"),
        "The columns of the key, in the order of the key's format.",
    ),
    doc(
        "key.fields-prefix",
        "a text",
        Some("none"),
        "What the names of the key's columns begin with in the table, and not in the key's format.",
    ),
    doc(
        "value.fields-include",
        "'ALL' or 'EXCEPT_KEY'",
        Some("ALL"),
        "Whether the key's columns are in the value too; then a source takes them from there.",
    ),
    doc("json.#", OF_FORMAT, Some("as the format says"), "Options of 'format' = 'json'."),
    doc("csv.#", OF_FORMAT, Some("as the format says"), "Options of 'format' = 'csv'."),
    doc("raw.#", OF_FORMAT, Some("as the format says"), "Options of 'format' = 'raw'."),
    doc("value.json.#", OF_FORMAT, Some("as the format says"), "Options of 'value.format' = 'json'."),
    doc("value.csv.#", OF_FORMAT, Some("as the format says"), "Options of 'value.format' = 'csv'."),
    doc("value.raw.#", OF_FORMAT, Some("as the format says"), "Options of 'value.format' = 'raw'."),
    doc("debezium-json.#", OF_FORMAT, Some("as the format says"), "Options of 'format' = 'debezium-json'."),
    doc("canal-json.#", OF_FORMAT, Some("as the format says"), "Options of 'format' = 'canal-json'."),
    doc("maxwell-json.#", OF_FORMAT, Some("as the format says"), "Options of 'format' = 'maxwell-json'."),
    doc("value.debezium-json.#", OF_FORMAT, Some("as the format says"), "Options of 'value.format' = 'debezium-json'."),
    doc("value.canal-json.#", OF_FORMAT, Some("as the format says"), "Options of 'value.format' = 'canal-json'."),
    doc("value.maxwell-json.#", OF_FORMAT, Some("as the format says"), "Options of 'value.format' = 'maxwell-json'."),
    doc("key.json.#", OF_FORMAT, Some("as the format says"), "Options of 'key.format' = 'json'."),
    doc("key.csv.#", OF_FORMAT, Some("as the format says"), "Options of 'key.format' = 'csv'."),
    doc("key.raw.#", OF_FORMAT, Some("as the format says"), "Options of 'key.format' = 'raw'."),
    doc(
        "scan.startup.mode",
        START_FORM,
        Some("group-offsets"),
        "Source: where a job that starts from nothing begins to read.",
    ),
    doc(
        "scan.startup.timestamp-millis",
        MILLIS_FORM,
        Some("required with 'timestamp'"),
        "For 'timestamp': the first record of this time or later.",
    ),
    doc(
        "scan.startup.specific-offsets",
        OFFSETS_FORM,
        Some("required with 'specific-offsets'"),
        "For 'specific-offsets': the first record of each partition. Those not named begin at the group's offset, else at the first record.",
    ),
    doc(
        "scan.bounded.mode",
        BOUND_FORM,
        Some("unbounded"),
        "Source: where reading ends, as it is when the job starts.",
    ),
    doc(
        "scan.bounded.timestamp-millis",
        MILLIS_FORM,
        Some("required with 'timestamp'"),
        "For 'timestamp': before the first record of this time or later.",
    ),
    doc(
        "scan.bounded.specific-offsets",
        OFFSETS_FORM,
        Some("required with 'specific-offsets'"),
        "For 'specific-offsets': before this record of each partition. Those not named are not read.",
    ),
    doc(
        "scan.topic-partition-discovery.interval",
        INTERVAL_FORM,
        Some("5 min"),
        "Source: how often new partitions, and topics that match, are looked for. They are read from their first record on.",
    ),
    doc(
        "sink.partitioner",
        PARTITIONER_FORM,
        Some("default"),
        "Sink: which rows go where. By the key as Kafka's own clients do, or where there is none in turn; 'fixed': a subtask writes to one partition.",
    ),
    doc(
        "sink.delivery-guarantee",
        GUARANTEE_FORM,
        Some("at-least-once"),
        "Sink: 'exactly-once' writes in transactions, which are committed once the checkpoint that holds their rows is complete.",
    ),
    doc(
        "sink.transactional-id-prefix",
        "a text",
        Some("weir"),
        "Sink, exactly once: what the names of its transactions begin with; the user needs rights on these.",
    ),
];

/// The topics of a source.
#[derive(Clone, Debug)]
pub(super) enum Topics {
    List(Vec<String>),
    Pattern(Regex),
}

/// A place in each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Earliest,
    Latest,
    Group,
    Timestamp(i64),
    Specific(BTreeMap<i32, i64>),
}

/// What has the value of a message, or its key.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) format: Format,
    pub(super) on_bad: OnBadRecord,
    /// The option that has bad ones skipped.
    pub(super) skips_by: Option<String>,
    /// The table's columns that it has, in its own order.
    pub(super) columns: Vec<usize>,
    /// These, under the names that they have in the format.
    pub(super) schema: SchemaRef,
}

/// Key and value.
#[derive(Clone, Debug)]
pub(super) struct Sides {
    pub(super) key: Option<Side>,
    pub(super) value: Side,
}

/// Kafka's properties among a table's options.
pub(super) fn properties(table: &TableSpec, purpose: Purpose) -> Result<Properties, ConnectorError> {
    let given = table.options.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix(PROPERTIES)?;
        Some((name.to_string(), value.clone()))
    });
    Properties::parse(purpose, &given.collect()).map_err(|error| {
        let option = format!("{PROPERTIES}{}", error.name);
        let given = table.options.contains_key(&option).then_some(option.as_str());
        let what = format!("'{option}' {}", error.what);
        Options::of(table).unsupported(given, &what, &error.remedy)
    })
}

/// The topics to be read.
pub(super) fn topics(options: &Options<'_>) -> Result<Topics, ConnectorError> {
    match (options.text("topic"), options.text("topic-pattern")) {
        (Some(_), Some(_)) => Err(options.unsupported(
            Some("topic-pattern"),
            "'topic' and 'topic-pattern' are given",
            "take one of them out",
        )),
        (None, Some(pattern)) => Regex::new(&format!("^(?:{pattern})$"))
            .map(Topics::Pattern)
            .map_err(|_| options.invalid("topic-pattern", "a regular expression")),
        (list, None) => {
            let list =
                list.map_or_else(|| options.required("topic", "a name, several with semicolons between them"), Ok)?;
            let topics: Vec<String> = names(list);
            if topics.is_empty() {
                return Err(options.invalid("topic", "a name, several with semicolons between them"));
            }
            Ok(Topics::List(topics))
        }
    }
}

/// The topic to be written.
pub(super) fn topic(options: &Options<'_>) -> Result<String, ConnectorError> {
    if options.text("topic-pattern").is_some() {
        return Err(options.unsupported(
            Some("topic-pattern"),
            "a table that is written has one topic",
            "give 'topic' in its place",
        ));
    }
    let topics = names(options.required("topic", "the name of a topic")?);
    match topics.as_slice() {
        [topic] => Ok(topic.clone()),
        _ => Err(options.invalid("topic", "the name of one topic: a table that is written has no more")),
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(';').map(str::trim).filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// Where a source begins.
pub(super) fn start(options: &Options<'_>, properties: &Properties) -> Result<Place, ConnectorError> {
    let mode = "scan.startup.mode";
    let place = place(options, "startup", options.text(mode).unwrap_or("group-offsets"))?;
    match place {
        Some(Place::Group) if properties.group.is_none() && properties.reset.is_none() => {
            let what = "reading begins where a group has got to, and no group is named";
            let remedy = "give 'properties.group.id', or 'scan.startup.mode' = 'earliest-offset' or 'latest-offset'";
            Err(options.unsupported(options.text(mode).map(|_| mode), what, remedy))
        }
        Some(place) => Ok(place),
        None => Err(options.invalid(mode, START_FORM)),
    }
}

/// Where a source ends; none for nowhere.
pub(super) fn bound(options: &Options<'_>, properties: &Properties) -> Result<Option<Place>, ConnectorError> {
    let mode = "scan.bounded.mode";
    let text = options.text(mode).unwrap_or("unbounded");
    if text == "unbounded" {
        place(options, "bounded", text)?;
        return Ok(None);
    }
    match place(options, "bounded", text)? {
        None | Some(Place::Earliest) => Err(options.invalid(mode, BOUND_FORM)),
        Some(Place::Group) if properties.group.is_none() => {
            let what = "reading ends where a group has got to, and no group is named";
            Err(options.unsupported(Some(mode), what, "give 'properties.group.id'"))
        }
        place => Ok(place),
    }
}

/// Of a start or an end, with what belongs to it. None for a mode that is not known.
fn place(options: &Options<'_>, of: &str, mode: &str) -> Result<Option<Place>, ConnectorError> {
    let (millis, offsets) = (format!("scan.{of}.timestamp-millis"), format!("scan.{of}.specific-offsets"));
    for (option, wanted) in [(&millis, "timestamp"), (&offsets, "specific-offsets")] {
        if options.text(option).is_some() && mode != wanted {
            let what = format!("'{option}' has no meaning with 'scan.{of}.mode' = '{mode}'");
            let remedy = format!("take it out, or give 'scan.{of}.mode' = '{wanted}'");
            return Err(options.unsupported(Some(option), &what, &remedy));
        }
    }
    Ok(Some(match mode {
        "earliest-offset" => Place::Earliest,
        "latest-offset" => Place::Latest,
        "group-offsets" => Place::Group,
        "timestamp" => {
            options.required(&millis, MILLIS_FORM)?;
            let time = options.parsed(&millis, MILLIS_FORM, |&time: &i64| time >= 0)?;
            Place::Timestamp(time.unwrap_or_default())
        }
        "specific-offsets" => {
            let text = options.required(&offsets, OFFSETS_FORM)?;
            Place::Specific(specific(text).ok_or_else(|| options.invalid(&offsets, OFFSETS_FORM))?)
        }
        _ => return Ok(None),
    }))
}

/// `partition:0,offset:42;partition:1,offset:300`.
fn specific(text: &str) -> Option<BTreeMap<i32, i64>> {
    let mut offsets = BTreeMap::new();
    for one in text.split(';').filter(|one| !one.trim().is_empty()) {
        let (partition, offset) = one.split_once(',')?;
        let partition: i32 = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
        let offset: i64 = offset.trim().strip_prefix("offset:")?.trim().parse().ok()?;
        if partition < 0 || offset < 0 || offsets.insert(partition, offset).is_some() {
            return None;
        }
    }
    (!offsets.is_empty()).then_some(offsets)
}

/// How often new partitions are looked for; none for never.
pub(super) fn discovery(options: &Options<'_>, properties: &Properties) -> Result<Option<Duration>, ConnectorError> {
    let given = options.duration("scan.topic-partition-discovery.interval", INTERVAL_FORM)?;
    let interval = given.or(properties.discovery).unwrap_or(DISCOVERY);
    Ok((!interval.is_zero()).then_some(interval))
}

/// The formats of key and value, and whose columns are whose.
pub(super) fn sides(table: &TableSpec, options: &Options<'_>) -> Result<Sides, ConnectorError> {
    let part = match (options.text("format"), options.text("value.format")) {
        (Some(_), Some(_)) => {
            let what = "'format' and 'value.format' are given, which mean the same";
            return Err(options.unsupported(Some("format"), what, "take one of them out"));
        }
        (None, Some(_)) => Part::Value,
        _ => Part::Whole,
    };
    let stray = if part == Part::Whole { "value." } else { "" };
    refuse_stray(options, stray, part)?;
    let prefix = options.text("key.fields-prefix").unwrap_or_default();
    let physical: Vec<usize> =
        (0..table.schema.fields().len()).filter(|index| !table.metadata.contains_key(index)).collect();
    let key_columns = key_columns(table, options, &physical, prefix)?;
    let except_key = match options.text("value.fields-include") {
        None | Some("ALL") => false,
        Some("EXCEPT_KEY") => true,
        Some(_) => return Err(options.invalid("value.fields-include", "'ALL' or 'EXCEPT_KEY'")),
    };
    if !prefix.is_empty() && !except_key {
        let what = "with 'key.fields-prefix' the key's columns cannot be in the value too";
        return Err(options.unsupported(Some("key.fields-prefix"), what, "give 'value.fields-include' = 'EXCEPT_KEY'"));
    }
    let key = match options.text("key.format") {
        None => None,
        Some(_) => Some(side(table, options, Part::Key, &key_columns, prefix)?),
    };
    let value: Vec<usize> =
        physical.iter().copied().filter(|index| !(except_key && key_columns.contains(index))).collect();
    Ok(Sides { key, value: side(table, options, part, &value, "")? })
}

/// Options of a format that is named by the other of 'format' and 'value.format', or of a key that has none.
fn refuse_stray(options: &Options<'_>, prefix: &str, part: Part) -> Result<(), ConnectorError> {
    let is_of = |option: &str, prefix: &str| {
        let rest = option.strip_prefix(prefix).unwrap_or_default();
        ["json.", "csv.", "raw.", "debezium-json.", "canal-json.", "maxwell-json."]
            .iter()
            .any(|format| rest.starts_with(format))
    };
    for option in options.names() {
        if is_of(option, prefix) {
            let what = format!("'{option}' has no meaning with '{}'", part.option());
            let rest = option.strip_prefix(prefix).unwrap_or_default();
            let remedy = format!("write '{}{rest}'", part.prefix());
            return Err(options.unsupported(Some(option), &what, &remedy));
        }
        if is_of(option, "key.") && options.text("key.format").is_none() {
            let what = format!("'{option}' has no meaning without 'key.format'");
            return Err(options.unsupported(Some(option), &what, "take it out, or give 'key.format'"));
        }
    }
    Ok(())
}

fn key_columns(
    table: &TableSpec,
    options: &Options<'_>,
    physical: &[usize],
    prefix: &str,
) -> Result<Vec<usize>, ConnectorError> {
    let Some(text) = options.text("key.fields") else {
        if options.text("key.format").is_some() {
            options.required("key.fields", FIELDS_FORM)?;
        }
        return Ok(Vec::new());
    };
    if options.text("key.format").is_none() {
        let what = "'key.fields' has no meaning without 'key.format'";
        return Err(options.unsupported(Some("key.fields"), what, "give 'key.format', or take it out"));
    }
    let mut columns = Vec::new();
    for name in names(text) {
        let Some(&index) = physical.iter().find(|&&index| *table.schema.field(index).name() == name) else {
            let what = format!("'key.fields' names '{name}', and the table has no such column");
            return Err(options.unsupported(Some("key.fields"), &what, "give names of columns that are no metadata"));
        };
        if !name.starts_with(prefix) {
            let what = format!("'key.fields' names '{name}', which does not begin with '{prefix}'");
            return Err(options.unsupported(Some("key.fields"), &what, "name the column so that it does"));
        }
        if !columns.contains(&index) {
            columns.push(index);
        }
    }
    if columns.is_empty() { Err(options.invalid("key.fields", FIELDS_FORM)) } else { Ok(columns) }
}

fn side(
    table: &TableSpec,
    options: &Options<'_>,
    part: Part,
    columns: &[usize],
    prefix: &str,
) -> Result<Side, ConnectorError> {
    let Declared { format, on_bad, skips_by } = declared(options, part, &[])?;
    for &column in columns {
        let field = table.schema.field(column);
        if !carries(&format, field.data_type()) {
            let (what, remedy) = no_form(&format);
            return Err(ConnectorError::Column {
                table: table.name.clone(),
                column: field.name().clone(),
                what: what.to_string(),
                remedy: remedy.to_string(),
            });
        }
    }
    if matches!(format, Format::Raw(_)) && columns.len() != 1 {
        let what = format!("a raw {} is one column, and there are {}", part.name(), columns.len());
        let remedy = "declare one column, or give another format";
        return Err(options.unsupported(Some(part.option()), &what, remedy));
    }
    let fields = columns.iter().map(|&column| {
        let field = table.schema.field(column);
        Arc::new(field.clone().with_name(field.name().strip_prefix(prefix).unwrap_or(field.name())))
    });
    Ok(Side {
        format,
        on_bad,
        skips_by,
        columns: columns.to_vec(),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
    })
}

/// Which partition a row goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partitioner {
    /// By the key, or in turn.
    Default,
    /// That of the subtask.
    Fixed,
}

pub(super) fn partitioner(options: &Options<'_>) -> Result<Partitioner, ConnectorError> {
    match options.text("sink.partitioner") {
        // Kafka's own goes by the key where there is one, and in turn where there is none; Flink gives both to it.
        None | Some("default" | "round-robin") => Ok(Partitioner::Default),
        Some("fixed") => Ok(Partitioner::Fixed),
        Some(_) => Err(options.invalid("sink.partitioner", PARTITIONER_FORM)),
    }
}

/// What becomes of rows when a job fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guarantee {
    /// Those after the last checkpoint may be lost.
    None,
    /// Those after the last checkpoint are written again.
    AtLeastOnce,
    /// A reader of what is committed has each once.
    ExactlyOnce,
}

pub(super) fn guarantee(options: &Options<'_>) -> Result<Guarantee, ConnectorError> {
    let guarantee = match options.text("sink.delivery-guarantee") {
        None | Some("at-least-once") => Guarantee::AtLeastOnce,
        Some("exactly-once") => Guarantee::ExactlyOnce,
        Some("none") => Guarantee::None,
        Some(_) => return Err(options.invalid("sink.delivery-guarantee", GUARANTEE_FORM)),
    };
    if guarantee != Guarantee::ExactlyOnce && options.text("sink.transactional-id-prefix").is_some() {
        let what = "'sink.transactional-id-prefix' has no meaning without transactions";
        let remedy = "give 'sink.delivery-guarantee' = 'exactly-once', or take it out";
        return Err(options.unsupported(Some("sink.transactional-id-prefix"), what, remedy));
    }
    Ok(guarantee)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_in_flinks_form_and_nothing_else_is() {
        assert_eq!(specific("partition:0,offset:42;partition:1,offset:300"), Some([(0, 42), (1, 300)].into()));
        assert_eq!(specific("partition: 0, offset: 42 ;"), Some([(0, 42)].into()));
        for wrong in ["", "0:42", "partition:0", "partition:0,offset:-1", "partition:0,offset:1;partition:0,offset:2"] {
            assert_eq!(specific(wrong), None, "{wrong}");
        }
    }
}
