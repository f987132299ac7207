//! One side of a case in a process of its own, in a cgroup of its own: what it maps, and what the kernel caches for it, is
//! counted against its limit and against nobody else's.
//!
//! The suite starts a worker with a job, and asks it for one sample after the other; meanwhile other workers have their
//! turn. A worker keeps its map and what is resident from sample to sample, and ends when nobody asks any more.

use super::cgroup::{self, Cgroup};
use super::{cold, reads, rewrite, untouched};
use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

/// What a worker does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Work {
    /// Nothing: whether a worker can be had is what is asked.
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
    /// What folio's pager may use: less than the limit, which counts everything.
    pub(super) budget: usize,
    cgroup: Option<PathBuf>,
}

/// One sample: what it cost, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    cost: f64,
    note: Option<String>,
    error: Option<String>,
}

/// What a worker does when it is asked for a sample.
pub(super) trait Sampler {
    /// The cost of sample `number`. The same number means the same work on all sides.
    fn sample(&mut self, number: u64) -> Result<f64>;

    /// What helps to understand the costs.
    fn note(&self) -> Option<String> {
        None
    }
}

struct Probe;

impl Sampler for Probe {
    fn sample(&mut self, _: u64) -> Result<f64> {
        Ok(0.0)
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
    let mut sampler = None;
    for line in std::io::stdin().lines() {
        let number: u64 = line?.trim().parse()?;
        let mut take = || {
            let sampler = match &mut sampler {
                Some(sampler) => sampler,
                none => none.insert(start(&job)?),
            };
            let cost = sampler.sample(number)?;
            Ok::<_, anyhow::Error>(Answer { cost, note: sampler.note(), error: None })
        };
        let answer = take().unwrap_or_else(|error| Answer {
            cost: 0.0,
            note: None,
            error: Some(format!("{error:#}")),
        });
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

/// A worker, as the suite sees it.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    number: u64,
    note: Option<String>,
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
        let mut child = Command::new("/proc/self/exe")
            .args(["worker", &job])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take().context("no output")?);
        let answers = BufReader::new(answers);
        Ok(Self { child, questions, answers, number: 0, note: None, limit, _cgroup: cgroup })
    }

    /// Waits until the worker has done a sample, and returns what it cost.
    pub(super) fn sample(&mut self) -> Result<f64> {
        let questions = self.questions.as_mut().context("the worker has ended")?;
        // A worker that has ended is told about below.
        drop(writeln!(questions, "{}", self.number));
        self.number += 1;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            let limit = self.limit.map_or_else(String::new, |limit| format!(" (limit: {} MiB)", limit >> 20));
            bail!("a worker ended without an answer, with {status}{limit}");
        }
        let answer: Answer = serde_json::from_str(&line)?;
        if let Some(error) = answer.error {
            return Err(anyhow!(error));
        }
        self.note = answer.note;
        Ok(answer.cost)
    }

    pub(super) fn note(&self) -> Option<String> {
        self.note.clone()
    }
}

/// The limit where there is none: no case needs more.
const LARGE: usize = 4 << 30;

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends when nobody can ask any more.
        drop(self.questions.take());
        drop(self.child.wait());
    }
}

/// A worker that both takes its turns and tells its note in the end.
pub(super) type Shared = Rc<RefCell<Worker>>;

/// Whether processes of this program can be put under a limit.
pub(super) fn probe() -> Result<()> {
    Worker::new(Work::Probe, PathBuf::new(), 0, Some(64 << 20))?.sample().map(drop)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Job, Work};
    use crate::pager::cold::How;

    #[test]
    fn a_job_is_the_same_after_its_way_to_the_worker() {
        let cgroup = Some("/sys/fs/cgroup/x".into());
        let job = Job { work: Work::Cold(How::Folio), file: "/a \"b\"".into(), len: 7, budget: 9, cgroup };
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(format!("{:?}", serde_json::from_str::<Job>(&text).unwrap()), format!("{job:?}"));
    }

    #[test]
    fn an_answer_is_one_line() {
        let answer = Answer { cost: 1.5, note: Some("a\nb".to_owned()), error: None };
        let text = serde_json::to_string(&answer).unwrap();
        assert!(!text.contains('\n'));
        let back: Answer = serde_json::from_str(&text).unwrap();
        assert_eq!((back.cost.to_string(), back.note, back.error), ("1.5".to_owned(), answer.note, None));
    }
}
