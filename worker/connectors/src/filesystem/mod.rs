//! Files as tables: CSV, JSON lines or lines as they are, in a file, a folder, or a bucket.
//!
//! As a source a table is read once: the files that are there when the job starts. A file is never cut into splits, since a
//! quoted field may hold line ends and a gzip stream starts at its start; parallelism comes from several files. As a sink a
//! table is a folder, to which each checkpoint adds files that were complete before it.
//!
//! A bucket is reached with the keys that the environment holds (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
//! `AWS_SESSION_TOKEN`), at the endpoint and region that the table's options name, else those of the environment
//! (`AWS_ENDPOINT_URL`, `AWS_REGION`).
//!
//! Not here: watching a folder for new files, partitions, other formats.

mod bucket;
mod closed;
mod commit;
mod commit_files;
#[cfg(test)]
mod commit_simulation;
mod file;
#[cfg(test)]
mod file_simulation;
mod folder;
mod gzip;
mod input;
mod location;
mod names;
mod object_sink;
#[cfg(test)]
mod object_sink_tests;
mod outcome;
mod paths;
mod sink;
#[cfg(test)]
mod sink_tests;
mod source;
#[cfg(test)]
mod source_tests;
mod stream;

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field};
use weir_engine::api::lookup::Reload;
use weir_engine::api::sink::SinkFactory;
use weir_engine::api::source::SourceFactory;

use self::closed::Closed;
use self::location::{Location, S3Options};
use self::names::hidden_end;
use self::object_sink::ObjectSinkFactory;
use self::paths::LocationError;
use self::sink::FileSinkFactory;
use self::source::FileSourceFactory;
use crate::error::ConnectorError;
use crate::formats::decode::{Format, carries};
use crate::formats::encode::OP;
use crate::formats::registry::{Declared, FORMATS, Part, declared, format_options, no_form};
use crate::options::Options;
use crate::spec::{Accepts, ConnectorFactory, OptionDoc, TableSpec};

/// Flink's default of `sink.rolling-policy.file-size`.
const DEFAULT_ROLL_AT: u64 = 128 << 20;

/// `'connector' = 'filesystem'`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filesystem;

const RELOAD_STRATEGY: &str = "lookup.full-cache.reload-strategy";
const RELOAD_EVERY: &str = "lookup.full-cache.periodic-reload.interval";
const RELOAD_MODE: &str = "lookup.full-cache.periodic-reload.schedule-mode";
const RELOAD_FORM: &str = "a time such as '10 min', of a second at least";

/// Reading a table without a pause would be all that a worker does.
const LEAST_RELOAD: Duration = Duration::from_secs(1);

const CSV_HEADER: &str = "csv.header";
const PATH_FORM: &str = "a path, 'file:///path' or 's3://bucket/prefix'";

const OWN_OPTIONS: &[OptionDoc] = &[
    OptionDoc {
        name: "path",
        expects: PATH_FORM,
        default: None,
        about: "Source: a file, or a folder with all that is below it. Sink: a folder. Relative paths start at the job file, in a cluster at /. In a cluster a path that is not on s3:// must be on a volume that all workers mount. Objects on s3:// appear when their checkpoint is complete; until then they are below _unfinished/ in the folder, where no lifecycle rule may delete.",
    },
    OptionDoc {
        name: "s3.endpoint",
        expects: "a URL such as 'http://minio:9000'",
        default: Some("AWS_ENDPOINT_URL, else AWS's own"),
        about: "For a path on s3://: the server. Unencrypted where it says http://.",
    },
    OptionDoc {
        name: "s3.region",
        expects: "a region such as 'eu-central-1'",
        default: Some("AWS_REGION, else 'us-east-1'"),
        about: "For a path on s3://: the bucket's region.",
    },
    OptionDoc {
        name: "format",
        expects: FORMATS,
        default: None,
        about: "CSV, JSON lines (an object a line), or lines as they are, in one column. Source files whose name ends in .gz are unzipped.",
    },
    OptionDoc {
        name: "csv.header",
        expects: "'true' or 'false'",
        default: Some("false"),
        about: "Source: the first line of each file names the columns, which are found by name. Sink: write such a line.",
    },
    OptionDoc {
        name: "scan.rate-limit",
        expects: "a whole number of rows per second, at least 1",
        default: Some("no limit"),
        about: "Source: rows per second for the whole job.",
    },
    OptionDoc {
        name: "lookup.cache",
        expects: "'FULL'",
        default: Some("FULL"),
        about: "As a table in which rows are looked up: all of it is in the memory of each worker.",
    },
    OptionDoc {
        name: RELOAD_STRATEGY,
        expects: "'PERIODIC'",
        default: Some("PERIODIC"),
        about: "As a table in which rows are looked up: how it is said when it is read again.",
    },
    OptionDoc {
        name: RELOAD_EVERY,
        expects: RELOAD_FORM,
        default: Some("read once, whenever the job starts or is restored"),
        about: "As a table in which rows are looked up: it is read again after so long, files that have come meanwhile included.",
    },
    OptionDoc {
        name: RELOAD_MODE,
        expects: "'FIXED_DELAY' or 'FIXED_RATE'",
        default: Some("FIXED_DELAY"),
        about: "As a table in which rows are looked up: whether the interval begins when the table has been read, or when that began.",
    },
    OptionDoc {
        name: "source.monitor-interval",
        expects: "nothing: it is not supported",
        default: Some("read once"),
        about: "Not supported: a folder is read once.",
    },
    OptionDoc {
        name: "changelog",
        expects: "'true' or 'false'",
        default: Some("false"),
        about: "Sink: take updates and deletes, and write what each row does (+I, -U, +U, -D) in a first column, op.",
    },
    OptionDoc {
        name: "sink.rolling-policy.file-size",
        expects: "a size such as '128MB'",
        default: Some("128MB"),
        about: "Sink: a file is closed at this size, on s3:// at 1 GiB at most, and at each checkpoint.",
    },
];

static OPTIONS: LazyLock<Vec<OptionDoc>> =
    LazyLock::new(|| OWN_OPTIONS.iter().copied().chain(format_options(&["csv", "json", "raw"])).collect());

impl ConnectorFactory for Filesystem {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        let options = Options::of(table);
        if options.text("source.monitor-interval").is_some() {
            return Err(options.unsupported(
                Some("source.monitor-interval"),
                "a folder cannot be watched for new files",
                "take out 'source.monitor-interval': the files that are there at the start are read once",
            ));
        }
        let Declared { format, on_bad, .. } = format(table, &options)?;
        let needed = table.needed();
        check_columns(table, &format, &needed)?;
        Ok(Arc::new(FileSourceFactory {
            location: location(table, &options)?,
            closed: Closed::with(&table.closed),
            schema: Arc::clone(&table.schema),
            needed,
            on_bad,
            rate_limit: options.count("scan.rate-limit")?,
            format,
        }))
    }

    fn lookup(&self, table: &TableSpec) -> Result<Option<Reload>, ConnectorError> {
        let options = Options::of(table);
        let is =
            |option: &str, expected: &str| options.text(option).is_none_or(|text| text.eq_ignore_ascii_case(expected));
        if !is("lookup.cache", "FULL") {
            return Err(options.invalid("lookup.cache", "'FULL': files are read whole"));
        }
        if !is(RELOAD_STRATEGY, "PERIODIC") {
            return Err(options.invalid(RELOAD_STRATEGY, "'PERIODIC', with an interval"));
        }
        let from_begin = options.text(RELOAD_MODE).is_some_and(|mode| mode.eq_ignore_ascii_case("FIXED_RATE"));
        if !from_begin && !is(RELOAD_MODE, "FIXED_DELAY") {
            return Err(options.invalid(RELOAD_MODE, "'FIXED_DELAY' or 'FIXED_RATE'"));
        }
        match options.duration(RELOAD_EVERY, RELOAD_FORM)? {
            None if options.text(RELOAD_MODE).is_some() => Err(options.unsupported(
                Some(RELOAD_MODE),
                "the table is read once, and this says when it is read again",
                "say how often: 'lookup.full-cache.periodic-reload.interval' = '10 min'; or take it out",
            )),
            None => Ok(None),
            Some(every) if every < LEAST_RELOAD => Err(options.invalid(RELOAD_EVERY, RELOAD_FORM)),
            Some(every) => Ok(Some(Reload { every, from_begin })),
        }
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        let options = Options::of(table);
        let changelog = options.flag("changelog", false)?;
        if let Some(field) =
            table.schema.fields().iter().find(|field| changelog && field.name().eq_ignore_ascii_case(OP))
        {
            return Err(column(table, field.name(), "is what 'changelog' adds", "give the column another name"));
        }
        let format = format(table, &options)?.format;
        check_columns(table, &format, &table.needed())?;
        let roll_at = options.bytes("sink.rolling-policy.file-size")?.unwrap_or(DEFAULT_ROLL_AT);
        let hidden = |name: &str| {
            options.unsupported(
                Some("path"),
                &format!("readers take '{name}' for unfinished, since names that start with . or _ are"),
                "give a folder whose name starts otherwise",
            )
        };
        let folder = match location(table, &options)? {
            Location::Local(folder) => folder,
            Location::Remote(bucket) => {
                if let Some(name) = hidden_end(Path::new(bucket.path.as_ref())) {
                    return Err(hidden(&name));
                }
                return Ok(Arc::new(ObjectSinkFactory { bucket, format, changelog, roll_at }));
            }
        };
        if let Some(name) = hidden_end(&folder) {
            return Err(hidden(&name));
        }
        if folder.is_file() {
            return Err(options.invalid("path", "a folder; there is a file of this name"));
        }
        Ok(Arc::new(FileSinkFactory { folder, closed: Closed::with(&table.closed), format, changelog, roll_at }))
    }

    fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        if Options::of(table).flag("changelog", false)? {
            return Ok(Accepts::Changes);
        }
        let remedy = "set 'changelog' = 'true' to write what each row does in a column op, or write a query that only inserts (over a window)";
        Ok(Accepts::Inserts { remedy: remedy.to_string() })
    }

    fn apart(&self, source: &TableSpec, sink: &TableSpec) -> Result<(), ConnectorError> {
        let (read, written) = (location(source, &Options::of(source))?, location(sink, &Options::of(sink))?);
        if !read.reads(&written) {
            return Ok(());
        }
        let what = format!(
            "what is written here is below the 'path' of {}, and would be read by the job when it starts anew",
            source.name
        );
        Err(Options::of(sink).unsupported(Some("path"), &what, "give a folder that no table of the job reads"))
    }

    fn options(&self) -> &[OptionDoc] {
        &OPTIONS
    }
}

fn location(table: &TableSpec, options: &Options<'_>) -> Result<Location, ConnectorError> {
    let path = options.required("path", PATH_FORM)?;
    let s3 = S3Options { endpoint: options.text("s3.endpoint"), region: options.text("s3.region") };
    if let Some(endpoint) = s3.endpoint
        && !url::Url::parse(endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    {
        return Err(options.invalid("s3.endpoint", "a URL such as 'https://s3.example.com' or 'http://minio:9000'"));
    }
    let is_bucket = path.starts_with("s3://") || path.starts_with("s3a://");
    if let Some(option) =
        ["s3.endpoint", "s3.region"].into_iter().find(|name| !is_bucket && options.text(name).is_some())
    {
        let what = format!("'{option}' has no meaning for a path that is not on s3://");
        return Err(options.unsupported(Some(option), &what, "take it out, or give a path on s3://"));
    }
    let location = Location::parse(path, &table.base_dir, s3).map_err(|error| match error {
        LocationError::Form => options.invalid("path", PATH_FORM),
        LocationError::Store(source) => {
            ConnectorError::Store { table: table.name.clone(), url: path.to_string(), source }
        }
    })?;
    if let Location::Local(path) = &location
        && let Some(closed) = Closed::with(&table.closed).written(path)
    {
        let what = format!("'path' leads into {}, which no table reaches", closed.display());
        return Err(options.unsupported(Some("path"), &what, "give a folder of your own"));
    }
    Ok(location)
}

/// The format, and of CSV what only files have.
fn format(table: &TableSpec, options: &Options<'_>) -> Result<Declared, ConnectorError> {
    let mut declared = declared(options, Part::Whole, &[CSV_HEADER])?;
    if let Format::Csv(csv) = &mut declared.format {
        csv.header = options.flag(CSV_HEADER, false)?;
    }
    if let Format::Changes(_) = declared.format {
        return Err(options.invalid("format", FORMATS));
    }
    if let Format::Raw(_) = declared.format {
        let is_text = |field: &Field| matches!(field.data_type(), DataType::Utf8 | DataType::Binary);
        if table.schema.fields().len() != 1 || !is_text(table.schema.field(0)) {
            let what = "a raw line is one text, and the table has other columns";
            let remedy = "declare one column, STRING or BYTES, or give 'format' = 'csv'";
            return Err(options.unsupported(Some("format"), what, remedy));
        }
        if options.flag("changelog", false)? {
            let what = "a raw line has no room for what a row does";
            return Err(options.unsupported(Some("changelog"), what, "give 'format' = 'json' or 'csv'"));
        }
    }
    Ok(declared)
}

#[cfg(test)]
pub(crate) fn format_of(table: &TableSpec) -> Result<Format, ConnectorError> {
    format(table, &Options::of(table)).map(|declared| declared.format)
}

fn check_columns(table: &TableSpec, format: &Format, columns: &[usize]) -> Result<(), ConnectorError> {
    let mut fields = columns.iter().map(|&index| table.schema.field(index));
    let Some(field) = fields.find(|field| !carries(format, field.data_type())) else { return Ok(()) };
    let (what, remedy) = no_form(format);
    Err(column(table, field.name(), what, remedy))
}

fn column(table: &TableSpec, column: &str, what: &str, remedy: &str) -> ConnectorError {
    ConnectorError::Column {
        table: table.name.clone(),
        column: column.to_string(),
        what: what.to_string(),
        remedy: remedy.to_string(),
    }
}
