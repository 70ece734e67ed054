//! Flink SQL to a job graph.
//!
//! [`plan`] reads a script ([`parse`]), keeps its tables and views ([`names`]), plans each INSERT with DataFusion's planner
//! under Flink's names, types and functions ([`logical`]), optimises it, makes all of them one graph of nodes with traits
//! ([`physical`]) and lowers that to stages ([`lower`]). [`explain`] describes the result. Nothing is started: what cannot run is
//! refused here, with line, column and what to write instead.
//!
//! Not here: joins bounded by time, INTERSECT and EXCEPT, top-n beyond the first row, SESSION and CUMULATE windows, and aggregation over rows that
//! change. They are refused by name.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod error;
mod explain;
mod identity;
mod logical;
mod lower;
pub mod names;
pub mod parse;
mod physical;
mod script;
mod settings;

pub use datafusion_expr::ScalarUDF;
pub use error::{Place, PlanError};
pub use explain::{
    ChangelogDescription, InputDescription, OperatorDescription, PlanDescription, SinkDescription, SourceDescription,
    StageDescription, StateDescription, explain,
};
pub use names::catalog::Catalog;
pub use parse::bounds::PLANNING_STACK;
pub use script::answers::Answer;
pub use settings::SETTINGS;
pub use weir_protocol::settings::PlanRequest;

use std::panic::resume_unwind;
use std::thread;

use weir_engine::JobGraph;

use script::{Planned, Sharing};

/// Plans a script. The same request and catalog give the same graph, in every process.
///
/// On a thread whose stack holds the deepest expression that is let through: what one caller can plan every other can.
pub fn plan(request: &PlanRequest, catalog: &Catalog) -> Result<JobGraph, PlanError> {
    on_planners_stack(|| plan_here(request, catalog))?
}

fn on_planners_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, PlanError> {
    thread::scope(|scope| {
        let planner = thread::Builder::new().name("planner".to_string()).stack_size(PLANNING_STACK);
        let planned = planner.spawn_scoped(scope, work).map_err(|error| {
            PlanError::new(
                Place::default(),
                format!("the planner's thread could not be started: {error}"),
                "give the worker more memory, or let it have more threads",
            )
        })?;
        Ok(planned.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// All that is wrong with a script, in the order of its lines; nothing where it can be planned.
pub fn faults(request: &PlanRequest, catalog: &Catalog) -> Vec<PlanError> {
    on_planners_stack(|| script::faults(request, catalog)).unwrap_or_else(|error| vec![error])
}

/// What a script asks with SHOW, DESCRIBE and EXPLAIN, answered; nothing where it cannot be read.
pub fn answers(request: &PlanRequest, catalog: &Catalog) -> Vec<Answer> {
    on_planners_stack(|| script::answers(request, catalog)).unwrap_or_default()
}

fn plan_here(request: &PlanRequest, catalog: &Catalog) -> Result<JobGraph, PlanError> {
    let planned = script::plan_script(request, catalog, Sharing::AsSet)?;
    let apart = if planned.shares {
        Some(Box::new(graph_of(request, script::plan_script(request, catalog, Sharing::Never)?)))
    } else {
        None
    };
    Ok(JobGraph { apart, ..graph_of(request, planned) })
}

fn graph_of(request: &PlanRequest, planned: Planned) -> JobGraph {
    let mut graph = JobGraph {
        stages: planned.stages,
        fingerprint: String::new(),
        warnings: planned.warnings,
        script: identity::fingerprint(&request.script),
        apart: None,
    };
    let described = explain(&graph);
    let text = format!(
        "{:?}\n{:?}\nmaxParallelism {}",
        explain::Fingerprinted(&described.stages),
        planned.details,
        request.max_parallelism
    );
    graph.fingerprint = identity::fingerprint(&text);
    graph
}
