//! The report of `folio doctor`: the features that the machine offers the pager, the features in
//! use, and the reasons for the others.

use super::{Choice, Delivery, Features, Masks, probe, probe::Probe};
use crate::error::Result;
use crate::sys::cgroup::Groups;
use crate::sys::process;

/// One thing that the pager can use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capability {
    /// The word that `FOLIO_FEATURES` knows it by.
    pub name: &'static str,
    /// Its purpose.
    pub purpose: &'static str,
    /// Whether the machine offers it: it was tried.
    pub available: bool,
    /// Whether the pager uses it.
    pub used: bool,
    /// The reason why it is not used: the kernel's answer, or the mask.
    pub why_not: Option<String>,
    /// The pager's second way, where it is not used.
    pub second_way: Option<&'static str>,
}

/// The features that the machine offers the pager, and those that the pager uses under the
/// environment's masks.
///
/// `FOLIO_FEATURES` (as `-move,-poison`) and `FOLIO_DELIVERY` (`uffd`, `syscall`, `device`,
/// `user-mode-only` or `signal`) take away from it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The kernel's release, as uname(2) gives it.
    pub kernel: String,
    /// Bytes of a page.
    pub page_size: usize,
    /// How faults of read-only objects reach the pager.
    pub delivery: Delivery,
    /// The same for objects with one writer.
    pub written_delivery: Delivery,
    /// The same for objects that several handles write.
    pub shared_delivery: Delivery,
    /// Why each better delivery is not used: its name, and the reason.
    pub better: Vec<(&'static str, String)>,
    /// The features that the pager can use.
    pub capabilities: Vec<Capability>,
    /// The engine that reads and writes local files: `io_uring` or `threads`.
    pub io_engine: &'static str,
    /// The mode of transparent huge pages: `always`, `madvise` or `never`. `None`: the kernel has
    /// none.
    pub huge_pages: Option<String>,
    /// vm.max_map_count: the most areas that a process may have.
    pub max_map_count: Option<u64>,
    /// Areas that this process has.
    pub areas: usize,
    /// The soft RLIMIT_MEMLOCK in bytes; `None` for unlimited.
    pub locked_limit: Option<u64>,
    /// The least limit of the memory cgroups that this process is in, in bytes; `None` if there is
    /// none.
    pub cgroup_limit: Option<u64>,
    /// Bytes of memory the machine has.
    pub memory_total: Option<u64>,
}

impl Report {
    /// The present state. The kernel's features are tried once in a process, limits are read at
    /// each call.
    ///
    /// # Errors
    ///
    /// A word of `FOLIO_FEATURES` or `FOLIO_DELIVERY` that nobody knows, or a delivery that the
    /// machine does not offer.
    pub fn now() -> Result<Self> {
        let masks = Masks::from_environment()?;
        let probe = Probe::machine();
        let choice = Choice::make(probe, masks.features, masks.forced)?;
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            page_size: rustix::param::page_size(),
            delivery: choice.delivery,
            written_delivery: choice.written_delivery,
            shared_delivery: choice.shared_delivery,
            capabilities: super::NAMES
                .iter()
                .map(|known| capability(known, probe, &choice))
                .collect(),
            io_engine: if choice.features.contains(Features::IO_URING) {
                "io_uring"
            } else {
                "threads"
            },
            huge_pages: probe::huge_mode().ok(),
            max_map_count: process::sysctl("vm/max_map_count"),
            areas: process::vma_count(),
            locked_limit: process::limit(rustix::process::Resource::Memlock),
            cgroup_limit: Groups::now().memory_limit(),
            memory_total: memory_total(),
            better: choice.better,
        })
    }
}

fn capability(known: &super::Known, probe: &Probe, choice: &Choice) -> Capability {
    let used = choice.features.contains(known.feature);
    Capability {
        name: known.name,
        purpose: known.purpose,
        available: probe.offered.contains(known.feature),
        used,
        why_not: choice.why_not(known.feature).map(str::to_owned),
        second_way: (!used).then_some(known.second_way),
    }
}

fn memory_total() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn the_report_gives_a_reason_and_a_second_way_for_all_that_is_not_used() {
        let report = Report::now().unwrap();
        assert!(report.page_size.is_power_of_two() && report.areas > 0, "{report:?}");
        for capability in &report.capabilities {
            assert!(!capability.used || capability.available, "{capability:?}");
            assert_eq!(capability.why_not.is_some(), !capability.used, "{capability:?}");
            assert_eq!(capability.second_way.is_some(), !capability.used, "{capability:?}");
        }
    }
}
