//! The objects that this process has mapped, by any of its pagers, and their uses.
//!
//! Pagers write whole pages back, so two of them that map one object writable would undo each
//! other's stores.
//!
//! The registry's lock is held for a look only. Nothing is written, attached or asked of a source
//! under it: an object whose map comes or goes is marked, and a thread that wants the same object
//! waits for the mark to go.

use crate::pager::object::MappedObject;
use crate::pager::source_facts::{Purpose, VersionRule};
use crate::source::{Identity, Version};
use crate::sys::per_process::PerProcess;
use crate::sys::{identity as process, thread};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The objects of one process.
#[derive(Default)]
struct Registry {
    holders: Mutex<Holders>,
    changed: Condvar,
}

#[derive(Default)]
struct Holders {
    by_identity: HashMap<Identity, Vec<Holder>>,
    last: u64,
}

/// One mapped object.
struct Holder {
    number: u64,
    /// The pager's number.
    pager: u64,
    purpose: Purpose,
    /// The version when it was mapped, and which bytes it shows.
    shown: (Option<Version>, VersionRule),
    /// `None` while the map is being made.
    lease: Option<Weak<MappedObject>>,
    /// Its last handle was dropped, and a write of it has not ended in time.
    late: bool,
}

/// How long a write is waited for that has outlived its map.
const PATIENCE: Duration = Duration::from_secs(1);

static REGISTRY: PerProcess<Registry> = PerProcess::new();

impl Registry {
    /// Nothing panics under the lock in the middle of a change.
    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a look for a new map of an object.
pub(super) enum ObjectEntry {
    /// A map that it can share.
    Shared(Arc<MappedObject>),
    /// Nothing that is in its way: the object is marked as its own.
    New(RegistryEntry),
    /// A map that came or went was waited for: the source may have other answers now.
    Waited,
}

/// Why an object cannot be mapped.
pub(super) struct MapConflict {
    /// Its purpose.
    pub(super) purpose: Purpose,
    /// By another pager of this process.
    pub(super) other_pager: bool,
    /// Its last handle was dropped, and its dirty pages are being written.
    pub(super) closing: bool,
    /// The source has not ended a write of it in time.
    pub(super) late: bool,
}

/// The consequence of one holder for a map that is to be made.
enum Finding {
    Nothing,
    Share(Arc<MappedObject>),
    /// It comes or goes.
    Wait,
    Conflict,
}

impl Holder {
    fn finding(
        &self,
        pager: u64,
        purpose: Purpose,
        shown: (Option<Version>, VersionRule),
    ) -> Finding {
        if self.late {
            return Finding::Wait;
        }
        let reads = (self.purpose, purpose) == (Purpose::Read, Purpose::Read);
        let here = self.pager == pager;
        let shares = here
            && match purpose {
                // Maps of another version show bytes that are gone; those of one version and those
                // of stable pages differ.
                Purpose::Read => reads && self.shown == shown,
                Purpose::Shared => self.purpose == Purpose::Shared,
                Purpose::Write | Purpose::Private => false,
            };
        if reads && !shares {
            return Finding::Nothing;
        }
        // A object that is upgraded and not returned could be the last, and would be dropped under
        // the lock.
        match &self.lease {
            Some(lease) if shares => lease.upgrade().map_or(Finding::Wait, Finding::Share),
            Some(lease) if lease.strong_count() > 0 => Finding::Conflict,
            _ => Finding::Wait,
        }
    }
}

/// An object's place in the registry, which ends with it.
pub(super) struct RegistryEntry {
    registry: &'static Registry,
    process: u64,
    identity: Identity,
    number: u64,
}

impl RegistryEntry {
    /// Finds a map of the object to share, or marks the object for a new one. `shown` is the
    /// source's version, and which of its bytes the map will show. A map of the object that comes
    /// or goes is waited for; a thread of folio's own, which may be the one that writes for it,
    /// does not wait.
    pub(super) fn enter(
        identity: Identity,
        pager: u64,
        purpose: Purpose,
        shown: (Option<Version>, VersionRule),
    ) -> Result<ObjectEntry, MapConflict> {
        let registry = REGISTRY.get();
        let mut holders = registry.lock();
        let mut waited = false;
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut waits = None;
            for holder in holders.by_identity.get(&identity).into_iter().flatten() {
                match holder.finding(pager, purpose, shown) {
                    Finding::Nothing => {}
                    Finding::Share(lease) => return Ok(ObjectEntry::Shared(lease)),
                    Finding::Conflict => return Err(holder.conflict(pager, false)),
                    Finding::Wait => waits = Some(holder),
                }
            }
            match waits {
                Some(holder) if thread::is_own() => return Err(holder.conflict(pager, true)),
                Some(holder) if holder.late => {
                    let left = patience.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(holder.conflict(pager, true));
                    }
                    let changed = registry.changed.wait_timeout(holders, left);
                    holders = changed.unwrap_or_else(PoisonError::into_inner).0;
                    waited = true;
                }
                Some(_) => {
                    holders =
                        registry.changed.wait(holders).unwrap_or_else(PoisonError::into_inner);
                    waited = true;
                }
                None if waited => return Ok(ObjectEntry::Waited),
                None => break,
            }
        }
        holders.last += 1;
        let number = holders.last;
        let holder = Holder { number, pager, purpose, shown, lease: None, late: false };
        holders.by_identity.entry(identity).or_default().push(holder);
        Ok(ObjectEntry::New(Self { registry, process: process::token(), identity, number }))
    }

    /// The map is made.
    pub(super) fn opened(&self, lease: &Arc<MappedObject>) {
        self.change(|holder| holder.lease = Some(Arc::downgrade(lease)));
    }

    /// The last handle is dropped, and writes of it may go on for ever: nobody waits long for them.
    pub(super) fn late(&self) {
        self.change(|holder| holder.late = true);
    }

    fn change(&self, change: impl FnOnce(&mut Holder)) {
        let mut holders = self.registry.lock();
        let mine = holders.by_identity.get_mut(&self.identity).into_iter().flatten();
        if let Some(holder) = mine.into_iter().find(|holder| holder.number == self.number) {
            change(holder);
        }
        drop(holders);
        self.registry.changed.notify_all();
    }
}

impl Holder {
    fn conflict(&self, pager: u64, closing: bool) -> MapConflict {
        MapConflict {
            purpose: self.purpose,
            other_pager: self.pager != pager,
            closing,
            late: self.late,
        }
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        // In a forked child the lock may be held by a thread that it does not have.
        if self.process != process::token() {
            return;
        }
        let mut holders = self.registry.lock();
        if let Some(all) = holders.by_identity.get_mut(&self.identity) {
            all.retain(|holder| holder.number != self.number);
            if all.is_empty() {
                holders.by_identity.remove(&self.identity);
            }
        }
        drop(holders);
        self.registry.changed.notify_all();
    }
}
