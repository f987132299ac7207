//! A directory of segments of a test's own. The directory is named by the environment, so one test
//! at a time has one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE: Mutex<()> = Mutex::new(());

/// The directory, for as long as the test runs.
pub(crate) struct World {
    path: PathBuf,
    _dir: Option<tempfile::TempDir>,
    _one: MutexGuard<'static, ()>,
}

impl World {
    /// In memory, where there is a tmpfs, as `/dev/shm` is.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = dir.path().to_owned();
        Self { _dir: Some(dir), ..Self::at(&path) }
    }

    /// A directory that somebody else takes away.
    pub(crate) fn at(path: &Path) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: tests that read the environment by way of folio hold the lock; others read no
        // variable that is set here.
        unsafe { std::env::set_var("FOLIO_SHM_DIR", path) };
        Self { path: path.to_owned(), _dir: None, _one: one }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a segment.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(format!("folio.{name}"))
    }

    /// The names of all files, in order.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// How many files a collection leaves behind, but for these.
    pub(crate) fn leaked(&self, but: &[&str]) -> u64 {
        folio::shm::remove_stale(false).unwrap();
        self.files().iter().filter(|file| !but.contains(&file.as_str())).count() as u64
    }
}
