//! The second phase of files, as [`super::commit`] says what it does: a mark, the name that readers see, and both made durable.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use weir_engine::api::error::SinkError;
use weir_protocol::Attempt;

use super::folder::{FileSystem, cannot};
use super::names::{Owner, Pending};
use super::outcome::{Fate, Outcome};

/// Files of this file system.
pub(super) struct Files<'a>(pub(super) &'a dyn FileSystem);

/// How far the commit of a file is.
enum Begun {
    /// It is to be renamed. `first`: nobody has begun that before.
    Due {
        first: bool,
    },
    Done,
    Lost,
}

impl Files<'_> {
    /// Marks all that are to be published, and when that is durable renames them. What was renamed before is made durable too: the commit
    /// that did it may have failed in that.
    pub(super) fn publish_all(&self, pending: &[Pending]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut due = Vec::with_capacity(pending.len());
        let mut renamed = BTreeSet::new();
        for file in pending {
            match self.begin(file) {
                Ok(Begun::Due { first }) => due.push((file, first)),
                Ok(Begun::Done) => _ = renamed.insert(&file.folder),
                Ok(Begun::Lost) => outcome.add(Ok(lost(file))),
                Err(error) => outcome.add(Err(error)),
            }
        }
        let folders: BTreeSet<_> = due.iter().map(|(file, _)| &file.folder).collect();
        let unsynced: BTreeSet<_> = self.sync(&folders, &mut outcome);
        for (file, first) in due {
            // Its mark stays: another attempt may have published it meanwhile, and its mark is this one.
            if !unsynced.contains(&file.folder) {
                outcome.add(self.publish(file, first));
            }
        }
        renamed.extend(folders);
        self.sync(&renamed, &mut outcome);
        outcome
    }

    /// Makes the names in these folders durable; gives those of which that is not known.
    fn sync<'f>(&self, folders: &BTreeSet<&'f PathBuf>, outcome: &mut Outcome) -> BTreeSet<&'f PathBuf> {
        let mut unsynced = BTreeSet::new();
        for folder in folders {
            if let Err(error) = self.0.sync(folder) {
                outcome.add(Err(cannot("sync the folder", folder, error)));
                unsynced.insert(*folder);
            }
        }
        unsynced
    }

    /// The unfinished file is looked for before its mark: whoever else publishes it has made the mark before it goes.
    fn begin(&self, file: &Pending) -> Result<Begun, SinkError> {
        let there = |path: PathBuf| self.0.exists(&path).map_err(|error| cannot("look for", &path, error));
        if there(file.from())? {
            let mark = file.mark();
            return match self.0.create(&mark) {
                Ok(()) => Ok(Begun::Due { first: true }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Begun::Due { first: false }),
                Err(error) => Err(cannot("mark what is to be published by", &mark, error)),
            };
        }
        if there(file.mark())? || there(file.to())? {
            return Ok(Begun::Done);
        }
        if !self.0.is_folder(&file.folder) {
            let gone = io::Error::new(io::ErrorKind::NotFound, "the folder is gone");
            return Err(cannot("publish", &file.to(), gone));
        }
        Ok(Begun::Lost)
    }

    fn publish(&self, file: &Pending, first: bool) -> Result<Fate, SinkError> {
        match self.0.rename(&file.from(), &file.to()) {
            Ok(()) => Ok(Fate::Published),
            Err(error) if error.kind() != io::ErrorKind::NotFound || !self.0.is_folder(&file.folder) => {
                Err(cannot("publish", &file.to(), error))
            }
            Err(_) if !first => Ok(Fate::Published),
            // Another attempt publishes it too, or somebody has removed it. Its mark stays: it may be that attempt's by now.
            Err(_) => match self.0.exists(&file.to()) {
                Ok(true) => Ok(Fate::Published),
                Ok(false) => Ok(lost(file)),
                Err(error) => Err(cannot("look for", &file.to(), error)),
            },
        }
    }

    /// Removes what attempts before this one have left unfinished, and its marks, but for what these pending commits name.
    pub(super) fn remove_unfinished(
        &self,
        folder: &Path,
        owner: &Owner,
        attempt: Attempt,
        keep: &[Pending],
    ) -> Result<(), SinkError> {
        let names = match self.0.names(folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(cannot("list", folder, error)),
        };
        let keep: BTreeSet<PathBuf> = keep.iter().flat_map(|pending| [pending.from(), pending.mark()]).collect();
        for name in names {
            let path = folder.join(&name);
            let older = name.to_str().and_then(|name| owner.attempt_of(name)).is_some_and(|of| of < attempt);
            if !older || keep.contains(&path) {
                continue;
            }
            match self.0.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(cannot("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What is left behind is an empty hidden file, of which nothing comes.
    pub(super) fn forget(&self, published: &[Pending]) {
        for mark in published.iter().map(Pending::mark) {
            if let Err(error) = self.0.remove(&mark)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(mark = %mark.display(), %error, "a mark is left behind");
            }
        }
    }
}

fn lost(file: &Pending) -> Fate {
    let (to, from) = (file.to(), file.from());
    Fate::Lost(format!(
        "the file {} is lost: it is neither there nor unfinished as {}, and no mark says that it was published before",
        to.display(),
        from.display()
    ))
}
