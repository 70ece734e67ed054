//! `SET 'key' = 'value'`: the settings that planning obeys, those of Flink that have another place here, and those that
//! change nothing.

use std::time::Duration;

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
}

impl Settings {
    /// As it stands in fingerprints: a record's plan is recognised by it. What is shared shows in the stages.
    pub fn in_fingerprint(&self) -> String {
        let Self { projection_pushdown, local_aggregation, idle_timeout, .. } = self;
        format!(
            "Settings {{ projection_pushdown: {projection_pushdown}, local_aggregation: {local_aggregation}, \
             idle_timeout: {idle_timeout:?} }}"
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

/// What planning obeys: key, default, meaning.
pub const SETTINGS: [(&str, &str, &str); 7] = [
    (PROJECTION_PUSHDOWN, "`true`", "Sources make only the columns that are read."),
    (LOCAL_AGGREGATION, "`true`", "Rows are aggregated before the exchange too."),
    (IDLE_TIMEOUT, "off", "A split that gives no rows for so long, such as `10s`, no longer holds back the watermark."),
    (REUSE_PLANS, "`true`", "What several queries of the script have in common is computed once."),
    (REUSE_SOURCES, "`true`", "A table that several queries of the script read is read once."),
    (TIME_ZONE, "`UTC`", "Only `UTC`."),
    (MODE, "`streaming`", "Only `streaming`."),
];

/// Flink's, with the place that they have here.
const ELSEWHERE: [(&str, &str); 11] = [
    ("parallelism.default", "set workers.replicas and workers.slots in the StreamJob"),
    ("table.exec.resource.default-parallelism", "set workers.replicas and workers.slots in the StreamJob"),
    ("pipeline.max-parallelism", "set maxParallelism in the StreamJob"),
    ("execution.checkpointing.interval", "set checkpoint.interval in the StreamJob"),
    ("execution.checkpointing.timeout", "set checkpoint.timeout in the StreamJob"),
    ("execution.checkpointing.mode", "set checkpoint.mode in the StreamJob"),
    ("execution.checkpointing.dir", "set checkpoint.storage in the StreamJob"),
    ("state.backend.type", "set state.backend in the StreamJob"),
    ("state.backend", "set state.backend in the StreamJob"),
    ("pipeline.name", "set metadata.name in the StreamJob"),
    ("table.exec.state.ttl", "state does not expire yet: aggregate in windows, whose state does"),
];

/// Flink's hints to its own optimizer and runtime; there is nothing here that they could change.
const WITHOUT_EFFECT: [&str; 5] = [
    "table.exec.mini-batch.",
    "table.optimizer.",
    "table.exec.sink.upsert-materialize",
    "table.dml-sync",
    "sql-client.",
];

impl Settings {
    /// Obeys one SET.
    pub fn set(&mut self, key: &str, value: &str, place: Place) -> Result<(), PlanError> {
        let flag = || match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(PlanError::new(place, format!("'{key}' cannot be '{value}'"), "write 'true' or 'false'")),
        };
        match key {
            PROJECTION_PUSHDOWN => self.projection_pushdown = flag()?,
            LOCAL_AGGREGATION => self.local_aggregation = flag()?,
            REUSE_PLANS => self.reuse_plans = flag()?,
            REUSE_SOURCES => self.reuse_sources = flag()?,
            IDLE_TIMEOUT => {
                let timeout = humantime::parse_duration(value).map_err(|_| {
                    PlanError::new(place, format!("'{key}' cannot be '{value}'"), "write a duration, as '10 s'")
                })?;
                self.idle_timeout = (!timeout.is_zero()).then_some(timeout);
            }
            TIME_ZONE if matches!(value, "UTC" | "Etc/UTC" | "GMT" | "Z") => {}
            TIME_ZONE => {
                return Err(PlanError::new(place, format!("the time zone {value} is not supported"), "write 'UTC'"));
            }
            MODE if value.eq_ignore_ascii_case("streaming") => {}
            MODE => {
                return Err(PlanError::new(place, format!("the mode {value} is not supported"), "write 'streaming'"));
            }
            _ if WITHOUT_EFFECT.iter().any(|prefix| key.starts_with(prefix)) => {}
            _ => {
                let remedy = match ELSEWHERE.iter().find(|(flink, _)| *flink == key) {
                    Some((_, remedy)) => (*remedy).to_string(),
                    None => suggest(key, "settings", SETTINGS.iter().map(|(known, ..)| *known)),
                };
                return Err(PlanError::new(place, format!("there is no setting '{key}' here"), remedy));
            }
        }
        Ok(())
    }
}
