//! Locks, conditions, events and one-time work for processes. All of them survive the death of any
//! process.

// | file | subject |
// | --- | --- |
// | `lock_word`, `lock` | a lock's word, and the steps of all locks |
// | `mutex` | one holder at a time, and its guards |
// | `condvar` | waiting until a condition of the locked value holds |
// | `reader_word`, `writing` | the word of a reading process, and whether a writer has begun |
// | `rwlock` | many readers or one writer |
// | `event`, `listener` | a flag to wait for, and a descriptor for it |
// | `once` | work that one process does once for all |

pub(super) mod condvar;
pub(super) mod event;
pub(super) mod listener;
pub(super) mod lock;
pub(super) mod lock_word;
pub(super) mod mutex;
pub(super) mod once;
mod reader_word;
pub(super) mod rwlock;
mod writing;

use super::atomics;
