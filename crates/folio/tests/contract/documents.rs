//! Claims of the old documents about mmap(2), and today's truth: a test for each point, against the
//! real kernel. The list in the crate's documentation says no more than these tests show.

use crate::common::{self, End, is_in_memory, page, pattern, skip};
use folio::{
    Anon, Errno, FaultCause, FileMap, FileMapMut, FileMapPrivate, MapFlags, MapOptions, PageSize,
    Prot, Region, SharedMem, WriteBack, raw,
};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

/// A new file with these bytes, open for reading and writing.
fn new_file(dir: &Path, bytes: &[u8]) -> File {
    let path = common::file_with(dir, bytes);
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn errno<T>(result: folio::Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("this must be refused"),
        Err(error) => error.errno(),
    }
}

fn cause<T>(result: folio::Result<T>) -> FaultCause {
    match result {
        Ok(_) => panic!("this must fault"),
        Err(error) => error.fault().unwrap_or_else(|| panic!("not a fault: {error}")).cause(),
    }
}

/// The mount's options, as `ST_NOATIME` and its like.
pub(crate) fn mount_flags(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).unwrap().f_flag.bits()
}

/// Looks until it sees the expected result, three times at most: a sync(2) of another process may
/// clean dirty pages between two steps.
#[track_caller]
pub(crate) fn sees<T: PartialEq + std::fmt::Debug>(expected: &T, mut look: impl FnMut() -> T) {
    let mut seen = look();
    for _ in 0..2 {
        if seen != *expected {
            seen = look();
        }
    }
    assert_eq!(seen, *expected);
}

// Flags and descriptors.

#[test]
fn shared_and_private_together_are_accepted_for_a_file() {
    assert_eq!(MapFlags::SHARED | MapFlags::PRIVATE, MapFlags::SHARED_VALIDATE);
    let dir = common::disk_dir();
    let file = new_file(dir.path(), &pattern(1));
    let map = MapOptions::new().flags(MapFlags::SHARED_VALIDATE).map_mut(&file).unwrap();
    map.write_at(b"one", 0).unwrap();

    let both = MapFlags::SHARED | MapFlags::PRIVATE;
    let (none, fd) = (std::ptr::null_mut(), file.as_raw_fd());
    // SAFETY: no FIXED, so nothing is replaced; the whole map is a region's at once.
    let region = unsafe {
        let start = raw::mmap(none, page(), Prot::READ_WRITE, both, fd, 0).unwrap();
        Region::from_raw_parts(start, page(), PageSize::system()).unwrap()
    };
    region.write_at(b"two", 10).unwrap();

    // Both are shared: the file has their stores.
    let mut bytes = [0; 13];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes[..3], &bytes[10..]), (&b"one"[..], &b"two"[..]));
}

#[test]
fn shared_and_private_together_are_einval_for_anonymous_memory() {
    let none = std::ptr::null_mut();
    let both = MapFlags::SHARED | MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    // SAFETY: no FIXED, so nothing is replaced.
    let result = unsafe { raw::mmap(none, page(), Prot::READ_WRITE, both, -1, 0) };
    assert_eq!(errno(result), Errno::INVAL);
}

#[test]
fn a_pipe_a_socket_a_directory_and_a_proc_file_give_enodev() {
    let (pipe, _end) = std::io::pipe().unwrap();
    let (socket, _end) = UnixStream::pair().unwrap();
    let directory = File::open("/").unwrap();
    let proc = File::open("/proc/self/status").unwrap();
    let all: [OwnedFd; 4] = [pipe.into(), socket.into(), directory.into(), proc.into()];
    for fd in all {
        assert_eq!(errno(FileMap::map(&fd)), Errno::NODEV, "{fd:?}");
        assert_eq!(errno(MapOptions::new().len(100).map_private(&fd)), Errno::NODEV, "{fd:?}");
    }
}

#[test]
fn a_shared_writable_map_of_a_read_only_descriptor_gives_eacces() {
    let dir = common::disk_dir();
    let path = common::file_with(dir.path(), b"bytes");
    let file = File::open(&path).unwrap();
    assert_eq!(errno(FileMapMut::map(&file)), Errno::ACCESS);
    // A private one needs no more than read permission.
    FileMapPrivate::map(&file).unwrap().write_at(b"B", 0).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
}

#[test]
fn a_map_of_a_write_only_descriptor_gives_eacces() {
    let dir = common::disk_dir();
    let path = common::file_with(dir.path(), b"bytes");
    let file = OpenOptions::new().write(true).open(path).unwrap();
    assert_eq!(errno(FileMapMut::map(&file)), Errno::ACCESS);
    let none = std::ptr::null_mut();
    // SAFETY: no FIXED, so nothing is replaced.
    let result =
        unsafe { raw::mmap(none, page(), Prot::WRITE, MapFlags::SHARED, file.as_raw_fd(), 0) };
    assert_eq!(errno(result), Errno::ACCESS);
}

#[test]
fn a_descriptor_in_append_mode_maps_as_any_other() {
    let dir = common::disk_dir();
    let path = common::file_with(dir.path(), b"bytes");
    let file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
    FileMapMut::map(&file).unwrap().write_at(b"B", 0).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"Bytes");
}

#[test]
fn map_fixed_replaces_the_map_there() {
    let page = page();
    let region = MapOptions::new().region(3 * page, Prot::READ_WRITE).unwrap();
    region.write_at(&vec![7; 3 * page], 0).unwrap();
    let middle = region.as_ptr().wrapping_add(page);

    // The safe way does not.
    assert_eq!(errno(MapOptions::new().at(middle as usize).anon(page)), Errno::EXIST);
    let flags = MapFlags::FIXED | MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    // SAFETY: the middle of the region above is replaced, to which nothing refers.
    let at = unsafe { raw::mmap(middle, page, Prot::READ_WRITE, flags, -1, 0) }.unwrap();
    assert_eq!(at, middle);

    let mut bytes = vec![1; 3 * page];
    region.read_at(&mut bytes, 0).unwrap();
    let all = |part: &[u8], byte| part.iter().all(|&b| b == byte);
    assert!(all(&bytes[..page], 7) && all(&bytes[page..2 * page], 0) && all(&bytes[2 * page..], 7));
}

#[test]
fn denywrite_executable_and_file_do_nothing() {
    let dir = common::disk_dir();
    let file = new_file(dir.path(), b"bytes");
    let flags = MapFlags::DENYWRITE | MapFlags::EXECUTABLE | MapFlags::FILE;
    // The file is open for writing: no ETXTBSY.
    let map = MapOptions::new().flags(flags).map(&file).unwrap();
    // And it is still written to, and opened for it.
    file.write_all_at(b"B", 0).unwrap();
    OpenOptions::new()
        .write(true)
        .open(dir.path().join("file"))
        .unwrap()
        .write_all_at(b"S", 4)
        .unwrap();
    assert_eq!(map.read_vec(..).unwrap(), b"ByteS");
}

/// Bytes of the area at `address` that have page table entries.
fn present(address: *const u8) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap();
        let bounds = first
            .split_once('-')
            .map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)));
        if let Some((Ok(start), Ok(end))) = bounds {
            inside = (start..end).contains(&(address as usize));
        } else if inside && first == "Rss:" {
            return line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024;
        }
    }
    panic!("{address:?} is not mapped");
}

#[test]
fn populate_faults_in_shared_and_private_maps_and_nonblock_undoes_it() {
    let dir = common::disk_dir();
    // All of it is in the page cache: as the documents have it, NONBLOCK would map just these
    // pages.
    let file = new_file(dir.path(), &pattern(16));
    let options = |flags| MapOptions::new().flags(flags);
    let map = options(MapFlags::POPULATE).map(&file).unwrap();
    assert_eq!(present(map.as_ptr()), map.len());
    let map = options(MapFlags::POPULATE).map_private(&file).unwrap();
    assert_eq!(present(map.as_ptr()), map.len());
    let map = options(MapFlags::POPULATE | MapFlags::NONBLOCK).map(&file).unwrap();
    assert_eq!(present(map.as_ptr()), 0);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn bits_32_lies_below_2_gib() {
    let below = |start: *const u8, len| start as usize + len <= 2 << 30;
    let anon = MapOptions::new().flags(MapFlags::BITS_32).anon(page()).unwrap();
    assert!(below(anon.as_ptr(), anon.len()), "{:?}", anon.as_ptr());
    let dir = common::disk_dir();
    let file = new_file(dir.path(), b"bytes");
    let map = MapOptions::new().flags(MapFlags::BITS_32).map(&file).unwrap();
    assert!(below(map.as_ptr(), map.len()), "{:?}", map.as_ptr());
}

#[test]
fn an_open_dev_zero_is_memory_of_the_process_own() {
    let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
    let mut memory = Anon::from_dev_zero(&zero, 100).unwrap();
    drop(zero);
    assert!(memory.len() == 100 && memory.iter().all(|&byte| byte == 0));
    memory.fill(7);
    common::child_succeeds(|| assert!(memory.iter().all(|&byte| byte == 7)));
    memory.resize(3 * page()).unwrap();
    assert_eq!((memory[99], memory[100], memory[3 * page() - 1]), (7, 0, 0));
    memory.discard(..).unwrap();
    assert!(memory.iter().all(|&byte| byte == 0));
    // Its errors, and those of the ways that do not lead there.
    let dir = common::disk_dir();
    let file = File::open(common::file_with(dir.path(), b"bytes")).unwrap();
    assert_eq!(Anon::from_dev_zero(&file, 1).unwrap_err().errno(), Errno::INVAL);
    let null = File::open("/dev/null").unwrap();
    assert_eq!(Anon::from_dev_zero(&null, 1).unwrap_err().errno(), Errno::INVAL);
    let zero = File::open("/dev/zero").unwrap();
    let error = MapOptions::new().len(4).map_private(&zero).unwrap_err().to_string();
    assert!(error.contains("Anon::from_dev_zero"), "{error}");
}

// Ends and parts.

#[test]
fn a_length_past_the_end_is_allowed_and_faults_beyond_the_last_page() {
    let page = page();
    for dir in [Some(common::disk_dir()), common::memory_dir()].into_iter().flatten() {
        let file = new_file(dir.path(), &vec![7; page + 100]);
        let map = MapOptions::new().len(4 * page).map(&file).unwrap();
        assert_eq!(map.read::<[u8; 2]>(page + 99).unwrap(), [7, 0]);
        assert_eq!(map.read::<u8>(2 * page - 1).unwrap(), 0);
        assert_eq!(cause(map.read::<u8>(2 * page)), FaultCause::PastEnd);
        assert_eq!(cause(map.read::<u8>(4 * page - 1)), FaultCause::PastEnd);

        // Once the file has the page, so has the map.
        file.set_len(3 * page as u64).unwrap();
        file.write_all_at(b"new", 2 * page as u64).unwrap();
        assert_eq!(map.read::<[u8; 3]>(2 * page).unwrap(), *b"new");
        assert_eq!(cause(map.read::<u8>(3 * page)), FaultCause::PastEnd);
    }
}

#[test]
fn an_empty_file_has_no_page_that_could_be_supplied() {
    let dir = common::disk_dir();
    let file = new_file(dir.path(), b"");
    let map = MapOptions::new().len(1).map(&file).unwrap();
    assert_eq!(cause(map.read::<u8>(0)), FaultCause::PastEnd);
    // A length of zero is EINVAL to the kernel, and an empty map to folio.
    let none = std::ptr::null_mut();
    // SAFETY: no FIXED, so nothing is replaced.
    let result = unsafe { raw::mmap(none, 0, Prot::READ, MapFlags::SHARED, file.as_raw_fd(), 0) };
    assert_eq!(errno(result), Errno::INVAL);
    assert!(FileMap::map(&file).unwrap().is_empty());
}

#[test]
fn sigbus_is_a_page_without_backing_and_memory_of_nobody_is_sigsegv() {
    let dir = common::disk_dir();
    let file = new_file(dir.path(), b"bytes");
    let touch = |address: *const u8| {
        common::in_child(|| {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: ends the child, without a core dump, if the page is not there, which is the
            // subject of the test.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                address.read_volatile();
            }
        })
    };
    let map = MapOptions::new().len(2 * page()).map(&file).unwrap();
    assert_eq!(touch(map.as_ptr()), End::Exited(0));
    assert_eq!(touch(map.as_ptr().wrapping_add(page())), End::Killed(libc::SIGBUS));
    assert_eq!(cause(map.read::<u8>(page())), FaultCause::PastEnd);

    // Not this process's to touch: reserved without access, and not mapped at all.
    let reservation = folio::Reservation::new(page()).unwrap();
    assert_eq!(touch(reservation.as_ptr()), End::Killed(libc::SIGSEGV));
    assert_eq!(touch(std::ptr::without_provenance(8)), End::Killed(libc::SIGSEGV));
}

#[test]
fn part_of_a_map_may_be_unmapped() {
    let page = page();
    let dir = common::disk_dir();
    let bytes = pattern(3);
    let file = new_file(dir.path(), &bytes);
    let mut region = FileMap::map(&file).unwrap().into_region();
    region.unmap_range(page..2 * page).unwrap();
    // Again is no error: munmap(2) passes over unmapped addresses.
    region.unmap_range(page..2 * page).unwrap();

    let mut there = vec![0; page];
    for part in [0, 2] {
        region.read_at(&mut there, part * page).unwrap();
        assert_eq!(there, bytes[part * page..][..page]);
    }
    assert_eq!(errno(region.read_at(&mut there, page)), Errno::NOMEM);
}

#[test]
fn on_disk_the_tail_of_the_last_page_never_reaches_the_file() {
    let dir = common::disk_dir();
    if is_in_memory(dir.path()) {
        return skip("the build lies on tmpfs");
    }
    assert_eq!(tail_after_growth(dir.path()), [0; 4]);
}

#[test]
fn on_tmpfs_the_tail_of_the_last_page_reaches_the_file_when_it_grows() {
    let Some(dir) = common::memory_dir() else { return skip("no /dev/shm") };
    match &tail_after_growth(dir.path()) {
        b"tail" => {}
        [0, 0, 0, 0] => skip("this kernel zeroes the tail on tmpfs, too"),
        other => panic!("{other:?}"),
    }
}

/// Stores `tail` behind the end of a file, checks that the file does not have it, lets the file
/// grow over it, and returns the file's bytes there.
fn tail_after_growth(dir: &Path) -> [u8; 4] {
    let file = new_file(dir, &[7; 100]);
    let map = MapOptions::new().len(page()).map_mut(&file).unwrap();
    assert!(map.read_vec(100..).unwrap().iter().all(|&byte| byte == 0));
    map.write_at(b"tail", 200).unwrap();
    assert_eq!(map.read::<[u8; 4]>(200).unwrap(), *b"tail");
    assert_eq!(file.metadata().unwrap().len(), 100);
    assert_eq!(file.read_at(&mut [0], 200).unwrap(), 0);

    file.set_len(page() as u64).unwrap();
    let mut bytes = [1; 4];
    file.read_exact_at(&mut bytes, 200).unwrap();
    assert_eq!(map.read::<[u8; 4]>(200).unwrap(), bytes);
    bytes
}

// Which readers see a store.

#[test]
fn stores_reach_readers_of_the_file_at_once() {
    let dir = common::disk_dir();
    let file = new_file(dir.path(), b"bytes");
    let map = FileMapMut::map(&file).unwrap();
    let other = FileMap::open(dir.path().join("file")).unwrap();
    map.write_at(b"B", 0).unwrap();
    // No msync(2), no munmap(2).
    let cat = Command::new("cat").arg(dir.path().join("file")).output().unwrap();
    assert_eq!(cat.stdout, b"Bytes");
    assert_eq!(other.read_vec(..).unwrap(), b"Bytes");
    // And the other way: write(2) reaches maps at once.
    file.write_all_at(b"S", 4).unwrap();
    assert_eq!(map.read_vec(..).unwrap(), b"ByteS");
}

#[test]
fn a_private_map_shows_later_changes_in_pages_it_has_not_copied() {
    let page = page();
    let dir = common::disk_dir();
    let file = new_file(dir.path(), &vec![1; 2 * page]);
    let map = FileMapPrivate::map(&file).unwrap();
    map.read_vec(..).unwrap();
    map.write_at(&[2], 0).unwrap();

    file.write_all_at(&vec![3; 2 * page], 0).unwrap();
    assert_eq!(map.read::<[u8; 2]>(0).unwrap(), [2, 1], "the copied page stays as it was");
    assert_eq!(map.read::<[u8; 2]>(page).unwrap(), [3, 3], "the other is still the file's");
}

#[test]
fn the_descriptor_may_be_closed_early() {
    let dir = common::disk_dir();
    let file = new_file(dir.path(), b"bytes");
    let map = FileMapMut::map(&file).unwrap();
    drop(file);
    map.write_at(b"B", 0).unwrap();
    map.sync(.., WriteBack::Wait).unwrap();
    // Even the name may go.
    let path = dir.path().join("file");
    assert_eq!(std::fs::read(&path).unwrap(), b"Bytes");
    std::fs::remove_file(path).unwrap();
    assert_eq!(map.read_vec(..).unwrap(), b"Bytes");
}

#[test]
fn anonymous_shared_memory_reaches_unrelated_processes_by_its_descriptor() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Forked before the memory exists, the child inherits nothing of it: all it gets is the
    // descriptor.
    let (child, mut failure) = common::spawn_child(|| {
        let memory = SharedMem::receive_from(&theirs).unwrap();
        assert_eq!(memory.read::<u32>(8).unwrap(), 7);
        memory.atomic::<AtomicU32>(0).unwrap().store(42, Ordering::Release);
    });
    let memory = SharedMem::memfd("passed", page()).unwrap();
    memory.write(8, &7_u32).unwrap();
    memory.send_to(&ours).unwrap();
    let end = common::wait(child);
    let mut message = String::new();
    failure.read_to_string(&mut message).unwrap();
    assert_eq!(end, End::Exited(0), "{message}");
    assert_eq!(memory.atomic::<AtomicU32>(0).unwrap().load(Ordering::Acquire), 42);

    // A program that knows nothing of this one, with the descriptor as its input.
    let input = memory.file().unwrap().try_clone_to_owned().unwrap();
    let cat = Command::new("cat").stdin(input).output().unwrap();
    assert!(cat.stdout == memory.read_vec(..).unwrap(), "cat printed {} bytes", cat.stdout.len());

    // Without a descriptor there is nothing to pass.
    assert_eq!(errno(SharedMem::anonymous(page()).unwrap().send_to(&ours)), Errno::INVAL);
}

// Times.

/// st_atime, st_mtime and st_ctime, in nanoseconds.
type Times = [i128; 3];

fn times(file: &File) -> Times {
    let status = file.metadata().unwrap();
    let nanoseconds =
        |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    [
        nanoseconds(status.atime(), status.atime_nsec()),
        nanoseconds(status.mtime(), status.mtime_nsec()),
        nanoseconds(status.ctime(), status.ctime_nsec()),
    ]
}

/// Which of the times a step moves: atime, mtime, ctime.
fn moved<T>(file: &File, step: impl FnOnce() -> T) -> ([bool; 3], T) {
    let before = times(file);
    // The kernel's coarse clock, from which files get their times, ticks every 1 to 10 ms.
    std::thread::sleep(Duration::from_millis(20));
    let result = step();
    let after = times(file);
    ([0, 1, 2].map(|i| before[i] != after[i]), result)
}

/// Sets atime and mtime to long ago, so that `relatime` lets atime move. It moves ctime to now.
fn age(file: &File) {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_times(FileTimes::new().set_accessed(old).set_modified(old)).unwrap();
}

const NONE: [bool; 3] = [false, false, false];
const ATIME: [bool; 3] = [true, false, false];
const MTIME_CTIME: [bool; 3] = [false, true, true];

#[test]
fn atime_moves_when_mmap_is_called_and_not_at_the_first_touch() {
    for dir in [Some(common::disk_dir()), common::memory_dir()].into_iter().flatten() {
        if mount_flags(dir.path()) & libc::ST_NOATIME != 0 {
            skip("a mount with noatime");
            continue;
        }
        let file = new_file(dir.path(), &pattern(2));
        age(&file);
        let (mapped, map) = moved(&file, || FileMap::map(&file).unwrap());
        assert_eq!(mapped, ATIME, "a shared map in {dir:?}");
        age(&file);
        assert_eq!(
            moved(&file, || map.read_vec(..).unwrap()).0,
            NONE,
            "its first touch in {dir:?}"
        );

        let (mapped, map) = moved(&file, || FileMapPrivate::map(&file).unwrap());
        assert_eq!(mapped, ATIME, "a private map in {dir:?}");
        age(&file);
        assert_eq!(
            moved(&file, || map.read_vec(..).unwrap()).0,
            NONE,
            "its first touch in {dir:?}"
        );
        assert_eq!(
            moved(&file, || map.write_at(b"B", 0).unwrap()).0,
            NONE,
            "its first store in {dir:?}"
        );
    }
}

#[test]
fn atime_moves_as_the_mount_allows() {
    let map = |dir: &Path, accessed: SystemTime| {
        let file = new_file(dir, b"bytes");
        file.set_times(FileTimes::new().set_accessed(accessed)).unwrap();
        moved(&file, || drop(FileMap::map(&file).unwrap())).0
    };
    let now = SystemTime::now();
    // Later than mtime and ctime, which is now.
    let young = now + Duration::from_secs(3600);
    let old = now - Duration::from_secs(48 * 3600);
    for (option, for_young, for_old) in
        [("relatime", NONE, ATIME), ("strictatime", ATIME, ATIME), ("noatime", NONE, NONE)]
    {
        let Some(mounted) = common::Mounted::tmpfs(&format!("size=1m,{option}")) else {
            return skip("needs the right to mount");
        };
        assert_eq!(map(mounted.path(), young), for_young, "{option}, young");
        assert_eq!(map(mounted.path(), old), for_old, "{option}, old");
    }
}

/// A page counts as clean until a store faults: the store that finds it missing or write-protected
/// in the map's page table moves the times, and is the only one to do so until the page is written
/// back.
#[test]
fn on_disk_mtime_and_ctime_move_at_the_first_store_to_a_clean_page() {
    let dir = common::disk_dir();
    if is_in_memory(dir.path()) {
        return skip("the build lies on tmpfs");
    }
    let page = page();
    let look = || {
        let file = new_file(dir.path(), &pattern(2));
        file.sync_all().unwrap();
        let map = FileMapMut::map(&file).unwrap();
        // A load maps pages write-protected, so that each moves the times by itself. (A store to a
        // page that is not mapped yet may map its neighbours of the same large folio along with it,
        // as written.)
        map.read_vec(..).unwrap();
        let store = |offset| moved(&file, || map.write_at(b"B", offset).unwrap()).0;
        let (first, second, next_page) = (store(0), store(1), store(page));
        let sync = moved(&file, || map.sync(.., WriteBack::Wait).unwrap()).0;
        let clean_again = store(2);
        let unmap = moved(&file, || map.unmap().unwrap()).0;
        let map = FileMapMut::map(&file).unwrap();
        let unread = moved(&file, || map.write_at(b"B", 0).unwrap()).0;
        [first, second, next_page, sync, clean_again, unmap, unread]
    };
    sees(&[MTIME_CTIME, NONE, MTIME_CTIME, NONE, MTIME_CTIME, NONE, MTIME_CTIME], look);
}

/// tmpfs never writes back, so it need not know which pages are clean, and a load maps them
/// writable at once. Only a store that faults its page in remains.
#[test]
fn on_tmpfs_only_a_store_that_is_the_first_touch_moves_mtime_and_ctime() {
    let Some(dir) = common::memory_dir() else { return skip("no /dev/shm") };
    let file = new_file(dir.path(), &pattern(2));
    let map = FileMapMut::map(&file).unwrap();
    map.read_vec(..).unwrap();
    let store = |map: &FileMapMut| moved(&file, || map.write_at(b"B", 0).unwrap()).0;
    assert_eq!(store(&map), NONE);
    assert_eq!(moved(&file, || map.sync(.., WriteBack::Wait).unwrap()).0, NONE);
    assert_eq!(store(&map), NONE);
    assert_eq!(moved(&file, || map.unmap().unwrap()).0, NONE);

    let map = FileMapMut::map(&file).unwrap();
    assert_eq!(store(&map), MTIME_CTIME);
    assert_eq!(store(&map), NONE);
    // With write(2) every one does.
    assert_eq!(moved(&file, || file.write_all_at(b"B", 0).unwrap()).0, MTIME_CTIME);
}

#[test]
fn reserve_moves_no_time_where_there_is_no_hole() {
    for dir in [Some(common::disk_dir()), common::memory_dir()].into_iter().flatten() {
        let file = new_file(dir.path(), &pattern(2));
        let reserve = || drop(MapOptions::new().preallocate().map_mut(&file).unwrap());
        let [_, mtime, ctime] = moved(&file, reserve).0;
        assert_eq!((mtime, ctime), (false, false), "in {dir:?}");
        // Why it looks for holes first: fallocate(2) moves them in any case.
        let plain = || fallocate(&file, FallocateFlags::empty(), 0, 2 * page() as u64).unwrap();
        assert_eq!(moved(&file, plain).0, MTIME_CTIME, "in {dir:?}");
        // Where there is a hole, reserve has to.
        file.set_len(8 * page() as u64).unwrap();
        let [_, mtime, ctime] = moved(&file, reserve).0;
        assert_eq!((mtime, ctime), (true, true), "in {dir:?}");
    }
}

#[test]
fn a_map_leaves_the_descriptors_position_alone() {
    let dir = common::disk_dir();
    let mut file = new_file(dir.path(), &pattern(2));
    file.set_len(8 * page() as u64).unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    // Looking for holes must not be lseek(2)'s.
    MapOptions::new().preallocate().map_mut(&file).unwrap();
    assert_eq!(file.stream_position().unwrap(), 5);
}
