//! Shared memory between processes: named, typed, and safe against each other's death.
//!
//! Two programs that know a name and a type share memory:
//!
//! ```
//! use folio::shm::{Segment, Share, field};
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! #[derive(Share)]
//! #[repr(C)]
//! struct Board {
//!     visits: AtomicU64,
//!     title: [u8; 32],
//! }
//!
//! # let name = &format!("doc-{}", std::process::id());
//! let board = Segment::<Board>::open_or_create(name)?;
//! field!(board.visits).fetch_add(1, Ordering::Relaxed);
//! # Ok::<(), folio::Error>(())
//! ```
//!
//! A value is reached by handles: [`Segment`], [`Shared`], [`SharedRef`], and the guards of locks.
//! Plain data ([`Plain`]) is copied in and out; values made of atomics ([`InPlace`]) are used in
//! place; everything else is reached field by field ([`field!`]). No reference to bytes exists that
//! another process could change without an atomic, so no action of one process makes this one
//! unsound.

// | folder | subject |
// | --- | --- |
// | `segment` | segments: the map, the header, the participants, the names |
// | `value` | which types may lie in shared memory, and references to a value |
// | `wait` | how threads, descriptors and futures wait for other processes |
// | `sync` | locks and all else for synchronising |
// | `ring` | what channels and logs have alike |
// | `channel` | rings of messages |
// | `log` | queues with history |
// | `sys` | system calls for descriptors and names that processes share |

mod channel;
mod log;
mod ring;
mod segment;
mod sync;
mod sys;
mod value;
mod wait;

#[doc(inline)]
pub use crate::__shm_field as field;
pub use channel::{
    Batch, Channel, ChannelOptions, Message, Receiver, RecvFuture, Reserved, SendFuture, Sender,
};
#[cfg(feature = "derive")]
pub use folio_derive::Share;
pub use log::{Log, LogOptions, LogReader, LogWriter, NextFuture, Read, Start};
pub use segment::header::{Lifetime, SegmentKind};
pub use segment::name::directory;
pub use segment::registry::{
    RemovedStale, Role, SegmentEntry, SegmentState, User, list, remove, remove_stale,
};
pub use segment::{Segment, SegmentOptions, Shape};
pub use sync::condvar::Condvar;
pub use sync::event::Event;
pub use sync::listener::Listener;
pub use sync::mutex::Mutex;
pub use sync::mutex::guard::{Guard, Guards, Locked, Torn};
pub use sync::once::Once;
pub use sync::rwlock::{ReadGuard, ReadLocked, RwLock};
pub use value::read_ref::ReadRef;
pub use value::share::{Fingerprint, InPlace, Plain, Share};
pub use value::shared_ref::{Shared, SharedRef};
pub use wait::Wait;

/// The parts of the code that `derive(Share)` writes. It reaches the standard library by these
/// names too: a crate may give `core`, or `u128`, another meaning.
#[doc(hidden)]
pub mod derive {
    pub use super::value::share::{Field, Parameter};
    pub use std::marker::Copy;
    pub use std::mem::offset_of;
    pub use std::primitive::u128;
}

/// The functions that fuzzers call; see `fuzz/`.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Bytes from anywhere as the header of a segment.
    pub fn header(bytes: &[u8]) {
        super::segment::header::survive(bytes);
    }

    /// Any bytes as a peer's writes over a channel while it is used.
    pub fn channel(bytes: &[u8]) {
        super::channel::survive(bytes);
    }

    /// Any bytes as a peer's writes over a log while it is used.
    pub fn log(bytes: &[u8]) {
        super::log::survive(bytes);
    }
}

/// The base of [`lock_word`], [`reader_word`], [`notifier_word`], [`writing`] and [`eventcount`];
/// their models in the tests put other atomics there.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// The sleeper waits until the publisher's stores are seen: only the compiler must keep the
    /// order.
    #[inline]
    pub(super) fn publisher_fence() {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }
}

/// A number that nobody guesses; without the kernel's it is at least another one each time.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let mut bytes = [0; 8];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) == Ok(8) {
        return u64::from_ne_bytes(bytes);
    }
    RandomState::new().hash_one(std::process::id())
}
