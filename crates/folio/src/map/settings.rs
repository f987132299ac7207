//! Settings that are made while a map has no bytes. The kernel has nothing yet to apply them to, so
//! the map remembers them and applies them, in their order, when it gets bytes.

use crate::advice::Advice;
use crate::error::Result;
use crate::prot::Prot;
use crate::region::Region;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setting {
    Advice(Advice),
    Locked,
    LockedOnFault,
    Named(String),
    Protected(Prot),
}

impl Setting {
    /// Whether `later` takes the place of this one.
    fn yields_to(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Advice(one), Self::Advice(other)) => one == other,
            (Self::Locked | Self::LockedOnFault, Self::Locked | Self::LockedOnFault) => true,
            _ => std::mem::discriminant(self) == std::mem::discriminant(later),
        }
    }
}

/// Whether an advice stays with the pages. The others act once, and there is no page yet to act on.
fn stays(advice: Advice) -> bool {
    match advice {
        Advice::WillNeed
        | Advice::Cold
        | Advice::PageOut
        | Advice::PopulateRead
        | Advice::PopulateWrite
        | Advice::Collapse => false,
        Advice::Normal
        | Advice::Random
        | Advice::Sequential
        | Advice::HugePage
        | Advice::NoHugePage
        | Advice::Mergeable
        | Advice::Unmergeable
        | Advice::DontDump
        | Advice::DoDump => true,
    }
}

/// The settings of a map without bytes. There are never more than there are kinds.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    waiting: Mutex<Vec<Setting>>,
}

impl Settings {
    fn waiting(&self) -> MutexGuard<'_, Vec<Setting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remember(&self, setting: Setting) {
        if matches!(setting, Setting::Advice(advice) if !stays(advice)) {
            return;
        }
        let mut waiting = self.waiting();
        waiting.retain(|earlier| !earlier.yields_to(&setting));
        waiting.push(setting);
    }

    /// Forgets that pages are to be locked.
    pub(crate) fn unlock(&self) {
        self.waiting()
            .retain(|setting| !matches!(setting, Setting::Locked | Setting::LockedOnFault));
    }

    /// Applies all of them to a region that has bytes now. They stay until
    /// [`forget`](Self::forget).
    pub(crate) fn apply(&self, region: &mut Region) -> Result<()> {
        let waiting = self.waiting().clone();
        waiting.into_iter().try_for_each(|setting| match setting {
            Setting::Advice(advice) => region.advise(.., advice),
            Setting::Locked => region.lock(..),
            Setting::LockedOnFault => region.lock_on_fault(..),
            Setting::Named(name) => region.name_area(&name).map(drop),
            Setting::Protected(prot) => region.protect(.., prot),
        })
    }

    pub(crate) fn forget(&self) {
        self.waiting().clear();
    }
}
