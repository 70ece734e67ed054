//! What stands in storage of a job: its terms and records, and the objects that these name.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::job::Job;

impl Job {
    /// The job's prefix in storage.
    pub fn storage(&self) -> String {
        format!("{0}/checkpoints/{0}/{1}", self.space.name, self.name)
    }

    /// All objects below a folder of the prefix, by their paths below the prefix.
    async fn below(&self, folder: &str) -> Vec<String> {
        let prefix = format!("{}/", self.storage());
        let paths = self.space.bucket.list(&format!("{prefix}{folder}")).await;
        paths.iter().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_string).collect()
    }

    /// An object below the prefix, read; none if it is gone, or empty as a retired record is.
    async fn read(&self, path: &str) -> Option<Value> {
        let bytes = self.space.bucket.get(&format!("{}/{path}", self.storage())).await?;
        let read = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
        };
        Some(bytes).filter(|bytes| !bytes.is_empty()).map(read)
    }

    /// How many terms were opened.
    pub async fn terms(&self) -> usize {
        self.below("terms").await.iter().filter(|path| path.ends_with("/opening")).count()
    }

    /// The openings of all terms, in order.
    pub async fn openings(&self) -> Vec<Value> {
        let mut openings = Vec::new();
        for path in self.below("terms").await.iter().filter(|path| path.ends_with("/opening")) {
            openings.push(self.read(path).await.expect("an opening stays"));
        }
        openings
    }

    /// Each record that stands, with its path below the prefix, in the order of terms and slots.
    pub async fn recorded(&self) -> Vec<(String, Value)> {
        let mut records = Vec::new();
        for path in self.below("terms").await.into_iter().filter(|path| !path.ends_with("/opening")) {
            if let Some(slot) = self.read(&path).await.filter(|slot| slot["type"] == "record") {
                records.push((path, slot));
            }
        }
        records
    }

    /// The ids of all records that stand, in the order of terms and slots.
    pub async fn records(&self) -> Vec<u64> {
        self.recorded().await.iter().filter_map(|(_, record)| record["id"].as_u64()).collect()
    }

    /// The highest id of a record, 0 if there is none.
    pub async fn newest_record(&self) -> u64 {
        self.records().await.into_iter().max().unwrap_or(0)
    }

    /// What workers have uploaded for checkpoints, complete or not: parts and state files.
    pub async fn uploads(&self) -> BTreeSet<String> {
        let (parts, state) = (self.below("parts").await, self.below("state").await);
        parts.into_iter().chain(state).collect()
    }

    /// Those of the uploads that complete checkpoints name. All records must be retained.
    pub async fn named(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        for (_, record) in self.recorded().await {
            for part in record["parts"].as_array().expect("a record has parts") {
                let path = part["path"].as_str().expect("a part has a path");
                named.insert(path.to_string());
                paths(&self.read(path).await.expect("a part that a record names stays"), &mut named);
            }
        }
        named
    }
}

/// Every `path` in a part: the files that it names.
fn paths(part: &Value, found: &mut BTreeSet<String>) {
    match part {
        Value::Array(items) => items.iter().for_each(|item| paths(item, found)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().filter(|_| name == "path") {
                    Some(path) => drop(found.insert(path.to_string())),
                    None => paths(value, found),
                }
            }
        }
        _ => {}
    }
}

/// The attempt that uploaded an object: `parts/<id>-<attempt>-<worker>` or `state/<attempt>-<worker>/<n>`.
pub fn attempt_of(upload: &str) -> Option<u64> {
    let (folder, name) = upload.split_once('/')?;
    let mut fields = name.split('-');
    if folder == "parts" {
        fields.next();
    }
    fields.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_names_the_attempt_that_made_it() {
        assert_eq!(attempt_of("parts/0000000004-000002-2e4de74c1943"), Some(2));
        assert_eq!(attempt_of("state/000001-ea5c53667ca6/00000002"), Some(1));
        assert_eq!(attempt_of("terms/opening"), None);
    }

    #[test]
    fn the_files_of_a_part_are_found_wherever_they_stand() {
        let part = serde_json::json!({"worker": "w", "subtasks": [
            {"keyed": {"files": [{"name": "1.sst", "path": "state/000001-w/00000001", "offset": 0}]}, "operators": []},
            {"keyed": null, "channelState": [{"file": {"path": "state/000001-w/00000002"}}]},
        ]});
        let mut found = BTreeSet::new();
        paths(&part, &mut found);
        assert_eq!(found, ["state/000001-w/00000001", "state/000001-w/00000002"].map(str::to_string).into());
    }
}
