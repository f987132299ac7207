//! Faults that come as signals, for processes to which userfaultfd is not allowed. The thread that
//! faulted waits in its SIGSEGV handler, in a [cell](super::fault_cell), until the driver thread
//! has supplied the page.
//!
//! The handler allocates nothing and takes no lock. A thread that finds no free cell yields its
//! processor, and faults again. A system call on a missing page gets EFAULT and no signal. The
//! kernel ends a thread that blocks SIGSEGV and touches a missing page.
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

/// The default number of threads that can wait at once.
pub(crate) const CELLS: usize = 256;

/// The driver's end: one thread takes the faults. After it is dropped, an access to a missing page
/// ends the process.
#[derive(Debug)]
pub(crate) struct SigsegvFaults(Arc<SigsegvCells>);

/// The cells of a driver, and the descriptor that wakes it.
///
/// # Invariants
///
/// `cells` comes from `Box::into_raw` in [`SigsegvFaults::new`]. Only `drop` frees it, and only
/// while every cell is free.
#[derive(Debug)]
pub(crate) struct SigsegvCells {
    cells: *mut [FaultCell],
    /// The cell at which the next thread starts its search, so that threads that fault together
    /// find different cells.
    next: AtomicUsize,
    event: OwnedFd,
    /// The driver thread, as [`this_thread`] identifies it.
    driver: AtomicUsize,
    /// No thread takes faults any more.
    closed: AtomicBool,
    process: u64,
}

// SAFETY: the cells are made of atomics, and only this value owns them.
unsafe impl Send for SigsegvCells {}
// SAFETY: the cells are made of atomics, and so are the other fields that change.
unsafe impl Sync for SigsegvCells {}

/// Identifies a thread by the address of a thread-local variable.
fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

impl SigsegvFaults {
    /// Makes the cells; `cells` threads can wait at once.
    pub(crate) fn new(cells: usize) -> Result<Self, Errno> {
        // SAFETY: the call makes a descriptor, and accesses no memory.
        let event = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel just made the descriptor, and nothing else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(event as i32) };
        let cells: Box<[FaultCell]> =
            std::iter::repeat_with(FaultCell::new).take(cells.max(1)).collect();
        Ok(Self(Arc::new(SigsegvCells {
            cells: Box::into_raw(cells),
            next: AtomicUsize::new(0),
            event,
            driver: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            process: identity::token(),
        })))
    }

    /// The cells, for the areas that this driver serves.
    pub(crate) fn cells_of_process(&self) -> Arc<SigsegvCells> {
        Arc::clone(&self.0)
    }

    /// Appends the faults that came since the last call. Never waits. The calling thread is the
    /// driver thread from now on: a fault of its own ends the process, since no other thread would
    /// answer it.
    pub(crate) fn take(&mut self, out: &mut Vec<RawFault>) -> Result<(), Errno> {
        self.0.driver.store(this_thread(), Ordering::Relaxed);
        let mut count = 0_u64;
        loop {
            // SAFETY: the kernel writes eight bytes, for which `count` has room.
            let got =
                check(unsafe { libc::read(self.0.event.as_raw_fd(), (&raw mut count).cast(), 8) }
                    as i64);
            match got {
                Err(Errno::INTR) => {}
                // No thread has signalled the event, so there is no fault: a thread first asks,
                // then signals.
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
    /// Readable while there are faults that the driver has not taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl Drop for SigsegvFaults {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        // This thread sets `closed`, then checks the waiting threads. A thread that faults asks
        // first, then checks `closed`. So one of the two sees the other.
        fence(Ordering::SeqCst);
        self.0.wake(&(0..usize::MAX));
    }
}

impl SigsegvCells {
    fn cells(&self) -> &[FaultCell] {
        // SAFETY: by the invariants of `SigsegvCells`, `new` allocated the cells, and only `drop`
        // frees them.
        unsafe { &*self.cells }
    }

    /// Lets the threads that wait for an address in the range try again.
    pub(crate) fn wake(&self, range: &Range<usize>) {
        for cell in self.cells() {
            cell.done(range);
        }
    }

    /// Enters a fault and wakes the driver. `None` if no cell is free. For the signal handler.
    fn ask(&self, fault: RawFault) -> Option<*const FaultCell> {
        let cells = self.cells();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let cell = (0..cells.len())
            .map(|offset| &cells[start.wrapping_add(offset) % cells.len()])
            .find(|cell| cell.claim())?;
        cell.ask(fault);
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            // The thread tries again, and then finds the queue closed.
            cell.done(&(0..usize::MAX));
        }
        let one = 1_u64;
        // SAFETY: the kernel reads eight bytes. A full counter (EAGAIN) wakes the driver as well.
        unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
        Some(cell)
    }
}

impl Drop for SigsegvCells {
    fn drop(&mut self) {
        const TRIES: usize = 1000;
        if identity::token() != self.process {
            // The threads that wait in the parent's cells do not exist in this child. The child
            // leaks a page or two.
            return;
        }
        // No area is left, so no handler enters a cell any more. The threads that were woken are
        // about to leave.
        for _ in 0..TRIES {
            if self.cells().iter().all(FaultCell::is_free) {
                // SAFETY: by the invariants `new` allocated the cells. All cells are free, and a
                // thread does not use a cell after it has freed it.
                drop(unsafe { Box::from_raw(self.cells) });
                return;
            }
            std::thread::yield_now();
        }
        // A thread was stopped before it left, or jumped out of its handler: it may still use its
        // cell, so the cells are leaked.
    }
}

/// An area whose faults come as signals: the state that its store and the handler share.
#[derive(Debug)]
pub(crate) struct WatchedArea {
    cells: Arc<SigsegvCells>,
    prots: PageProtTable,
    /// Whether the program may store to the area.
    tracked: bool,
}

/// The result of a fault in a watched area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultStep {
    /// Try the access again.
    Retry,
    /// Try the access again, once there is a free cell.
    Crowded,
    /// Wait in this cell, then try again.
    Wait(*const FaultCell),
    /// The page cannot be supplied.
    End(EndReason),
    /// The access is wrong in itself: a store to memory that allows none, or running data as code.
    Wrong,
}

/// The reason why a page of a watched area cannot be supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndReason {
    Poisoned,
    /// The thread that faulted is the one that would have to supply the page.
    OwnThread,
    /// The pager is gone.
    Closed,
}

impl WatchedArea {
    /// An area of `pages` pages, all missing.
    pub(crate) fn new(cells: Arc<SigsegvCells>, pages: usize, tracked: bool) -> Self {
        Self { cells, prots: PageProtTable::new(pages), tracked }
    }

    pub(crate) fn page_prots(&self) -> &PageProtTable {
        &self.prots
    }

    /// See [`SigsegvCells::wake`].
    pub(crate) fn wake(&self, range: &Range<usize>) {
        self.cells.wake(range);
    }

    /// Decides about an access that the page's protection stopped: either a fault for the driver,
    /// still without its address, or a step.
    pub(super) fn judge(&self, page: usize, access: AccessKind) -> Result<RawFault, FaultStep> {
        let prot = self.prots.get(page);
        let fault = RawFault { address: 0, write: false, protected: false, thread: None };
        match (prot, access) {
            (_, AccessKind::Fetch) => return Err(FaultStep::Wrong),
            (PageProt::Missing | PageProt::Readable, AccessKind::Store) if !self.tracked => {
                return Err(FaultStep::Wrong);
            }
            (PageProt::Poisoned, _) => return Err(FaultStep::End(EndReason::Poisoned)),
            // The page came during the fault.
            (PageProt::Writable, _) | (PageProt::Readable, AccessKind::Load) => {
                return Err(FaultStep::Retry);
            }
            _ => {}
        }
        if self.cells.closed.load(Ordering::SeqCst) {
            return Err(FaultStep::End(EndReason::Closed));
        }
        if self.cells.driver.load(Ordering::Relaxed) == this_thread() {
            return Err(FaultStep::End(EndReason::OwnThread));
        }
        let protected = prot == PageProt::Readable;
        // If the machine does not report the kind of access, a missing page is treated as a load; a
        // store to it faults once more.
        let write = access == AccessKind::Store || (protected && self.tracked);
        Ok(RawFault { write, protected, ..fault })
    }

    /// For the signal handler: answers an access to `address`, on page `page`, that the page's
    /// protection stopped.
    pub(super) fn await_page(&self, address: usize, page: usize, access: AccessKind) -> FaultStep {
        let fault = match self.judge(page, access) {
            Ok(fault) => fault,
            Err(step) => return step,
        };
        // SAFETY: gettid(2) takes no arguments and accesses no memory.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        match self.cells.ask(RawFault { address, thread: Some(thread), ..fault }) {
            Some(cell) => FaultStep::Wait(cell),
            None => FaultStep::Crowded,
        }
    }
}
