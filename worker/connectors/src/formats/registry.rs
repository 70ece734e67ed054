//! The formats by name, with their options. Files and streams ask here alike: a table says `'format' = 'json'` and
//! `'json.ignore-parse-errors' = 'true'`, and where keys and values are apart `'key.format' = 'json'` and
//! `'key.json.ignore-parse-errors' = 'true'`.

use super::decode::{Changes, Csv, Envelope, Format, Json, OnBadRecord};
use super::raw::Raw;
use super::records::QUOTE;
use crate::error::ConnectorError;
use crate::options::{Options, nearest};
use crate::spec::OptionDoc;

/// A format that a table may name.
struct Known {
    name: &'static str,
    /// Each has the format's name before it.
    options: &'static [OptionDoc],
}

const fn doc(
    name: &'static str,
    expects: &'static str,
    default: Option<&'static str>,
    about: &'static str,
) -> OptionDoc {
    OptionDoc { name, expects, default, about }
}

const FLAG: &str = "'true' or 'false'";

static KNOWN: [Known; 6] = [
    Known {
        name: "csv",
        options: &[
            doc("csv.field-delimiter", "one ASCII character, or '\\t'", Some(","), "What stands between two fields."),
            doc("csv.null-literal", "a text", Some("an empty field"), "What stands for NULL."),
            doc(
                "csv.ignore-parse-errors",
                FLAG,
                Some("false"),
                "Source: skip and count what cannot be read, instead of failing with its place.",
            ),
        ],
    },
    Known {
        name: "json",
        options: &[
            doc("json.ignore-parse-errors", FLAG, Some("false"), "The same for JSON."),
            doc(
                "json.timestamp-format.standard",
                "'SQL' or 'ISO-8601'",
                Some("SQL"),
                "Sink: the form of timestamps, '2024-05-06 07:08:09' or '2024-05-06T07:08:09'. A source reads both.",
            ),
        ],
    },
    Known {
        name: "raw",
        options: &[
            doc(
                "raw.endianness",
                "'big-endian' or 'little-endian'",
                Some("big-endian"),
                "The order of a number's bytes.",
            ),
            doc("raw.charset", "'UTF-8'", Some("UTF-8"), "The encoding of texts."),
        ],
    },
    Known { name: "debezium-json", options: &[times("debezium-json.timestamp-format.standard")] },
    Known { name: "canal-json", options: &[times("canal-json.timestamp-format.standard")] },
    Known { name: "maxwell-json", options: &[times("maxwell-json.timestamp-format.standard")] },
];

const fn times(name: &'static str) -> OptionDoc {
    doc(name, "'SQL' or 'ISO-8601'", Some("SQL"), "The form of timestamps that are written.")
}

/// The format of this name that says what rows do.
pub(crate) fn envelope(name: &str) -> Option<Envelope> {
    [Envelope::Debezium, Envelope::Canal, Envelope::Maxwell].into_iter().find(|envelope| envelope.name() == name)
}

/// What a format is for, by the option that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `'format'`: the whole row, or a message's value.
    Whole,
    /// `'value.format'`: the same, said otherwise.
    Value,
    /// `'key.format'`: a message's key.
    Key,
}

impl Part {
    /// The option that names the format.
    pub(crate) const fn option(self) -> &'static str {
        match self {
            Self::Whole => "format",
            Self::Value => "value.format",
            Self::Key => "key.format",
        }
    }

    /// What of a message it is.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Whole | Self::Value => "value",
            Self::Key => "key",
        }
    }

    /// What stands before the options of the format.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Value => "value.",
            Self::Key => "key.",
        }
    }
}

/// What a declaration says of a format.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) format: Format,
    pub(crate) on_bad: OnBadRecord,
    /// The option that has bad records skipped, if there is one.
    pub(crate) skips_by: Option<String>,
}

/// The options of these formats, for connectors that have them under their own names.
pub(crate) fn format_options(names: &[&str]) -> impl Iterator<Item = OptionDoc> {
    KNOWN.iter().filter(|known| names.contains(&known.name)).flat_map(|known| known.options).copied()
}

/// The formats of rows that are only put, as an error lists them.
pub(crate) const FORMATS: &str = "'csv', 'json' or 'raw'";
/// And those of messages.
pub(crate) const MESSAGE_FORMATS: &str =
    "'csv', 'json' or 'raw'; to write changes 'debezium-json', 'canal-json' or 'maxwell-json'";

/// The format that a table names for this part, with its options. `also` are options of the connector's own that begin like a format's.
pub(crate) fn declared(options: &Options<'_>, part: Part, also: &[&str]) -> Result<Declared, ConnectorError> {
    let name = options.required(part.option(), FORMATS)?;
    let known = KNOWN.iter().find(|known| known.name == name);
    let Some(known) = known.filter(|_| part != Part::Key || envelope(name).is_none()) else {
        return Err(options.invalid(part.option(), FORMATS));
    };
    check_names(options, part, known, also)?;
    let option = |name: &str| format!("{}{name}", part.prefix());
    let skips_by = known.options.iter().find(|doc| doc.name.ends_with(".ignore-parse-errors"));
    let skips_by = skips_by.map(|doc| option(doc.name));
    let skips = skips_by.as_ref().map(|name| options.flag(name, false)).transpose()?.unwrap_or(false);
    let format = match known.name {
        name @ ("debezium-json" | "canal-json" | "maxwell-json") => Format::Changes(Changes {
            envelope: envelope(name).unwrap_or(Envelope::Debezium),
            json: Json { iso: is_iso(options, &option(&format!("{name}.timestamp-format.standard")))? },
        }),
        "json" => Format::Json(Json { iso: is_iso(options, &option("json.timestamp-format.standard"))? }),
        "csv" => Format::Csv(Csv {
            delimiter: delimiter(options, &option("csv.field-delimiter"))?,
            header: false,
            null_literal: options.text(&option("csv.null-literal")).map(str::to_string),
        }),
        _ => Format::Raw(raw(options, &option)?),
    };
    let on_bad = if skips { OnBadRecord::Skip } else { OnBadRecord::Fail };
    Ok(Declared { format, on_bad, skips_by })
}

/// Refuses options of other formats, and those that this one does not have.
fn check_names(options: &Options<'_>, part: Part, known: &Known, also: &[&str]) -> Result<(), ConnectorError> {
    for option in options.names() {
        let Some(of_part) = option.strip_prefix(part.prefix()) else { continue };
        let Some((format, _)) = of_part.split_once('.') else { continue };
        if !KNOWN.iter().any(|known| known.name == format) {
            continue;
        }
        if format != known.name {
            let what = format!("'{option}' has no meaning with '{}' = '{}'", part.option(), known.name);
            return Err(options.unsupported(Some(option), &what, "take it out, or give the other format"));
        }
        let mut names = known.options.iter().map(|doc| doc.name).chain(also.iter().copied());
        if names.clone().all(|name| name != of_part) {
            let near = nearest(of_part, names.clone()).map(|near| format!("did you mean '{}{near}'? ", part.prefix()));
            let all = names.by_ref().map(|name| format!("{}{name}", part.prefix())).collect::<Vec<_>>().join(", ");
            let what = format!("the format '{}' has no option '{option}'", known.name);
            let remedy = format!("{}the options are: {all}", near.unwrap_or_default());
            return Err(options.unsupported(Some(option), &what, &remedy));
        }
    }
    Ok(())
}

fn is_iso(options: &Options<'_>, option: &str) -> Result<bool, ConnectorError> {
    match options.text(option) {
        None | Some("SQL") => Ok(false),
        Some("ISO-8601") => Ok(true),
        Some(_) => Err(options.invalid(option, "'SQL' or 'ISO-8601'")),
    }
}

fn delimiter(options: &Options<'_>, option: &str) -> Result<u8, ConnectorError> {
    match options.text(option) {
        None => Ok(b','),
        Some("\\t") => Ok(b'\t'),
        Some(text) => match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(*byte, QUOTE | b'\n' | b'\r') => Ok(*byte),
            _ => Err(options.invalid(option, "one ASCII character, or '\\t'")),
        },
    }
}

fn raw(options: &Options<'_>, option: &impl Fn(&str) -> String) -> Result<Raw, ConnectorError> {
    let charset = option("raw.charset");
    if options.text(&charset).is_some_and(|charset| !charset.eq_ignore_ascii_case("UTF-8")) {
        return Err(options.invalid(&charset, "'UTF-8': texts of other encodings are read as BYTES"));
    }
    let endianness = option("raw.endianness");
    let little_endian = match options.text(&endianness) {
        None | Some("big-endian") => false,
        Some("little-endian") => true,
        Some(_) => return Err(options.invalid(&endianness, "'big-endian' or 'little-endian'")),
    };
    Ok(Raw { little_endian })
}

/// Why a column of the table has no form in a format, and what to do.
pub(crate) const fn no_form(format: &Format) -> (&'static str, &'static str) {
    match format {
        Format::Csv(_) => ("has a type that CSV has no text for", "write it as STRING, or give 'format' = 'json'"),
        Format::Json(_) | Format::Changes(_) => {
            ("has a type that JSON has no text for", "declare it as STRING and convert it in the query")
        }
        Format::Raw(_) => ("has a type that has no raw form", "declare it as BYTES, STRING, BOOLEAN or a number"),
    }
}
