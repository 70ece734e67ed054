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
    let interval = interval(&set)?;
    let mode = mode(&set)?;
    let backend = backend(&set)?;
    let of_yaml = |field: &str, key: &str| format!("{field} of the StreamJob counts, and not SET '{key}'");
    if spec.workers.slots.is_some() && slots.is_some_and(|slots| Some(slots) != spec.workers.slots) {
        warnings.push(of_yaml("spec.workers.slots", "parallelism.default"));
    }
    if spec.checkpoint.interval.as_ref().is_some_and(|given| interval.is_some_and(|set| set != given.0)) {
        warnings.push(of_yaml("spec.checkpoint.interval", "execution.checkpointing.interval"));
    }
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
        interval: spec.checkpoint.interval.as_ref().map(|given| given.0).or(interval).unwrap_or(INTERVAL),
        mode: spec.checkpoint.mode.or(mode).unwrap_or_default(),
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

fn interval(set: &BTreeMap<String, String>) -> Result<Option<Duration>, String> {
    let key = "execution.checkpointing.interval";
    let Some(value) = set.get(key) else { return Ok(None) };
    match script::duration(value) {
        Some(interval) if interval >= SHORTEST => Ok(Some(interval)),
        _ => Err(format!("SET '{key}' = '{value}': write a duration of at least 10ms, such as '10s' or '1 min'")),
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
            warnings: Vec::new(),
        };
        assert_eq!(plain, expected);
    }

    #[test]
    fn what_the_script_sets_acts_where_the_yaml_says_nothing() {
        let sql = "SET execution.checkpointing.interval = 3s; SET 'execution.checkpointing.mode' = 'AT_LEAST_ONCE';
            SET parallelism.default=5; SET 'state.backend.type' = 'hashmap';";
        let set = settled(sql, &format!("{STORAGE}  workers: {{replicas: 2}}\n")).unwrap();
        let expected = Settled {
            slots: 3,
            backend: "hashmap".to_string(),
            interval: Duration::from_secs(3),
            mode: CheckpointMode::AtLeastOnce,
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
    fn a_value_that_is_none_is_refused() {
        for (sql, message) in [
            ("SET parallelism.default = many", "a whole number"),
            ("SET parallelism.default = 0", "a whole number"),
            ("SET parallelism.default = 300", "256 are the most"),
            ("SET execution.checkpointing.interval = soon", "a duration"),
            ("SET execution.checkpointing.interval = 1ms", "at least 10ms"),
            ("SET execution.checkpointing.mode = never", "'EXACTLY_ONCE'"),
            ("SET state.backend = 'my.own.Factory'", "spec.state.backend"),
        ] {
            let error = settled(sql, STORAGE).unwrap_err();
            assert!(error.contains(message), "{sql}: {error}");
        }
    }
}
