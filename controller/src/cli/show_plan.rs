//! `weir plan`: the worker's description of a plan, for people. What is not known here is left out, so that a user's own
//! worker build may tell more.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    job::Job,
    workers::planner::{self, Plan},
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Description {
    stages: Vec<Stage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stage {
    id: u32,
    name: String,
    source: Option<Source>,
    inputs: Vec<Input>,
    operators: Vec<Operator>,
    changelog: Vec<Changelog>,
    sink: Option<Sink>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    table: String,
    columns: Vec<String>,
    watermark: bool,
    bounded: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    from: u32,
    exchange: String,
    keys: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Operator {
    name: String,
    state: Option<State>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct State {
    bounded_by: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Changelog {
    rows: String,
    key: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sink {
    table: String,
    columns: Vec<String>,
}

fn read(description: &Value) -> Description {
    Description::deserialize(description).unwrap_or_default()
}

/// Stages from the sources to the sinks.
pub fn render(job: &Job, plan: &Plan) -> String {
    let head = format!(
        "{}: parallelism {} ({} workers × {} slots), {} key groups, keyed state in {}\n",
        job.name,
        job.workers * job.slots,
        job.workers,
        job.slots,
        job.plan.max_parallelism,
        job.settings.state_backend
    );
    head + &body(&plan.description) + &format!("\nfingerprint {}\n", plan.fingerprint)
}

fn body(description: &Value) -> String {
    let Description { stages } = read(description);
    let mut out = String::new();
    for stage in stages {
        // Writing to a string does not fail.
        let _ = stage.write(&mut out);
    }
    for warning in planner::warnings(description) {
        let _ = writeln!(out, "\nwarning: {warning}");
    }
    out
}

impl Stage {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nstage {}: {}", self.id, self.name)?;
        if let Some(source) = &self.source {
            let ends = if source.bounded { "bounded" } else { "unbounded" };
            let time = if source.watermark { ", with watermarks" } else { "" };
            writeln!(out, "  source {} ({ends}{time}): {}", source.table, source.columns.join(", "))?;
        }
        for input in &self.inputs {
            let by = if input.keys.is_empty() { String::new() } else { format!(" by {}", input.keys.join(", ")) };
            writeln!(out, "  from stage {}, {}{by}", input.from, input.exchange)?;
        }
        for operator in &self.operators {
            writeln!(out, "  {}", operator.name)?;
            if let Some(state) = &operator.state {
                let bound = state.bounded_by.as_ref();
                let bound = bound.map_or_else(|| "grows without bound".to_string(), |by| format!("bounded by {by}"));
                writeln!(out, "    keyed state, {bound}")?;
            }
        }
        for Changelog { rows, key } in &self.changelog {
            let by = match key.as_deref() {
                None => String::new(),
                Some([]) => ", one row".to_string(),
                Some(key) => format!(", the last of each {} stays", key.join(", ")),
            };
            writeln!(out, "  gives {rows}{by}")?;
        }
        if let Some(sink) = &self.sink {
            writeln!(out, "  sink {}: {}", sink.table, sink.columns.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_reads_from_the_source_to_the_sink_and_tells_where_state_is() {
        let description = json!({
            "fingerprint": "f",
            "stages": [
                {"id": 0, "name": "flights", "identity": "a", "operators": [], "changelog": [{"rows": "+I"}],
                 "source": {"table": "flights", "columns": ["carrier STRING"], "watermark": true, "bounded": true}},
                {"id": 1, "name": "count", "inputs": [{"from": 0, "exchange": "hash", "keys": ["carrier"], "columns": []}],
                 "operators": [{"name": "aggregate", "state": {"boundedBy": null}, "columns": []}],
                 "changelog": [{"rows": "+I -U +U", "key": ["carrier"]}],
                 "sink": {"table": "out", "columns": ["carrier STRING", "n BIGINT"]}},
            ],
            "warnings": [{"operator": "aggregate", "message": "its state grows without bound"}],
        });
        let expected = "
stage 0: flights
  source flights (bounded, with watermarks): carrier STRING
  gives +I

stage 1: count
  from stage 0, hash by carrier
  aggregate
    keyed state, grows without bound
  gives +I -U +U, the last of each carrier stays
  sink out: carrier STRING, n BIGINT

warning: aggregate: its state grows without bound
";
        assert_eq!(body(&description), expected);
    }
}
