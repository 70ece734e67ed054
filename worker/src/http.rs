//! What a worker answers on the platform's pages: [`weir_pages`] serves them, the engine's metrics tell.

use std::sync::Arc;

use weir_engine::metrics::Metrics;
use weir_pages::Answers;

/// The pages of the worker with these metrics.
pub struct Pages(pub Arc<Metrics>);

impl Answers for Pages {
    fn metrics(&self) -> String {
        self.0.text()
    }

    fn not_ready(&self) -> Option<String> {
        (!self.0.is_ready()).then(|| "not now".to_string())
    }

    fn not_well(&self) -> Option<String> {
        (!self.0.is_alive()).then(|| "not now".to_string())
    }
}

#[cfg(test)]
mod tests {
    use weir_engine::control::server::{WorkerOptions, WorkerServer};
    use weir_sql::Catalog;
    use weir_state::BackendRegistry;

    use super::*;
    use crate::plan::SqlPlanner;

    #[test]
    fn a_worker_that_has_just_begun_is_well_and_ready_and_has_numbers() {
        let folder = std::env::temp_dir().join("weir-http-test");
        let planner = Arc::new(SqlPlanner::new(Catalog::default()));
        let worker = WorkerServer::new(WorkerOptions::new(folder, 128 << 20, BackendRegistry::with_builtin(), planner));
        let pages = Pages(worker.metrics());
        assert_eq!((pages.not_well(), pages.not_ready()), (None, None));
        assert!(pages.metrics().trim_end().ends_with("# EOF"));
    }
}
