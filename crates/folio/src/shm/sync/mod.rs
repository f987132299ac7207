//! What processes synchronise by: locks, conditions, events, and what is done once. All of it survives the death of any of them.

// | file | what |
// | --- | --- |
// | `lock_word`, `lock` | a lock's word, and all that locks have |
// | `guard` | what who holds a lock has |
// | `mutex`, `condvar` | for one at a time |
// | `reader_word`, `writing` | the word of a process that reads, and whether a writer has begun |
// | `rwlock`, `rwlock_futures` | for many that read or one that writes, and how futures do |
// | `event`, `listener` | a flag to wait for, and a descriptor for it |
// | `once` | what one of all does |

pub(super) mod condvar;
pub(super) mod event;
pub(super) mod guard;
pub(super) mod listener;
pub(super) mod lock;
pub(super) mod lock_word;
pub(super) mod mutex;
pub(super) mod once;
mod reader_word;
pub(super) mod rwlock;
mod rwlock_futures;
mod writing;

use super::atomics;
