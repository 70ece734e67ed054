//! What operators, sources and sinks raise. Each error has a kind that says what may be done about it, and is told to the
//! coordinator with the operator and the place in the input where they are known.

use std::error::Error as StdError;
use std::fmt;

pub use weir_protocol::settings::FailureKind;

type Source = Box<dyn StdError + Send + Sync>;

/// What went wrong in an operator, or anywhere on a subtask's thread.
#[derive(Debug)]
pub struct OperatorError {
    /// What may be done about it.
    pub kind: FailureKind,
    /// What failed, in a sentence.
    pub message: String,
    /// The operator's name; filled in by the engine where the operator left it empty.
    pub operator: String,
    /// Where in the input, for people: a file and line, a split and offset.
    pub position: Option<String>,
    source: Option<Source>,
    stopped: bool,
}

impl OperatorError {
    /// An error of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), operator: String::new(), position: None, source: None, stopped: false }
    }

    /// An error of kind [`FailureKind::Operator`].
    pub fn operator(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Operator, message)
    }

    /// Input that cannot be read.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::new(FailureKind::BadInput, message)
    }

    /// What an output answers once the attempt is being stopped. An operator hands it up with `?`; nobody is told of it.
    pub fn stopped() -> Self {
        Self { stopped: true, ..Self::operator("the attempt is being stopped") }
    }

    /// The attempt is being stopped; this is no failure.
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The same error, with what caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, with the place in the input.
    #[must_use]
    pub fn at(mut self, position: impl Into<String>) -> Self {
        self.position = Some(position.into());
        self
    }

    /// The same error, naming this operator if it names none yet.
    #[must_use]
    pub fn in_operator(mut self, name: &str) -> Self {
        if self.operator.is_empty() {
            self.operator = name.to_string();
        }
        self
    }

    /// The message with its position and all its causes, in one line.
    pub fn describe(&self) -> String {
        let mut text = self.message.clone();
        if let Some(position) = &self.position {
            text.push_str(" at ");
            text.push_str(position);
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for OperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.operator.is_empty() {
            write!(f, "{}: ", self.operator)?;
        }
        f.write_str(&self.message)?;
        match &self.position {
            Some(position) => write!(f, " at {position}"),
            None => Ok(()),
        }
    }
}

impl StdError for OperatorError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<arrow::error::ArrowError> for OperatorError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::operator("a column could not be computed").because(error)
    }
}

impl From<weir_state::StateError> for OperatorError {
    fn from(error: weir_state::StateError) -> Self {
        Self::new(error.failure_kind(), "keyed state failed").because(error)
    }
}

macro_rules! connector_error {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            /// What may be done about it.
            pub kind: FailureKind,
            /// What failed, with its place (`file:line`) where it is known, and what to do.
            pub message: String,
            source: Option<Source>,
        }

        impl $name {
            /// An error of this kind.
            pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
                Self { kind, message: message.into(), source: None }
            }

            /// Storage, disk or network.
            pub fn io(message: impl Into<String>) -> Self {
                Self::new(FailureKind::Io, message)
            }

            /// Input that cannot be read, or rows that cannot be written.
            pub fn bad_input(message: impl Into<String>) -> Self {
                Self::new(FailureKind::BadInput, message)
            }

            /// The same error, with what caused it.
            #[must_use]
            pub fn because(mut self, source: impl Into<Source>) -> Self {
                self.source = Some(source.into());
                self
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.message)
            }
        }

        impl StdError for $name {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
            }
        }

        impl From<arrow::error::ArrowError> for $name {
            fn from(error: arrow::error::ArrowError) -> Self {
                Self::bad_input("rows could not be converted").because(error)
            }
        }

        impl From<std::io::Error> for $name {
            fn from(error: std::io::Error) -> Self {
                Self::io("an input or output operation failed").because(error)
            }
        }

        impl From<serde_json::Error> for $name {
            fn from(error: serde_json::Error) -> Self {
                Self::bad_input("JSON could not be read").because(error)
            }
        }

        impl From<$name> for OperatorError {
            fn from(error: $name) -> Self {
                Self { source: error.source, ..Self::new(error.kind, error.message) }
            }
        }
    };
}

connector_error! {
    /// What a source raises.
    SourceError
}
connector_error! {
    /// What a sink or its committer raises.
    SinkError
}

/// A subtask could not be built.
#[derive(Debug, thiserror::Error)]
#[error("subtask {subtask} of stage {stage} cannot start")]
pub struct BuildError {
    /// The stage's name.
    pub stage: String,
    /// Which subtask.
    pub subtask: u32,
    /// What failed.
    #[source]
    pub error: Box<OperatorError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_error_keeps_its_kind_and_its_cause_on_the_way_to_the_coordinator() {
        let error = SourceError::bad_input("flights.csv:17: 'x' is no number").because(std::io::Error::other("eof"));
        let error = OperatorError::from(error).in_operator("flights").in_operator("outer");
        assert_eq!(error.kind, FailureKind::BadInput);
        assert_eq!(error.to_string(), "flights: flights.csv:17: 'x' is no number");
        assert_eq!(error.describe(), "flights.csv:17: 'x' is no number: eof");
        assert!(!error.is_stopped());
    }

    #[test]
    fn a_state_error_keeps_its_kind_and_says_all_of_itself() {
        use weir_state::StateError;
        for (error, kind) in [
            (StateError::corrupt("state/1: wrong checksum"), FailureKind::Corrupt),
            (StateError::mismatch("it was a sum"), FailureKind::StateMismatch),
            (StateError::io("no room"), FailureKind::Io),
            (StateError::too_large("a key of 5 GiB"), FailureKind::Io),
        ] {
            let said = error.to_string();
            let error = OperatorError::from(error).in_operator("count");
            assert_eq!((error.kind, error.kind.is_fatal()), (kind, kind != FailureKind::Io));
            assert_eq!(error.describe(), format!("keyed state failed: {said}"));
        }
    }
}
