//! What a script's SET says of a StreamJob. Where the YAML says nothing SET counts, else the default; where both say something the
//! YAML counts, with a warning. Pure.

use std::{collections::BTreeMap, time::Duration};

use weir_crds::{CheckpointMode, StreamJobSpec};
use weir_protocol::script;

/// The state backend of a job that names none.
const BACKEND: &str = "rocksdb";
/// Between two checkpoints of a job that says nothing of it.
const INTERVAL: Duration = Duration::from_secs(10);
/// The shortest interval.
const SHORTEST: Duration = Duration::from_millis(10);
/// How long a checkpoint may take of a job that says nothing of it.
const TIMEOUT: Duration = Duration::from_mins(10);
/// The shortest time that a checkpoint may be given.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How many checkpoints of a job may fail in a row that says nothing of it.
const TOLERABLE_FAILURES: u32 = 3;
/// The most slots of a worker.
const MOST_SLOTS: u32 = 256;

/// What of a spec may come from the script.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// Slots a worker.
    pub slots: u32,
    /// The state backend.
    pub backend: String,
    /// From one checkpoint to the next.
    pub interval: Duration,
    /// Exactly once, or at least once.
    pub mode: CheckpointMode,
    /// How long a checkpoint may take.
    pub timeout: Duration,
    /// From the end of one to the trigger of the next.
    pub min_pause: Duration,
    /// How many may fail in a row.
    pub tolerable_failures: u32,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// What a spec comes to with its script. The error names the setting.
pub fn settle(spec: &StreamJobSpec) -> Result<Settled, String> {
    // The last of a key counts.
    let set: BTreeMap<String, String> = script::settings(&spec.sql).into_iter().collect();
    let mut warnings = Vec::new();
    let parallelism = parallelism(&set)?;
    let slots = parallelism.map(|parallelism| parallelism.div_ceil(spec.workers.replicas.max(1)));
    if let (Some(parallelism), Some(slots)) = (parallelism, slots)
        && slots > MOST_SLOTS
    {
        return Err(format!(
            "SET 'parallelism.default' = '{parallelism}': {} workers would have {slots} slots, and {MOST_SLOTS} are the most; set spec.workers.replicas",
            spec.workers.replicas
        ));
    }
    let pace = Pace::of(&set)?;
    let mode = mode(&set)?;
    let backend = backend(&set)?;
    let of_yaml = |field: &str, key: &str| format!("{field} of the StreamJob counts, and not SET '{key}'");
    if spec.workers.slots.is_some() && slots.is_some_and(|slots| Some(slots) != spec.workers.slots) {
        warnings.push(of_yaml("spec.workers.slots", "parallelism.default"));
    }
    let given = &spec.checkpoint;
    for (given, set, field, key) in [
        (&given.interval, pace.interval, "spec.checkpoint.interval", keys::INTERVAL),
        (&given.timeout, pace.timeout, "spec.checkpoint.timeout", keys::TIMEOUT),
        (&given.min_pause, pace.min_pause, "spec.checkpoint.minPause", keys::MIN_PAUSE),
    ] {
        if given.as_ref().is_some_and(|given| set.is_some_and(|set| set != given.0)) {
            warnings.push(of_yaml(field, key));
        }
    }
    if given.tolerable_failures.is_some_and(|given| pace.tolerable_failures.is_some_and(|set| set != given)) {
        warnings.push(of_yaml("spec.checkpoint.tolerableFailures", keys::TOLERABLE_FAILURES));
    }
    warnings.extend(pace.at_once.filter(|most| *most > 1).map(|most| {
        format!("SET '{}' = '{most}': checkpoints are taken one at a time, which is within it", keys::AT_ONCE)
    }));
    if spec.checkpoint.mode.is_some_and(|given| mode.is_some_and(|set| set != given)) {
        warnings.push(of_yaml("spec.checkpoint.mode", "execution.checkpointing.mode"));
    }
    if let (Some(given), Some(set)) = (&spec.state.backend, &backend)
        && given != set
    {
        warnings.push(of_yaml("spec.state.backend", "state.backend.type"));
    }
    for (key, field) in [
        ("execution.checkpointing.dir", "spec.checkpoint.storage.url"),
        ("state.checkpoints.dir", "spec.checkpoint.storage.url"),
        ("pipeline.name", "metadata.name"),
    ] {
        if set.contains_key(key) {
            warnings.push(of_yaml(field, key));
        }
    }
    Ok(Settled {
        slots: spec.workers.slots.or(slots).unwrap_or(1),
        backend: spec.state.backend.clone().or(backend).unwrap_or_else(|| BACKEND.to_string()),
        interval: given.interval.as_ref().map(|given| given.0).or(pace.interval).unwrap_or(INTERVAL),
        mode: spec.checkpoint.mode.or(mode).unwrap_or_default(),
        timeout: given.timeout.as_ref().map(|given| given.0).or(pace.timeout).unwrap_or(TIMEOUT),
        min_pause: given.min_pause.as_ref().map(|given| given.0).or(pace.min_pause).unwrap_or_default(),
        tolerable_failures: given.tolerable_failures.or(pace.tolerable_failures).unwrap_or(TOLERABLE_FAILURES),
        warnings,
    })
}

fn parallelism(set: &BTreeMap<String, String>) -> Result<Option<u32>, String> {
    let found = ["parallelism.default", "table.exec.resource.default-parallelism"]
        .into_iter()
        .filter_map(|key| set.get(key).map(|value| (key, value)))
        // The table's own means the default where it is not set.
        .rfind(|(_, value)| value.as_str() != "-1");
    let Some((key, value)) = found else { return Ok(None) };
    match value.parse() {
        Ok(parallelism @ 1..) => Ok(Some(parallelism)),
        _ => Err(format!("SET '{key}' = '{value}': write a whole number of at least 1")),
    }
}

/// Flink's names.
mod keys {
    pub const INTERVAL: &str = "execution.checkpointing.interval";
    pub const TIMEOUT: &str = "execution.checkpointing.timeout";
    pub const MIN_PAUSE: &str = "execution.checkpointing.min-pause";
    pub const TOLERABLE_FAILURES: &str = "execution.checkpointing.tolerable-failed-checkpoints";
    pub const AT_ONCE: &str = "execution.checkpointing.max-concurrent-checkpoints";
}

/// When checkpoints are taken, as a script says it.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    min_pause: Option<Duration>,
    tolerable_failures: Option<u32>,
    /// So many at once, at most.
    at_once: Option<u32>,
}

impl Pace {
    fn of(set: &BTreeMap<String, String>) -> Result<Self, String> {
        Ok(Self {
            interval: duration(set, keys::INTERVAL, SHORTEST, "at least 10ms, such as '10s' or '1 min'")?,
            timeout: duration(set, keys::TIMEOUT, SHORTEST_TIMEOUT, "at least 1s, such as '10 min'")?,
            min_pause: duration(set, keys::MIN_PAUSE, Duration::ZERO, "0s or more, such as '5 s'")?,
            tolerable_failures: number(set, keys::TOLERABLE_FAILURES, 0)?,
            at_once: number(set, keys::AT_ONCE, 1)?,
        })
    }
}

/// A setting that is a duration of this or more; `bounds` says so to people.
fn duration(
    set: &BTreeMap<String, String>,
    key: &str,
    least: Duration,
    bounds: &str,
) -> Result<Option<Duration>, String> {
    let Some(value) = set.get(key) else { return Ok(None) };
    match script::duration(value) {
        Some(duration) if duration >= least => Ok(Some(duration)),
        _ => Err(format!("SET '{key}' = '{value}': write a duration of {bounds}")),
    }
}

fn number(set: &BTreeMap<String, String>, key: &str, least: u32) -> Result<Option<u32>, String> {
    let Some(value) = set.get(key) else { return Ok(None) };
    match value.trim().parse() {
        Ok(number) if number >= least => Ok(Some(number)),
        _ => Err(format!("SET '{key}' = '{value}': write a whole number of at least {least}")),
    }
}

fn mode(set: &BTreeMap<String, String>) -> Result<Option<CheckpointMode>, String> {
    let key = "execution.checkpointing.mode";
    let Some(value) = set.get(key) else { return Ok(None) };
    match value.to_ascii_uppercase().replace('-', "_").as_str() {
        "EXACTLY_ONCE" => Ok(Some(CheckpointMode::ExactlyOnce)),
        "AT_LEAST_ONCE" => Ok(Some(CheckpointMode::AtLeastOnce)),
        _ => Err(format!("SET '{key}' = '{value}': write 'EXACTLY_ONCE' or 'AT_LEAST_ONCE'")),
    }
}

fn backend(set: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let mut found =
        ["state.backend", "state.backend.type"].into_iter().filter_map(|key| set.get(key).map(|value| (key, value)));
    let Some((key, value)) = found.next_back() else { return Ok(None) };
    match value.as_str() {
        "rocksdb" | "hashmap" | "filesystem" | "jobmanager" | "memory" => Ok(Some(value.clone())),
        _ => Err(format!(
            "SET '{key}' = '{value}': write 'rocksdb' or 'hashmap'; a backend of your own is named by spec.state.backend"
        )),
    }
}

#[cfg(test)]
mod tests {
    use weir_crds::load_job;

    use super::*;

    fn settled(sql: &str, more: &str) -> Result<Settled, String> {
        let sql = serde_json::Value::from(sql);
        let yaml = format!(
            "apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {{name: j}}\nspec:\n  sql: {sql}\n{more}"
        );
        settle(&load_job(&yaml).unwrap().spec)
    }

    const STORAGE: &str = "  checkpoint: {storage: {url: ./ck}}\n";

    #[test]
    fn without_a_word_the_defaults_hold() {
        let plain = settled("SELECT 1", STORAGE).unwrap();
        let expected = Settled {
            slots: 1,
            backend: "rocksdb".to_string(),
            interval: Duration::from_secs(10),
            mode: CheckpointMode::ExactlyOnce,
            timeout: Duration::from_mins(10),
            min_pause: Duration::ZERO,
            tolerable_failures: 3,
            warnings: Vec::new(),
        };
        assert_eq!(plain, expected);
    }

    #[test]
    fn what_the_script_sets_acts_where_the_yaml_says_nothing() {
        let sql = "SET execution.checkpointing.interval = 3s; SET 'execution.checkpointing.mode' = 'AT_LEAST_ONCE';
            SET parallelism.default=5; SET 'state.backend.type' = 'hashmap'; SET 'execution.checkpointing.timeout' = '2 min';
            SET 'execution.checkpointing.min-pause' = '500 ms'; SET 'execution.checkpointing.tolerable-failed-checkpoints' = '0';
            SET 'execution.checkpointing.max-concurrent-checkpoints' = '1';";
        let set = settled(sql, &format!("{STORAGE}  workers: {{replicas: 2}}\n")).unwrap();
        let expected = Settled {
            slots: 3,
            backend: "hashmap".to_string(),
            interval: Duration::from_secs(3),
            mode: CheckpointMode::AtLeastOnce,
            timeout: Duration::from_mins(2),
            min_pause: Duration::from_millis(500),
            tolerable_failures: 0,
            warnings: Vec::new(),
        };
        assert_eq!(set, expected);
    }

    #[test]
    fn where_the_yaml_says_otherwise_it_counts_with_a_warning() {
        let sql = "SET execution.checkpointing.interval = 3s; SET parallelism.default = 4; SET state.backend = rocksdb; SET pipeline.name = x;";
        let more =
            "  checkpoint: {storage: {url: ./ck}, interval: 1m}\n  workers: {slots: 2}\n  state: {backend: memory}\n";
        let set = settled(sql, more).unwrap();
        assert_eq!((set.slots, set.interval, set.backend.as_str()), (2, Duration::from_mins(1), "memory"));
        assert_eq!(set.warnings.len(), 4, "{:?}", set.warnings);
        for field in ["spec.workers.slots", "spec.checkpoint.interval", "spec.state.backend", "metadata.name"] {
            assert!(set.warnings.iter().any(|warning| warning.contains(field)), "{field} is not in {:?}", set.warnings);
        }
        let same =
            "SET execution.checkpointing.interval = '1 min'; SET parallelism.default = 2; SET state.backend = memory;";
        assert_eq!(settled(same, more).unwrap().warnings, Vec::<String>::new());
    }

    #[test]
    fn the_pace_of_the_yaml_counts_over_the_scripts() {
        let sql = "SET execution.checkpointing.timeout = 2m; SET execution.checkpointing.min-pause = 1s;
            SET execution.checkpointing.tolerable-failed-checkpoints = 7; SET execution.checkpointing.max-concurrent-checkpoints = 4;";
        let more = "  checkpoint: {storage: {url: ./ck}, timeout: 3m, minPause: 0s, tolerableFailures: 0}\n";
        let set = settled(sql, more).unwrap();
        assert_eq!((set.timeout, set.min_pause, set.tolerable_failures), (Duration::from_mins(3), Duration::ZERO, 0));
        let told = [
            "spec.checkpoint.timeout",
            "spec.checkpoint.minPause",
            "spec.checkpoint.tolerableFailures",
            "one at a time",
        ];
        assert_eq!(set.warnings.len(), told.len(), "{:?}", set.warnings);
        for (warning, told) in set.warnings.iter().zip(told) {
            assert!(warning.contains(told), "{told}: {warning}");
        }
    }

    #[test]
    fn a_value_that_is_none_is_refused() {
        for (sql, message) in [
            ("SET parallelism.default = many", "a whole number"),
            ("SET parallelism.default = 0", "a whole number"),
            ("SET parallelism.default = 300", "256 are the most"),
            ("SET execution.checkpointing.interval = soon", "a duration"),
            ("SET execution.checkpointing.interval = 1ms", "at least 10ms"),
            ("SET execution.checkpointing.timeout = 10ms", "at least 1s"),
            ("SET execution.checkpointing.min-pause = long", "0s or more"),
            ("SET execution.checkpointing.tolerable-failed-checkpoints = -1", "at least 0"),
            ("SET execution.checkpointing.max-concurrent-checkpoints = 0", "at least 1"),
            ("SET execution.checkpointing.mode = never", "'EXACTLY_ONCE'"),
            ("SET state.backend = 'my.own.Factory'", "spec.state.backend"),
        ] {
            let error = settled(sql, STORAGE).unwrap_err();
            assert!(error.contains(message), "{sql}: {error}");
        }
    }
}
