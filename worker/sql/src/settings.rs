//! `SET 'key' = 'value'`: the settings that planning obeys, those of Flink that have another place here, and those that
//! change nothing.

use std::time::Duration;

use weir_connectors::RESULTS;
use weir_protocol::script;

use crate::error::{Place, PlanError, suggest};

/// What a script has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Sources make only the columns that are read.
    pub projection_pushdown: bool,
    /// Rows are aggregated before the exchange too.
    pub local_aggregation: bool,
    /// A split that gives no rows for so long no longer holds back the watermark.
    pub idle_timeout: Option<Duration>,
    /// What several queries have in common is computed once.
    pub reuse_plans: bool,
    /// A table that several queries read is read once.
    pub reuse_sources: bool,
    /// All input ends, and no row is late.
    pub batch: bool,
}

impl Settings {
    /// As it stands in fingerprints: a record's plan is recognised by it. What is shared shows in the stages.
    pub fn in_fingerprint(&self) -> String {
        let Self { projection_pushdown, local_aggregation, idle_timeout, batch, .. } = self;
        let batch = if *batch { ", batch" } else { "" };
        format!(
            "Settings {{ projection_pushdown: {projection_pushdown}, local_aggregation: {local_aggregation}, \
             idle_timeout: {idle_timeout:?}{batch} }}"
        )
    }

    /// A table that is read several times is read once.
    pub fn shares_sources(&self) -> bool {
        self.reuse_plans && self.reuse_sources
    }

    /// What is the same in several places is computed once.
    pub fn shares_plans(&self) -> bool {
        self.reuse_plans
    }

    /// The same, with nothing that several have in common.
    #[must_use]
    pub fn unshared(self) -> Self {
        Self { reuse_plans: false, reuse_sources: false, ..self }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            projection_pushdown: true,
            local_aggregation: true,
            idle_timeout: None,
            reuse_plans: true,
            reuse_sources: true,
            batch: false,
        }
    }
}

const PROJECTION_PUSHDOWN: &str = "weir.projection-pushdown";
const LOCAL_AGGREGATION: &str = "weir.local-aggregation";
const IDLE_TIMEOUT: &str = "table.exec.source.idle-timeout";
const REUSE_PLANS: &str = "table.optimizer.reuse-sub-plan-enabled";
const REUSE_SOURCES: &str = "table.optimizer.reuse-source-enabled";
const TIME_ZONE: &str = "table.local-time-zone";
const MODE: &str = "execution.runtime-mode";

/// Where the rows of queries go that stand alone: a connector that needs no options.
pub const QUERY_RESULTS: &str = "weir.query-results";

/// What planning obeys: key, default, meaning.
pub const SETTINGS: [(&str, &str, &str); 8] = [
    (PROJECTION_PUSHDOWN, "`true`", "Sources make only the columns that are read."),
    (LOCAL_AGGREGATION, "`true`", "Rows are aggregated before the exchange too."),
    (IDLE_TIMEOUT, "off", "A split that gives no rows for so long, such as `10s`, no longer holds back the watermark."),
    (REUSE_PLANS, "`true`", "What several queries of the script have in common is computed once."),
    (REUSE_SOURCES, "`true`", "A table that several queries of the script read is read once."),
    (TIME_ZONE, "`UTC`", "Only `UTC`."),
    (MODE, "`streaming`", "`batch`: all input must end, and no row is late: windows close when it has."),
    (QUERY_RESULTS, "refused", "Where the rows of a query go that stands alone: `print` or `blackhole`."),
];

/// What the job obeys beside its StreamJob: where that says nothing, these act. Read where the job is made, and not here.
const OF_THE_JOB: [&str; 14] = [
    "parallelism.default",
    "table.exec.resource.default-parallelism",
    "execution.checkpointing.interval",
    "execution.checkpointing.mode",
    "execution.checkpointing.timeout",
    "execution.checkpointing.min-pause",
    "execution.checkpointing.tolerable-failed-checkpoints",
    "execution.checkpointing.max-concurrent-checkpoints",
    "execution.checkpointing.dir",
    "state.checkpoints.dir",
    "state.backend",
    "state.backend.type",
    "pipeline.name",
    "state.backend.incremental",
];

/// Flink's, with the place that they have in a StreamJob.
const ELSEWHERE: [(&str, &str); 5] = [
    ("pipeline.max-parallelism", "maxParallelism"),
    ("execution.checkpointing.num-retained", "checkpoint.retain"),
    ("state.checkpoints.num-retained", "checkpoint.retain"),
    ("execution.checkpointing.unaligned", "checkpoint.alignment"),
    ("execution.checkpointing.unaligned.enabled", "checkpoint.alignment"),
];

/// Flink's own, of which a script needs no word: its client, its optimizer, its batches.
const WITHOUT_EFFECT: [&str; 5] = [
    "table.exec.mini-batch.",
    "table.optimizer.",
    "table.exec.sink.upsert-materialize",
    "table.dml-sync",
    "sql-client.",
];

/// How Flink's processes run. The answer is the same with any of them; that they do nothing here is a warning.
const TUNING: [&str; 38] = [
    "akka.",
    "blob.",
    "classloader.",
    "client.",
    "cluster.",
    "env.",
    "execution.attached",
    "execution.batch.",
    "execution.buffer-timeout",
    "execution.checkpointing.",
    "execution.shutdown-",
    "execution.target",
    "heartbeat.",
    "high-availability",
    "historyserver.",
    "io.",
    "job.autoscaler.",
    "jobmanager.",
    "kubernetes.",
    "metrics.",
    "pekko.",
    "pipeline.",
    "rest.",
    "restart-strategy",
    "slotmanager.",
    "state.",
    "table.builtin-catalog-name",
    "table.display.",
    "table.exec.async-",
    "table.exec.legacy-transformation-uids",
    "table.exec.resource.",
    "table.exec.simplify-operator-name-enabled",
    "table.exec.spill-",
    "table.exec.uid.",
    "table.planner",
    "taskmanager.",
    "web.",
    "yarn.",
];

/// Flink's, that would change the answer, with the one value that means what is done here.
const AS_HERE: [(&str, &str); 8] = [
    ("table.exec.state.ttl", "0"),
    ("table.exec.sink.not-null-enforcer", "error"),
    ("table.exec.sink.type-length-enforcer", "ignore"),
    ("table.exec.source.cdc-events-duplicate", "false"),
    ("table.exec.legacy-cast-behaviour", "disabled"),
    ("table.sql-dialect", "default"),
    ("table.dynamic-table-options.enabled", "true"),
    ("table.exec.emit.early-fire.enabled", "false"),
];

/// What a setting has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is obeyed, here or where the job is made, or nothing hangs on it.
    Obeyed,
    /// It does nothing, which a user should know.
    Idle(String),
}

impl Settings {
    /// Takes back one SET, or all of them.
    pub fn reset(&mut self, key: Option<&str>, place: Place) -> Result<(), PlanError> {
        let Some(key) = key else {
            *self = Self::default();
            return Ok(());
        };
        let default = Self::default();
        match key {
            PROJECTION_PUSHDOWN => self.projection_pushdown = default.projection_pushdown,
            LOCAL_AGGREGATION => self.local_aggregation = default.local_aggregation,
            REUSE_PLANS => self.reuse_plans = default.reuse_plans,
            REUSE_SOURCES => self.reuse_sources = default.reuse_sources,
            IDLE_TIMEOUT => self.idle_timeout = default.idle_timeout,
            MODE => self.batch = default.batch,
            TIME_ZONE | QUERY_RESULTS => {}
            // What does nothing is taken back by nothing.
            _ => {
                let here = AS_HERE.iter().find(|(known, _)| *known == key).map_or("", |(_, here)| *here);
                other(key, here, place)?;
            }
        }
        Ok(())
    }

    /// Obeys one SET.
    pub fn set(&mut self, key: &str, value: &str, place: Place) -> Result<Taken, PlanError> {
        let wrong = |remedy: &str| PlanError::new(place, format!("'{key}' cannot be '{value}'"), remedy);
        let flag = || match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(wrong("write 'true' or 'false'")),
        };
        match key {
            PROJECTION_PUSHDOWN => self.projection_pushdown = flag()?,
            LOCAL_AGGREGATION => self.local_aggregation = flag()?,
            REUSE_PLANS => self.reuse_plans = flag()?,
            REUSE_SOURCES => self.reuse_sources = flag()?,
            IDLE_TIMEOUT => {
                let timeout = script::duration(value).ok_or_else(|| wrong("write a duration, as '10 s'"))?;
                self.idle_timeout = (!timeout.is_zero()).then_some(timeout);
            }
            TIME_ZONE if matches!(value, "UTC" | "Etc/UTC" | "GMT" | "Z" | "default") => {}
            TIME_ZONE => {
                return Err(PlanError::new(place, format!("the time zone {value} is not supported"), "write 'UTC'"));
            }
            MODE => match value.to_ascii_lowercase().as_str() {
                "streaming" => self.batch = false,
                "batch" => self.batch = true,
                _ => return Err(wrong("write 'streaming' or 'batch'")),
            },
            QUERY_RESULTS if matches!(value, "print" | "blackhole" | RESULTS) => {}
            QUERY_RESULTS => return Err(wrong("write 'print' or 'blackhole'")),
            _ => return other(key, value, place),
        }
        Ok(Taken::Obeyed)
    }
}

/// A setting that planning does not read.
fn other(key: &str, value: &str, place: Place) -> Result<Taken, PlanError> {
    if OF_THE_JOB.contains(&key) || WITHOUT_EFFECT.iter().any(|prefix| key.starts_with(prefix)) {
        return Ok(Taken::Obeyed);
    }
    if let Some((_, here)) = AS_HERE.iter().find(|(known, _)| *known == key) {
        if value.eq_ignore_ascii_case(here)
            || (*here == "0" && script::duration(value).is_some_and(|ttl| ttl.is_zero()))
        {
            return Ok(Taken::Obeyed);
        }
        let what = format!("'{key}' = '{value}' is not supported, and would change the result");
        return Err(PlanError::new(place, what, format!("leave it out, or write '{here}'")));
    }
    if let Some((_, field)) = ELSEWHERE.iter().find(|(flink, _)| *flink == key) {
        return Ok(Taken::Idle(format!("SET '{key}' does nothing here: {field} of the StreamJob says it")));
    }
    if TUNING.iter().any(|prefix| key.starts_with(prefix)) {
        return Ok(Taken::Idle(format!("SET '{key}' does nothing here: it tunes Flink's own processes")));
    }
    let known = SETTINGS.iter().map(|(known, ..)| *known).chain(OF_THE_JOB);
    Err(PlanError::new(place, format!("there is no setting '{key}' here"), suggest(key, "settings", known)))
}
