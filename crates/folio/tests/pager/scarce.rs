//! Where something is scarce: memory of a cgroup, memory of the machine, areas of the process. And
//! where there is much of it.

use crate::common::effort::scaled;
use crate::common::random::Random;
use crate::common::{End, child_succeeds, disk_dir, in_child, skip, spawn_child, wait};
use crate::given::{MIB, is_one_way, pager, pattern};
use folio::source::{Function, LocalFile, Memory, Zeros};
use folio::{Advice, Errno, FaultCause, Pager, WorkingSet};
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A memory cgroup with a limit (version 1, which lets a process with children have one), gone with
/// this value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(limit: usize) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own
            .lines()
            .find_map(|line| line.split_once(":memory:"))
            .map(|(_, path)| path.to_owned())?;
        let name =
            format!("folio-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(format!("/sys/fs/cgroup/memory{path}")).join(name);
        fs::create_dir(&dir).ok()?;
        let group = Self(dir);
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(group)
    }

    /// Puts the calling process into it: in children only.
    fn join(&self) {
        fs::write(self.0.join("cgroup.procs"), "0").unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may still be in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Bytes that cost nothing to hold, and little to make.
fn made(len: usize) -> Function {
    Function::new("made", len as u64, |_, buffer: &mut [u8]| {
        buffer.fill(5);
        Ok(())
    })
}

#[test]
fn a_pager_lives_in_a_cgroup_with_little_more_than_its_budget() {
    let Some(group) = Cgroup::new(40 * MIB) else {
        return skip("no memory cgroup of version 1 can be made");
    };
    let dir = disk_dir();
    let end = in_child(|| {
        group.join();
        let pager = pager(16 * MIB);
        let map = pager.map(made(128 * MIB)).unwrap();
        assert!(map.iter().step_by(4_096).all(|&byte| byte & 1 == 1));
        let mut written =
            pager.map_mut(LocalFile::create(dir.path().join("file"), 64 << 20).unwrap()).unwrap();
        let mut private = pager.map_private(Zeros::new(64 << 20)).unwrap();
        let shared =
            pager.map_shared(folio::source::WritableMemory::new(vec![0; 2 * MIB])).unwrap();
        for at in (0..64 * MIB).step_by(4_096) {
            (written[at], private[at]) = (7, 8);
            shared.view().unwrap().set(at % (2 * MIB), 9);
        }
        assert!((0..64 * MIB).step_by(4_096).all(|at| (written[at], private[at]) == (7, 8)));
        written.close().unwrap();
    });
    assert_eq!(end, End::Exited(0), "a kill (9) is the kernel's, for memory");
}

/// The kernel's notification of memory pressure (Documentation/accounting/psi.rst): the same that a
/// pager asks for.
struct Watch(fs::File);

impl Watch {
    fn new() -> Option<Self> {
        let mut file =
            fs::File::options().read(true).write(true).open("/proc/pressure/memory").ok()?;
        file.write_all(b"some 200000 2000000\0").ok()?;
        Some(Self(file))
    }

    /// Whether the kernel reports pressure within this time.
    fn felt(&self, wait: Duration) -> bool {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // SAFETY: one descriptor.
        unsafe { libc::poll(&raw mut fd, 1, wait.as_millis() as i32) == 1 }
    }
}

#[test]
fn a_pager_gives_memory_back_while_the_machine_is_short_of_it() {
    // It takes long, and has little to do with the way in which faults come.
    if is_one_way() {
        return;
    }
    let Some(watch) = Watch::new() else { return skip("no pressure information here") };
    let Some(group) = Cgroup::new(16 * MIB) else {
        return skip("no memory cgroup of version 1 can be made");
    };
    let pager = Pager::builder().budget(64 * MIB).shrink_under_pressure(true).build().unwrap();
    let map = pager.map(made(64 * MIB)).unwrap();
    assert!(map.iter().step_by(4_096).all(|&byte| byte & 1 == 1));
    assert!(pager.stats().unwrap().resident_bytes > 56 << 20, "{:?}", pager.stats());
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, vec![1; 128 * MIB]).unwrap();
    let file = fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    // The next reader is charged for it.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    // Reads a file through far too little memory for it.
    let (hog, _) = spawn_child(|| {
        group.join();
        let map = folio::FileMap::open(&path).unwrap();
        map.advise(.., Advice::Random).unwrap();
        let mut random = Random(1);
        loop {
            map.read::<u8>(random.below(map.len())).unwrap();
        }
    });
    let felt = watch.felt(Duration::from_secs(20));
    let end = Instant::now() + Duration::from_secs(20);
    while felt && pager.stats().unwrap().resident_bytes > 48 << 20 {
        assert!(Instant::now() < end, "{:?}", pager.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: the child is this test's.
    unsafe { libc::kill(hog, libc::SIGKILL) };
    wait(hog);
    assert!(map.iter().step_by(4_096).all(|&byte| byte == 5), "the bytes are the same");
    if !felt {
        skip("the machine was never short of memory");
    }
}

/// Splits a map of its own until the process has all but `left` of the areas that it may have: in
/// children only. Dropping the result undoes that.
fn fill_areas(left: usize) -> folio::Reservation {
    let limit: usize =
        fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    let mut areas = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let page = crate::common::page();
    let reservation = folio::Reservation::new((limit + 16) * page).unwrap();
    for index in (1..limit).step_by(2) {
        if areas + left >= limit {
            break;
        }
        // SAFETY: a page of the reservation, which nobody uses.
        let done = unsafe {
            libc::mprotect(reservation.as_ptr().add(index * page).cast(), page, libc::PROT_READ)
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        areas += 2;
    }
    reservation
}

#[test]
fn near_the_limit_of_areas_a_page_is_right_or_an_error_and_later_it_is_right() {
    child_succeeds(|| {
        let pager = pager(32 * MIB);
        let bytes = pattern(48 * MIB);
        let map = pager.map(Memory::from(bytes.clone())).unwrap();
        let mut private = pager.map_private(Memory::from(bytes.clone())).unwrap();
        map.advise(.., Advice::Random).unwrap();
        private.advise(.., Advice::Random).unwrap();
        let filled = fill_areas(100);
        // Every other unit of 64 KiB is an area of its own where faults come as signals.
        let mut refused = 0;
        for at in (0..48 * MIB).step_by(128 << 10) {
            match map.read_at(&mut [0], at) {
                Ok(()) => assert_eq!(map[at], bytes[at], "byte {at}"),
                Err(error) => {
                    assert_eq!(error.fault().unwrap().cause(), FaultCause::NoBacking, "{error}");
                    refused += 1;
                }
            }
            match private.write_at(&[99], at + 5) {
                Ok(()) => assert_eq!(private[at + 5], 99),
                Err(error) => assert!(error.fault().is_some(), "{error}"),
            }
        }
        // Where userfaultfd serves the maps they have one area each.
        assert!(std::env::var("FOLIO_DELIVERY").is_ok_and(|way| way == "signal") || refused == 0);
        drop(filled);
        assert!(map[..] == bytes[..]);
        for at in (0..48 * MIB).step_by(128 << 10) {
            private.write_at(&[99], at + 5).unwrap();
        }
        assert!(
            (0..48 * MIB)
                .step_by(128 << 10)
                .all(|at| private[at + 5] == 99 && private[at] == bytes[at])
        );
    });
}

#[test]
fn a_budget_of_several_gibibytes_is_used() {
    // 5 GiB with a budget of 3 in a thorough run.
    let (len, budget) = ((scaled(5 << 10) as usize) << 20, (scaled(3 << 10) as usize) << 20);
    if is_one_way() {
        return;
    }
    let available = fs::read_to_string("/proc/meminfo").unwrap();
    let available: usize = available
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    if available << 10 < 2 * budget {
        return skip("needs twice as much free memory as the budget");
    }
    child_succeeds(|| {
        let pager = pager(budget);
        let map = pager.map(made(len)).unwrap();
        for at in (0..len).step_by(4_096) {
            assert_eq!(map[at] & 1, 1, "byte {at}");
        }
        let stats = pager.stats().unwrap();
        assert!(stats.resident_bytes > budget as u64 / 10 * 9, "{stats:?}");
        assert!(stats.resident_bytes + stats.record_bytes <= budget as u64, "{stats:?}");
        let fifth = len / 5 / 4_096 * 4_096;
        // Others find room in it at once.
        let mut other = pager.map_private(Zeros::new(budget as u64 / 12)).unwrap();
        other.fill(3);
        assert!(other.iter().step_by(4_096).all(|&byte| byte == 3));
        let pinned = map.pin(fifth..3 * fifth).unwrap();
        assert!(pinned.iter().step_by(1 << 16).all(|&byte| byte & 1 == 1));
    });
}

#[test]
fn a_working_set_larger_than_the_budget_is_replayed_within_it() {
    let dir = disk_dir();
    let pager = pager(4 * MIB);
    let bytes = pattern(24 * MIB);
    let map = pager.map(Memory::from(bytes.clone())).unwrap();
    map.record(true).unwrap();
    assert!(map[..] == bytes[..]);
    let recorded = map.recorded().unwrap();
    let sum: usize = recorded.ranges().iter().map(std::ops::Range::len).sum();
    assert!(sum >= 24 * MIB, "{sum}");
    assert!(map.recorded().unwrap().ranges().is_empty(), "it was taken");
    recorded.save(dir.path().join("set")).unwrap();
    let set = WorkingSet::load(dir.path().join("set")).unwrap();
    assert_eq!(set, recorded);
    map.advise(.., Advice::Cold).unwrap();
    for _ in 0..3 {
        map.prefetch(set.ranges()).unwrap();
        let stats = pager.stats().unwrap();
        assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
    }
    assert!(map[..] == bytes[..]);
    // Of a longer object: nothing of it is prefetched.
    let shorter = pager.map(Memory::from(vec![1; MIB])).unwrap();
    assert_eq!(shorter.prefetch(set.ranges()).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_file_that_is_no_working_set_is_einval_and_names_the_line() {
    let dir = disk_dir();
    let path = dir.path().join("set");
    let max = usize::MAX;
    let good = "folio working set 1\n";
    for (text, line) in [
        (String::new(), 1),
        ("another file\n0 1\n".into(), 1),
        (format!("{good}0 4096\n5\n"), 3),
        (format!("{good}-1 5\n"), 2),
        (format!("{good}1 2 3\n"), 2),
        (format!("{good}{max} 2\n"), 2),
        (format!("{good}0 4096\n\n"), 3),
    ] {
        fs::write(&path, &text).unwrap();
        let error = WorkingSet::load(&path).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL, "{text:?}: {error}");
        assert!(error.to_string().contains(&format!("line {line}")), "{text:?}: {error}");
    }
    fs::write(&path, [0xFF, 0xFE]).unwrap();
    WorkingSet::load(&path).unwrap_err();
    WorkingSet::load(dir.path().join("absent")).unwrap_err();
}
