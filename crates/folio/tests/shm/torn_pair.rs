//! Two halves that differ only while a change is under way: they show whether a lock that its
//! holder died with is reported as torn.

use crate::common::kill_sweep::Ledger;
use folio::shm::{Guard, Guards, Locked, Share, SharedRef, Wait, field};
use std::time::{Duration, Instant};

/// Far longer than anything here takes, and shorter than a patient person.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Two halves that are equal unless a process is at them, or died at them.
#[derive(Clone, Copy, Share)]
#[repr(C)]
pub(crate) struct Pair {
    pub(crate) one: u64,
    pub(crate) other: u64,
}

/// One change under the lock: in between the halves differ.
pub(crate) fn change<L: Guards<Pair>>(guard: &Guard<'_, Pair, L>) {
    let next = field!(guard.one).load().unwrap() + 1;
    field!(guard.one).store(next).unwrap();
    field!(guard.other).store(next).unwrap();
}

pub(crate) fn repair(pair: SharedRef<'_, Pair>) -> folio::Result<()> {
    field!(pair.other).store(field!(pair.one).load()?)
}

pub(crate) fn patiently() -> Wait {
    Wait::new().timeout(PATIENCE)
}

/// Checks that the pair is whole, or reported as torn, and changes it once. Whether it was torn.
pub(crate) fn settle<L: Guards<Pair>>(
    ledger: &mut Ledger,
    locked: folio::Result<Locked<'_, Pair, L>>,
) -> bool {
    let start = Instant::now();
    let torn = matches!(locked, Ok(Locked::Torn(_)));
    match locked {
        Ok(Locked::Clean(guard)) => {
            let Pair { one, other } = guard.get().unwrap();
            ledger.corrupted += u64::from(one != other);
            change(&guard);
        }
        Ok(Locked::Torn(torn)) => {
            let Pair { one, other } = torn.shared_ref().load().unwrap();
            // Half a change, and no more.
            ledger.corrupted += u64::from(one != other && one != other + 1);
            change(&torn.repair(repair).unwrap());
        }
        Err(error) if error.errno() == folio::Errno::TIMEDOUT => ledger.hung += 1,
        Err(error) => panic!("{error}"),
    }
    ledger.hung += u64::from(start.elapsed() > PATIENCE);
    torn
}
