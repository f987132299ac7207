//! Memory pressure of the process's cgroup, or of the machine, as the kernel tells it, and how much
//! of the budget is used under it.
//!
//! Source: Documentation/accounting/psi.rst.

use super::LEAST;
use crate::sys::cgroup::Groups;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The pressure of the whole machine.
const MACHINE: &str = "/proc/pressure/memory";

/// A tenth of two seconds in which some task waited for memory. Windows of two seconds need no
/// privilege (6.5).
const TRIGGER: &[u8] = b"some 200000 2000000\0";
/// Calm for so long gives a step back.
const CALM: Duration = Duration::from_secs(10);

/// The watch, and how far the budget is lowered.
pub(super) struct Pressure {
    file: File,
    /// Bytes that are used of the budget.
    share: usize,
    changed: Instant,
    felt: bool,
    shrunk: bool,
}

impl Pressure {
    /// `None` where the kernel has no pressure information (CONFIG_PSI), or does not let this
    /// process watch.
    pub(super) fn watch(budget: usize) -> Option<Self> {
        // A group that is short of memory need not make the machine so.
        let own = Groups::now().pressure_file();
        let file = own.and_then(|path| watched(&path)).or_else(|| watched(Path::new(MACHINE)))?;
        Some(Self { file, share: budget, changed: Instant::now(), felt: false, shrunk: false })
    }

    pub(super) fn poll_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    pub(super) fn felt(&mut self) {
        self.felt = true;
    }

    pub(super) fn is_shrunk(&self) -> bool {
        self.shrunk
    }

    /// The share to use from now on, if it changes: three quarters under pressure, an eighth of
    /// `budget` more after each calm.
    pub(super) fn change(&mut self, budget: usize) -> Option<usize> {
        let felt = std::mem::take(&mut self.felt);
        let share = if felt {
            (self.share.min(budget) / 4 * 3).max(LEAST)
        } else if self.shrunk && self.changed.elapsed() >= CALM {
            (self.share + budget / 8).min(budget)
        } else {
            return None;
        };
        (self.share, self.changed, self.shrunk) = (share, Instant::now(), share < budget);
        Some(share)
    }
}

/// A file of pressure information that tells when the trigger is met.
fn watched(path: &Path) -> Option<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).custom_flags(libc::O_NONBLOCK);
    let mut file = open.open(path).ok()?;
    file.write_all(TRIGGER).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::Pressure;
    use crate::pager::LEAST;

    #[test]
    fn pressure_lowers_the_share_and_never_below_the_least() {
        let Some(mut pressure) = Pressure::watch(64 << 20) else {
            return crate::skip::skip("no pressure information here");
        };
        assert_eq!(pressure.change(64 << 20), None);
        pressure.felt();
        assert_eq!(pressure.change(64 << 20), Some(48 << 20));
        assert!(pressure.is_shrunk());
        for _ in 0..20 {
            pressure.felt();
            pressure.change(64 << 20);
        }
        pressure.felt();
        assert_eq!(pressure.change(64 << 20), Some(LEAST));
    }
}
