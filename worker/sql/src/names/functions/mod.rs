//! The functions that a script may call: Flink's names, with Flink's meaning. Where DataFusion's function of that name means
//! the same it is taken; where it does not, ours stands in its place; what is not listed does not exist.

pub mod aggregate;
#[cfg(test)]
mod answers;
pub mod bounded;
pub mod cast;
pub mod compare;
mod compiled;
pub mod decimal;
mod floats;
pub mod java_regex;
pub mod kernel;
pub mod like;
pub mod nested;
pub mod numbers;
pub mod pattern;
pub mod rank;
pub mod rewrite;
mod strings;
#[cfg(test)]
mod tests;
pub mod text;
pub mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion_functions::{core, string};

/// Functions by their names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    /// A value for each row.
    pub scalar: BTreeMap<String, Arc<ScalarUDF>>,
    /// A value for each group.
    pub aggregate: BTreeMap<String, Arc<AggregateUDF>>,
    /// A value for each row, from its partition.
    pub window: BTreeMap<String, Arc<WindowUDF>>,
}

impl Functions {
    /// Those of this crate.
    pub fn builtin() -> Self {
        let mut functions = Self::default();
        for function in datafusion_ones() {
            functions.add(function);
        }
        functions.scalar.insert("ifnull".to_string(), core::nvl());
        for kernel in numbers::KERNELS.iter().chain(&strings::KERNELS).filter(|kernel| !kernel.name.starts_with('$')) {
            functions.add(Arc::new(kernel::function(kernel)));
        }
        for kernel in &nested::KERNELS {
            functions.add(Arc::new(kernel::function(kernel)));
        }
        for function in time::functions().into_iter().chain(text::functions()).chain(rewrite::functions()) {
            functions.add(Arc::new(function));
        }
        for function in aggregate::functions() {
            functions.aggregate.insert(function.name().to_string(), Arc::new(function));
        }
        let grouping = Arc::new(aggregate::grouping());
        for name in [aggregate::GROUPING, "grouping_id"] {
            functions.aggregate.insert(name.to_string(), Arc::clone(&grouping));
        }
        let shifts =
            [datafusion_functions_window::lead_lag::lag_udwf(), datafusion_functions_window::lead_lag::lead_udwf()];
        for function in rank::functions().into_iter().map(Arc::new).chain(shifts) {
            functions.window.insert(function.name().to_string(), function);
        }
        bounded::hold(&mut functions);
        functions
    }

    /// Adds a function under its name and its aliases; a user's own takes the place of one that is there.
    pub fn add(&mut self, function: Arc<ScalarUDF>) {
        for alias in function.aliases() {
            self.scalar.insert(alias.to_ascii_lowercase(), Arc::clone(&function));
        }
        self.scalar.insert(function.name().to_ascii_lowercase(), function);
    }

    /// The function of this name.
    pub fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalar.get(name).cloned()
    }

    /// Whether any function has this name.
    pub fn knows(&self, name: &str) -> bool {
        self.scalar.contains_key(name) || self.aggregate.contains_key(name) || self.window.contains_key(name)
    }

    /// All names that a user may write, in upper case.
    pub fn names(&self) -> Vec<String> {
        self.scalar
            .keys()
            .chain(self.aggregate.keys())
            .chain(self.window.keys())
            .filter(|name| !name.starts_with('$'))
            .map(|name| name.to_ascii_uppercase())
            .collect()
    }
}

/// Those of DataFusion that mean in Flink what they mean there.
fn datafusion_ones() -> Vec<Arc<ScalarUDF>> {
    vec![core::coalesce(), core::nullif(), core::get_field(), string::repeat()]
}
