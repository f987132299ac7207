//! Whether someone else writes to an object that this pager writes: its version tells.
//!
//! A pager's own writes change the version too. So the version is looked at before the first write
//! of a group, while no write is under way, and learnt again after the last. A write of someone
//! else's in between goes unnoticed, as does one within the granularity of the version. Once
//! another version is seen no write is made any more: whole pages would overwrite the other
//! writer's bytes.

use super::core::FailureReason;
use crate::source::Version;

/// The known version of an object, and the writes that wait to know more.
#[derive(Debug)]
pub(super) struct ForeignWrites<W> {
    state: CheckState,
    /// The version after this pager's last write; `None` where that is not known, and the next look
    /// learns it.
    known: Option<Version>,
    /// Writes under way.
    writing: usize,
    waiting: Vec<W>,
    /// The source's length is being changed by this process.
    resizing: bool,
    /// The length was changed after the version was asked for, and before the answer came.
    outdated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckState {
    /// No write is under way, and the version is known.
    Idle,
    /// The version is being looked at, for the writes that wait.
    Looking,
    Writing,
    /// The version is being looked at after the last write.
    Learning,
    /// Someone else has written.
    Foreign,
}

/// The decision on a write.
#[derive(Debug)]
pub(super) enum Admission<W> {
    Now(W),
    /// It waits; with `look` the version is to be looked at.
    Later {
        look: bool,
    },
    Never,
}

impl<W> ForeignWrites<W> {
    pub(super) fn new(version: Version) -> Self {
        Self {
            state: CheckState::Idle,
            known: Some(version),
            writing: 0,
            waiting: Vec::new(),
            resizing: false,
            outdated: false,
        }
    }

    /// A write is to be made.
    pub(super) fn admit(&mut self, write: W) -> Admission<W> {
        match self.state {
            CheckState::Foreign => Admission::Never,
            CheckState::Writing => {
                self.writing += 1;
                Admission::Now(write)
            }
            CheckState::Idle | CheckState::Looking | CheckState::Learning => {
                self.waiting.push(write);
                let look = self.state == CheckState::Idle;
                if look {
                    self.state = CheckState::Looking;
                }
                Admission::Later { look }
            }
        }
    }

    /// A write has ended. Whether the version is to be looked at.
    pub(super) fn ended(&mut self) -> bool {
        self.writing = self.writing.saturating_sub(1);
        let last = self.writing == 0 && self.state == CheckState::Writing;
        if last {
            self.state = CheckState::Learning;
        }
        last
    }

    /// The version was looked at. Returns the writes that can be made now, or those that must not
    /// be made, and why.
    pub(super) fn looked(
        &mut self,
        version: Result<Version, FailureReason>,
    ) -> Result<Vec<W>, (Vec<W>, FailureReason)> {
        let looking = self.state == CheckState::Looking;
        let outdated = std::mem::take(&mut self.outdated);
        let waiting = std::mem::take(&mut self.waiting);
        let version = match version {
            Ok(version) => version,
            // Not to know is not to know that nothing has changed.
            Err(reason) => {
                if !looking {
                    self.known = None;
                }
                self.state = CheckState::Idle;
                return Err((waiting, reason));
            }
        };
        if looking && !self.resizing && self.known.is_some_and(|known| known != version) {
            self.state = CheckState::Foreign;
            return Err((waiting, FailureReason::Changed));
        }
        self.known = (!self.resizing && !outdated).then_some(version);
        self.writing = waiting.len();
        self.state = if waiting.is_empty() { CheckState::Idle } else { CheckState::Writing };
        Ok(waiting)
    }

    /// The source's length is about to be changed by this process (`on`), or was changed or not:
    /// either way the version that follows is this process's own.
    pub(super) fn resizing(&mut self, on: bool) {
        self.resizing = on;
        self.known = None;
        // The answer to come may be the version before the change.
        self.outdated = matches!(self.state, CheckState::Looking | CheckState::Learning);
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, ForeignWrites};
    use crate::pager::core::FailureReason;
    use crate::source::Version;

    fn waits(guard: &mut ForeignWrites<u32>, write: u32, looks: bool) {
        let admission = guard.admit(write);
        assert!(matches!(admission, Admission::Later { look } if look == looks), "{admission:?}");
    }

    #[test]
    fn a_group_of_writes_is_checked_once_and_its_own_change_is_learnt() {
        let mut guard = ForeignWrites::new(Version(1, 0));
        waits(&mut guard, 10, true);
        waits(&mut guard, 11, false);
        assert_eq!(guard.looked(Ok(Version(1, 0))), Ok(vec![10, 11]));
        assert!(matches!(guard.admit(12), Admission::Now(12)));
        assert!(!guard.ended() && !guard.ended() && guard.ended());
        waits(&mut guard, 13, false);
        assert_eq!(guard.looked(Ok(Version(2, 0))), Ok(vec![13]));
        assert!(guard.ended());
        assert_eq!(guard.looked(Ok(Version(3, 0))), Ok(vec![]));
        waits(&mut guard, 14, true);
        assert_eq!(guard.looked(Ok(Version(3, 0))), Ok(vec![14]));
    }

    #[test]
    fn another_version_ends_all_writes_for_good() {
        let mut guard = ForeignWrites::new(Version(1, 0));
        waits(&mut guard, 10, true);
        assert_eq!(guard.looked(Ok(Version(9, 0))), Err((vec![10], FailureReason::Changed)));
        assert!(matches!(guard.admit(11), Admission::Never));
    }

    #[test]
    fn a_version_that_cannot_be_read_fails_the_writes_and_is_asked_for_again() {
        let mut guard = ForeignWrites::new(Version(1, 0));
        waits(&mut guard, 10, true);
        assert_eq!(guard.looked(Err(FailureReason::Short)), Err((vec![10], FailureReason::Short)));
        waits(&mut guard, 11, true);
        assert_eq!(guard.looked(Ok(Version(9, 0))), Err((vec![11], FailureReason::Changed)));
    }

    #[test]
    fn a_change_of_length_by_this_process_is_not_someone_elses() {
        let mut guard = ForeignWrites::new(Version(1, 0));
        guard.resizing(true);
        waits(&mut guard, 10, true);
        assert_eq!(guard.looked(Ok(Version(2, 0))), Ok(vec![10]));
        assert!(guard.ended());
        assert_eq!(guard.looked(Ok(Version(2, 0))), Ok(vec![]));
        guard.resizing(false);
        waits(&mut guard, 11, true);
        assert_eq!(guard.looked(Ok(Version(3, 0))), Ok(vec![11]));
    }

    #[test]
    fn a_version_asked_for_before_a_change_of_length_is_not_learnt_after_it() {
        let mut guard = ForeignWrites::new(Version(1, 0));
        waits(&mut guard, 10, true);
        assert_eq!(guard.looked(Ok(Version(1, 0))), Ok(vec![10]));
        assert!(guard.ended());
        guard.resizing(true);
        guard.resizing(false);
        assert_eq!(guard.looked(Ok(Version(2, 0))), Ok(vec![]));
        waits(&mut guard, 11, true);
        assert_eq!(guard.looked(Ok(Version(3, 0))), Ok(vec![11]));
    }
}
