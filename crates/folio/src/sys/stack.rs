//! The addresses into which stacks grow, so that no map is placed there.
//!
//! The kernel keeps a gap between a map and a VMA below which a stack grows. It does not keep the
//! gap for a map at a fixed address, nor for a map that grows in place. Stack frames would then lie
//! in the map's bytes.

use super::process;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The gap in pages: the default of `stack_guard_gap` on the kernel's command line.
const GAP_PAGES: usize = 256;

/// The kernel leaves this much room below the main thread's stack when it starts a program, even if
/// the limit is smaller. No map that the kernel places comes nearer.
const KERNELS_ROOM: usize = 128 << 20;

/// A range of addresses that a stack may need.
#[derive(Debug, Clone)]
pub(crate) struct StackConflict {
    /// The addresses that must stay free, the stack included.
    pub(crate) range: Range<usize>,
}

fn gap() -> usize {
    GAP_PAGES * rustix::param::page_size()
}

/// The end of the main thread's stack. The kernel puts the program's name just below it.
fn top() -> usize {
    static TOP: AtomicUsize = AtomicUsize::new(0);
    let known = TOP.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: the calls only query. The kernel's answers are addresses of bytes on the first stack,
    // or 0.
    let (name, random) =
        unsafe { (libc::getauxval(libc::AT_EXECFN), libc::getauxval(libc::AT_RANDOM)) };
    let page = rustix::param::page_size();
    let mut top = name.max(random) as usize;
    if name != 0 {
        // SAFETY: the kernel ends the name with a NUL, and nothing unmaps the first stack.
        top = top.max(name as usize + unsafe { libc::strlen(name as *const libc::c_char) });
    }
    // One more word follows the name.
    let top = top.checked_add(8).map_or(0, |end| end.next_multiple_of(page));
    TOP.store(top, Ordering::Relaxed);
    top
}

/// The addresses over which the main thread's stack may grow by its limit, including the gap below.
/// Empty if there is no limit.
fn allowed() -> Range<usize> {
    let top = top();
    let limit = process::limit(rustix::process::Resource::Stack);
    let limit = limit.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    match limit {
        0 => top..top,
        limit => top.saturating_sub(limit.saturating_add(gap()))..top,
    }
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Whether the program has asked for a VMA that grows down.
static OTHERS: AtomicBool = AtomicBool::new(false);

/// The caller calls this when it makes a VMA that grows down, before a map can be placed in its
/// way.
pub(crate) fn expect_others() {
    OTHERS.store(true, Ordering::Relaxed);
}

/// Whether memory at `range` that grows or becomes accessible is in the way of the main thread's
/// stack, or of an [expected](expect_others) VMA that grows down. It costs one system call if the
/// stack is far away. It does not look for VMAs that other code makes grow down: that would cost a
/// list of all VMAs at each call.
pub(crate) fn conflicts_with_stack(range: &Range<usize>) -> Option<StackConflict> {
    let allowed = allowed();
    if overlap(&allowed, range) {
        return Some(StackConflict { range: allowed });
    }
    let near = allowed.start.min(allowed.end.saturating_sub(KERNELS_ROOM));
    if OTHERS.load(Ordering::Relaxed) || overlap(&(near..allowed.end), range) {
        look(range)
    } else {
        None
    }
}

/// As [`conflicts_with_stack`], for an address that the caller chose: every VMA that grows down
/// counts.
pub(crate) fn chosen_conflicts_with_stack(range: &Range<usize>) -> Option<StackConflict> {
    let allowed = allowed();
    if overlap(&allowed, range) { Some(StackConflict { range: allowed }) } else { look(range) }
}

/// Looks for a VMA that grows down whose growth, with the gap, reaches the end of `range` or lies
/// in it.
fn look(range: &Range<usize>) -> Option<StackConflict> {
    let near = range.start..range.end.saturating_add(gap());
    let Some(vmas) = process::vmas_in(&near) else {
        // Without /proc, assume that the stack is as large as the kernel always allows.
        let stack = top().saturating_sub(KERNELS_ROOM)..top();
        return overlap(&stack, &near).then_some(StackConflict { range: stack });
    };
    let grows = |vma: &process::Vma| {
        let stack = vma.object.as_deref().is_some_and(|name| name.as_os_str() == "[stack]");
        // Only private memory without a file grows, so only such VMAs are looked up in the long
        // list.
        let may_grow = vma.inode == 0 && vma.rights.ends_with('p') && vma.rights.starts_with("rw");
        stack || (may_grow && process::grows_down(&vma.range))
    };
    let vma = vmas.into_iter().filter(|vma| vma.range.start >= range.end).find(grows)?;
    Some(StackConflict { range: vma.range.start.saturating_sub(gap())..vma.range.end })
}
