//! Names to connectors. A user's own build registers more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use weir_engine::api::lookup::Reload;
use weir_engine::api::sink::SinkFactory;
use weir_engine::api::source::SourceFactory;

use crate::console::{Blackhole, Print};
use crate::datagen::Datagen;
use crate::error::ConnectorError;
use crate::filesystem::Filesystem;
use crate::kafka::{Kafka, UpsertKafka};
use crate::nexmark::Nexmark;
use crate::options::{matches_pattern, nearest};
use crate::results::{RESULTS, Results};
use crate::spec::{Accepts, ConnectorFactory, Metadata, TableSpec};

/// The connectors that a script may name.
#[derive(Clone, Default)]
pub struct ConnectorRegistry {
    factories: BTreeMap<String, Arc<dyn ConnectorFactory>>,
    closed: Vec<PathBuf>,
}

impl ConnectorRegistry {
    /// No connectors.
    pub fn new() -> Self {
        Self::default()
    }

    /// The connectors of this crate.
    pub fn with_builtin() -> Self {
        let mut registry = Self::new();
        registry.register("blackhole", Arc::new(Blackhole));
        registry.register("datagen", Arc::new(Datagen));
        registry.register("filesystem", Arc::new(Filesystem));
        registry.register("kafka", Arc::new(Kafka));
        registry.register("nexmark", Arc::new(Nexmark));
        registry.register("print", Arc::new(Print));
        registry.register("upsert-kafka", Arc::new(UpsertKafka));
        registry.register(RESULTS, Arc::new(Results));
        registry
    }

    /// Add a connector, or put it in the place of the one that had the name.
    pub fn register(&mut self, name: impl Into<String>, factory: Arc<dyn ConnectorFactory>) {
        self.factories.insert(name.into(), factory);
    }

    /// Folders of the worker's own, which no table may reach.
    pub fn close(&mut self, folders: impl IntoIterator<Item = PathBuf>) {
        self.closed.extend(folders);
    }

    /// The names that a script may write, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str).filter(|name| !name.starts_with('$'))
    }

    /// The connector of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn ConnectorFactory>> {
        self.factories.get(name)
    }

    /// The table as a source; option names are checked first.
    pub fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceFactory>, ConnectorError> {
        self.checked(table)?.source(&self.told(table))
    }

    /// When the table, in which rows are looked up, is read again; option names are checked first.
    pub fn lookup(&self, table: &TableSpec) -> Result<Option<Reload>, ConnectorError> {
        self.checked(table)?.lookup(&self.told(table))
    }

    /// The table as a sink; option names are checked first.
    pub fn sink(&self, table: &TableSpec) -> Result<Arc<dyn SinkFactory>, ConnectorError> {
        self.checked(table)?.sink(&self.told(table))
    }

    /// What the table takes as a sink, see [`ConnectorFactory::accepts`]; option names are checked first.
    pub fn accepts(&self, table: &TableSpec) -> Result<Accepts, ConnectorError> {
        self.checked(table)?.accepts(&self.told(table))
    }

    /// Refuses a sink into which a source of the same job looks, see [`ConnectorFactory::apart`].
    pub fn apart(&self, source: &TableSpec, sink: &TableSpec) -> Result<(), ConnectorError> {
        if source.options.get("connector") != sink.options.get("connector") {
            return Ok(());
        }
        self.checked(source)?.apart(source, sink)
    }

    /// The table, and what no table may reach.
    fn told(&self, table: &TableSpec) -> TableSpec {
        TableSpec { closed: self.closed.clone(), ..table.clone() }
    }

    /// The connector that the table names, if it knows every option that the table gives.
    fn checked(&self, table: &TableSpec) -> Result<&Arc<dyn ConnectorFactory>, ConnectorError> {
        let known = || self.names().map(str::to_string).collect::<Vec<_>>();
        let Some(name) = table.options.get("connector") else {
            return Err(ConnectorError::NoConnector { table: table.name.clone(), known: known() });
        };
        let Some(factory) = self.get(name) else {
            return Err(ConnectorError::UnknownConnector {
                table: table.name.clone(),
                connector: name.clone(),
                nearest: nearest(name, self.names()).map(str::to_string),
                known: known(),
            });
        };
        for option in table.options.keys().filter(|option| *option != "connector") {
            if factory.options().iter().any(|doc| matches_pattern(doc.name, option)) {
                continue;
            }
            let names = || factory.options().iter().map(|doc| doc.name);
            return Err(ConnectorError::UnknownOption {
                table: table.name.clone(),
                connector: name.clone(),
                option: option.clone(),
                nearest: nearest(option, names()).map(str::to_string),
                known: names().map(str::to_string).collect(),
            });
        }
        check_metadata(table, name, &**factory)?;
        Ok(factory)
    }
}

/// Refuses columns of metadata that the connector does not have.
fn check_metadata(table: &TableSpec, connector: &str, factory: &dyn ConnectorFactory) -> Result<(), ConnectorError> {
    let known = factory.metadata();
    let Some((&index, Metadata { key, .. })) =
        table.metadata.iter().find(|(_, metadata)| !known.contains(&metadata.key.as_str()))
    else {
        return Ok(());
    };
    let (what, remedy) = if known.is_empty() {
        (format!("the connector '{connector}' has no metadata"), "leave the column out".to_string())
    } else {
        let near = nearest(key, known.iter().copied()).map(|near| format!("did you mean '{near}'? "));
        let remedy = format!("{}there is: {}", near.unwrap_or_default(), known.join(", "));
        (format!("the connector '{connector}' has no metadata '{key}'"), remedy)
    };
    let column = table.schema.fields().get(index).map_or_else(String::new, |field| field.name().clone());
    Err(ConnectorError::Column { table: table.name.clone(), column, what, remedy })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn refused(options: &[(&str, &str)]) -> ConnectorError {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let table = options.iter().fold(TableSpec::new("t", schema), |table, (key, value)| table.with(key, value));
        ConnectorRegistry::with_builtin().source(&table).map(|_| ()).unwrap_err()
    }

    #[test]
    fn an_unknown_connector_is_refused_with_the_nearest_and_all_known_names() {
        let error = refused(&[("connector", "filesytem")]);
        assert_eq!(error.to_string(), "table t: there is no connector 'filesytem'");
        assert!(error.remedy().starts_with("did you mean 'filesystem'? The connectors are: blackhole, "));
        assert!(refused(&[]).remedy().contains("datagen, filesystem"));
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_and_all_known_names() {
        let error = refused(&[("connector", "datagen"), ("rows-per-secnd", "5")]);
        assert_eq!(error.to_string(), "table t: the connector 'datagen' has no option 'rows-per-secnd'");
        assert_eq!(error.option(), Some("rows-per-secnd"));
        assert!(error.remedy().starts_with("did you mean 'rows-per-second'? The options are: "), "{}", error.remedy());
        let error = refused(&[("connector", "blackhole"), ("topic", "x")]);
        assert!(error.remedy().contains("the connector has no options"), "{}", error.remedy());
    }

    #[test]
    fn every_option_of_every_connector_says_what_it_takes() {
        let registry = ConnectorRegistry::with_builtin();
        for name in registry.names() {
            for doc in registry.get(name).unwrap().options() {
                assert!(!doc.expects.is_empty() && doc.about.ends_with('.'), "{name}: {}", doc.name);
            }
        }
    }
}
