//! A side of this suite: two processes, each pinned to a core of its own.
//!
//! Both are asked for a sample at the same time; one of them times it, and the other answers when
//! its part is done. While the other sides have their turn both wait for the next question, asleep.
//! Both go before other programs where that is allowed, since one that spins waits for nothing
//! while the other one has no core.

use super::{cores, fan_out, lock, one_way, trip};
use crate::measure::Cost;
use crate::process::{self, Process, Sampler};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::TempDir;

/// The work of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Work {
    Trip(trip::How),
    OneWay(one_way::How),
    Block(one_way::How),
    Lock(lock::How),
    FanOut(fan_out::How),
}

/// Which of the two a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// It sends, or asks.
    First,
    /// It receives, or answers.
    Second,
}

/// Where the two find each other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    /// A directory of their own.
    pub(super) dir: PathBuf,
    /// Memory of their own: a file of zeros that has no name.
    pub(super) memory: PathBuf,
    /// A name that nobody else on this machine uses. Files in /dev/shm with this prefix are removed
    /// in the end.
    pub(super) name: String,
}

impl Place {
    /// The path of something in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// All that a process has to know.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    work: Work,
    role: Role,
    processor: usize,
    place: Place,
}

fn start(job: &Job) -> Result<Box<dyn Sampler>> {
    let Job { role, ref place, .. } = *job;
    match job.work {
        Work::Trip(how) => trip::start(how, role, place),
        Work::OneWay(how) => one_way::start::<8>(how, role, place),
        Work::Block(how) => one_way::start::<{ one_way::BLOCK }>(how, role, place),
        Work::Lock(how) => lock::start(how, role, place),
        Work::FanOut(how) => fan_out::start(how, role, place),
    }
}

/// The whole life of one of the two.
pub(crate) fn serve(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    // Before it allocates anything.
    cores::pin(job.processor)?;
    cores::hurry();
    process::serve(|| start(&job))
}

/// Seconds after which a sample will not come any more.
const PATIENCE: i32 = 60;

/// The two processes, as the suite sees them.
#[derive(Debug)]
pub(super) struct Pair {
    first: Process,
    second: Process,
    // Dropped after the two have ended.
    _leftovers: Leftovers,
    _dir: TempDir,
    _memory: File,
}

/// The files of a pair in /dev/shm: iceoryx2 keeps one there for the next, and one that was killed
/// leaves more.
#[derive(Debug)]
struct Leftovers(String);

impl Drop for Leftovers {
    fn drop(&mut self) {
        let files = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(&self.0)) {
            drop(std::fs::remove_file(file.path()));
        }
    }
}

impl Pair {
    /// Starts both.
    pub(super) fn new(work: Work) -> Result<Self> {
        let processors = cores::two()?;
        let dir = tempfile::Builder::new().prefix("folio-compare-").tempdir()?;
        let memory = memory()?;
        let name = dir.path().file_name().context("a directory without a name")?;
        let place = Place {
            dir: dir.path().to_owned(),
            memory: format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()).into(),
            name: name.to_string_lossy().into_owned(),
        };
        let start = |role, processor| {
            let job = serde_json::to_string(&Job { work, role, processor, place: place.clone() })?;
            Process::start(&["party", &job])
        };
        Ok(Self {
            first: start(Role::First, processors[0])?,
            second: start(Role::Second, processors[1])?,
            _leftovers: Leftovers(place.name),
            _dir: dir,
            _memory: memory,
        })
    }

    /// Has both take a sample, and returns what it cost. If one of them cannot, both are ended.
    pub(super) fn sample(&mut self) -> Result<Cost> {
        self.second.ask()?;
        self.first.ask()?;
        let cost = self.answers();
        if cost.is_err() {
            self.first.kill();
            self.second.kill();
        }
        cost
    }

    fn answers(&mut self) -> Result<Cost> {
        let mut costs = [None, None];
        while costs.contains(&None) {
            let mut waits = [&self.first, &self.second]
                .map(|process| process.answers().as_fd().as_raw_fd())
                .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            for (wait, cost) in waits.iter_mut().zip(&costs) {
                if cost.is_some() {
                    // A negative number is left out.
                    wait.fd = -1;
                }
            }
            // SAFETY: the call writes to as many records as it is told of.
            let ready = unsafe { libc::poll(waits.as_mut_ptr(), 2, PATIENCE * 1000) };
            if ready == 0 {
                bail!("no answer within {PATIENCE} seconds");
            }
            for ((wait, cost), process) in
                waits.iter().zip(&mut costs).zip([&mut self.first, &mut self.second])
            {
                if wait.revents != 0 {
                    *cost = Some(process.answer()?);
                }
            }
        }
        // The one that has nothing to tell says zero.
        costs
            .into_iter()
            .flatten()
            .find(|&cost| cost != Cost::default())
            .context("neither has timed it")
    }

    /// The notes of the two.
    pub(super) fn note(&self) -> Option<String> {
        let notes: Vec<String> = self.first.note().into_iter().chain(self.second.note()).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// A side that both takes its turns and tells its note in the end.
pub(super) type Shared = Rc<RefCell<Pair>>;

/// The memory of a pair, at most.
pub(super) const MEMORY: usize = 4 << 20;

fn memory() -> Result<File> {
    use std::os::fd::FromRawFd;
    // SAFETY: the name is a string that ends.
    let fd = unsafe { libc::memfd_create(c"folio-compare".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("memfd_create");
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(MEMORY as u64)?;
    Ok(file)
}

/// Waits for a file that the other one makes.
pub(super) fn wait_for(path: &Path) -> Result<()> {
    for _ in 0..10_000 {
        if path.exists() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    bail!("{} did not appear", path.display())
}

#[cfg(test)]
mod tests {
    use super::{Job, Place, Role, Work};
    use crate::ipc::trip::How;

    #[test]
    fn a_job_is_the_same_after_its_way_to_the_process() {
        let place =
            Place { dir: "/a \"b\"".into(), memory: "/proc/1/fd/2".into(), name: "x".to_owned() };
        let job = Job { work: Work::Trip(How::Floor), role: Role::Second, processor: 3, place };
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(
            format!("{:?}", serde_json::from_str::<Job>(&text).unwrap()),
            format!("{job:?}")
        );
    }
}
