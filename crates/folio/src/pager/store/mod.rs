//! Where resident pages live: put into a map, taken out of it, and copied for write-back, each so
//! that no store is lost.
//!
//! | file | subject |
//! | --- | --- |
//! | [`private`] | anonymous memory, filled from the pool by moving or copying pages |
//! | [`memfd`] | shared memory, filled through a second view |
//! | [`trapped`] | the same where faults come as signals |
//! | [`pool`] | the staging memory of the driver |
//!
//! Only the driver's own thread calls these. A fault on a page that is in the map is answered with
//! [`Store::wake`].

mod anon;
mod memfd;
mod mprotect;
mod pool;

pub(crate) use anon::AnonStore;
pub(crate) use memfd::MemfdStore;
pub(crate) use mprotect::MprotectStore;
pub(crate) use pool::Pool;

use crate::pager::sys::discard::discard;
use crate::pager::sys::uffd::{Progress, Uffd};
use crate::sys::{Errno, copy, mm};
use std::sync::Arc;

/// Pages of a chunk: the most a run has.
pub(crate) const CHUNK: usize = 512;

/// Contiguous pages of one object within one chunk of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotRun {
    pub(crate) first: usize,
    pub(crate) pages: usize,
}

/// The allowed stores to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstallMode {
    /// The object is never written.
    ReadOnly,
    /// Clean: a store is a fault.
    Protected,
    /// Stores are free.
    Writable,
}

/// Memory with a run's bytes.
#[derive(Debug)]
pub(crate) struct BufferSlot {
    address: usize,
    pages: u32,
    place: BufferPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BufferPlace {
    Pool {
        chunk: u32,
        first: u32,
    },
    /// The second view of a memfd: the pages themselves.
    Alias,
    /// The source's own memory, which never changes.
    Source,
}

/// Runs up to so many pages are copied in and out: to move a page interrupts the other processors,
/// which costs more than a copy of it.
const COPIED: usize = 16;

impl BufferSlot {
    /// Where the bytes are.
    pub(crate) fn buffer(&self) -> *mut u8 {
        self.address as *mut u8
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages as usize
    }

    fn new(address: usize, pages: usize, chunk: usize, first: usize) -> Self {
        Self {
            address,
            pages: pages as u32,
            place: BufferPlace::Pool { chunk: chunk as u32, first: first as u32 },
        }
    }

    /// The chunk of the pool, and the first page of it.
    fn in_pool(&self) -> Option<(usize, usize)> {
        match self.place {
            BufferPlace::Pool { chunk, first } => Some((chunk as usize, first as usize)),
            BufferPlace::Alias | BufferPlace::Source => None,
        }
    }

    /// A run's bytes where its source has them: they are read, and never change.
    pub(crate) fn of_source(address: usize, pages: usize) -> Self {
        Self { address, pages: pages as u32, place: BufferPlace::Source }
    }
}

/// The pages of one object.
#[derive(Debug)]
pub(crate) enum Store {
    Private(AnonStore),
    Memfd(MemfdStore),
    Trapped(MprotectStore),
}

impl Store {
    /// Where the map starts: a multiple of a chunk.
    pub(crate) fn address(&self) -> usize {
        match self {
            Self::Private(store) => store.address(),
            Self::Memfd(store) => store.views().address,
            Self::Trapped(store) => store.views().address,
        }
    }

    fn page(&self) -> usize {
        match self {
            Self::Private(store) => store.page(),
            Self::Memfd(store) => store.views().page,
            Self::Trapped(store) => store.views().page,
        }
    }

    /// How many of the process's areas (`vm.max_map_count`) the store may take. Where faults come
    /// as signals, calls that need more than there are give NOMEM, and change nothing.
    pub(crate) fn vma_cost(&self) -> usize {
        match self {
            Self::Private(_) => 1,
            Self::Memfd(_) => 2,
            Self::Trapped(store) => 1 + store.area_cost(),
        }
    }

    /// Whether a slot of a run is the run's own memory: while one is being written, the run must
    /// stay protected.
    pub(crate) fn shares_buffer(&self) -> bool {
        matches!(self, Self::Memfd(_) | Self::Trapped(_))
    }

    /// Whether a run may be put into the map out of any memory, and, while nobody stores to it,
    /// leave by a copy and MADV_DONTNEED, for many runs at once.
    pub(crate) fn copies(&self, run: SlotRun) -> bool {
        matches!(self, Self::Private(_)) && run.pages <= COPIED
    }

    /// Whether bytes that nobody wants can be given back by MADV_DONTNEED alone.
    pub(crate) fn forgets(&self) -> bool {
        matches!(self, Self::Private(_))
    }

    /// The addresses of a run: start and length.
    pub(crate) fn addresses(&self, run: SlotRun) -> (usize, usize) {
        span(self.address(), self.page(), run)
    }

    /// A copy of a run that is in the map; bytes that are stored meanwhile may be in it or not.
    pub(crate) fn copy_out(&self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        let slot = pool.take(run.pages).ok_or(Errno::NOBUFS)?;
        let (from, len) = self.addresses(run);
        // SAFETY: the run is in the map, so no fault waits for this thread; the routine is no Rust
        // access, which a store meanwhile would race with; the slot is this call's.
        let copied = unsafe { copy::copy(slot.buffer(), from as *const u8, len, from..from + len) };
        if copied.is_err() {
            pool.give(slot);
            return Err(Errno::FAULT);
        }
        pool.note(&slot, 0..run.pages, true);
        Ok(slot)
    }

    /// The bytes of a run that is in the map, and that nobody stores to.
    pub(crate) fn bytes_of(&self, run: SlotRun) -> Result<Vec<u8>, Errno> {
        let (from, len) = self.addresses(run);
        let mut bytes = vec![0; len];
        // SAFETY: the run is in the map, so no fault waits for this thread; the bytes are this
        // call's.
        let copied =
            unsafe { copy::copy(bytes.as_mut_ptr(), from as *const u8, len, from..from + len) };
        copied.map(|()| bytes).map_err(|_| Errno::FAULT)
    }

    /// A run of which [copies](Self::copies) is true, and that was refused to leave, is in the map
    /// as a whole again.
    pub(crate) fn restore(&self, run: SlotRun, slot: &BufferSlot) -> Result<(), Errno> {
        match self {
            Self::Private(store) => store.restore(run, slot),
            Self::Memfd(_) | Self::Trapped(_) => Ok(()),
        }
    }

    /// Memory to read a run into. NOMEM: the pool has none.
    pub(crate) fn stage(&mut self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        match self {
            Self::Private(_) => {
                let slot = pool.take(run.pages).ok_or(Errno::NOMEM)?;
                pool.note(&slot, 0..run.pages, true);
                Ok(slot)
            }
            Self::Memfd(store) => Ok(store.views().alias(run)),
            Self::Trapped(store) => Ok(store.views().alias(run)),
        }
    }

    /// Puts a run into the map and wakes who waits for it. With `keep` the filled slot comes back,
    /// to be written. After an error pages of the run may be in the map: the call can be made again
    /// with the same slot.
    pub(crate) fn install(
        &mut self,
        pool: &mut Pool,
        run: SlotRun,
        slot: BufferSlot,
        mode: InstallMode,
        keep: bool,
    ) -> Result<Option<BufferSlot>, (BufferSlot, Errno)> {
        let result = match self {
            Self::Private(store) => store.install(pool, run, &slot, mode, keep),
            Self::Memfd(store) => store.install(run, mode),
            Self::Trapped(store) => store.install(run, mode),
        };
        match result {
            Ok(()) if keep => Ok(Some(slot)),
            Ok(()) => {
                pool.give(slot);
                Ok(None)
            }
            Err(errno) => Err((slot, errno)),
        }
    }

    /// Takes a whole run out of the map: later accesses fault, and its bytes are in the slot. BUSY:
    /// the run is still in the map (a page is pinned), protected if it is tracked. NOBUFS: the pool
    /// has no addresses; nothing happened. NOMEM: it may be in the map and *writable*, so count it
    /// as dirty.
    pub(crate) fn take_out(&mut self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        match self {
            Self::Private(store) => store.take_out(pool, run),
            Self::Memfd(store) => store.take_out(run),
            Self::Trapped(store) => store.take_out(run),
        }
    }

    /// Protects a run that stays in the map, and returns bytes that no store changes. Errors as for
    /// [`take_out`](Self::take_out). Without `protect` it may be stored to meanwhile, and the
    /// returned bytes are of no one moment.
    pub(crate) fn snapshot(
        &mut self,
        pool: &mut Pool,
        run: SlotRun,
        protect: bool,
    ) -> Result<BufferSlot, Errno> {
        match self {
            _ if !protect => self.copy_out(pool, run),
            Self::Private(store) => store.snapshot(pool, run),
            Self::Memfd(store) => store.snapshot(run),
            Self::Trapped(store) => store.snapshot(run),
        }
    }

    /// Lets stores to a protected run happen, and wakes who waits.
    pub(crate) fn unprotect(&mut self, run: SlotRun) -> Result<(), Errno> {
        match self {
            Self::Private(store) => store.unprotect(run),
            Self::Memfd(store) => store.unprotect(run),
            Self::Trapped(store) => store.unprotect(run),
        }
    }

    /// The bytes of a run that was taken out, or never put in, are not wanted any more.
    pub(crate) fn discard(
        &mut self,
        pool: &mut Pool,
        run: SlotRun,
        slot: BufferSlot,
    ) -> Result<(), Errno> {
        match self {
            Self::Private(_) => {
                pool.give(slot);
                Ok(())
            }
            Self::Memfd(store) => store.views().punch(run),
            Self::Trapped(store) => store.views().punch(run),
        }
    }

    /// Every access to a missing page, now and later, ends, and the process with it, in a message
    /// that says `reason`; a checked copy gets an error, a system call EFAULT. With `marks`
    /// (UFFDIO_POISON) the kernel marks the page, else its rights are taken.
    pub(crate) fn poison(&mut self, page: usize, marks: bool, reason: &str) -> Result<(), Errno> {
        let (start, size) = (self.address() + page * self.page(), self.page());
        let uffd = match self {
            Self::Trapped(store) => {
                store.area().set_message(page, reason.to_owned());
                return store.poison(page);
            }
            Self::Private(store) => {
                store.area().set_message(page, reason.to_owned());
                store.watcher()
            }
            Self::Memfd(store) => {
                store.area().set_message(page, reason.to_owned());
                store.watcher()
            }
        };
        if marks {
            // SAFETY: the map is the driver's, and the page is missing.
            let poison = |_| unsafe { uffd.poison(start, size) };
            return advance(size, size, poison, |_| Err(Errno::EXIST)).map_err(|(_, errno)| errno);
        }
        // SAFETY: the page is missing: nobody uses it.
        unsafe { mm::mprotect(start as *mut u8, size, libc::PROT_NONE) }?;
        uffd.wake(start, size)
    }

    /// Makes a poisoned page a missing one.
    pub(crate) fn unpoison(&mut self, page: usize) -> Result<(), Errno> {
        let (start, size) = (self.address() + page * self.page(), self.page());
        if let Self::Trapped(store) = self {
            return store.unpoison(page);
        }
        // SAFETY: a poisoned page has no bytes; its rights are those of the rest of the map again.
        unsafe {
            discard(start, size)?;
            mm::mprotect(start as *mut u8, size, libc::PROT_READ | libc::PROT_WRITE)
        }
    }

    /// Threads that wait for a page of the run try again.
    pub(crate) fn wake(&mut self, run: SlotRun) -> Result<(), Errno> {
        match self {
            Self::Private(store) => store.wake(run),
            Self::Memfd(store) => store.wake(run),
            Self::Trapped(store) => {
                store.wake(run);
                Ok(())
            }
        }
    }
}

/// Maps `len` bytes at a multiple of `align`: without access, without backing, and not for
/// children. [`open_up`] gives access.
///
/// The map is not locked, even after mlockall(2) with MCL_FUTURE. The kernel fills a new map that
/// is locked with zero pages, and a page that is there before userfaultfd watches the range never
/// faults.
fn reserve(len: usize, align: usize, fd: Option<i32>) -> Result<usize, Errno> {
    let padded = len.checked_add(align).ok_or(Errno::NOMEM)?;
    let raw = unlocked(padded, None, None)?;
    // The kernel made a page table for the first page when it moved it: no huge page fits there any
    // more.
    let start = (raw + rustix::param::page_size()).next_multiple_of(align);
    // SAFETY: the pieces lie in the map just made, which nobody has seen; the advice changes no
    // byte.
    unsafe {
        if start > raw {
            mm::munmap(raw as *mut u8, start - raw)?;
        }
        if raw + padded > start + len {
            mm::munmap((start + len) as *mut u8, raw + padded - start - len)?;
        }
        if fd.is_some()
            && let Err(errno) = unlocked(len, fd, Some(start))
        {
            let _ = mm::munmap(start as *mut u8, len);
            return Err(errno);
        }
        mm::madvise(start as *mut u8, len, libc::MADV_DONTFORK)?;
    }
    Ok(start)
}

/// Maps `len` bytes without access, of a file or of no memory, that are not locked; with `target`
/// in place of the map that is there.
///
/// mmap(2) locks the map where MCL_FUTURE is set, and refuses one that is longer than
/// RLIMIT_MEMLOCK. So one page is mapped and unlocked, and mremap(2), which keeps that state, makes
/// it as long as it has to be.
fn unlocked(len: usize, fd: Option<i32>, target: Option<usize>) -> Result<usize, Errno> {
    let page = rustix::param::page_size();
    let (kind, fd) = match fd {
        Some(fd) => (libc::MAP_SHARED, fd),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    let flags = kind | libc::MAP_NORESERVE;
    // SAFETY: a new map.
    let one = unsafe { mm::mmap(std::ptr::null_mut(), page, libc::PROT_NONE, flags, fd, 0) }?;
    let fixed = if target.is_some() { libc::MREMAP_FIXED } else { 0 };
    let target = target.map_or(std::ptr::null_mut(), |address| address as *mut u8);
    // SAFETY: the page is new and nobody uses it. The caller mapped the target, and nobody uses
    // that either.
    let grown = mm::munlock(one, page)
        .and_then(|()| unsafe { mm::mremap(one, page, len, libc::MREMAP_MAYMOVE | fixed, target) });
    grown.map(|start| start as usize).inspect_err(|_| {
        // SAFETY: as above: a call that failed left the page where it was.
        let _ = unsafe { mm::munmap(one, page) };
    })
}

/// Bytes of addresses that a map of `len` bytes asks the kernel for.
pub(crate) fn address_bytes(len: u64, shared: bool) -> usize {
    let chunk = CHUNK * rustix::param::page_size();
    let one = (len as usize).next_multiple_of(chunk).max(chunk).saturating_add(chunk);
    // Shared memory has a second view.
    if shared { one.saturating_mul(2) } else { one }
}

/// Gives access to a range that [`reserve`] mapped.
fn open_up(start: usize, len: usize, rights: i32) -> Result<(), Errno> {
    // SAFETY: the store's own memory. More rights hurt nobody who uses it.
    unsafe { mm::mprotect(start as *mut u8, len, rights) }
}

/// Repeats a call until all of `len` bytes are done. A page that is there already is made right by
/// `there`.
fn advance(
    len: usize,
    page: usize,
    mut step: impl FnMut(usize) -> Progress,
    mut there: impl FnMut(usize) -> Result<(), Errno>,
) -> Result<(), (usize, Errno)> {
    const TRIES: u32 = 8;
    let (mut done, mut tries) = (0, 0);
    while done < len {
        let Progress { bytes, stopped } = step(done);
        done += bytes;
        tries = if bytes > 0 { 0 } else { tries + 1 };
        match stopped {
            None => {}
            Some(Errno::AGAIN) if bytes > 0 => {}
            Some(Errno::EXIST) => {
                there(done).map_err(|errno| (done, errno))?;
                done += page;
            }
            Some(Errno::AGAIN | Errno::BUSY) if tries < TRIES => std::thread::yield_now(),
            Some(errno) => return Err((done, errno)),
        }
    }
    Ok(())
}

/// The part of a map that a run is, as addresses: start and length.
fn span(address: usize, page: usize, run: SlotRun) -> (usize, usize) {
    (address + run.first * page, run.pages * page)
}

/// Copies a run from memory, protected if its mode says so.
fn copy_in(
    uffd: &Arc<Uffd>,
    to: usize,
    from: usize,
    len: usize,
    mode: InstallMode,
    page: usize,
) -> Result<(), (usize, Errno)> {
    let protect = mode == InstallMode::Protected;
    advance(
        len,
        page,
        // SAFETY: the map is the driver's to fill, from a slot that the driver has.
        |done| unsafe {
            match uffd.copy(to + done, from + done, len - done, protect) {
                // A call does not cross from one area to the next: mlock(2) of a part makes two.
                Progress { bytes: 0, stopped: Some(Errno::NOENT) } if len - done > page => {
                    uffd.copy(to + done, from + done, page, protect)
                }
                progress => progress,
            }
        },
        |done| match mode {
            InstallMode::ReadOnly => uffd.wake(to + done, page),
            _ => uffd.write_protect(to + done, page, protect),
        },
    )
}

#[cfg(test)]
mod tests;
