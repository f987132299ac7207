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
//! A value is reached by handles: [`Segment`], [`Shared`], [`Place`], and the guards of locks. Plain data ([`Plain`]) is copied in and
//! out; what is made of atomics ([`InPlace`]) is used in place; everything else is reached field by field ([`field!`]). No
//! reference to bytes exists that another process could change without an atomic, so nothing that one does makes this one unsound.

// | file | what |
// | --- | --- |
// | `name` | names, and the files they stand for |
// | `header` | the first bytes of a segment, and how they are checked |
// | `party` | who uses a segment: locks that end with their process |
// | `owner` | a party as a word of shared memory |
// | `attachment` | one process's map, party and state of a segment |
// | `share` | which types may lie in shared memory |
// | `place` | handles to a value |
// | `segment` | segments, and the builder |
// | `registry` | all segments with a name: list, remove, collect |
// | `wait` | how threads wait for other processes |
// | `lock_word`, `lock` | a lock's word, and all that locks have |
// | `reader_word` | the word of a process that reads |
// | `guard` | what who holds a lock has |
// | `mutex`, `rwlock`, `condvar`, `event`, `once` | for synchronising |
// | `rwlock_futures` | how futures read and write |
// | `body` | segments whose contents are folio's own |
// | `ring_memory` | the memory of a ring: what channels and logs have alike |
// | `doze` | how one side tells the other that it sleeps |
// | `bell`, `future` | a descriptor to poll, and futures |
// | `hanging` | the bell of a ring's side |
// | `bell_word`, `party_bell` | what wakes the futures of a process |
// | `writing` | whether a writer has begun |
// | `listener` | a descriptor for an event |
// | `word` | the word in front of a message |
// | `channel` | rings of messages |
// | `log` | queues with history |

mod attachment;
mod bell;
mod bell_word;
mod body;
mod channel;
mod condvar;
mod doze;
mod event;
mod future;
mod guard;
mod hanging;
mod header;
mod listener;
mod lock;
mod lock_word;
mod log;
mod mutex;
mod name;
mod once;
mod owner;
mod party;
mod party_bell;
mod place;
mod reader_word;
mod registry;
mod ring_memory;
mod rwlock;
mod rwlock_futures;
mod segment;
mod share;
mod wait;
mod word;
mod writing;

#[doc(inline)]
pub use crate::__shm_field as field;
pub use channel::{Batch, Channel, ChannelOptions, Message, Receiver, Recv, Reserved, Sender, Sending};
pub use condvar::Condvar;
pub use event::Event;
#[cfg(feature = "derive")]
pub use folio_derive::Share;
pub use guard::{Guard, Guards, Locked, Torn};
pub use header::{Kind, Lifetime};
pub use listener::Listener;
pub use log::{Log, LogOptions, NextEntry, Read, Reader, Start, Writer};
pub use mutex::Mutex;
pub use name::directory;
pub use once::Once;
pub use place::{Place, Shared};
pub use registry::{Collected, Entry, Role, State, User, collect, list, remove};
pub use rwlock::{ReadGuard, ReadLocked, RwLock};
pub use segment::{Segment, SegmentOptions, Shape};
pub use share::{InPlace, Plain, Share, fingerprint, has_no_padding};
pub use wait::Wait;

/// What fuzzers call; see `fuzz/`.
#[cfg(fuzzing)]
pub mod fuzzing {
    /// Bytes from anywhere as the header of a segment.
    pub fn header(bytes: &[u8]) {
        super::header::survive(bytes);
    }

    /// Bytes from anywhere as what a peer writes over a channel while it is used.
    pub fn channel(bytes: &[u8]) {
        super::channel::survive(bytes);
    }

    /// Bytes from anywhere as what a peer writes over a log while it is used.
    pub fn log(bytes: &[u8]) {
        super::log::survive(bytes);
    }
}

/// What [`lock_word`], [`reader_word`], [`bell_word`], [`writing`] and [`doze`] are built on; their models in the tests put other ones there.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// The sleeper waits until what the publisher stored is seen: only the compiler must keep the order.
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
