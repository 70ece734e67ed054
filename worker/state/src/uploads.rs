//! What of one backend stands in storage, whatever became of its checkpoint.
//!
//! Checkpoints that are given up have mostly uploaded something by then. The next one of the same opening names those files
//! again instead of uploading them once more, and what it does not name is deleted: nothing ever will name it.
//!
//! That is so because of when it is done: when a checkpoint is persisted whose base is known. A coordinator triggers a
//! checkpoint when every earlier one is decided, and names the newest record as its base; one that took over has sealed the
//! term before. So of this worker's checkpoints before this one the base is on record, older records were the base of a
//! checkpoint before and have left the table by that, and all others never will be. What a record names is the
//! coordinator's to delete, and stands while any file of it is live here: every later record names it too.

use std::collections::{BTreeSet, HashMap};

use weir_protocol::{
    Attempt, WorkerId,
    part::{FileRef, KeyedSnapshot},
};

/// The table of one backend, from its opening to its end.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    /// Whose names: files that another has uploaded are not ours to name.
    of: Option<(Attempt, WorkerId)>,
    /// Files that stand there, by name. Only such whose names never stand for other bytes.
    files: HashMap<String, FileRef>,
    /// Objects that were begun, and that no record is known to name. They may be there in part, or not at all.
    objects: BTreeSet<String>,
}

/// A file of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) length: u64,
    pub(crate) crc32c: u32,
    pub(crate) immutable: bool,
}

impl Listed {
    fn is(&self, stored: &FileRef) -> bool {
        stored.length == self.length && stored.crc32c == self.crc32c && stored.inline.is_none()
    }
}

impl Uploads {
    /// A checkpoint of these files is persisted, whose base is known; `None` where no record names anything of this
    /// backend. Gives, for each file, where it stands already, and the objects that are of no use any more.
    pub(crate) fn begin(
        &mut self,
        of: (Attempt, &WorkerId),
        base: Option<&KeyedSnapshot>,
        files: &[Listed],
    ) -> (Vec<Option<FileRef>>, Vec<String>) {
        if self.of.as_ref().is_none_or(|(attempt, worker)| (*attempt, worker) != of) {
            *self = Self { of: Some((of.0, of.1.clone())), ..Self::default() };
        }
        let on_record: HashMap<&str, &FileRef> =
            base.iter().flat_map(|base| &base.files).map(|file| (file.name.as_str(), file)).collect();
        for file in on_record.values() {
            self.objects.remove(&file.path);
        }
        let stored = |file: &Listed| {
            let ours = || self.files.get(&file.name).filter(|stored| file.immutable && file.is(stored));
            on_record.get(file.name.as_str()).copied().filter(|stored| file.is(stored)).or_else(ours).cloned()
        };
        let stored: Vec<Option<FileRef>> = files.iter().map(stored).collect();
        // A file that is not in the newest snapshot is gone for good.
        let named: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        self.files.retain(|name, _| named.contains(name.as_str()));
        let used: BTreeSet<&str> = stored.iter().flatten().map(|file| file.path.as_str()).collect();
        let garbage: Vec<String> = self.objects.iter().filter(|path| !used.contains(path.as_str())).cloned().collect();
        for path in &garbage {
            self.objects.remove(path);
        }
        // What is deleted is not found again, be it by a file of the same name.
        self.files.retain(|_, file| !garbage.contains(&file.path));
        (stored, garbage)
    }

    /// An object is about to be created.
    pub(crate) fn begun(&mut self, path: &str) {
        self.objects.insert(path.to_string());
    }

    /// It stands there, with these files in it.
    pub(crate) fn stands(&mut self, files: impl IntoIterator<Item = FileRef>) {
        self.files.extend(files.into_iter().map(|file| (file.name.clone(), file)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<Listed> {
        let file = |name: &&str| Listed {
            name: (*name).to_string(),
            length: 1,
            crc32c: 7,
            immutable: !name.starts_with("MANIFEST"),
        };
        names.iter().map(file).collect()
    }

    fn stored(name: &str, path: &str) -> FileRef {
        FileRef { name: name.into(), path: path.into(), offset: 0, length: 1, crc32c: 7, inline: None }
    }

    fn snapshot(files: Vec<FileRef>) -> KeyedSnapshot {
        KeyedSnapshot {
            backend: "rocksdb".into(),
            key_group_start: 0,
            key_group_end: 1,
            key_group_watermarks: Vec::new(),
            files,
        }
    }

    struct Table(Uploads, WorkerId);

    impl Table {
        /// What is named again, by its path, and what is deleted; what is new is uploaded into one object.
        fn persist(
            &mut self,
            base: Option<&KeyedSnapshot>,
            names: &[&str],
            into: &str,
        ) -> (KeyedSnapshot, Vec<String>) {
            let files = listed(names);
            let (found, garbage) = self.0.begin((Attempt(1), &self.1), base, &files);
            self.0.begun(into);
            let new: Vec<FileRef> = files
                .iter()
                .zip(&found)
                .filter(|(_, found)| found.is_none())
                .map(|(f, _)| stored(&f.name, into))
                .collect();
            self.0.stands(new.iter().filter(|file| !file.name.starts_with("MANIFEST")).cloned());
            (snapshot(found.into_iter().flatten().chain(new).collect()), garbage)
        }
    }

    fn paths(snapshot: &KeyedSnapshot) -> Vec<&str> {
        snapshot.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn what_a_checkpoint_that_was_given_up_has_uploaded_is_named_by_the_next_or_deleted() {
        let mut table = Table(Uploads::default(), WorkerId("w".into()));
        let (first, garbage) = table.persist(None, &["1.sst", "MANIFEST"], "a");
        assert_eq!((paths(&first), garbage.len()), (vec!["a", "a"], 0));
        // Given up: 1.sst is named again, the manifest is uploaded anew, and its first object stays with the file in it.
        let (second, garbage) = table.persist(None, &["1.sst", "2.sst", "MANIFEST"], "b");
        assert_eq!((paths(&second), garbage.len()), (vec!["a", "b", "b"], 0));
        // Given up too, and merged: nothing names the first two any more.
        let (third, garbage) = table.persist(None, &["3.sst", "MANIFEST"], "c");
        assert_eq!((paths(&third), garbage), (vec!["c", "c"], vec!["a".to_string(), "b".to_string()]));
    }

    #[test]
    fn what_a_record_names_is_never_deleted_here() {
        let mut table = Table(Uploads::default(), WorkerId("w".into()));
        let (first, _) = table.persist(None, &["1.sst", "MANIFEST"], "a");
        let (second, garbage) = table.persist(Some(&first), &["2.sst", "MANIFEST"], "b");
        assert!(garbage.is_empty(), "the first is on record: {garbage:?}");
        assert_eq!(paths(&second), ["a", "b"], "the manifest is what it was");
        // The second was given up; the first is still what is on record.
        let (_, garbage) = table.persist(Some(&first), &["3.sst", "MANIFEST"], "c");
        assert_eq!(garbage, ["b"]);
    }

    #[test]
    fn an_upload_that_failed_is_deleted_since_it_may_have_happened() {
        let mut table = Table(Uploads::default(), WorkerId("w".into()));
        let (_, garbage) = table.0.begin((Attempt(1), &table.1), None, &listed(&["1.sst"]));
        assert!(garbage.is_empty());
        table.0.begun("a");
        let (found, garbage) = table.0.begin((Attempt(1), &table.1), None, &listed(&["1.sst"]));
        assert_eq!((found, garbage), (vec![None], vec!["a".to_string()]));
    }

    #[test]
    fn a_file_of_other_bytes_and_another_s_files_are_not_named() {
        let mut table = Table(Uploads::default(), WorkerId("w".into()));
        table.persist(None, &["1.sst"], "a");
        let mut other = listed(&["1.sst"]);
        other[0].crc32c = 8;
        assert_eq!(table.0.begin((Attempt(1), &table.1), None, &other), (vec![None], vec!["a".to_string()]));
        table.persist(None, &["1.sst"], "b");
        let (found, garbage) = table.0.begin((Attempt(2), &table.1), None, &listed(&["1.sst"]));
        assert_eq!((found, garbage), (vec![None], Vec::new()));
    }
}
