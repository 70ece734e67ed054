//! What a connector is told of a table, and what it must be able to answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use weir_engine::api::lookup::Reload;
use weir_engine::api::sink::SinkFactory;
use weir_engine::api::source::SourceFactory;

use crate::error::ConnectorError;

/// One table of a script, as its declaration says.
#[derive(Clone, Debug)]
pub struct TableSpec {
    /// The name in the script.
    pub name: String,
    /// The columns that the connector reads or writes, in the order of their declaration; no computed columns.
    pub schema: SchemaRef,
    /// Which of them are metadata, by their index. A sink has none that is virtual.
    pub metadata: BTreeMap<usize, Metadata>,
    /// All that stands in `WITH (…)`, `'connector'` included.
    pub options: BTreeMap<String, String>,
    /// Relative paths are taken from here.
    pub base_dir: PathBuf,
    /// Sources: the physical columns that the job needs, as ascending indexes; none means all. The source's batches have
    /// exactly these. A ROW column is made whole or not at all.
    pub projection: Option<Vec<usize>>,
    /// `PRIMARY KEY (…) NOT ENFORCED`, as indexes of physical columns; empty if there is none.
    pub primary_key: Vec<usize>,
    /// Sinks: what the rows do, of what [`ConnectorFactory::accepts`] has said that the table takes.
    pub changelog: ChangelogMode,
    /// Folders of the worker's own, which no table may reach.
    pub closed: Vec<PathBuf>,
}

impl TableSpec {
    /// A table that needs all its columns and has no key.
    pub fn new(name: impl Into<String>, schema: SchemaRef) -> Self {
        Self {
            name: name.into(),
            schema,
            metadata: BTreeMap::new(),
            options: BTreeMap::new(),
            base_dir: PathBuf::from("."),
            projection: None,
            primary_key: Vec::new(),
            changelog: ChangelogMode::Append,
            closed: Vec::new(),
        }
    }

    /// The schema with one more option.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.options.insert(option.to_string(), value.to_string());
        self
    }

    /// The indexes of the columns that the source's batches have.
    pub fn needed(&self) -> Vec<usize> {
        self.projection.clone().unwrap_or_else(|| (0..self.schema.fields().len()).collect())
    }

    /// The schema of the source's batches: the physical schema under the projection.
    pub fn projected_schema(&self) -> SchemaRef {
        match &self.projection {
            None => Arc::clone(&self.schema),
            Some(columns) => {
                let fields: Vec<_> = columns.iter().map(|&column| Arc::clone(&self.schema.fields()[column])).collect();
                Arc::new(Schema::new(fields))
            }
        }
    }
}

/// What a column of metadata says beside its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What the connector calls it: the name behind `FROM`, else the column's.
    pub key: String,
    /// It is read, and never written.
    pub is_virtual: bool,
}

/// What the rows do that a sink is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangelogMode {
    /// They are all inserts.
    #[default]
    Append,
    /// Every change: an update is the row before it (−U) and the row after it (+U).
    Retract,
    /// By the table's primary key: +I and +U put a row, −D and −U take it away. Where the key of the query's rows is the primary key
    /// there are no −U.
    Upsert,
}

/// What a table takes as a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Inserts, and nothing else.
    Inserts {
        /// What a user can do to write rows that change.
        remedy: String,
    },
    /// Every change.
    Changes,
    /// Rows by primary key, of which the last stays.
    Upserts,
}

/// One option that a connector knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionDoc {
    /// The key. A `#` stands for the name of a column: `fields.#.kind`.
    pub name: &'static str,
    /// The form of the value, with an article: `a whole number of rows per second`.
    pub expects: &'static str,
    /// What holds where the option is absent; none if it is required.
    pub default: Option<&'static str>,
    /// What it does, in a sentence.
    pub about: &'static str,
}

/// Makes sources and sinks of one kind. The registry checks the options' names against [`ConnectorFactory::options`]
/// before either is called; their values are the factory's to check. Both calls look at the declaration only; what the
/// outside world must have (an input file) is asked for by `SourceFactory::splits`, before the job starts.
pub trait ConnectorFactory: Send + Sync {
    /// The table as a source.
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError>;

    /// Rows are looked up in the table, all of which [`Self::source`] reads: when it is read again, or never. Refused unless a connector
    /// says that its tables can be read whole.
    fn lookup(&self, table: &TableSpec) -> Result<Option<Reload>, ConnectorError> {
        Err(ConnectorError::Unsupported {
            table: table.name.clone(),
            option: None,
            what: "its connector cannot look rows up".to_string(),
            remedy: "look them up in a table of 'connector' = 'filesystem', or join the table as a stream, without FOR SYSTEM_TIME AS OF"
                .to_string(),
        })
    }

    /// The table as a sink.
    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError>;

    /// What the table takes as a sink, by its declaration alone. Asked before [`Self::sink`], which is told what of it there is.
    fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        let _ = table;
        Ok(Accepts::Inserts { remedy: "write a query that only inserts, as one over a window".to_string() })
    }

    /// Refuses a sink into which one of the job's own sources looks: the job would read what it wrote, or parts of it, whenever it
    /// starts anew. Both tables are of this connector.
    fn apart(&self, source: &TableSpec, sink: &TableSpec) -> Result<(), ConnectorError> {
        let _ = (source, sink);
        Ok(())
    }

    /// Every option beside `'connector'`.
    fn options(&self) -> &[OptionDoc];

    /// The metadata that it has, by the names that stand behind `METADATA FROM`.
    fn metadata(&self) -> &[&'static str] {
        &[]
    }
}
