//! Requests whose size or wait another party decides: they end in an error, and never in an abort,
//! the OOM killer or a hang.

use crate::common::{
    child_succeeds, disk_dir, file_with, is_root, lower_limit, page, pattern, skip, spawn_child,
    wait,
};
use folio::source::LocalFile;
use folio::{Anon, Errno, FileMap, FileMapMut, FileMapPrivate, MapFlags, Prot, WorkingSet, raw};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::null_mut;

/// A sparse file on a file system that takes one of so many bytes.
fn sparse_file(dir: &Path, bytes: u64) -> Option<File> {
    let file =
        File::options().read(true).write(true).create_new(true).open(dir.join("sparse")).unwrap();
    if let Err(error) = file.set_len(bytes) {
        skip(&format!("no sparse file of {bytes} bytes here: {error}"));
        return None;
    }
    Some(file)
}

#[test]
fn a_vector_of_more_bytes_than_memory_is_an_error() {
    let dir = disk_dir();
    let Some(file) = sparse_file(dir.path(), 15 << 40) else { return };
    let map = FileMap::map(&file).unwrap();
    let error = map.read_vec(..).unwrap_err();
    assert_eq!(error.errno(), Errno::NOMEM);
    for part in ["read_vec", "16492674416640 bytes", "smaller pieces"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert_eq!(map.read_vec(4096..8192).unwrap(), [0; 4096]);
}

#[test]
fn the_residency_of_a_sparse_terabyte_takes_little_memory() {
    let dir = disk_dir();
    let Some(file) = sparse_file(dir.path(), 256 << 30) else { return };
    child_succeeds(|| {
        let map = FileMap::map(&file).unwrap();
        map.read::<u8>(5 * page()).unwrap();
        lower_limit(libc::RLIMIT_DATA, 24 << 20);
        let pages = map.residency(..).unwrap().known().expect("it is this user's file");
        assert_eq!(pages.total_bytes() as u64, 256 << 30);
        assert!(pages.is_resident(5) && pages.runs().iter().any(|run| run.contains(&5)));
        assert!(pages.resident_bytes() <= 64 << 20, "{} bytes", pages.resident_bytes());
    });
}

#[test]
fn residency_is_the_same_by_runs_by_page_and_in_order() {
    let mut block = Anon::new(200_000 * page()).unwrap();
    // The kernel is asked for 65,536 pages at a time: runs across that border are one.
    let touched = [0..1, 7..9, 65_530..65_540, 131_071..131_073, 199_999..200_000];
    for page_number in touched.iter().cloned().flatten() {
        block[page_number * page()] = 1;
    }
    let pages = block.residency(..).unwrap().known().unwrap();
    let order: Vec<_> = pages.iter().collect();
    assert_eq!(order.len(), 200_000);
    for run in &touched {
        assert!(run.clone().all(|number| order[number] && pages.is_resident(number)), "{run:?}");
    }
    let runs = pages.runs();
    assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{runs:?}");
    let by_runs = runs.iter().cloned().flatten().count();
    assert_eq!(by_runs, order.iter().filter(|&&resident| resident).count());
    assert_eq!(pages.resident_bytes(), by_runs * page());
    assert!(
        order.iter().enumerate().all(|(number, &resident)| pages.is_resident(number) == resident)
    );
    assert!(!pages.is_resident(200_000));
}

/// A memory cgroup of version 1 with a limit, for this process's children; removed at the end.
struct Group(std::path::PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Self> {
        let path =
            Path::new("/sys/fs/cgroup/memory").join(format!("folio-bounds-{}", std::process::id()));
        let made = is_root()
            && std::fs::create_dir(&path).is_ok()
            && std::fs::write(path.join("memory.limit_in_bytes"), bytes.to_string()).is_ok();
        if !made {
            let _ = std::fs::remove_dir(&path);
            skip("no memory cgroup of version 1 can be made");
        }
        made.then_some(Self(path))
    }

    fn enter(&self) {
        std::fs::write(self.0.join("cgroup.procs"), "0").unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_reader_without_an_end_is_an_error_before_memory_is_out() {
    let Some(group) = Group::new(128 << 20) else { return };
    child_succeeds(|| {
        group.enter();
        let error = Anon::read_from(File::open("/dev/zero").unwrap()).unwrap_err();
        assert_eq!(error.errno(), Errno::NOMEM);
        assert!(error.to_string().contains("cgroup"), "{error}");
    });
}

#[test]
fn a_limit_ends_a_reader_without_an_end() {
    let zero = File::open("/dev/zero").unwrap();
    for limit in [0, 1, 4096, 100_000] {
        let error = Anon::read_from_at_most(&zero, limit).unwrap_err();
        assert_eq!(error.errno(), Errno::FBIG);
        assert!(error.to_string().contains(&limit.to_string()), "{error}");
    }
    let dir = disk_dir();
    let bytes = pattern(25);
    let path = file_with(dir.path(), &bytes);
    let length = bytes.len();
    for limit in [length, length + 1, usize::MAX] {
        let file = File::open(&path).unwrap();
        assert!(Anon::read_from_at_most(&file, limit).unwrap()[..] == bytes);
    }
    assert_eq!(Anon::read_from_at_most(File::open("/dev/null").unwrap(), 0).unwrap().len(), 0);
}

#[test]
fn no_way_to_open_waits_for_the_other_end_of_a_fifo() {
    let dir = disk_dir();
    let path = dir.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // A child: a call that hangs is ended by its alarm.
    child_succeeds(|| {
        for (way, result) in [
            ("read", FileMap::open(&path).map(drop)),
            ("write", FileMapMut::open(&path).map(drop)),
            ("create", FileMapMut::create(&path, 4096).map(drop)),
            ("private", FileMapPrivate::open(&path).map(drop)),
        ] {
            assert_eq!(result.unwrap_err().errno(), Errno::NODEV, "{way}");
        }
        for opened in [
            LocalFile::open(&path),
            LocalFile::open_writable(&path),
            LocalFile::create(&path, 4096),
        ] {
            assert!(opened.unwrap_err().to_string().contains("is a pipe"));
        }
        let segment = folio::shm::SegmentOptions::new().open_file::<u64>(&path);
        assert!(segment.is_err());
        assert!(folio::shm::Log::open_or_create_file(&path, 1 << 16).is_err());
        assert!(folio::shm::Channel::open_or_create_file(&path, 1 << 16).is_err());
    });
}

#[test]
fn an_opened_file_does_not_keep_the_flag_that_opened_it() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"bytes");
    let map = FileMap::open(&path).unwrap();
    let flags = rustix::fs::fcntl_getfl(map.file().expect("it keeps its descriptor")).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{flags:?}");
}

#[test]
fn a_file_with_a_lease_is_opened_when_its_holder_gives_it_up() {
    const F_SETLEASE: i32 = 1024;
    let dir = disk_dir();
    let path = file_with(dir.path(), b"bytes");
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: both were just made and have no other owner.
    let (reader, writer) =
        unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    let (pid, _output) = spawn_child(|| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(&path).unwrap();
        // SAFETY: these calls change the signals of this child, which has one thread, and the lease
        // of its file.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGIO);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, null_mut());
            let leased = libc::fcntl(file.as_raw_fd(), F_SETLEASE, libc::F_RDLCK) == 0;
            rustix::io::write(&writer, &[u8::from(leased)]).unwrap();
            if leased {
                // The kernel notifies the holder of the lease, and waits for it.
                let mut signal = 0;
                libc::sigwait(&raw const set, &raw mut signal);
                libc::usleep(100_000);
                assert_eq!(libc::fcntl(file.as_raw_fd(), F_SETLEASE, libc::F_UNLCK), 0);
            }
        }
    });
    let mut leased = [0];
    File::from(reader).read_exact(&mut leased).unwrap();
    if leased == [1] {
        // To write breaks a lease for reading.
        assert_eq!(FileMapMut::open(&path).unwrap().read_vec(..).unwrap(), b"bytes");
    } else {
        skip("this file system has no leases");
    }
    assert_eq!(wait(pid), crate::common::End::Exited(0));
}

/// Bytes of this process that are resident and its own.
fn own_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

#[test]
fn a_map_that_cannot_be_unmapped_at_the_limit_of_vmas_gives_its_memory_back() {
    const BYTES: usize = 32 << 20;
    child_succeeds(|| {
        // Side by side the kernel merges them into one VMA.
        let free = Anon::new(3 * BYTES).unwrap();
        let base = free.as_ptr() as usize;
        drop(free);
        let block = |index| folio::MapOptions::new().at(base + index * BYTES).anon(BYTES).unwrap();
        let [mut low, mut middle, mut high] = [block(0), block(1), block(2)];
        for block in [&mut low, &mut middle, &mut high] {
            block.fill(1);
        }
        let limit: usize =
            std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
        let bytes = (limit + 16) * page();
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE;
        // SAFETY: no FIXED.
        let base = unsafe { raw::mmap(null_mut(), bytes, Prot::NONE, flags, -1, 0) }.unwrap();
        let full = (1..limit + 16).step_by(2).find_map(|index| {
            // SAFETY: a page of the map that was just made and that nobody uses.
            unsafe { raw::mprotect(base.wrapping_add(index * page()), page(), Prot::READ) }.err()
        });
        assert!(full.is_some(), "the limit is reached");
        let before = own_bytes();
        drop(middle);
        let after = own_bytes();
        assert!(before - after > BYTES as u64 / 2, "{before} and then {after} bytes");
        assert!(low.iter().chain(high.iter()).all(|&byte| byte == 1));
    });
}

#[test]
fn a_working_set_lies_in_a_file_that_has_an_end_and_a_size() {
    let dir = disk_dir();
    let fifo = dir.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // A child: a call that hangs is ended by its alarm.
    child_succeeds(|| {
        assert_eq!(WorkingSet::load(&fifo).unwrap_err().errno(), Errno::INVAL);
        assert_eq!(WorkingSet::load("/dev/zero").unwrap_err().errno(), Errno::INVAL);
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(WorkingSet::load(&large).unwrap_err().errno(), Errno::FBIG);
        lower_limit(libc::RLIMIT_FSIZE, 4);
        let saved = dir.path().join("saved");
        assert_eq!(WorkingSet::default().save(&saved).unwrap_err().errno(), Errno::FBIG);
    });
}
