//! Killing a process between any two of its steps: a tracer stops it at each system call, or at each instruction, and ends it with
//! SIGKILL at the one that was asked for.

use std::time::{Duration, Instant};

/// What counts as a step.
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

/// Forks a child that runs `prepare`, then `work` step by step, and kills it after `steps`. `None` if tracing is forbidden.
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

/// As [`run`], but does something else while the child stands still after `steps`, and lets it go on then.
#[allow(dead_code, reason = "for some of the test files")]
pub(crate) fn run_around<P>(
    step: Step,
    steps: u64,
    prepare: impl FnOnce() -> P,
    work: impl FnOnce(P),
    meanwhile: impl FnOnce(),
) -> Option<Ended> {
    let mut meanwhile = Some(meanwhile);
    trace(start(prepare, work), step, steps, |_| meanwhile.take().into_iter().for_each(|work| work()))
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
        eprintln!("{what}: {kills} kills, {corrupted} corrupted, {hung} hung, {leaked} leaked names");
        assert!(kills > 0, "{what}");
        assert_eq!((corrupted, hung, leaked), (0, 0, 0), "{what}");
    }
}

/// How many times the kills of a normal test run are asked for: the environment variable `FOLIO_KILLS`.
pub(crate) fn thoroughness() -> u64 {
    std::env::var("FOLIO_KILLS").map_or(1, |text| text.parse().expect("FOLIO_KILLS is a number"))
}

/// Runs `work` to its end to count its steps, then kills it at up to `kills` of them, evenly spread; after each `check` looks at what
/// is left. `before` makes things ready for each run.
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
    let kills = (kills * thoroughness()).min(total);
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
