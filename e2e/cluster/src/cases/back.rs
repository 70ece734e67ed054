//! Going back to a checkpoint that the user names: what came after it is undone in the state, and comes again in the output.

use serde_json::{Value, json};

use crate::{
    job::{Job, Settings},
    space::Space,
    verify,
    wait::until,
};

/// A checkpoint to go back to, and where the output ends that came before it.
pub struct Past {
    /// Where it stands below the job's prefix.
    path: String,
    record: Value,
    /// The last attempt whose output belongs to it.
    before: u64,
    /// The one that has gone on from it, and is to be undone.
    undone: u64,
}

impl Past {
    /// Suspends and resumes the job, so that all output of the attempts before ends with one checkpoint; and waits until the attempt
    /// that goes on from it has published some.
    pub async fn of(job: &Job) -> Self {
        job.change(json!({"suspend": true})).await;
        job.until_suspended().await;
        let (path, record) = job.recorded().await.into_iter().next_back().expect("suspended with a checkpoint");
        let before = job.attempt().await;
        job.change(json!({"suspend": false})).await;
        job.until_recovered_from(before).await;
        let past = Self { path, record, before, undone: job.attempt().await };
        until("output of what is to be undone", || async {
            past.output(job).await.iter().any(|(attempt, _)| *attempt == past.undone).then_some(())
        })
        .await;
        past
    }

    /// Asks for it.
    pub async fn wish(&self, job: &Job) {
        job.change(json!({"restoreFrom": {"record": self.path}})).await;
    }

    /// Waits until the job has gone back to it and published something.
    pub async fn until_restored(&self, job: &Job) {
        until("the wish is fulfilled", || async {
            (job.status().await["restoredFrom"]["value"] == self.path.as_str()).then_some(())
        })
        .await;
        job.until_recovered_from(self.undone).await;
        assert_eq!(job.restored().await, self.record["id"].as_u64(), "the attempt is restored from the wish");
        until("output of the attempt that has gone back", || async {
            let gone_back = self.gone_back(job).await?;
            self.output(job).await.iter().any(|(attempt, _)| *attempt == gone_back).then_some(())
        })
        .await;
    }

    /// The attempt that has gone back to it.
    async fn gone_back(&self, job: &Job) -> Option<u64> {
        let goes_back = |opening: &Value| {
            let from_it = ["id", "term", "number"].iter().all(|field| opening["restores"][field] == self.record[field]);
            opening["attempt"].as_u64().filter(|attempt| from_it && *attempt > self.undone)
        };
        job.openings().await.iter().find_map(goes_back)
    }

    /// The lines of the output but for those of what was undone. They are exact only if what came after has begun with the state of
    /// that checkpoint, to the row.
    pub async fn lines(&self, job: &Job) -> Vec<String> {
        let gone_back = self.gone_back(job).await.expect("an attempt has gone back");
        let mut output = self.output(job).await;
        output.retain(|(attempt, _)| *attempt <= self.before || *attempt >= gone_back);
        let paths: Vec<String> = output.into_iter().map(|(_, path)| path).collect();
        job.space.bucket.lines_of(&paths).await
    }

    /// The output's files, with the attempt that wrote each.
    async fn output(&self, job: &Job) -> Vec<(u64, String)> {
        let published = job.space.bucket.published(&job.output()).await;
        published.into_iter().map(|path| (writer(&path), path)).collect()
    }
}

/// The attempt that wrote a file: `part-<sink>-<attempt>-<worker>-<subtask>-<number>.json`.
fn writer(path: &str) -> u64 {
    let name = path.rsplit('/').next().unwrap_or_default();
    let attempt = name.split('-').nth(2).and_then(|attempt| attempt.parse().ok());
    attempt.unwrap_or_else(|| panic!("{path} does not say which attempt wrote it"))
}

pub async fn restore_from_a_record(space: Space) {
    let job = Job::running(&space, &Settings::seconds(25)).await;
    let past = Past::of(&job).await;
    past.wish(&job).await;
    past.until_restored(&job).await;
    job.until_condition("Succeeded", "True").await;
    let lines = past.lines(&job).await;
    verify::whole(&lines, job.rows).unwrap_or_else(|error| panic!("the output is not exact: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_which_attempt_wrote_it() {
        assert_eq!(writer("space/sums-out/part-ccf6cc92bbc7c258-12-ea5c53667ca6-1-0.json"), 12);
    }
}
