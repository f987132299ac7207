//! Prototypes that read a file's pages into a map as they are touched: by bare handler threads, or
//! in the thread that touches them (userfaultfd's SIGBUS mode). They keep as many pages as their
//! budget holds, the newest ones.
//!
//! They end the process at the first failure: there is nobody to tell.

use super::reads::Mapped;
use super::uffd::{Area, FEATURE_SIGBUS, MISSING, Uffd};
use crate::data::page;
use anyhow::{Context, Result, ensure};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The reader of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// So many handler threads.
    Handlers(usize),
    Toucher,
}

/// Pages let go in one call.
const BATCH: usize = 64;
const NONE: u32 = u32::MAX;

/// The one map of this process: the signal handler has to find it.
static SUPPLY: OnceLock<Supply> = OnceLock::new();

#[derive(Debug)]
struct Supply {
    uffd: Uffd,
    area: Area,
    file: File,
    /// This process, for process_madvise(2).
    process: i32,
    /// The resident pages in the order of their coming.
    resident: Box<[AtomicU32]>,
    next: AtomicUsize,
}

/// The state of a thread that supplies pages. The signal handler uses it, so it is made beforehand.
struct Local {
    buffer: Area,
    leaving: [libc::iovec; BATCH],
    count: usize,
}

thread_local! {
    static LOCAL: Cell<*mut Local> = const { Cell::new(std::ptr::null_mut()) };
}

/// The one map of this process.
#[derive(Debug)]
pub(super) struct Supplied {
    supply: &'static Supply,
    who: Who,
}

impl Supplied {
    pub(super) fn open(path: &Path, len: usize, budget: usize, who: Who) -> Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let uffd = Uffd::open(if who == Who::Toucher { FEATURE_SIGBUS } else { 0 })?;
        let area = Area::new(len, page())?;
        area.advise(libc::MADV_NOHUGEPAGE)?;
        uffd.register(&area, MISSING)?;
        // SAFETY: the call takes numbers only.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) } as i32;
        ensure!(process >= 0, "pidfd_open: {}", io::Error::last_os_error());
        let resident = (0..budget / page() - BATCH * 8).map(|_| AtomicU32::new(NONE)).collect();
        let supply = Supply { uffd, area, file, process, resident, next: AtomicUsize::new(0) };
        ensure!(SUPPLY.set(supply).is_ok(), "there is a map already");
        let supply = SUPPLY.get().context("just set")?;
        match who {
            Who::Toucher => catch()?,
            Who::Handlers(count) => {
                for _ in 0..count {
                    std::thread::spawn(move || {
                        let mut local =
                            Local::new().unwrap_or_else(|_| fail("no memory for a handler"));
                        loop {
                            let Ok(address) = supply.uffd.next() else {
                                fail("the userfaultfd cannot be read")
                            };
                            supply.supply(address, &mut local, true);
                        }
                    });
                }
            }
        }
        Ok(Self { supply, who })
    }
}

impl Mapped for Supplied {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the file's pages are supplied, and nobody writes to it.
        unsafe { self.supply.area.bytes() }
    }

    fn enter_thread(&self) -> Result<()> {
        if self.who == Who::Toucher {
            // Never freed: a signal may come until the thread ends.
            LOCAL.set(Box::into_raw(Box::new(Local::new()?)));
        }
        Ok(())
    }

    fn leave_thread(&self) {
        let local = LOCAL.replace(std::ptr::null_mut());
        if !local.is_null() {
            // SAFETY: made by `enter_thread`, and no fault of this thread's can come any more: it
            // touches the map no longer.
            let mut local = unsafe { Box::from_raw(local) };
            self.supply.let_go(&mut local);
        }
    }
}

impl Local {
    fn new() -> Result<Self> {
        let buffer = Area::new(page(), page())?;
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Ok(Self { buffer, leaving: [nothing; BATCH], count: 0 })
    }
}

impl Supply {
    /// Brings the page of an address, and lets the oldest one go.
    fn supply(&self, address: usize, local: &mut Local, wake: bool) {
        let size = page();
        let start = self.area.start() as usize;
        let number = (address - start) / size;
        let buffer = local.buffer.start();
        // SAFETY: the buffer is a page long, and this thread's.
        let got = unsafe {
            libc::pread(self.file.as_raw_fd(), buffer.cast(), size, (number * size) as libc::off_t)
        };
        if got != size as isize {
            fail("the file cannot be read");
        }
        match self.uffd.copy(start + number * size, buffer, size) {
            Ok(true) => {
                let place = self.next.fetch_add(1, Ordering::Relaxed) % self.resident.len();
                let oldest = self.resident[place].swap(number as u32, Ordering::Relaxed);
                if oldest != NONE {
                    let base = self.area.start().wrapping_add(oldest as usize * size);
                    local.leaving[local.count] =
                        libc::iovec { iov_base: base.cast(), iov_len: size };
                    local.count += 1;
                    if local.count == BATCH {
                        self.let_go(local);
                    }
                }
            }
            // Another thread was quicker.
            Ok(false) if wake => {
                if self.uffd.wake(start + number * size, size).is_err() {
                    fail("UFFDIO_WAKE failed");
                }
            }
            Ok(false) => {}
            Err(_) => fail("UFFDIO_COPY failed"),
        }
    }

    fn let_go(&self, local: &mut Local) {
        let leaving = &local.leaving[..local.count];
        // SAFETY: pages of the area, which come back with the same bytes when they are touched.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                self.process,
                leaving.as_ptr(),
                leaving.len(),
                libc::MADV_DONTNEED,
                0,
            )
        };
        if done != (leaving.len() * page()) as i64 {
            // Before Linux 6.13 that call knows no DONTNEED.
            for part in leaving {
                // SAFETY: as above.
                if unsafe { libc::madvise(part.iov_base, part.iov_len, libc::MADV_DONTNEED) } != 0 {
                    fail("madvise failed");
                }
            }
        }
        local.count = 0;
    }
}

fn catch() -> Result<()> {
    // SAFETY: all zero is a valid sigaction, and the fields that matter are filled in.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler makes calls that are async-signal-safe only.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    ensure!(done == 0, "sigaction: {}", io::Error::last_os_error());
    Ok(())
}

extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo with the address that a SIGBUS has.
    let address = unsafe { (*info).si_addr() } as usize;
    let local = LOCAL.get();
    let Some(supply) = SUPPLY.get() else { fail("a SIGBUS of nobody") };
    let start = supply.area.start() as usize;
    if local.is_null() || !(start..start + supply.area.len()).contains(&address) {
        fail("a SIGBUS outside the map");
    }
    // SAFETY: this thread's own; no other fault can come while the handler runs, since it touches
    // the buffer only.
    supply.supply(address, unsafe { &mut *local }, false);
}

/// From a signal handler there is no other way.
fn fail(why: &'static str) -> ! {
    let line = [why.as_bytes(), b"\n"];
    for part in line {
        // SAFETY: the bytes are there.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(1) }
}
