//! The features that the machine offers the pager, the masks, and the choice.
//!
//! | file | subject |
//! | --- | --- |
//! | [`probe`] | what the machine offers, found by trying |
//! | [`report`] | all of it in words, for `folio doctor` |

mod probe;
mod report;

pub(crate) use probe::Probe;
pub use report::{Capability, Report};

use crate::error::{Error, Result, Subject};
use crate::pager::sys::uffd::{UffdOpen, feature};
use crate::sys::Errno;
use std::fmt;

bitflags::bitflags! {
    /// The features that the pager can use, and can do without.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Features: u32 {
        /// UFFDIO_MOVE.
        const MOVE = 1 << 0;
        /// UFFDIO_POISON.
        const POISON = 1 << 1;
        /// Write-protection of anonymous memory.
        const WP = 1 << 2;
        /// UFFDIO_CONTINUE that protects in the same step.
        const WP_SHMEM = 1 << 3;
        /// UFFDIO_CONTINUE.
        const MINOR_SHMEM = 1 << 4;
        /// Transparent huge pages for anonymous memory.
        const HUGE = 1 << 5;
        const IO_URING = 1 << 6;
        /// A fault comes with the number of its thread.
        const THREAD_ID = 1 << 7;
    }
}

impl Features {
    const OF_USERFAULTFD: [Self; 6] =
        [Self::WP, Self::MOVE, Self::POISON, Self::MINOR_SHMEM, Self::WP_SHMEM, Self::THREAD_ID];

    /// The features that each needs besides itself.
    fn needs(self) -> Self {
        match self {
            // The staging pool is registered for write-protection only, which no fault ever waits
            // for.
            Self::MOVE => Self::WP,
            Self::WP_SHMEM => Self::WP.union(Self::MINOR_SHMEM),
            _ => Self::empty(),
        }
    }
}

/// A feature as people name it.
struct Known {
    feature: Features,
    name: &'static str,
    purpose: &'static str,
    second_way: &'static str,
}

const NAMES: [Known; 8] = [
    Known {
        feature: Features::MOVE,
        name: "move",
        purpose: "pages enter and leave a map without a copy",
        second_way: "pages are copied in; they leave by protection, copy and discard",
    },
    Known {
        feature: Features::POISON,
        name: "poison",
        purpose: "a page that cannot be supplied is marked, without an area of its own",
        second_way: "mprotect takes the page's rights, at the cost of areas",
    },
    Known {
        feature: Features::WP,
        name: "wp",
        purpose: "the first store to a clean page is seen",
        second_way: "mprotect and SIGSEGV over a memfd, in units of 64 KiB or more",
    },
    Known {
        feature: Features::WP_SHMEM,
        name: "wp_shmem",
        purpose: "the first store to a clean page of shared memory is seen",
        second_way: "mprotect and SIGSEGV over a memfd, in units of 64 KiB or more",
    },
    Known {
        feature: Features::MINOR_SHMEM,
        name: "minor",
        purpose: "shared memory is filled through a second view, and shown when it is complete",
        second_way: "mprotect and SIGSEGV over a memfd, in units of 64 KiB or more",
    },
    Known {
        feature: Features::HUGE,
        name: "huge",
        purpose: "one fault and one table entry for 2 MiB",
        second_way: "small pages",
    },
    Known {
        feature: Features::IO_URING,
        name: "io_uring",
        purpose: "reads and writes of local files under way without a thread each",
        second_way: "a pool of threads with preadv2 and pwritev2",
    },
    Known {
        feature: Features::THREAD_ID,
        name: "thread_id",
        purpose: "readahead tells the streams of threads apart",
        second_way: "streams are told apart by their addresses",
    },
];

/// How a fault reaches the pager, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// userfaultfd(2).
    Syscall,
    /// `/dev/userfaultfd`, since Linux 6.1.
    Device,
    /// userfaultfd(2) with UFFD_USER_MODE_ONLY: a system call on a missing page is EFAULT.
    UserModeOnly,
    /// SIGSEGV, with mprotect(2) over a memfd.
    Signal,
}

impl Delivery {
    /// The word that `FOLIO_DELIVERY` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syscall => "syscall",
            Self::Device => "device",
            Self::UserModeOnly => "user-mode-only",
            Self::Signal => "signal",
        }
    }

    /// How to open the userfaultfd; `None` for signals.
    pub(crate) fn way(self) -> Option<UffdOpen> {
        match self {
            Self::Syscall => Some(UffdOpen::Syscall),
            Self::Device => Some(UffdOpen::Device),
            Self::UserModeOnly => Some(UffdOpen::UserModeOnly),
            Self::Signal => None,
        }
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A delivery that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forced {
    /// The best of the ways of userfaultfd.
    Uffd,
    Only(Delivery),
}

/// The place where a choice was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Environment,
    Builder,
}

/// Why a feature is not used that was left out.
const MASKED: &str = "masked (FOLIO_FEATURES, or PagerBuilder::features)";

/// The features that options or the environment took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Masks {
    /// Features that must not be used.
    pub(crate) features: Features,
    pub(crate) forced: Option<Forced>,
}

impl Masks {
    /// `FOLIO_FEATURES` and `FOLIO_DELIVERY`; neither set masks nothing.
    pub(crate) fn from_environment() -> Result<Self> {
        let text = |name| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(Asker::Environment, &text("FOLIO_FEATURES"), &text("FOLIO_DELIVERY"))
    }

    /// The words that `asker` wrote; an error blames the asker by its names.
    pub(crate) fn parse(asker: Asker, features: &str, delivery: &str) -> Result<Self> {
        let (features_of, delivery_of) = match asker {
            Asker::Environment => ("FOLIO_FEATURES", "FOLIO_DELIVERY"),
            Asker::Builder => ("PagerBuilder::features", "PagerBuilder::delivery"),
        };
        let mut mask = Features::empty();
        let words = features.split(|c: char| c == ',' || c.is_whitespace());
        for word in words.filter(|word| !word.is_empty()) {
            let known = word
                .strip_prefix('-')
                .and_then(|name| NAMES.iter().find(|known| known.name == name));
            let Some(known) = known else {
                let all: Vec<_> = NAMES.iter().map(|known| format!("-{}", known.name)).collect();
                return Err(Error::rule(
                    "the choice of features",
                    Subject::named(features_of).with_detail(format!("the word `{word}`")),
                    "it is a list of features to leave out, each with a minus, and this is none",
                    format!("the known words are {}", all.join(", ")),
                ));
            };
            mask |= known.feature;
        }
        let forced = match delivery.trim() {
            "" => None,
            "uffd" => Some(Forced::Uffd),
            "syscall" => Some(Forced::Only(Delivery::Syscall)),
            "device" => Some(Forced::Only(Delivery::Device)),
            "user-mode-only" => Some(Forced::Only(Delivery::UserModeOnly)),
            "signal" => Some(Forced::Only(Delivery::Signal)),
            word => {
                return Err(Error::rule(
                    "the choice of delivery",
                    Subject::named(delivery_of).with_detail(format!("the word `{word}`")),
                    "it names a way in which faults reach the pager, and this is none",
                    "the known words are uffd, syscall, device, user-mode-only, signal",
                ));
            }
        };
        Ok(Self { features: mask, forced })
    }
}

/// The features that the pager uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// For objects that are only read.
    pub(crate) delivery: Delivery,
    /// For objects with one writer: their clean pages are protected.
    pub(crate) written_delivery: Delivery,
    /// For objects with several writers, which live in a memfd.
    pub(crate) shared_delivery: Delivery,
    /// The features in use. Nothing else may be used.
    pub(crate) features: Features,
    /// Pages of the private store are moved.
    pub(crate) private_store_moves: bool,
    /// The name of each better delivery that was not taken, and the reason.
    pub(crate) better: Vec<(&'static str, String)>,
    /// Each feature that is not used, and the reason.
    pub(crate) unused: Vec<(Features, String)>,
}

impl Choice {
    /// The best that `probe` offers without the features of `mask`.
    pub(crate) fn make(probe: &Probe, mask: Features, forced: Option<Forced>) -> Result<Self> {
        let (delivery, mut better) = deliver(probe, forced)?;
        let mut features = probe.offered - mask;
        let mut unused = probe.lacking.clone();
        for known in NAMES.iter().filter(|known| (mask & probe.offered).contains(known.feature)) {
            unused.push((known.feature, MASKED.to_owned()));
        }
        for known in NAMES.iter().filter(|known| (probe.offered - mask).contains(known.feature)) {
            let lost = known.feature.needs() - features;
            let why = if delivery == Delivery::Signal
                && Features::OF_USERFAULTFD.contains(&known.feature)
            {
                "it is userfaultfd's, and faults are delivered by signals".to_owned()
            } else if lost.is_empty() {
                continue;
            } else {
                let names: Vec<_> = NAMES
                    .iter()
                    .filter(|other| lost.contains(other.feature))
                    .map(|other| other.name)
                    .collect();
                format!("it needs {}, which is not used", names.join(" and "))
            };
            features -= known.feature;
            unused.push((known.feature, why));
        }
        let with =
            |needed: Features| if features.contains(needed) { delivery } else { Delivery::Signal };
        let written_delivery = with(Features::WP);
        let shared_delivery = with(Features::MINOR_SHMEM | Features::WP_SHMEM);
        if delivery != Delivery::Signal {
            let falls = [
                (written_delivery, "userfaultfd for written objects", Features::WP),
                (
                    shared_delivery,
                    "userfaultfd for shared objects",
                    Features::MINOR_SHMEM | Features::WP_SHMEM,
                ),
            ];
            for (_, name, needed) in falls.into_iter().filter(|fall| fall.0 == Delivery::Signal) {
                let reasons = unused.iter().filter(|(feature, _)| needed.contains(*feature));
                let reasons: Vec<_> =
                    reasons.map(|(feature, why)| format!("{}: {why}", name_of(*feature))).collect();
                better.push((name, reasons.join("; ")));
            }
        }
        let private_store_moves = features.contains(Features::MOVE);
        Ok(Self {
            delivery,
            written_delivery,
            shared_delivery,
            features,
            private_store_moves,
            better,
            unused,
        })
    }

    /// The features to request from UFFDIO_API for [`features`](Self::features), as [`feature`] has
    /// them.
    pub(crate) fn handshake(&self) -> u64 {
        let shmem = feature::MISSING_SHMEM | feature::MINOR_SHMEM;
        let asked = [
            (Features::WP, feature::PAGEFAULT_FLAG_WP),
            (Features::MOVE, feature::MOVE),
            (Features::POISON, feature::POISON),
            (Features::MINOR_SHMEM, shmem),
            (Features::WP_SHMEM, shmem | feature::WP_HUGETLBFS_SHMEM),
            (Features::THREAD_ID, feature::THREAD_ID),
        ];
        let used = asked.into_iter().filter(|(feature, _)| self.features.contains(*feature));
        used.fold(0, |bits, (_, bit)| bits | bit)
    }

    /// Why a feature is not used; `None` if it is.
    pub(crate) fn why_not(&self, feature: Features) -> Option<&str> {
        self.unused.iter().find(|(unused, _)| *unused == feature).map(|(_, why)| why.as_str())
    }
}

fn name_of(feature: Features) -> &'static str {
    NAMES.iter().find(|known| known.feature == feature).map_or("a feature", |known| known.name)
}

/// The delivery, and why none of the better ones.
fn deliver(
    probe: &Probe,
    forced: Option<Forced>,
) -> Result<(Delivery, Vec<(&'static str, String)>)> {
    let mut better = Vec::new();
    for (way, state) in &probe.ways {
        match (forced, state) {
            (Some(Forced::Only(only)), Ok(())) if only != *way => {
                better.push((
                    way.name(),
                    format!("{only} was asked for (FOLIO_DELIVERY, or PagerBuilder::delivery)"),
                ));
            }
            (_, Ok(())) => return Ok((*way, better)),
            (Some(Forced::Only(only)), Err(why)) if only == *way => {
                return Err(missing(only.name(), why));
            }
            (_, Err(why)) => better.push((way.name(), why.clone())),
        }
    }
    if forced == Some(Forced::Uffd) {
        let reasons: Vec<_> = better.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        return Err(missing("uffd", &reasons.join("; ")));
    }
    Ok((Delivery::Signal, better))
}

fn missing(asked: &str, why: &str) -> Error {
    Error::rule_as(
        Errno::OPNOTSUPP,
        "the choice of delivery",
        Subject::named("a pager").with_detail(format!("delivery {asked}")),
        format!("this machine does not offer it: {why}"),
        "ask for no delivery (FOLIO_DELIVERY, PagerBuilder::delivery), and folio takes the best that there is; signal \
         is always there",
    )
}

#[cfg(test)]
mod tests {
    use super::{Asker, Choice, Delivery, Features, Forced, MASKED, Masks, NAMES, Probe};
    use crate::pager::sys::uffd::Uffd;
    use crate::sys::check;

    /// A machine that has everything.
    fn rich() -> Probe {
        Probe {
            ways: [Delivery::Syscall, Delivery::Device, Delivery::UserModeOnly]
                .map(|way| (way, Ok(()))),
            offered: Features::all(),
            lacking: Vec::new(),
        }
    }

    #[test]
    fn words_may_be_separated_by_commas_and_spaces() {
        let masks =
            Masks::parse(Asker::Builder, " -move, -poison  -io_uring,,", " device ").unwrap();
        assert_eq!(masks.features, Features::MOVE | Features::POISON | Features::IO_URING);
        assert_eq!(masks.forced, Some(Forced::Only(Delivery::Device)));
        assert_eq!(
            Masks::parse(Asker::Environment, "", "").unwrap(),
            Masks { features: Features::empty(), forced: None }
        );
    }

    #[test]
    fn an_unknown_word_is_an_error_that_lists_the_known_ones() {
        for (features, delivery, known) in [
            ("-mov", "", "-io_uring"),
            ("move", "", "-wp_shmem"),
            ("-", "", "-move"),
            ("", "sysfs", "user-mode-only"),
        ] {
            let error =
                Masks::parse(Asker::Environment, features, delivery).unwrap_err().to_string();
            assert!(error.contains(known), "{error}");
        }
    }

    #[test]
    fn a_masked_feature_is_not_used_and_says_so() {
        for known in &NAMES {
            let masks = Masks::parse(Asker::Builder, &format!("-{}", known.name), "").unwrap();
            let choice = Choice::make(&rich(), masks.features, None).unwrap();
            assert!(!choice.features.contains(known.feature), "{}", known.name);
            assert_eq!(choice.why_not(known.feature), Some(MASKED), "{}", known.name);
            assert_eq!(choice.delivery, Delivery::Syscall);
            let tracks = known.feature != Features::WP;
            assert_eq!(choice.written_delivery == Delivery::Syscall, tracks, "{}", known.name);
            let shares = tracks
                && known.feature != Features::MINOR_SHMEM
                && known.feature != Features::WP_SHMEM;
            assert_eq!(choice.shared_delivery == Delivery::Syscall, shares, "{}", known.name);
            assert_eq!(
                choice.private_store_moves,
                tracks && known.feature != Features::MOVE,
                "{}",
                known.name
            );
        }
        let choice = Choice::make(&rich(), Features::empty(), None).unwrap();
        assert_eq!(
            (choice.features, choice.unused.len(), choice.better.len()),
            (Features::all(), 0, 0)
        );
    }

    #[test]
    fn signals_use_nothing_of_userfaultfd() {
        let forced = Some(Forced::Only(Delivery::Signal));
        let choice = Choice::make(&rich(), Features::empty(), forced).unwrap();
        assert_eq!(choice.features, Features::HUGE | Features::IO_URING);
        assert_eq!(choice.shared_delivery, Delivery::Signal);
        assert_eq!(choice.better.len(), 3);
    }

    #[test]
    fn a_forced_delivery_that_is_missing_is_an_error_that_says_why() {
        let mut probe = rich();
        probe.ways[1].1 = Err("nobody made the node".to_owned());
        let forced = |forced| Choice::make(&probe, Features::empty(), Some(forced));
        let error = forced(Forced::Only(Delivery::Device)).unwrap_err().to_string();
        assert!(error.contains("nobody made the node") && error.contains("device"), "{error}");
        assert_eq!(
            forced(Forced::Only(Delivery::UserModeOnly)).unwrap().delivery,
            Delivery::UserModeOnly
        );
        for way in &mut probe.ways {
            way.1 = Err("nobody made the node".to_owned());
        }
        let forced = |forced| Choice::make(&probe, Features::empty(), Some(forced));
        assert!(forced(Forced::Uffd).unwrap_err().to_string().contains("nobody made the node"));
        assert_eq!(forced(Forced::Only(Delivery::Signal)).unwrap().delivery, Delivery::Signal);
    }

    #[test]
    fn the_probe_agrees_with_itself() {
        let (first, second) = (Probe::new(), Probe::new());
        assert_eq!(first, second);
        for known in &NAMES {
            let lacks = first.lacking.iter().any(|(feature, _)| *feature == known.feature);
            assert_ne!(first.offered.contains(known.feature), lacks, "{}", known.name);
        }
    }

    #[test]
    fn the_kernel_takes_what_the_choice_asks_of_it() {
        for known in &NAMES {
            let choice = Choice::make(Probe::machine(), known.feature, None).unwrap();
            let Some(way) = choice.delivery.way() else { return };
            let offered = Uffd::open(way).unwrap().handshake(choice.handshake()).unwrap();
            assert_eq!(offered & choice.handshake(), choice.handshake(), "{}", known.name);
        }
        let none = Choice::make(&rich(), Features::all(), None).unwrap();
        assert_eq!(none.handshake(), 0);
    }

    /// From here on userfaultfd(2) is EPERM in this process.
    fn deny_userfaultfd() {
        const LOAD_NUMBER: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
        let mut filter = [
            step(LOAD_NUMBER, 0, 0, 0),
            step(JUMP_IF_EQUAL, 0, 1, libc::SYS_userfaultfd as u32),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the kernel copies the filter, which has `len` entries.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_usize, 0_usize, 0_usize, 0_usize))
                .unwrap();
            check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
                .unwrap();
        }
    }

    #[test]
    fn where_seccomp_denies_the_call_another_way_is_taken_and_the_reason_given() {
        // SAFETY: the child probes, and ends without running what the parent's threads left.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let good = std::panic::catch_unwind(|| {
                deny_userfaultfd();
                let probe = Probe::new();
                let choice = Choice::make(&probe, Features::empty(), None).unwrap();
                let reason = |name| {
                    choice.better.iter().find(|better| better.0 == name).map(|better| &better.1)
                };
                let denied = reason("syscall").is_some_and(|why| why.contains("EPERM"));
                let forced =
                    Choice::make(&probe, Features::empty(), Some(Forced::Only(Delivery::Syscall)));
                let says = forced.is_err_and(|error| error.to_string().contains("EPERM"));
                let other = match choice.delivery {
                    Delivery::Device => reason("user-mode-only").is_none(),
                    Delivery::Signal => {
                        reason("user-mode-only").is_some_and(|why| why.contains("seccomp"))
                    }
                    Delivery::Syscall | Delivery::UserModeOnly => false,
                };
                denied && says && other
            });
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!good.unwrap_or(false))) };
        }
        let mut status = 0;
        // SAFETY: the child is this test's.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "status {status:#x}");
    }
}
