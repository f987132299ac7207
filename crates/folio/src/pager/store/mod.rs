//! Where resident pages live: put into a map, taken out of it, and copied for write-back, each so that no store is lost.
//!
//! | file | what |
//! | --- | --- |
//! | [`private`] | anonymous memory, filled from the pool by moving or copying pages |
//! | [`memfd`] | shared memory, filled through a second view |
//! | [`pool`] | the staging memory of a shard |
//!
//! Only the shard's own thread calls these. A fault on a page that is in the map is answered with [`Store::wake`].

mod memfd;
mod pool;
mod private;

pub(crate) use memfd::Memfd;
pub(crate) use pool::Pool;
pub(crate) use private::Private;

use crate::sys::uffd::{Progress, Uffd};
use crate::sys::{Errno, mm};
use std::sync::Arc;

/// Pages of a chunk: the most a run has.
pub(crate) const CHUNK: usize = 512;

/// Contiguous pages of one object within one chunk of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) pages: usize,
}

/// Who may store to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The object is never written.
    ReadOnly,
    /// Clean: a store is a fault.
    Protected,
    /// Stores are free.
    Writable,
}

/// Memory with a run's bytes.
#[derive(Debug)]
pub(crate) struct Slot {
    address: usize,
    pages: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pool {
        chunk: usize,
        first: usize,
    },
    /// The second view of a memfd: the pages themselves.
    Alias,
}

impl Slot {
    /// Where the bytes are.
    pub(crate) fn buffer(&self) -> *mut u8 {
        self.address as *mut u8
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }
}

/// The pages of one object.
#[derive(Debug)]
pub(crate) enum Store {
    Private(Private),
    Memfd(Memfd),
}

macro_rules! each {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Store::Private($store) => $call,
            Store::Memfd($store) => $call,
        }
    };
}

impl Store {
    /// What watches the map, and the size of its pages.
    fn watcher(&self) -> (&Uffd, usize) {
        each!(self, store => store.watcher())
    }

    /// Where the map starts: a multiple of a chunk.
    pub(crate) fn address(&self) -> usize {
        each!(self, store => store.address())
    }

    /// Whether a slot of a run is the run's own memory: while one is being written, the run must stay protected.
    pub(crate) fn shares_buffer(&self) -> bool {
        matches!(self, Self::Memfd(_))
    }

    /// Memory to read a run into. NOMEM: the pool has none.
    pub(crate) fn stage(&mut self, pool: &mut Pool, run: Run) -> Result<Slot, Errno> {
        match self {
            Self::Private(_) => {
                let slot = pool.take(run.pages).ok_or(Errno::NOMEM)?;
                pool.note(&slot, 0..run.pages, true);
                Ok(slot)
            }
            Self::Memfd(store) => Ok(store.alias(run)),
        }
    }

    /// Puts a run into the map and wakes who waits for it. With `keep` the filled slot comes back, to be written. After
    /// an error pages of the run may be in the map: the call can be made again with the same slot.
    pub(crate) fn install(
        &mut self,
        pool: &mut Pool,
        run: Run,
        slot: Slot,
        mode: Mode,
        keep: bool,
    ) -> Result<Option<Slot>, (Slot, Errno)> {
        match each!(self, store => store.install(pool, run, &slot, mode, keep)) {
            Ok(()) if keep => Ok(Some(slot)),
            Ok(()) => {
                pool.give(slot);
                Ok(None)
            }
            Err(errno) => Err((slot, errno)),
        }
    }

    /// Takes a whole run out of the map: later accesses fault, and its bytes are in the slot. BUSY: the run is still in the map
    /// (a page is pinned), protected if it is tracked. NOBUFS: the pool has no addresses; nothing happened. NOMEM: it may be in the map and *writable*, so count it as dirty.
    pub(crate) fn take_out(&mut self, pool: &mut Pool, run: Run) -> Result<Slot, Errno> {
        each!(self, store => store.take_out(pool, run))
    }

    /// Protects a run that stays in the map, and returns bytes that no store changes. Errors as for
    /// [`take_out`](Self::take_out).
    pub(crate) fn snapshot(&mut self, pool: &mut Pool, run: Run) -> Result<Slot, Errno> {
        each!(self, store => store.snapshot(pool, run))
    }

    /// Lets stores to a protected run happen, and wakes who waits.
    pub(crate) fn unprotect(&mut self, run: Run) -> Result<(), Errno> {
        each!(self, store => store.unprotect(run))
    }

    /// The bytes of a run that was taken out, or never put in, are not wanted any more.
    pub(crate) fn discard(&mut self, pool: &mut Pool, run: Run, slot: Slot) -> Result<(), Errno> {
        match self {
            Self::Private(_) => {
                pool.give(slot);
                Ok(())
            }
            Self::Memfd(store) => store.punch(run),
        }
    }

    /// Every access to a missing page, now and later, ends: with SIGBUS, or SIGSEGV on a kernel without `marks` (UFFDIO_POISON); in a
    /// system call with EFAULT.
    pub(crate) fn poison(&mut self, page: usize, marks: bool) -> Result<(), Errno> {
        let run = Run { first: page, pages: 1 };
        let (uffd, size) = self.watcher();
        let (start, len) = span(self.address(), size, run);
        if marks {
            // SAFETY: the map is the shard's, and the page is missing.
            let poison = |_| unsafe { uffd.poison(start, len) };
            return advance(len, size, poison, |_| Err(Errno::EXIST)).map_err(|(_, errno)| errno);
        }
        // SAFETY: the page is missing: nobody uses it.
        unsafe { mm::mprotect(start as *mut u8, len, libc::PROT_NONE) }?;
        uffd.wake(start, len)
    }

    /// Makes a poisoned page a missing one.
    pub(crate) fn unpoison(&mut self, page: usize) -> Result<(), Errno> {
        let (_, size) = self.watcher();
        let (start, len) = span(self.address(), size, Run { first: page, pages: 1 });
        // SAFETY: a poisoned page has no bytes; its rights are those of the rest of the map again.
        unsafe {
            mm::madvise(start as *mut u8, len, libc::MADV_DONTNEED)?;
            mm::mprotect(start as *mut u8, len, libc::PROT_READ | libc::PROT_WRITE)
        }
    }

    /// Threads that wait for a page of the run try again.
    pub(crate) fn wake(&self, run: Run) -> Result<(), Errno> {
        each!(self, store => store.wake(run))
    }
}

/// Maps `len` bytes at a multiple of `align`, without backing and not for children.
fn reserve(len: usize, align: usize, prot: i32, fd: Option<i32>) -> Result<usize, Errno> {
    let padded = len.checked_add(align).ok_or(Errno::NOMEM)?;
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new map.
    let raw = unsafe { mm::mmap(std::ptr::null_mut(), padded, libc::PROT_NONE, anonymous, -1, 0) }? as usize;
    let start = raw.next_multiple_of(align);
    let (flags, fd) = match fd {
        Some(fd) => (libc::MAP_SHARED | libc::MAP_NORESERVE, fd),
        None => (anonymous, -1),
    };
    // SAFETY: the pieces lie in the map just made, which nobody has seen; the advice changes no byte.
    unsafe {
        if start > raw {
            mm::munmap(raw as *mut u8, start - raw)?;
        }
        if raw + padded > start + len {
            mm::munmap((start + len) as *mut u8, raw + padded - start - len)?;
        }
        mm::mmap(start as *mut u8, len, prot, flags | libc::MAP_FIXED, fd, 0)?;
        mm::madvise(start as *mut u8, len, libc::MADV_DONTFORK)?;
    }
    Ok(start)
}

/// Repeats a call until all of `len` bytes are done. A page that is there already is made right by `there`.
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
fn span(address: usize, page: usize, run: Run) -> (usize, usize) {
    (address + run.first * page, run.pages * page)
}

/// Copies a run from memory, protected if its mode says so.
fn copy_in(
    uffd: &Arc<Uffd>,
    to: usize,
    from: usize,
    len: usize,
    mode: Mode,
    page: usize,
) -> Result<(), (usize, Errno)> {
    let protect = mode == Mode::Protected;
    advance(
        len,
        page,
        // SAFETY: the map is the shard's to fill, from a slot that the shard has.
        |done| unsafe { uffd.copy(to + done, from + done, len - done, protect) },
        |done| match mode {
            Mode::ReadOnly => uffd.wake(to + done, page),
            _ => uffd.write_protect(to + done, page, protect),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{Memfd, Mode, Pool, Private, Run, Store};
    use crate::sys::Errno;
    use crate::sys::uffd::{Uffd, Way, feature};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    const RUN: Run = Run { first: 3, pages: 4 };

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Moved,
        Copied,
        Memfd,
    }

    struct Shard {
        uffd: Arc<Uffd>,
        pool: Pool,
        store: Store,
        page: usize,
    }

    /// What this machine offers; a kernel without a feature is tested without it.
    fn shard(kind: Kind, tracked: bool) -> Option<Shard> {
        let all = Uffd::open(Way::Syscall).ok()?.handshake(0).ok()?;
        let wanted = feature::PAGEFAULT_FLAG_WP
            | (all & feature::POISON)
            | match kind {
                Kind::Moved => feature::MOVE,
                Kind::Copied => 0,
                Kind::Memfd => feature::MISSING_SHMEM | feature::MINOR_SHMEM | feature::WP_HUGETLBFS_SHMEM,
            };
        if all & wanted != wanted {
            return None;
        }
        let uffd = Arc::new(Uffd::open(Way::Syscall).unwrap());
        uffd.handshake(wanted).unwrap();
        let moves = kind == Kind::Moved;
        let pool = Pool::new(64 << 20, moves.then(|| Arc::clone(&uffd)), moves);
        let store = match kind {
            Kind::Memfd => Store::Memfd(Memfd::new(1024, Arc::clone(&uffd), tracked).unwrap()),
            _ => Store::Private(Private::new(1024, Arc::clone(&uffd), tracked, moves, true).unwrap()),
        };
        Some(Shard { uffd, pool, store, page: rustix::param::page_size() })
    }

    impl Shard {
        fn at(&self, run: Run) -> usize {
            self.store.address() + run.first * self.page
        }

        fn fill(&mut self, run: Run, byte: u8, mode: Mode) {
            let slot = self.store.stage(&mut self.pool, run).unwrap();
            // SAFETY: the slot has that many pages.
            unsafe { slot.buffer().write_bytes(byte, run.pages * self.page) };
            assert!(self.store.install(&mut self.pool, run, slot, mode, false).unwrap().is_none());
        }

        fn faults(&self) -> usize {
            let mut count = 0;
            self.uffd.read(64, |_| count += 1).unwrap();
            count
        }
    }

    fn word(at: usize) -> &'static AtomicU64 {
        // SAFETY: in the map of a shard that outlives the use.
        unsafe { &*(at as *const AtomicU64) }
    }

    const KINDS: [Kind; 3] = [Kind::Moved, Kind::Copied, Kind::Memfd];

    #[test]
    fn a_load_of_a_missing_page_waits_for_its_bytes() {
        for kind in KINDS {
            for mode in [Mode::ReadOnly, Mode::Protected, Mode::Writable] {
                let Some(mut shard) = shard(kind, mode != Mode::ReadOnly) else { continue };
                let at = shard.at(RUN);
                let loader = std::thread::spawn(move || word(at + 8).load(Ordering::SeqCst));
                while shard.faults() == 0 {
                    std::thread::yield_now();
                }
                shard.fill(RUN, 7, mode);
                assert_eq!(loader.join().unwrap(), u64::from_ne_bytes([7; 8]), "{kind:?} {mode:?}");
            }
        }
    }

    #[test]
    fn no_store_is_lost_to_eviction_or_to_a_snapshot() {
        for kind in KINDS {
            let Some(mut shard) = shard(kind, true) else { continue };
            let at = shard.at(RUN);
            shard.fill(RUN, 0, Mode::Writable);
            let stop = Arc::new(AtomicBool::new(false));
            let writer = std::thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let mut stores = 0_u64;
                    while !stop.load(Ordering::SeqCst) {
                        word(at).fetch_add(1, Ordering::SeqCst);
                        stores += 1;
                    }
                    stores
                }
            });
            for round in 0..2000 {
                let taken = if round % 2 == 0 {
                    shard.store.take_out(&mut shard.pool, RUN)
                } else {
                    shard.store.snapshot(&mut shard.pool, RUN)
                };
                match taken {
                    Ok(slot) => {
                        let before = word(slot.buffer() as usize).load(Ordering::SeqCst);
                        std::thread::yield_now();
                        let after = word(slot.buffer() as usize).load(Ordering::SeqCst);
                        assert_eq!(before, after, "{kind:?}: the slot changed");
                        if round % 2 == 0 {
                            let mode = if round % 4 == 0 { Mode::Protected } else { Mode::Writable };
                            shard.store.install(&mut shard.pool, RUN, slot, mode, false).unwrap();
                        } else {
                            shard.pool.give(slot);
                        }
                    }
                    Err(errno) => assert_eq!(errno, Errno::BUSY),
                }
                shard.store.unprotect(RUN).unwrap();
                shard.faults();
                shard.store.wake(RUN).unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            let stores = writer.join().unwrap();
            assert!(stores > 0);
            assert_eq!(word(at).load(Ordering::SeqCst), stores, "{kind:?}");
        }
    }

    #[test]
    fn a_page_that_was_taken_out_is_missing_and_a_discarded_one_too() {
        for kind in KINDS {
            let Some(mut shard) = shard(kind, true) else { continue };
            let at = shard.at(RUN);
            shard.fill(RUN, 5, Mode::Protected);
            let slot = shard.store.take_out(&mut shard.pool, RUN).unwrap();
            shard.store.discard(&mut shard.pool, RUN, slot).unwrap();
            let loader = std::thread::spawn(move || word(at).load(Ordering::SeqCst));
            while shard.faults() == 0 {
                std::thread::yield_now();
            }
            shard.fill(RUN, 9, Mode::Protected);
            assert_eq!(loader.join().unwrap(), u64::from_ne_bytes([9; 8]), "{kind:?}");
        }
    }

    #[test]
    fn a_system_call_on_a_poisoned_page_is_efault_until_it_is_supplied() {
        for kind in KINDS {
            for marks in [true, false] {
                let Some(mut shard) = shard(kind, true) else { continue };
                if marks && Uffd::open(Way::Syscall).unwrap().handshake(0).unwrap() & feature::POISON == 0 {
                    continue;
                }
                let file = tempfile::tempfile().unwrap();
                let write = |at: usize| {
                    // SAFETY: one byte of the map, which only the kernel looks at.
                    let byte = unsafe { std::slice::from_raw_parts(at as *const u8, 1) };
                    rustix::io::write(&file, byte)
                };
                let at = shard.at(RUN);
                shard.store.poison(RUN.first, marks).unwrap();
                assert_eq!(write(at), Err(Errno::FAULT), "{kind:?} {marks}");
                shard.store.unpoison(RUN.first).unwrap();
                shard.fill(RUN, 3, Mode::Protected);
                assert_eq!(write(at), Ok(1), "{kind:?} {marks}");
            }
        }
    }

    /// KiB of huge pages in the area at an address.
    fn huge_kib(at: usize) -> usize {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{at:x}-")));
        let line = lines.find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn a_huge_page_stays_one_on_its_way_into_the_map_and_out_again() {
        let Some(mut shard) = shard(Kind::Moved, false) else { return };
        let run = Run { first: 512, pages: 512 };
        let slot = shard.store.stage(&mut shard.pool, run).unwrap();
        // SAFETY: the slot has that many pages.
        unsafe { slot.buffer().write_bytes(6, run.pages * shard.page) };
        let staged = huge_kib(shard.pool.first_area());
        if staged == 0 {
            // The machine has huge pages off, or none to give.
            return;
        }
        let loader = std::thread::spawn({
            let at = shard.at(run);
            move || word(at).load(Ordering::SeqCst)
        });
        while shard.faults() == 0 {
            std::thread::yield_now();
        }
        shard.store.install(&mut shard.pool, run, slot, Mode::ReadOnly, false).unwrap();
        assert_eq!(loader.join().unwrap(), u64::from_ne_bytes([6; 8]));
        assert_eq!((huge_kib(shard.store.address()), huge_kib(shard.pool.first_area())), (staged, 0));
        let slot = shard.store.take_out(&mut shard.pool, run).unwrap();
        assert_eq!((huge_kib(shard.store.address()), huge_kib(shard.pool.first_area())), (0, staged));
        shard.pool.give(slot);
        assert_eq!(shard.pool.resident_idle(), run.pages * shard.page);
    }
}
