//! What holds of every path, on this machine or in a bucket: what is wrong with one, and which names readers pass over.

/// What is wrong with a path.
#[derive(Debug)]
pub(super) enum LocationError {
    /// It does not have one of the forms that there are.
    Form,
    /// The store cannot be set up with what the environment says.
    Store(object_store::Error),
}

/// A name that readers take for unfinished, as Hadoop's and Flink's do.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}
