//! The state of a data directory before a start, so that a refused start can restore it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::folder::Folder;
use crate::lock::Lock;
use crate::opening::OpenError;

/// How often another process may remove the directory just before we lock it.
const TRIES: usize = 100;

/// The parts of a data directory that do not exist yet.
pub(crate) struct Site<'a> {
    dir: &'a Path,
    /// Itself and the directories above it, from the innermost on.
    above: Vec<&'a Path>,
    /// The names of the folders in it.
    inside: Vec<&'a str>,
}

impl<'a> Site<'a> {
    /// Looks for `dir` and for the folders in it that a start makes.
    pub(crate) fn look(dir: &'a Path, folders: &[&'a str]) -> Self {
        let is_missing =
            |path: &Path| fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let named = dir.ancestors().filter(|above| !above.as_os_str().is_empty());
        let above = named.take_while(|above| is_missing(above)).collect();
        let inside = folders.iter().copied().filter(|name| is_missing(&dir.join(name))).collect();
        Site { dir, above, inside }
    }

    /// Opens the directory (creating it if it is missing), takes its lock and calls `work` with both. If that fails,
    /// empty directories created since are removed.
    pub(crate) fn occupy<T>(
        self,
        work: impl FnOnce(Folder, Arc<Lock>) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        let done = self.take().and_then(|(lock, root)| {
            let done = work(root, lock.clone());
            if done.is_err() {
                // Nobody else begins in this directory while we hold its lock. Another one may have its path by now.
                for name in &self.inside {
                    // One that holds something stays.
                    let _ = lock.directory().remove_folder(name);
                }
            }
            done
        });
        if done.is_err() {
            for folder in &self.above {
                // One that holds something stays.
                let _ = fs::remove_dir(folder);
            }
        }
        done
    }

    /// Another refused start removes what it created, even while we open it.
    fn take(&self) -> Result<(Arc<Lock>, Folder), OpenError> {
        let gone =
            |error: &OpenError| matches!(error, OpenError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound);
        let mut left = TRIES;
        loop {
            match self.take_once() {
                Err(error) if gone(&error) && left > 0 => left -= 1,
                taken => return taken,
            }
        }
    }

    fn take_once(&self) -> Result<(Arc<Lock>, Folder), OpenError> {
        let cannot = |error| OpenError::Io { path: self.dir.to_owned(), what: "make", error };
        let root = Folder::make_all(self.dir).map_err(cannot)?;
        Ok((Arc::new(Lock::take(&root)?), root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E6: a refused start removes nothing from a directory that has taken the place of its own.
    #[test]
    fn a_refused_start_clears_its_own_directory_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let (dir, moved) = (place.path().join("data"), place.path().join("moved"));
        let refused = Site::look(&dir, &["journal"]).occupy(|root, _lock| {
            root.open_or_create_folder("journal").expect("made");
            fs::rename(&dir, &moved).expect("moved");
            fs::create_dir_all(dir.join("journal")).expect("another start");
            Err::<(), _>(OpenError::Cancelled)
        });
        assert!(matches!(refused, Err(OpenError::Cancelled)), "{refused:?}");
        assert!(dir.join("journal").exists(), "it is another's");
        assert!(!moved.join("journal").exists(), "its own is as it was");
    }
}
