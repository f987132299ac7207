//! One side of a case in a process of its own, in a cgroup of its own: its maps, and the kernel's
//! cache for it, are counted against its limit and against nobody else's.
//!
//! The suite starts a worker with a job, and asks it for one sample after the other; meanwhile
//! other workers have their turn. A worker keeps its map and its resident pages from sample to
//! sample, and ends when nobody asks any more.

use super::cgroup::{self, Cgroup};
use super::{cold, reads, rewrite, untouched};
use crate::measure::Cost;
use crate::process::{self, Process, Sampler};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

/// The job of a worker.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Work {
    /// Nothing: the question is whether a worker can be had.
    Probe,
    Reads(reads::Reads),
    Cold(cold::How),
    Rewrite(rewrite::How),
    Untouched,
}

/// All that a worker has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) file: PathBuf,
    pub(super) len: usize,
    /// The budget of folio's pager: less than the limit, which counts everything.
    pub(super) budget: usize,
    cgroup: Option<PathBuf>,
}

struct Probe;

impl Sampler for Probe {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        Ok(Cost::default())
    }
}

fn start(job: &Job) -> Result<Box<dyn Sampler>> {
    if let Some(dir) = &job.cgroup {
        cgroup::join(dir)?;
    }
    Ok(match job.work {
        Work::Probe => Box::new(Probe),
        Work::Reads(reads) => reads.start(job)?,
        Work::Cold(how) => cold::start(how, job)?,
        Work::Rewrite(how) => rewrite::start(how, job)?,
        Work::Untouched => untouched::start(job),
    })
}

/// A worker's whole life.
pub(crate) fn serve(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    process::serve(|| start(&job))
}

/// A worker, as the suite sees it.
#[derive(Debug)]
pub(super) struct Worker {
    process: Process,
    limit: Option<usize>,
    // Removed after the process has ended.
    _cgroup: Option<Cgroup>,
}

impl Worker {
    /// Starts a worker that may use `limit` bytes.
    pub(super) fn new(work: Work, file: PathBuf, len: usize, limit: Option<usize>) -> Result<Self> {
        let cgroup = limit.map(Cgroup::new).transpose()?;
        let dir = cgroup.as_ref().map(|cgroup| cgroup.dir().to_owned());
        // The rest is for page tables, and all that a process has besides.
        let budget = limit.unwrap_or(LARGE) / 8 * 7;
        let job = serde_json::to_string(&Job { work, file, len, budget, cgroup: dir })?;
        Ok(Self { process: Process::start(&["worker", &job])?, limit, _cgroup: cgroup })
    }

    /// Waits until the worker has done a sample, and returns what it cost.
    pub(super) fn sample(&mut self) -> Result<Cost> {
        self.process.ask()?;
        self.process.answer().with_context(|| match self.limit {
            Some(limit) => format!("a worker with a limit of {} MiB", limit >> 20),
            None => "a worker".to_owned(),
        })
    }

    pub(super) fn note(&self) -> Option<String> {
        self.process.note()
    }
}

/// The limit where there is none: no case needs more.
const LARGE: usize = 4 << 30;

/// A worker that both takes its turns and tells its note in the end.
pub(super) type Shared = Rc<RefCell<Worker>>;

/// Whether processes of this program can be put under a limit.
pub(super) fn probe() -> Result<()> {
    Worker::new(Work::Probe, PathBuf::new(), 0, Some(64 << 20))?.sample().map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Job, Work};
    use crate::pager::cold::How;

    #[test]
    fn a_job_is_the_same_after_its_way_to_the_worker() {
        let cgroup = Some("/sys/fs/cgroup/x".into());
        let job = Job {
            work: Work::Cold(How::Folio),
            file: "/a \"b\"".into(),
            len: 7,
            budget: 9,
            cgroup,
        };
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(
            format!("{:?}", serde_json::from_str::<Job>(&text).unwrap()),
            format!("{job:?}")
        );
    }
}
