//! The memory that a guard's last resort puts over its map. It is made before it is needed: a
//! process at a limit (RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, `vm.max_map_count`) can move memory
//! that it has, but cannot get more.
//!
//! Source: mremap(2), getrlimit(2). A move to a range of the same length is checked against no
//! limit but that of VMAs (mm/mremap.c).

use super::{mm, vma_reserve};
use rustix::io::Errno;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// The kind of stores that the guarded map allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stores {
    /// No stores: the spare is readable zeros, which no limit of memory counts.
    None = 1,
    /// Shared stores: the spare is shared memory, which RLIMIT_DATA does not count.
    Shared,
    /// Private stores: a child shares nothing of the spare.
    Private,
}

/// The spare of one map. The handle's owner makes it; one call of the handler uses it up.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// Its address, or zero.
    at: AtomicUsize,
    len: AtomicUsize,
    /// The [`Stores`] that it was made for.
    stores: AtomicU8,
    /// Whether its pages can be stored to.
    is_writable: AtomicBool,
}

impl Spare {
    /// Makes the spare if it is missing. The caller holds the lock of the map's guards, and none is
    /// open.
    pub(super) fn provide(&self, len: usize, stores: Stores) -> Result<(), Errno> {
        let is_there = self.at.load(Ordering::Relaxed) != 0
            && self.len.load(Ordering::Relaxed) == len
            && self.stores.load(Ordering::Relaxed) == stores as u8;
        if is_there {
            return Ok(());
        }
        self.release();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let readable = || make(len, libc::MAP_PRIVATE, libc::PROT_READ).map(|at| (at, false));
        let writable = |sharing| make(len, sharing, prot).map(|at| (at, true));
        // Without writable memory (strict overcommit, RLIMIT_DATA) a page becomes writable when a
        // store to it faults.
        let (at, is_writable) = match stores {
            Stores::None => readable(),
            Stores::Shared => writable(libc::MAP_SHARED).or_else(|_| readable()),
            Stores::Private => writable(libc::MAP_PRIVATE).or_else(|_| readable()),
        }?;
        self.len.store(len, Ordering::Relaxed);
        self.stores.store(stores as u8, Ordering::Relaxed);
        self.is_writable.store(is_writable, Ordering::Relaxed);
        self.at.store(at, Ordering::Release);
        Ok(())
    }

    fn release(&self) {
        // The address is zeroed before the memory is unmapped: a child that is forked in between
        // leaks the memory, and never takes another map for its own.
        let at = self.at.swap(0, Ordering::AcqRel);
        if at != 0 {
            // SAFETY: the spare is this map's own, and nothing refers to it.
            unsafe { mm::release(at as *mut u8, self.len.load(Ordering::Relaxed)) };
        }
    }

    pub(super) fn is_writable(&self) -> bool {
        self.is_writable.load(Ordering::Relaxed)
    }

    /// Moves the spare to `lo`, over the whole guarded range. For the signal handler, once. `None`
    /// if there is no spare.
    ///
    /// # Safety
    ///
    /// The range belongs to the guarded map.
    pub(super) unsafe fn put_over(&self, lo: usize) -> Option<Result<(), Errno>> {
        const TRIES: usize = 3;
        let (at, len) = (self.at.swap(0, Ordering::AcqRel), self.len.load(Ordering::Relaxed));
        if at == 0 {
            return None;
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let mut result = Ok(());
        for _ in 0..TRIES {
            // SAFETY: the spare is this map's own; the caller answers for the target.
            let moved = unsafe { mm::mremap(at as *mut u8, len, len, flags, lo as *mut u8) };
            result = moved.map(drop);
            if result != Err(Errno::NOMEM) {
                break;
            }
            vma_reserve::give_up();
        }
        if result.is_err() {
            // The kernel may have unmapped the target before it failed.
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let flags = flags | libc::MAP_FIXED_NOREPLACE;
            self.is_writable.store(false, Ordering::Relaxed);
            // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
            let plug = unsafe { mm::mmap(lo as *mut u8, len, libc::PROT_READ, flags, -1, 0) };
            result = plug.map(drop);
        }
        Some(result)
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.release();
    }
}

/// Makes a spare. Under mlockall(MCL_FUTURE) it is neither populated nor locked.
fn make(len: usize, sharing: i32, prot: i32) -> Result<usize, Errno> {
    let flags = sharing | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the call makes a new anonymous map.
    let at = unsafe { mm::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) }?;
    // SAFETY: the map was just made, and nothing refers to it.
    let made = unsafe {
        libc::munlock(at.cast(), len);
        mm::mprotect(at, len, prot)
    };
    if made.is_err() {
        // SAFETY: nothing refers to the map.
        unsafe { mm::release(at, len) };
    }
    made.map(|()| at as usize)
}
