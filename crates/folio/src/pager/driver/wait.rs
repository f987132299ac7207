//! Waiting for faults, commands, completions and time.

use super::{Driver, IDLE, PRESSURE, TICK};
use crate::pager::file_io::WATCHED;
use crate::pager::pressure::Pressure;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

impl Driver {
    /// Gives started operations to the kernel. The kernel takes an operation that it refuses now
    /// with the next.
    pub(super) fn submit(&mut self) {
        let _ = self.disk.submit();
        self.held_back = false;
    }

    /// Notes which descriptors have something, by their places in
    /// [`watched_fds`](Self::watched_fds).
    pub(super) fn note_ready(&mut self, fired: [bool; WATCHED]) {
        for (due, fired) in self.due.iter_mut().zip(fired) {
            *due |= fired;
        }
        if fired[PRESSURE]
            && let Some(pressure) = &mut self.pressure
        {
            pressure.felt();
        }
    }

    /// The descriptors that the driver waits for beside its operations, and their events.
    pub(super) fn watched_fds(&self) -> [(RawFd, i16); WATCHED] {
        let delivery =
            |n: usize| self.deliveries.get(n).map_or(-1, |delivery| delivery.poll_fd().as_raw_fd());
        let pressure = self.pressure.as_ref().map_or(-1, Pressure::poll_fd);
        let bell = self.inbox.signal().as_raw_fd();
        [
            (delivery(0), libc::POLLIN),
            (delivery(1), libc::POLLIN),
            (bell, libc::POLLIN),
            (pressure, libc::POLLPRI),
        ]
    }

    /// Waits for a fault, a message, or the end of an operation.
    pub(super) fn sleep(&mut self) {
        if !self.inbox.may_sleep() {
            return self.submit();
        }
        let shrunk = self.pressure.as_ref().is_some_and(Pressure::is_shrunk);
        let timeout = match (self.core.wants_ticks(), shrunk) {
            (true, _) => Some(TICK),
            (false, true) => Some(IDLE),
            (false, false) => None,
        };
        let watched = self.watched_fds();
        if self.disk.wait(watched, timeout.unwrap_or(IDLE)) {
            if self.slept.elapsed() >= IDLE {
                // Should the ring ever not report a fault, it waits no longer than this.
                self.slept = Instant::now();
                self.due = [true; 2];
            }
        } else {
            self.submit();
            self.poll(watched, timeout);
        }
        self.inbox.awake();
    }

    /// As [`FileIo::wait`], by poll(2).
    pub(super) fn poll(&mut self, watched: [(RawFd, i16); WATCHED], timeout: Option<Duration>) {
        let wait_for = |(fd, events)| libc::pollfd { fd, events, revents: 0 };
        let [one, two, three, four] = watched.map(wait_for);
        // A negative descriptor is passed over.
        let disk = wait_for((self.disk.poll_fd().unwrap_or(-1), libc::POLLIN));
        let mut fds = [one, two, three, four, disk];
        let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i32);
        // SAFETY: `fds` are as many as is said. An interrupted wait is a wait that ended.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
        self.note_ready(std::array::from_fn(|place| fds[place].revents != 0));
    }
}
