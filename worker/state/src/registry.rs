//! State backends by name: those that there are, and those that a user's own build adds.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    backend::{BackendFactory, Carriage},
    error::StateError,
    memory::MemoryFactory,
    rocks::RocksFactory,
};

/// State backends by name.
#[derive(Clone)]
pub struct BackendRegistry {
    factories: BTreeMap<String, Arc<dyn BackendFactory>>,
}

impl BackendRegistry {
    /// `memory`, `hashmap` and `filesystem` (state in memory, snapshots in storage), `jobmanager` (state in memory,
    /// snapshots in the record), `rocksdb`.
    pub fn with_builtin() -> Self {
        let mut registry = Self { factories: BTreeMap::new() };
        for name in ["memory", "hashmap", "filesystem"] {
            registry.register(name, Arc::new(MemoryFactory::new(Carriage::Storage)));
        }
        registry.register("jobmanager", Arc::new(MemoryFactory::new(Carriage::Inline)));
        registry.register("rocksdb", Arc::new(RocksFactory));
        registry
    }

    /// Adds a backend, or replaces one.
    pub fn register(&mut self, name: &str, factory: Arc<dyn BackendFactory>) {
        self.factories.insert(name.to_string(), factory);
    }

    /// The factory of this name; the error lists those there are.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn BackendFactory>, StateError> {
        self.factories.get(name).ok_or_else(|| {
            let known: Vec<_> = self.names().collect();
            StateError::mismatch(format!("there is no state backend {name:?}; there are {}", known.join(", ")))
        })
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.factories.keys().map(String::as_str)
    }
}

impl Default for BackendRegistry {
    fn default() -> Self {
        Self::with_builtin()
    }
}

impl fmt::Debug for BackendRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.factories.keys()).finish()
    }
}
