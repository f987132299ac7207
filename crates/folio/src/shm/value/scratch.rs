//! Memory that a closure is given to name a part of a type: see
//! [`SharedRef::field`](crate::shm::SharedRef::field).
//!
//! A reference to the value itself is no way to name its parts, for other processes change it. So
//! the closure gets a value that nobody else has. A small one lies on the stack. A large one lies
//! in a map that each thread keeps: no page of it exists before somebody looks at it, so that it
//! costs addresses, and its size costs no time.

use crate::error::Result;
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Placement, Region, Request};
use crate::shm::value::share::Share;
use std::cell::Cell;
use std::mem::MaybeUninit;

/// Up to this many bytes lie on the stack. The compiler removes bytes that nobody reads.
const SMALL: usize = 4096;

/// The same size for all types: an unoptimised frame has room for every branch of its function,
/// taken or not.
#[repr(C, align(64))]
struct ScratchBuffer([MaybeUninit<u8>; SMALL]);

thread_local! {
    /// This thread's map, unless a closure has it.
    static LARGE: Cell<Option<Region>> = const { Cell::new(None) };
}

/// Calls `work` with a `T` that nobody else has, of any bytes.
///
/// # Panics
///
/// If a `T` is larger than 4096 bytes, and this process has no addresses for it.
#[inline]
pub(in crate::shm) fn lend<T: Share, R>(work: impl FnOnce(&T) -> R) -> R {
    if size_of::<T>() <= SMALL && align_of::<T>() <= align_of::<ScratchBuffer>() {
        on_stack(work)
    } else {
        in_map(work)
    }
}

#[inline]
fn on_stack<T: Share, R>(work: impl FnOnce(&T) -> R) -> R {
    let mut small = MaybeUninit::<ScratchBuffer>::uninit();
    let at = small.as_mut_ptr().cast::<T>();
    // SAFETY: large enough and aligned, by the condition in `lend`.
    unsafe { at.write_bytes(0, 1) };
    // SAFETY: as above; all bits are valid for a type that can be shared, zeros included.
    work(unsafe { &*at })
}

fn in_map<T: Share, R>(work: impl FnOnce(&T) -> R) -> R {
    let page = PageSize::system();
    assert!(align_of::<T>() <= page.bytes(), "nothing in a segment is aligned to more than a page");
    // A thread that ends, and has dropped its map, makes one for this call.
    let kept = LARGE.try_with(Cell::take).ok().flatten();
    let region = kept.filter(|region| region.len() >= size_of::<T>()).unwrap_or_else(|| {
        map(size_of::<T>(), page).unwrap_or_else(|error| {
            panic!("no memory to name a part of {}: {error}", std::any::type_name::<T>())
        })
    });
    // SAFETY: large enough, and aligned to a page. No other reference to it exists: the thread's
    // own calls inside `work` find no map, and make one of their own. All bits are valid for a type
    // that can be shared.
    let result = work(unsafe { &*region.as_ptr().cast::<T>() });
    // A call inside `work` may have left its own map: the larger of the two stays.
    let _ = LARGE.try_with(|large| {
        let other = large.take();
        let stays = match other {
            Some(other) if other.len() > region.len() => other,
            _ => region,
        };
        large.set(Some(stays));
    });
    result
}

#[cold]
fn map(len: usize, page: PageSize) -> Result<Region> {
    Region::create(&Request {
        len: page.ceil(len.max(1)).unwrap_or(len),
        page,
        prot: Prot::READ | Prot::WRITE,
        flags: MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE,
        fd: None,
        offset: 0,
        place: Placement::Anywhere,
    })
}
