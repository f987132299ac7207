//! A value that each process has for itself: a forked child starts with a fresh one.
//!
//! An inherited value may be half changed, and its locks may be held by threads that the child does
//! not have.

use super::identity;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that each process makes at its first use. The values live as long as their process.
#[derive(Debug)]
pub(crate) struct PerProcess<T>(AtomicPtr<PerProcessValue<T>>);

#[derive(Debug)]
struct PerProcessValue<T> {
    process: u64,
    value: T,
}

impl<T: Default + Send + Sync + 'static> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// This process's value.
    pub(crate) fn get(&self) -> &'static T {
        let process = identity::token();
        loop {
            let current = self.0.load(Ordering::Acquire);
            // SAFETY: the pointer is null, or comes from `into_raw` of a value that is never freed.
            if let Some(owned) = unsafe { current.as_ref() }
                && owned.process == process
            {
                return &owned.value;
            }
            let fresh = Box::into_raw(Box::new(PerProcessValue { process, value: T::default() }));
            if self.0.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire).is_err()
            {
                // SAFETY: this call made the value, and no other thread has seen it.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
    }
}
