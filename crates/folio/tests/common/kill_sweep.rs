//! Killing a process between any two of its steps: a tracer stops it at each system call, or at
//! each instruction, and ends it with SIGKILL at the one that was asked for.

use super::effort::scaled;
use super::random::Random;
use super::{End, spawn_child, wait};
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// Kills that a sweep makes at any effort, where there are so many steps.
const FEWEST: u64 = 5;

/// A number of kills that is never reached: a thorough run kills at every step.
pub(crate) const EVERY_STEP: u64 = u64::MAX;

/// The unit in which a child's work is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Entering or leaving a system call.
    Call,
    /// One instruction.
    Instruction,
}

/// How a traced child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was killed after so many steps.
    Killed,
    /// It was through after this many.
    Through(u64),
}

/// Whether this process may trace its children.
pub(crate) fn can_trace() -> bool {
    run(Step::Call, 1, || (), |()| ()).is_some()
}

/// Forks a child that runs `prepare`, then `work` step by step, and kills it after `steps`. `None`
/// if tracing is forbidden.
pub(crate) fn run<P>(
    step: Step,
    steps: u64,
    prepare: impl FnOnce() -> P,
    work: impl FnOnce(P),
) -> Option<Ended> {
    trace(start(prepare, work), step, steps, |pid| {
        // SAFETY: the child is stopped, and this thread's.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    })
}

/// As [`run`], but does something else while the child stands still after `steps`, and lets it go
/// on then.
pub(crate) fn run_around<P>(
    step: Step,
    steps: u64,
    prepare: impl FnOnce() -> P,
    work: impl FnOnce(P),
    meanwhile: impl FnOnce(),
) -> Option<Ended> {
    let mut meanwhile = Some(meanwhile);
    trace(start(prepare, work), step, steps, |_| {
        meanwhile.take().into_iter().for_each(|work| work());
    })
}

/// A child that waits for its tracer before it begins with `work`.
fn start<P>(prepare: impl FnOnce() -> P, work: impl FnOnce(P)) -> i32 {
    // SAFETY: the child runs on the calling thread's copy alone, and ends with `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            let body = std::panic::AssertUnwindSafe(|| {
                let prepared = prepare();
                // SAFETY: asks to be traced, then stops until the tracer goes on.
                unsafe {
                    if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                        libc::_exit(77);
                    }
                    libc::raise(libc::SIGSTOP);
                }
                work(prepared);
            });
            let status = if std::panic::catch_unwind(body).is_ok() { 0 } else { 101 };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) }
        }
        pid => pid,
    }
}

fn trace(pid: i32, step: Step, steps: u64, mut at_step: impl FnMut(i32)) -> Option<Ended> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut taken = 0;
    loop {
        let mut status = 0;
        // SAFETY: `status` has room for the answer.
        while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
            assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
        }
        if libc::WIFEXITED(status) {
            return match libc::WEXITSTATUS(status) {
                0 => Some(Ended::Through(taken)),
                77 => None,
                status => panic!("the child failed with {status} after {taken} steps"),
            };
        }
        if libc::WIFSIGNALED(status) {
            assert_eq!(libc::WTERMSIG(status), libc::SIGKILL, "after {taken} steps");
            return Some(Ended::Killed);
        }
        assert!(Instant::now() < deadline, "the child takes too long");
        if taken == steps {
            at_step(pid);
        }
        taken += 1;
        // SAFETY: the child is this thread's, and stopped or just killed.
        unsafe {
            let how = match step {
                Step::Call => libc::PTRACE_SYSCALL,
                Step::Instruction => libc::PTRACE_SINGLESTEP,
            };
            if libc::ptrace(how, pid, 0, 0) != 0 {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{error}");
            }
        }
    }
}

/// How a sweep went.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) kills: u64,
    pub(crate) corrupted: u64,
    pub(crate) hung: u64,
    pub(crate) leaked: u64,
}

impl Ledger {
    /// Says how it went; it is to have gone well.
    #[track_caller]
    pub(crate) fn tell(&self, what: &str) {
        let Self { kills, corrupted, hung, leaked } = *self;
        eprintln!(
            "{what}: {kills} kills, {corrupted} corrupted, {hung} hung, {leaked} leaked names"
        );
        assert!(kills > 0, "{what}");
        assert_eq!((corrupted, hung, leaked), (0, 0, 0), "{what}");
    }
}

/// Runs `work` to its end to count its steps, then kills it at up to `kills` of them, evenly
/// spread; after each kill, `check` looks at the remains. `before` prepares each run.
pub(crate) fn sweep<W, P>(
    ledger: &mut Ledger,
    step: Step,
    kills: u64,
    mut before: impl FnMut() -> W,
    prepare: impl Fn(&W) -> P,
    work: impl Fn(P),
    mut check: impl FnMut(&mut Ledger, W),
) {
    let world = before();
    let total = match run(step, u64::MAX, || prepare(&world), &work) {
        Some(Ended::Through(total)) => total,
        other => panic!("the child did not get through: {other:?}"),
    };
    check(ledger, world);
    let kills = scaled(kills.min(total)).max(FEWEST).min(total);
    for kill in 0..kills {
        let at = kill * total / kills;
        let world = before();
        // One that is quicker this time is no kill, and as good a test.
        if run(step, at, || prepare(&world), &work) == Some(Ended::Killed) {
            ledger.kills += 1;
        }
        check(ledger, world);
    }
}

/// A child that is killed when it is dropped, at the latest.
pub(crate) struct Victim {
    pid: i32,
    _messages: File,
}

impl Victim {
    pub(crate) fn new(work: impl FnOnce()) -> Self {
        let (pid, messages) = spawn_child(work);
        Self { pid, _messages: messages }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it, and waits until it has ended. Whether it was the kill that ended it.
    pub(crate) fn kill(mut self) -> bool {
        self.end() == End::Killed(libc::SIGKILL)
    }

    /// Sends the signal, and does not wait: a zombie is dead, too.
    pub(crate) fn shoot(&self) {
        // SAFETY: sends a signal to a child of this process that was not waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    fn end(&mut self) -> End {
        self.shoot();
        wait(std::mem::take(&mut self.pid))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.pid != 0 {
            self.end();
        }
    }
}

/// Has `workers` processes at it and kills one `kills` times, each time for a new one; at last all
/// of them. `spawn` starts one, as `spawn_child` does, for which it is given a number. After each
/// kill comes `nudge`, and then `progress` has to grow within `patience`.
pub(crate) fn compete(
    ledger: &mut Ledger,
    workers: usize,
    kills: u64,
    patience: Duration,
    spawn: impl Fn(usize) -> (i32, File),
    nudge: impl Fn(),
    progress: impl Fn() -> u64,
) {
    let mut running: Vec<_> = (0..workers).map(&spawn).collect();
    let mut random = Random::announced();
    for number in 0..kills {
        let choice = random.next();
        std::thread::sleep(Duration::from_micros(choice % 3000));
        ended(ledger, running.remove(choice as usize % workers));
        running.push(spawn(number as usize));
        // Someone gets on, whatever the dead one has taken along.
        nudge();
        let (start, before) = (Instant::now(), progress());
        while progress() == before {
            if start.elapsed() > patience {
                ledger.hung += 1;
                eprintln!("nobody gets on");
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    for worker in running {
        ended(ledger, worker);
    }
}

fn ended(ledger: &mut Ledger, (pid, mut messages): (i32, File)) {
    // SAFETY: a child of this test's own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    match wait(pid) {
        End::Killed(libc::SIGKILL) => ledger.kills += 1,
        end => {
            let mut said = String::new();
            let _ = messages.read_to_string(&mut said);
            eprintln!("a worker ended by itself: {end:?} {said}");
            ledger.corrupted += 1;
        }
    }
}
