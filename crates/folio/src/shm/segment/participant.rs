//! The participants of a segment. The kernel keeps the record: each participant holds a lock on a
//! byte of its own, far beyond the data, and the lock ends with the process, however that ends.

use crate::shm::segment::header::{ParticipantSlot, SLOTS};
use crate::shm::segment::owner::Owner;
use crate::sys::ofd_lock;
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The byte of the first slot. No file is this long.
const LOCKS_AT: u64 = 1 << 62;
/// The byte behind those of the slots: only a process that takes all of them has it.
const DOOR: u64 = LOCKS_AT + SLOTS as u64;
/// How long a newcomer waits for a process that removes the segment, which takes microseconds.
pub(in crate::shm) const PATIENCE: Duration = Duration::from_secs(5);

fn byte(slot: usize) -> Range<u64> {
    let at = LOCKS_AT + slot as u64;
    at..at + 1
}

fn all_bytes() -> Range<u64> {
    LOCKS_AT..DOOR + 1
}

/// Why a slot could not be claimed.
#[derive(Debug)]
pub(in crate::shm) enum NoSlot {
    /// All are taken by processes that live.
    Full,
    /// Somebody holds all of them, to remove it or to look whether it is to be removed.
    Barred,
    /// Somebody holds all of them, and takes away what is there, or makes it anew.
    Past,
    Failed(Errno),
}

/// Claims a slot for the description behind `lease`. The caller waits for a process that holds all
/// of them, unless the segment `is_past`.
pub(in crate::shm) fn claim(
    lease: BorrowedFd<'_>,
    slots: &[ParticipantSlot; SLOTS],
    is_past: impl Fn() -> bool,
) -> Result<Owner, NoSlot> {
    loop {
        // Those that look free come first: each other costs a system call.
        let looks_free = |&slot: &usize| slots[slot].pid.load(Ordering::Relaxed) == 0;
        let (free, rest): (Vec<_>, Vec<_>) = (0..SLOTS).partition(looks_free);
        for slot in free.into_iter().chain(rest) {
            if ofd_lock::try_lock(lease, &byte(slot)).map_err(NoSlot::Failed)? {
                return Ok(settle(slots, slot));
            }
        }
        match ofd_lock::is_held_elsewhere(lease, &(DOOR..DOOR + 1)) {
            Ok(Some(_)) if is_past() => return Err(NoSlot::Past),
            Ok(Some(_)) => return Err(NoSlot::Barred),
            Ok(None) => {
                // It may have been barred when the slots were tried, and free by now.
                if taken(lease).map_err(NoSlot::Failed)?.len() == SLOTS {
                    return Err(NoSlot::Full);
                }
            }
            Err(errno) => return Err(NoSlot::Failed(errno)),
        }
    }
}

/// Writes into a slot whose byte this process has locked: it is this process's alone.
fn settle(slots: &[ParticipantSlot; SLOTS], slot: usize) -> Owner {
    let place = &slots[slot];
    // It is this process's alone now.
    place.notifier.store(0, Ordering::Relaxed);
    let generation = another_than(place.generation.load(Ordering::Relaxed));
    place.generation.store(generation, Ordering::Release);
    place.pid.store(pid(), Ordering::Relaxed);
    Owner::new(slot, generation)
}

/// The slot that a process that has [locked all](lock_all) keeps when it admits the others.
const KEPT: usize = 0;

/// Becomes a participant by the bar that one has, which stays.
pub(in crate::shm) fn claim_locked(slots: &[ParticipantSlot; SLOTS]) -> Owner {
    settle(slots, KEPT)
}

/// Lets the others in, and keeps the slot of [`claim_locked`]: in between nobody has them all.
pub(in crate::shm) fn admit_others(lease: BorrowedFd<'_>) -> Result<(), Errno> {
    ofd_lock::unlock(lease, &(LOCKS_AT + KEPT as u64 + 1..DOOR + 1))
}

/// A generation that is not zero, which is none, nor the last one. Drawn, for a file may be an old
/// copy of itself (after a power loss, or out of a backup) whose locks name participants that its
/// slots know nothing of: counting would come to those again.
fn another_than(last: u32) -> u32 {
    loop {
        let drawn = crate::shm::random() as u32;
        if drawn != 0 && drawn != last {
            return drawn;
        }
    }
}

fn pid() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned()
}

/// Gives a slot back.
pub(in crate::shm) fn leave(lease: BorrowedFd<'_>, slots: &[ParticipantSlot; SLOTS], owner: Owner) {
    if let Some(slot) = owner.slot() {
        slots[slot].pid.store(0, Ordering::Relaxed);
        let _ = ofd_lock::unlock(lease, &byte(slot));
    }
}

/// Whether a description other than `fd`'s holds the byte of a slot.
pub(in crate::shm) fn is_taken(fd: BorrowedFd<'_>, slot: usize) -> Result<bool, Errno> {
    ofd_lock::is_held_elsewhere(fd, &byte(slot)).map(|held| held.is_some())
}

/// The slots that are taken. A process that has locked all is no participant, and waited for; none
/// if that does not end.
pub(in crate::shm) fn taken(fd: BorrowedFd<'_>) -> Result<Vec<usize>, Errno> {
    /// Far more than a removal takes.
    const LOOKS: u32 = 100;
    for _ in 0..LOOKS {
        if let Some(taken) = taken_unless_locked(fd)? {
            return Ok(taken);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Vec::new())
}

/// The slots that are taken; `None` if somebody has all of them, and the door.
fn taken_unless_locked(fd: BorrowedFd<'_>) -> Result<Option<Vec<usize>>, Errno> {
    let mut taken = Vec::new();
    let mut next = LOCKS_AT;
    // One question for each that is taken.
    while next < DOOR {
        let Some(held) = ofd_lock::is_held_elsewhere(fd, &(next..DOOR))? else { break };
        if held.end > DOOR {
            return Ok(None);
        }
        // The kernel names any lock that is in the way, not the first: ask for those before it,
        // too.
        let mut first = held.start.max(next);
        while first > next {
            let Some(before) = ofd_lock::is_held_elsewhere(fd, &(next..first))? else { break };
            if before.end > DOOR {
                return Ok(None);
            }
            first = before.start.max(next);
        }
        let end = if first == held.start.max(next) { held.end } else { first + 1 };
        taken.extend((first..end.min(DOOR)).map(|at| (at - LOCKS_AT) as usize));
        next = end;
    }
    Ok(Some(taken))
}

/// Bars everybody: nobody has the segment open, and nobody can until the lock is given back.
/// `false` if somebody has.
pub(in crate::shm) fn lock_all(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    ofd_lock::try_lock(fd, &all_bytes())
}

/// Undoes [`lock_all`].
pub(in crate::shm) fn unlock_all(fd: BorrowedFd<'_>) {
    let _ = ofd_lock::unlock(fd, &all_bytes());
}

/// Whether anybody has the segment open.
pub(in crate::shm) fn is_anybody_there(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    ofd_lock::is_held_elsewhere(fd, &all_bytes()).map(|held| held.is_some())
}
