//! `lock`: a mutex in shared memory that nobody else wants is locked, a word under it is counted
//! up, and it is unlocked. The other process has it mapped and open, too, and sleeps.

use super::pair::{Place, Role, Work};
use super::shared::{APART, Shared};
use super::ticks::Times;
use super::{folio_side, pair_side};
use crate::measure::Cost;
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::io;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    /// The same, with a count that is copied out and in.
    Copied,
    /// PTHREAD_PROCESS_SHARED and PTHREAD_MUTEX_ROBUST.
    Robust,
    /// PTHREAD_PROCESS_SHARED only.
    Raw,
}

/// Something that counts under a lock.
pub(super) trait Counter {
    /// Locks, counts up, unlocks, and returns the count.
    fn count(&mut self) -> Result<u64>;
}

/// Batches of a sample, and the locks of each.
const BATCHES: usize = 200;
const BATCH: usize = 1_000;

pub(super) fn start(how: How, role: Role, place: &Place) -> Result<Box<dyn Sampler>> {
    Ok(match how {
        How::Folio => locking(folio_side::Counter::new(place)?, role),
        How::Copied => locking(folio_side::PlainCounter::new(place)?, role),
        How::Robust | How::Raw => locking(Pthread::new(place, role, how == How::Robust)?, role),
    })
}

fn locking(counter: impl Counter + 'static, role: Role) -> Box<dyn Sampler> {
    Box::new(Locking { counter, role, times: Times::new(BATCHES), counted: 0 })
}

struct Locking<C> {
    counter: C,
    role: Role,
    times: Times,
    counted: u64,
}

impl<C: Counter> Locking<C> {
    fn batch(&mut self) -> Result<()> {
        for _ in 0..BATCH {
            self.counted += 1;
            ensure!(self.counter.count()? == self.counted, "somebody else has counted");
        }
        Ok(())
    }
}

impl<C: Counter> Sampler for Locking<C> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        if self.role == Role::Second {
            return Ok(Cost::default());
        }
        for _ in 0..BATCHES / 10 {
            self.batch()?;
        }
        self.times.start();
        for _ in 0..BATCHES {
            self.batch()?;
            self.times.lap();
        }
        Ok(self.times.cost(BATCH as f64))
    }
}

/// A pthread mutex in shared memory, and the word that it guards.
struct Pthread {
    shared: Shared,
    robust: bool,
}

impl Pthread {
    fn new(place: &Place, role: Role, robust: bool) -> Result<Self> {
        let counter = Self { shared: Shared::map(place)?, robust };
        if role == Role::First {
            // SAFETY: zeros are a value of these bytes, which the first call below gives their
            // meaning.
            let mut kind: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
            let robustness =
                if robust { libc::PTHREAD_MUTEX_ROBUST } else { libc::PTHREAD_MUTEX_STALLED };
            // SAFETY: `kind` is initialized by the first call, and the mutex, which nobody uses
            // yet, by the fourth.
            unsafe {
                check(libc::pthread_mutexattr_init(&raw mut kind))?;
                check(libc::pthread_mutexattr_setpshared(
                    &raw mut kind,
                    libc::PTHREAD_PROCESS_SHARED,
                ))?;
                check(libc::pthread_mutexattr_setrobust(&raw mut kind, robustness))?;
                check(libc::pthread_mutex_init(counter.mutex(), &raw const kind))?;
                check(libc::pthread_mutexattr_destroy(&raw mut kind))?;
            }
        }
        Ok(counter)
    }

    fn mutex(&self) -> *mut libc::pthread_mutex_t {
        self.shared.at(0, APART).cast()
    }
}

/// These calls return the error's number.
fn check(result: libc::c_int) -> Result<()> {
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(result)).context("pthread_mutex")
}

const _: () =
    assert!(size_of::<libc::pthread_mutex_t>() <= APART - 8, "the word lies behind the mutex");

impl Counter for Pthread {
    #[inline]
    fn count(&mut self) -> Result<u64> {
        let mutex = self.mutex();
        let word = self.shared.at(APART - 8, 8).cast::<u64>();
        // SAFETY: the mutex was initialized, and is mapped.
        let locked = unsafe { libc::pthread_mutex_lock(mutex) };
        if self.robust {
            ensure!(locked != libc::EOWNERDEAD, "the other process died with the lock");
        }
        check(locked)?;
        // SAFETY: the word is mapped and aligned, and used under the lock only.
        let count = unsafe {
            *word += 1;
            *word
        };
        // SAFETY: this thread has just locked it.
        check(unsafe { libc::pthread_mutex_unlock(mutex) })?;
        Ok(count)
    }
}

pub(super) fn group() -> Result<Group<'static>> {
    let mut group = Group::new("ns/lock");
    for (name, how) in [
        (FOLIO, How::Folio),
        ("copied", How::Copied),
        ("pthread-robust", How::Robust),
        ("pthread", How::Raw),
    ] {
        pair_side(&mut group, name, Work::Lock(how))?;
    }
    let tail = "lock-p99";
    group.pairs = vec![
        Pair::new("lock", "pthread-robust")
            .goal(1.0)
            .tail(tail)
            .beside("copied", "folio with a count that is plain data, copied out and in,")
            .note("pthread-robust: PTHREAD_PROCESS_SHARED and PTHREAD_MUTEX_ROBUST, EOWNERDEAD looked for"),
        Pair::new("lock", "pthread")
            .tail(tail)
            .note("pthread: PTHREAD_PROCESS_SHARED, which hangs when an owner dies"),
    ];
    Ok(group)
}
