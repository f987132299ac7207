//! Whether someone else writes to an object that this pager writes: its version tells.
//!
//! A pager's own writes change the version too. So the version is looked at before the first write of a group, while no write
//! is under way, and learnt again after the last. A write of someone else's in between goes unnoticed, as does one within the
//! granularity of the version. Once another version is seen no write is made any more: whole pages would overwrite the other
//! writer's bytes.

use super::core::Reason;
use crate::source::Version;

/// What is known of an object's version, and the writes that wait to know more.
#[derive(Debug)]
pub(super) struct Guard<W> {
    state: State,
    /// The version after this pager's last write; `None` where that is not known, and the next look learns it.
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
enum State {
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

/// What becomes of a write.
#[derive(Debug)]
pub(super) enum Admission<W> {
    Now(W),
    /// It waits; with `look` the version is to be looked at.
    Later {
        look: bool,
    },
    Never,
}

impl<W> Guard<W> {
    pub(super) fn new(version: Version) -> Self {
        Self {
            state: State::Idle,
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
            State::Foreign => Admission::Never,
            State::Writing => {
                self.writing += 1;
                Admission::Now(write)
            }
            State::Idle | State::Looking | State::Learning => {
                self.waiting.push(write);
                let look = self.state == State::Idle;
                if look {
                    self.state = State::Looking;
                }
                Admission::Later { look }
            }
        }
    }

    /// A write has ended. Whether the version is to be looked at.
    pub(super) fn ended(&mut self) -> bool {
        self.writing = self.writing.saturating_sub(1);
        let last = self.writing == 0 && self.state == State::Writing;
        if last {
            self.state = State::Learning;
        }
        last
    }

    /// The version was looked at. Returns the writes that can be made now, or those that must not be made, and why.
    pub(super) fn looked(&mut self, version: Result<Version, Reason>) -> Result<Vec<W>, (Vec<W>, Reason)> {
        let looking = self.state == State::Looking;
        let outdated = std::mem::take(&mut self.outdated);
        let waiting = std::mem::take(&mut self.waiting);
        let version = match version {
            Ok(version) => version,
            // Not to know is not to know that nothing has changed.
            Err(reason) => {
                if !looking {
                    self.known = None;
                }
                self.state = State::Idle;
                return Err((waiting, reason));
            }
        };
        if looking && !self.resizing && self.known.is_some_and(|known| known != version) {
            self.state = State::Foreign;
            return Err((waiting, Reason::Changed));
        }
        self.known = (!self.resizing && !outdated).then_some(version);
        self.writing = waiting.len();
        self.state = if waiting.is_empty() { State::Idle } else { State::Writing };
        Ok(waiting)
    }

    /// The source's length is about to be changed by this process (`on`), or was changed or not: either way the version that
    /// follows is this process's own.
    pub(super) fn resizing(&mut self, on: bool) {
        self.resizing = on;
        self.known = None;
        // The answer to come may be the version before the change.
        self.outdated = matches!(self.state, State::Looking | State::Learning);
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, Guard};
    use crate::pager::core::Reason;
    use crate::source::Version;

    fn waits(guard: &mut Guard<u32>, write: u32, looks: bool) {
        let admission = guard.admit(write);
        assert!(matches!(admission, Admission::Later { look } if look == looks), "{admission:?}");
    }

    #[test]
    fn a_group_of_writes_is_checked_once_and_its_own_change_is_learnt() {
        let mut guard = Guard::new(Version(1, 0));
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
        let mut guard = Guard::new(Version(1, 0));
        waits(&mut guard, 10, true);
        assert_eq!(guard.looked(Ok(Version(9, 0))), Err((vec![10], Reason::Changed)));
        assert!(matches!(guard.admit(11), Admission::Never));
    }

    #[test]
    fn a_version_that_cannot_be_read_fails_the_writes_and_is_asked_for_again() {
        let mut guard = Guard::new(Version(1, 0));
        waits(&mut guard, 10, true);
        assert_eq!(guard.looked(Err(Reason::Short)), Err((vec![10], Reason::Short)));
        waits(&mut guard, 11, true);
        assert_eq!(guard.looked(Ok(Version(9, 0))), Err((vec![11], Reason::Changed)));
    }

    #[test]
    fn a_change_of_length_by_this_process_is_not_someone_elses() {
        let mut guard = Guard::new(Version(1, 0));
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
        let mut guard = Guard::new(Version(1, 0));
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
