//! The identity of this process, read without a system call: a number that differs between a
//! process and the children that it forks.
//!
//! The number lies in a page with MADV_WIPEONFORK, which a child finds zeroed. A pid would not do,
//! because the kernel uses pids again.

use super::mm;
use rustix::param::page_size;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The last number assigned in this process or, before a fork, in its ancestors.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The page of the number: null until a thread asks for the number, and [`NO_PAGE`] if the page
/// cannot be made. There is no lock: a child that is forked while another thread holds it would
/// wait for ever.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// Always zero.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

#[inline]
fn page() -> Option<&'static AtomicU64> {
    // SAFETY: the pointer is null, or points to an atomic word that lives as long as the process.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// This process's number, if it or an ancestor has asked for one before. For a signal handler,
/// which must not map a page for it.
pub(crate) fn known_token() -> Option<u64> {
    page().map(number)
}

fn pid() -> u64 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned().into()
}

/// This process's number: never zero, and never the number of an ancestor. After the first call it
/// costs two loads.
#[inline]
pub(crate) fn token() -> u64 {
    match page().map(|cell| cell.load(Ordering::Relaxed)) {
        None | Some(0) => find_token(),
        Some(number) => number,
    }
}

#[cold]
fn find_token() -> u64 {
    number(page().unwrap_or_else(make_page))
}

/// Makes the page, if no other thread is first.
fn make_page() -> &'static AtomicU64 {
    let fresh = wiped_on_fork().unwrap_or(&NO_PAGE);
    let noted = PAGE.compare_exchange(
        ptr::null_mut(),
        ptr::from_ref(fresh).cast_mut(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    match noted {
        Ok(_) => fresh,
        Err(first) => {
            if !ptr::eq(fresh, &raw const NO_PAGE) {
                // SAFETY: this call made the page, and no other thread knows it.
                let _ = unsafe { mm::munmap(ptr::from_ref(fresh).cast_mut().cast(), page_size()) };
            }
            // SAFETY: the exchange failed, so `first` is not null. It points to an atomic word that
            // lives as long as the process.
            unsafe { &*first }
        }
    }
}

/// The number in the page. A child that has not asked yet gets a new one. Never waits.
fn number(cell: &AtomicU64) -> u64 {
    // Without such a page (it needs Linux 4.14 and one page of memory) the pid is the best choice.
    if ptr::eq(cell, &raw const NO_PAGE) {
        return pid();
    }
    match cell.load(Ordering::Relaxed) {
        0 => {
            let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            // If another thread was first, its number is valid.
            cell.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed)
                .err()
                .unwrap_or(fresh)
        }
        number => number,
    }
}

fn wiped_on_fork() -> Option<&'static AtomicU64> {
    let len = page_size();
    let (prot, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the call makes a new anonymous map, without FIXED.
    let page = unsafe { mm::mmap(ptr::null_mut(), len, prot, flags, -1, 0) }.ok()?;
    // SAFETY: this function made the page, and nothing is stored in it yet.
    if unsafe { mm::madvise(page, len, libc::MADV_WIPEONFORK) }.is_err() {
        // SAFETY: nothing refers to the page.
        let _ = unsafe { mm::munmap(page, len) };
        return None;
    }
    // SAFETY: the page is zeroed, aligned, readable and writable, and stays mapped until the
    // process ends.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}
