//! `weir checkpoint`: has a `weir run` on this machine take a checkpoint now, and waits for it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{Exit, Failure};
use crate::{
    job::{Job, Overrides},
    state_dir::{Asking, default_state_dir},
    ui::text,
};

/// From one look at what the run has said to the next.
const LOOK: Duration = Duration::from_millis(50);

/// Asks for a checkpoint, and tells how it went.
pub async fn take(target: &str) -> Result<(), Failure> {
    let folder = folder_of(target)?;
    let nobody = || {
        let message =
            format!("no `weir run` works in {}; start one, or name its job, YAML or state folder", folder.display());
        Failure::new(Exit::Environment, message)
    };
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Environment, format!("the state folder {} cannot be used: {error}", folder.display()))
    };
    let mut asking = Asking::checkpoint(&folder).map_err(failed)?.ok_or_else(nobody)?;
    let mut taken = Value::Null;
    loop {
        // What it said last is read after it has ended.
        let runs = asking.is_heard().map_err(failed)?;
        for (event, facts) in asking.said().map_err(failed)? {
            match event.as_str() {
                "checkpoint" => taken = facts,
                "requested" if facts["value"] == asking.value() => return tell(&facts, &taken),
                _ => {}
            }
        }
        if !runs {
            let message = format!("the `weir run` in {} ended before the checkpoint was complete", folder.display());
            return Err(Failure::new(Exit::Environment, message));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(asked: &Value, taken: &Value) -> Result<(), Failure> {
    let id = &asked["id"];
    if let Some(failure) = asked["failure"].as_str() {
        return Err(Failure::new(Exit::JobFailed, format!("checkpoint {id} failed: {failure}; the job runs on")));
    }
    let number = |key: &str| taken[key].as_u64().unwrap_or_default();
    let took = text::span(Duration::from_millis(number("durationMs")));
    let (state, uploaded) = (text::bytes(number("stateBytes")), text::bytes(number("uploadedBytes")));
    println!("checkpoint {id} in {took}: state {state}, uploaded {uploaded}");
    Ok(())
}

/// The state folder of what is named: itself, the job of a YAML, or a job by `name` or `namespace/name`.
fn folder_of(target: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(target);
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if path.is_file() {
        return Ok(Job::local(path, &Overrides::default())?.default_state_dir());
    }
    let folder = match *target.split('/').collect::<Vec<_>>() {
        [name] => Some(default_state_dir("default", name)),
        [namespace, name] => Some(default_state_dir(namespace, name)),
        _ => None,
    };
    if let Some(folder) = folder.filter(|folder| folder.is_dir()) {
        return Ok(folder);
    }
    let message = format!(
        "{target} is no YAML, no state folder and no job that was run here; go to the folder that `weir run` was started in, or name the \
         folder of its --state-dir"
    );
    Err(Failure::new(Exit::BadInput, message))
}
