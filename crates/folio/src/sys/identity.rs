//! Which process this is, told without a system call: a number that differs between a process and
//! the children it forks.
//!
//! The number lives in a page with MADV_WIPEONFORK, which a child finds zeroed. A pid would not do:
//! it is used again.

use super::mm;
use rustix::param::page_size;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// The last number given out in this process or, before a fork, in its ancestors.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Where the number lies: null until it was asked for, and [`NO_PAGE`] where there is no such page.
/// No lock: a child that is forked while another thread holds it would wait for ever.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// Always zero.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

#[inline]
fn page() -> Option<&'static AtomicU64> {
    // SAFETY: null, or a word that lives as long as the process and is an atomic to all.
    unsafe { PAGE.load(Ordering::Acquire).as_ref() }
}

/// This process's number, if it or an ancestor has asked for one before: for a signal handler,
/// which must map no page for it.
pub(crate) fn known_token() -> Option<u64> {
    page().map(number)
}

fn pid() -> u64 {
    rustix::process::getpid().as_raw_nonzero().get().cast_unsigned().into()
}

/// This process's number: never zero, never one of an ancestor's. Two loads, once it was asked for.
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

/// Makes the page, unless another thread is first.
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
                // SAFETY: the page is this call's own, and nobody else knows it.
                let _ = unsafe { mm::munmap(ptr::from_ref(fresh).cast_mut().cast(), page_size()) };
            }
            // SAFETY: as in `page`; not null, as the exchange found.
            unsafe { &*first }
        }
    }
}

/// The number in the page; a new one in a child that has not asked yet. Never waits.
fn number(cell: &AtomicU64) -> u64 {
    // Without such a page (it needs Linux 4.14 and one page of memory) the pid is the best there
    // is.
    if ptr::eq(cell, &raw const NO_PAGE) {
        return pid();
    }
    match cell.load(Ordering::Relaxed) {
        0 => {
            let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            // Another thread may have been first; its number holds.
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
    // SAFETY: a new anonymous map, without FIXED.
    let page = unsafe { mm::mmap(ptr::null_mut(), len, prot, flags, -1, 0) }.ok()?;
    // SAFETY: the page is this function's own, and nothing is stored in it yet.
    if unsafe { mm::madvise(page, len, libc::MADV_WIPEONFORK) }.is_err() {
        // SAFETY: nothing refers to the page.
        let _ = unsafe { mm::munmap(page, len) };
        return None;
    }
    // SAFETY: the page is zeroed, aligned, readable and writable, and stays mapped for the life of
    // the process.
    Some(unsafe { &*page.cast::<AtomicU64>() })
}
