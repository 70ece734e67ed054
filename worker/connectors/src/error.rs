//! Why a table cannot be made from its declaration. All of it is found before any work starts.

use std::path::PathBuf;

/// A declaration that a connector refuses. `Display` says what and where; [`ConnectorError::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// `'connector' = '…'` is missing.
    #[error("table {table} has no option 'connector'")]
    NoConnector {
        /// The table.
        table: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// No connector has this name.
    #[error("table {table}: there is no connector '{connector}'")]
    UnknownConnector {
        /// The table.
        table: String,
        /// The name written.
        connector: String,
        /// The known name that is nearest, if one is near.
        nearest: Option<String>,
        /// The names that there are.
        known: Vec<String>,
    },
    /// The connector has no option of this name.
    #[error("table {table}: the connector '{connector}' has no option '{option}'")]
    UnknownOption {
        /// The table.
        table: String,
        /// The connector's name.
        connector: String,
        /// The option written.
        option: String,
        /// The known option that is nearest, if one is near.
        nearest: Option<String>,
        /// The options that there are.
        known: Vec<String>,
    },
    /// An option without which the connector cannot work.
    #[error("table {table}: the option '{option}' is missing")]
    MissingOption {
        /// The table.
        table: String,
        /// The option.
        option: String,
        /// What its value looks like.
        expected: String,
    },
    /// An option's value does not have the form that it must have.
    #[error("table {table}: '{option}' = '{value}' is not {expected}")]
    InvalidOption {
        /// The table.
        table: String,
        /// The option.
        option: String,
        /// The value written.
        value: String,
        /// The form that is expected, with an article.
        expected: String,
    },
    /// The connector cannot do this.
    #[error("table {table}: {what}")]
    Unsupported {
        /// The table.
        table: String,
        /// The option that asks for it, where one does.
        option: Option<String>,
        /// What cannot be done, as a clause.
        what: String,
        /// What to write instead.
        remedy: String,
    },
    /// A column that the connector cannot serve.
    #[error("table {table}, column {column}: {what}")]
    Column {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What is wrong with it, as a clause.
        what: String,
        /// What to write instead.
        remedy: String,
    },
    /// A file or folder that the table names.
    #[error("table {table}: {what} {path}")]
    Path {
        /// The table.
        table: String,
        /// What was tried, as `cannot list`.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The store that a URL names cannot be reached with what the environment says.
    #[error("table {table}: cannot use {url}")]
    Store {
        /// The table.
        table: String,
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: object_store::Error,
    },
}

impl ConnectorError {
    /// What the user is to write instead.
    pub fn remedy(&self) -> String {
        let list = |known: &[String]| known.join(", ");
        let nearest = |nearest: &Option<String>, what: &str, known: &[String]| match nearest {
            Some(name) => format!("did you mean '{name}'? The {what} are: {}", list(known)),
            None => format!("the {what} are: {}", list(known)),
        };
        match self {
            Self::NoConnector { known, .. } => {
                format!("write WITH ('connector' = '…'); the connectors are: {}", list(known))
            }
            Self::UnknownConnector { nearest: near, known, .. } => nearest(near, "connectors", known),
            Self::UnknownOption { known, .. } if known.is_empty() => {
                "the connector has no options; take it out".to_string()
            }
            Self::UnknownOption { nearest: near, known, .. } => nearest(near, "options", known),
            Self::MissingOption { option, expected, .. } => format!("add '{option}' = …: {expected}"),
            Self::InvalidOption { option, expected, .. } => format!("give '{option}' as {expected}"),
            Self::Unsupported { remedy, .. } | Self::Column { remedy, .. } => remedy.clone(),
            Self::Path { .. } => "check the path and its permissions".to_string(),
            Self::Store { .. } => {
                "set AWS_ENDPOINT, AWS_REGION and the credentials in the environment of the worker".to_string()
            }
        }
    }

    /// The option at fault, so that a planner can point at its place in the script.
    pub fn option(&self) -> Option<&str> {
        match self {
            Self::UnknownConnector { .. } => Some("connector"),
            Self::UnknownOption { option, .. }
            | Self::MissingOption { option, .. }
            | Self::InvalidOption { option, .. } => Some(option),
            Self::Unsupported { option, .. } => option.as_deref(),
            _ => None,
        }
    }

    /// The column at fault.
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::Column { column, .. } => Some(column),
            _ => None,
        }
    }
}
