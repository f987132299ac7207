//! Where stacks grow, so that no map is placed in their way.
//!
//! The kernel keeps a gap below an area that grows down, but not from a map at a fixed address, nor
//! from one that grows in place. Stack frames would then lie in the map's bytes.

use super::process;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The gap in pages (`stack_guard_gap` of the kernel's command line, whose default this is).
const GAP_PAGES: usize = 256;

/// The kernel leaves this much room below the main thread's stack, when it starts a program, even
/// if the limit is smaller: no map that it places itself comes nearer.
const KERNELS_ROOM: usize = 128 << 20;

/// A place that stacks may need.
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
    // SAFETY: only asks; the kernel's answers are the addresses of bytes on the first stack, or 0.
    let (name, random) =
        unsafe { (libc::getauxval(libc::AT_EXECFN), libc::getauxval(libc::AT_RANDOM)) };
    let page = rustix::param::page_size();
    let mut top = name.max(random) as usize;
    if name != 0 {
        // SAFETY: the kernel ends the name with a NUL, and nobody unmaps the first stack.
        top = top.max(name as usize + unsafe { libc::strlen(name as *const libc::c_char) });
    }
    // Behind the name is one more word.
    let top = top.checked_add(8).map_or(0, |end| end.next_multiple_of(page));
    TOP.store(top, Ordering::Relaxed);
    top
}

/// The addresses that the main thread's stack may grow over by its limit, the gap below included;
/// empty if nothing limits it.
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

/// Whether the program has asked for an area that grows down.
static OTHERS: AtomicBool = AtomicBool::new(false);

/// To be called when an area that grows down is made, before anything can grow into its way.
pub(crate) fn expect_others() {
    OTHERS.store(true, Ordering::Relaxed);
}

/// Whether memory at `range`, by which something grows or gets access, is in the way of the main
/// thread's stack, or of an [expected](expect_others) one. Costs one system call where the stack is
/// far. Areas that other code makes grow down are not looked for: it would cost a list of all areas
/// at each call.
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

/// The same for an address that the caller chose: every area that grows down counts.
pub(crate) fn chosen_conflicts_with_stack(range: &Range<usize>) -> Option<StackConflict> {
    let allowed = allowed();
    if overlap(&allowed, range) { Some(StackConflict { range: allowed }) } else { look(range) }
}

/// Looks for an area that grows down and ends its growth, by the gap, above the end of `range` or
/// in it.
fn look(range: &Range<usize>) -> Option<StackConflict> {
    let near = range.start..range.end.saturating_add(gap());
    let Some(above) = process::vmas_in(&near) else {
        // Without /proc: as if the stack were as large as the kernel lets it be at least.
        let stack = top().saturating_sub(KERNELS_ROOM)..top();
        return overlap(&stack, &near).then_some(StackConflict { range: stack });
    };
    let grows = |area: &process::Vma| {
        let stack = area.object.as_deref().is_some_and(|name| name.as_os_str() == "[stack]");
        // Only private memory without a file grows, and only such areas are looked up in the long
        // list.
        let may = area.inode == 0 && area.rights.ends_with('p') && area.rights.starts_with("rw");
        stack || (may && process::grows_down(&area.range))
    };
    let area = above.into_iter().filter(|area| area.range.start >= range.end).find(grows)?;
    Some(StackConflict { range: area.range.start.saturating_sub(gap())..area.range.end })
}
