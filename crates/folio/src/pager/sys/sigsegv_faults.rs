//! Faults that come as signals, where userfaultfd is not allowed: the thread that faulted waits in
//! its SIGSEGV handler, in a [cell](super::trap_cell), until the shard has supplied the page.
//!
//! The handler allocates nothing and takes no lock. A thread that finds no free cell gives its
//! processor away, and faults again. A system call on a page that is missing gets EFAULT and no
//! signal; a thread that blocks SIGSEGV is ended by the kernel.
//!
//! Source: sigaction(2), signal-safety(7), eventfd(2).

use crate::pager::sys::fault_access::AccessKind;
use crate::pager::sys::fault_cell::FaultCell;
use crate::pager::sys::page_prot::{PageProt, PageProtTable};
use crate::sys::{check, identity};
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

pub(crate) use crate::pager::sys::fault_cell::RawFault;

/// How many threads can wait at once unless the program asks for more.
pub(crate) const CELLS: usize = 256;

/// The shard's end: one thread takes the faults. When it is dropped, accesses to pages that are
/// missing end.
#[derive(Debug)]
pub(crate) struct SigsegvFaults(Arc<SigsegvCells>);

/// The cells of a shard, and the descriptor that wakes it.
#[derive(Debug)]
pub(crate) struct SigsegvCells {
    cells: *mut [FaultCell],
    /// Where the next thread starts to look for a free cell: threads that come together find
    /// different ones.
    next: AtomicUsize,
    event: OwnedFd,
    /// The shard's thread, as [`this_thread`] names it.
    shard: AtomicUsize,
    /// Nobody takes faults any more.
    closed: AtomicBool,
    process: u64,
}

// SAFETY: the cells are made of atomics, and belong to this alone.
unsafe impl Send for SigsegvCells {}
// SAFETY: as above.
unsafe impl Sync for SigsegvCells {}

/// The address of a thread's own variable names it.
fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

impl SigsegvFaults {
    /// A queue in which `cells` threads can wait at once.
    pub(crate) fn new(cells: usize) -> Result<Self, Errno> {
        // SAFETY: makes a descriptor, and touches no memory.
        let event = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel just made it, for nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(event as i32) };
        let cells: Box<[FaultCell]> =
            std::iter::repeat_with(FaultCell::new).take(cells.max(1)).collect();
        Ok(Self(Arc::new(SigsegvCells {
            cells: Box::into_raw(cells),
            next: AtomicUsize::new(0),
            event,
            shard: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            process: identity::token(),
        })))
    }

    /// The parts of this queue that its areas need.
    pub(crate) fn cells_of_process(&self) -> Arc<SigsegvCells> {
        Arc::clone(&self.0)
    }

    /// Appends the faults that came since. Never waits. The thread that calls it is the shard's
    /// from now on: a fault of its own ends the process, since nobody would answer.
    pub(crate) fn take(&mut self, out: &mut Vec<RawFault>) -> Result<(), Errno> {
        self.0.shard.store(this_thread(), Ordering::Relaxed);
        let mut count = 0_u64;
        loop {
            // SAFETY: the kernel writes eight bytes.
            let got =
                check(unsafe { libc::read(self.0.event.as_raw_fd(), (&raw mut count).cast(), 8) }
                    as i64);
            match got {
                Err(Errno::INTR) => {}
                // Nobody rang, so nobody asked: a thread asks first, then rings.
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
                Ok(_) => break,
            }
        }
        out.extend(self.0.cells().iter().filter_map(FaultCell::take));
        Ok(())
    }
}

impl AsFd for SigsegvFaults {
    /// Readable while there are faults that nobody took.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl Drop for SigsegvFaults {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        // Closes first, then looks who waits; a thread waits first, then looks: one of the two sees
        // the other.
        fence(Ordering::SeqCst);
        self.0.wake(&(0..usize::MAX));
    }
}

impl SigsegvCells {
    fn cells(&self) -> &[FaultCell] {
        // SAFETY: allocated in `new`, and freed by `drop` at the earliest.
        unsafe { &*self.cells }
    }

    /// Threads that wait for an address of the range try again.
    pub(crate) fn wake(&self, range: &Range<usize>) {
        for cell in self.cells() {
            cell.done(range);
        }
    }

    /// Enters a fault and wakes the shard. `None`: no cell is free. For the signal handler.
    fn ask(&self, fault: RawFault) -> Option<*const FaultCell> {
        let cells = self.cells();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let cell = (0..cells.len())
            .map(|offset| &cells[start.wrapping_add(offset) % cells.len()])
            .find(|cell| cell.claim())?;
        cell.ask(fault);
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            // The thread finds it closed when it comes again.
            cell.done(&(0..usize::MAX));
        }
        let one = 1_u64;
        // SAFETY: eight bytes. A full counter (EAGAIN) wakes the shard as well.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
        Some(cell)
    }
}

impl Drop for SigsegvCells {
    fn drop(&mut self) {
        const TRIES: usize = 1000;
        if identity::token() != self.process {
            // The threads that wait in a parent's cells are not in this child. A page or two is
            // lost.
            return;
        }
        // No area is left, so no handler comes any more; those that were woken are on their way
        // out.
        for _ in 0..TRIES {
            if self.cells().iter().all(FaultCell::is_free) {
                // SAFETY: allocated in `new`; a thread that freed a cell does not touch it any
                // more.
                drop(unsafe { Box::from_raw(self.cells) });
                return;
            }
            std::thread::yield_now();
        }
        // A thread was stopped on its way out, or jumped out of its handler: it may still have its
        // cell.
    }
}

/// An area whose faults come as signals: the state that its store and the handler share.
#[derive(Debug)]
pub(crate) struct WatchedArea {
    traps: Arc<SigsegvCells>,
    rights: PageProtTable,
    /// The program may store to it.
    tracked: bool,
}

/// The outcome of a fault in a watched area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultStep {
    /// The access is worth trying again.
    Retry,
    /// It is, once there is a free cell.
    Crowded,
    /// Wait in this cell, then try again.
    Wait(*const FaultCell),
    /// The page can not be supplied.
    End(EndReason),
    /// The access is wrong in itself: a store to memory that is never stored to, or running data as
    /// code.
    Wrong,
}

/// Why a page of a watched area can not be supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndReason {
    Poisoned,
    /// The thread that would have to supply it is the one that asks.
    OwnThread,
    /// The pager is gone.
    Closed,
}

impl WatchedArea {
    /// An area of so many pages, all missing.
    pub(crate) fn new(traps: Arc<SigsegvCells>, pages: usize, tracked: bool) -> Self {
        Self { traps, rights: PageProtTable::new(pages), tracked }
    }

    pub(crate) fn page_prots(&self) -> &PageProtTable {
        &self.rights
    }

    /// See [`SigsegvCells::wake`].
    pub(crate) fn wake(&self, range: &Range<usize>) {
        self.traps.wake(range);
    }

    /// The step for an access that the page's protection stopped: a question to the driver, without
    /// its address, or a step.
    pub(super) fn judge(&self, page: usize, attempt: AccessKind) -> Result<RawFault, FaultStep> {
        let right = self.rights.get(page);
        let fault = RawFault { address: 0, write: false, protected: false, thread: None };
        match (right, attempt) {
            (_, AccessKind::Fetch) => return Err(FaultStep::Wrong),
            (PageProt::Missing | PageProt::Readable, AccessKind::Store) if !self.tracked => {
                return Err(FaultStep::Wrong);
            }
            (PageProt::Poisoned, _) => return Err(FaultStep::End(EndReason::Poisoned)),
            // It came while the page was being put there.
            (PageProt::Writable, _) | (PageProt::Readable, AccessKind::Load) => {
                return Err(FaultStep::Retry);
            }
            _ => {}
        }
        if self.traps.closed.load(Ordering::SeqCst) {
            return Err(FaultStep::End(EndReason::Closed));
        }
        if self.traps.shard.load(Ordering::Relaxed) == this_thread() {
            return Err(FaultStep::End(EndReason::OwnThread));
        }
        let protected = right == PageProt::Readable;
        // Where the machine does not report the access, a missing page gets a load, and a store to
        // it faults once more.
        let write = attempt == AccessKind::Store || (protected && self.tracked);
        Ok(RawFault { write, protected, ..fault })
    }

    /// For the signal handler: an access to `address`, on page `page`, was stopped by the page's
    /// protection.
    pub(super) fn await_page(&self, address: usize, page: usize, attempt: AccessKind) -> FaultStep {
        let fault = match self.judge(page, attempt) {
            Ok(fault) => fault,
            Err(step) => return step,
        };
        // SAFETY: a system call without arguments.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        match self.traps.ask(RawFault { address, thread: Some(thread), ..fault }) {
            Some(cell) => FaultStep::Wait(cell),
            None => FaultStep::Crowded,
        }
    }
}
