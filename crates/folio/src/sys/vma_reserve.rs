//! VMAs that the process holds so that it can give them up: at `vm.max_map_count` mremap(2) moves
//! nothing, and a guard's last resort has to move memory.
//!
//! A mapping of alternating protections is many VMAs; with one protection it is one VMA. So the
//! reserve is given up, and made again, by mprotect(2) alone, which a signal handler may call.
//!
//! Source: mmap(2), mprotect(2), linux/Documentation/admin-guide/sysctl/vm.rst (max_map_count).

use super::{identity, mm};
use rustix::io::Errno;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Pages of the reserve. While it is held, each page is a VMA.
const PAGES: usize = 33;

/// The mapping, or zero. It stays for the life of the process.
static BASE: AtomicUsize = AtomicUsize::new(0);

/// [`SPENT`], [`HELD`], or [`BUSY`] with the number of the process whose thread changes the
/// reserve.
static STATE: AtomicU64 = AtomicU64::new(SPENT);
const SPENT: u64 = 0;
const HELD: u64 = 1;
const BUSY: u64 = 2;

fn protect(base: usize, first: usize, pages: usize, prot: i32) -> Result<(), Errno> {
    let page = rustix::param::page_size();
    let at = (base + first * page) as *mut u8;
    // SAFETY: the pages are the reserve's own, and nothing accesses them.
    unsafe { mm::mprotect(at, pages * page, prot) }
}

/// Makes the reserve if it is not held. For ordinary code.
pub(super) fn hold() -> Result<(), Errno> {
    let mine = BUSY | identity::token() << 2;
    loop {
        let state = STATE.load(Ordering::Acquire);
        if state == HELD {
            return Ok(());
        }
        if state == mine {
            std::thread::yield_now();
        // A thread of the parent process that changed the reserve does not exist in this child.
        } else if STATE.compare_exchange(state, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let made = make();
            STATE.store(if made.is_ok() { HELD } else { SPENT }, Ordering::Release);
            return made;
        }
    }
}

fn make() -> Result<(), Errno> {
    let mut base = BASE.load(Ordering::Relaxed);
    if base == 0 {
        let len = PAGES * rustix::param::page_size();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: the call makes a new anonymous map.
        let start = unsafe { mm::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) }?;
        base = start as usize;
        BASE.store(base, Ordering::Relaxed);
    }
    let split = (1..PAGES).step_by(2).try_for_each(|page| protect(base, page, 1, libc::PROT_READ));
    split.inspect_err(|_| {
        let _ = protect(base, 0, PAGES, libc::PROT_NONE);
    })
}

/// Gives up the VMAs of the reserve if it is held. For the signal handler.
pub(super) fn give_up() {
    if STATE.compare_exchange(HELD, SPENT, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        let _ = protect(BASE.load(Ordering::Relaxed), 0, PAGES, libc::PROT_NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::{BASE, PAGES, give_up, hold};
    use std::sync::atomic::Ordering;

    #[test]
    fn the_reserve_has_many_vmas_while_it_is_held_and_few_afterwards() {
        let count = || {
            let base = BASE.load(Ordering::Relaxed);
            let range = base..base + PAGES * rustix::param::page_size();
            crate::sys::process::vmas_in(&range).unwrap().len()
        };
        hold().unwrap();
        assert!(count() >= PAGES - 1);
        give_up();
        assert!(count() <= 2);
        hold().unwrap();
        assert!(count() >= PAGES - 1);
    }
}
