//! Errors: each errno of mmap(2), munmap(2), msync(2), mprotect(2), mremap(2), mlock(2), madvise(2)
//! and mseal(2), given by the real kernel, with a message that names the rule and the remedy. Where
//! today's kernel no longer gives one, a test shows that.
//!
//! Not here, since nothing on a common machine gives them: EAGAIN of mlock(2) (a full memory cgroup
//! without OOM killer), EBADF of madvise(2) (a kernel without swap), EHWPOISON (a memory failure).

use crate::common::{
    End, FailingDisk, Mounted, become_nobody, child_succeeds, disk_dir, file_with, in_child,
    is_root, lower_limit, page, pattern, sealable_memfd, skip,
};
use folio::{
    Advice, Anon, Discard, Errno, Error, FileMap, FileMapMut, FileMapPrivate, HugePage, MapFlags,
    MapOptions, PageSize, Prot, Region, Reservation, Resize, SharedMem, UncheckedAdvice, WriteBack,
    raw,
};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::ptr::null_mut;

/// The error of a call that must fail.
#[track_caller]
fn fails<T>(result: folio::Result<T>) -> Error {
    match result {
        Ok(_) => panic!("the call must fail"),
        Err(error) => error,
    }
}

#[track_caller]
fn says(error: &Error, by_kernel: bool, errno: Errno, fragments: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.errno(), errno, "{text}");
    let refusal = error.call_error().unwrap();
    assert_eq!(refusal.by_kernel(), by_kernel, "{text}");
    assert!(!refusal.rule().is_empty() && !refusal.remedy().is_empty(), "{text}");
    // The text of the catch-all for unknown errors.
    assert!(!text.contains("no more than the error's number"), "{text}");
    for fragment in fragments {
        assert!(text.contains(fragment), "{fragment:?} is missing in: {text}");
    }
}

/// The kernel refused, and the message holds each fragment.
#[track_caller]
fn kernel_says(error: &Error, errno: Errno, fragments: &[&str]) {
    says(error, true, errno, fragments);
}

/// folio refused before it asked the kernel, and the message holds each fragment.
#[track_caller]
fn folio_says(error: &Error, errno: Errno, fragments: &[&str]) {
    says(error, false, errno, fragments);
}

/// A file of `pages` pages on the disk, open for reading and writing. The directory goes when the
/// test ends.
fn disk_file(pages: usize) -> (tempfile::TempDir, PathBuf, File) {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(pages));
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (dir, path, file)
}

/// Anonymous memory of this many pages.
fn pages(count: usize, prot: Prot) -> Region {
    MapOptions::new().region(count * page(), prot).unwrap()
}

/// The plain map of `fd` through the raw door, with these flags.
fn raw_map(prot: Prot, flags: MapFlags, fd: i32, offset: i64) -> folio::Result<*mut u8> {
    // SAFETY: the callers pass neither FIXED nor GROWSDOWN.
    unsafe { raw::mmap(null_mut(), page(), prot, flags, fd, offset) }
}

const PRIVATE_ANONYMOUS: MapFlags = MapFlags::PRIVATE.union(MapFlags::ANONYMOUS);

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A field of `/proc/self/status`, in bytes.
fn status_bytes(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() << 10
}

/// Splits one map until the process has as many areas as it may: in children only. Returns the
/// limit.
fn fill_areas() -> u64 {
    let limit = number("/proc/sys/vm/max_map_count").unwrap();
    let bytes = (limit as usize + 16) * page();
    let flags = PRIVATE_ANONYMOUS | MapFlags::NORESERVE;
    // SAFETY: no FIXED.
    let base = unsafe { raw::mmap(null_mut(), bytes, Prot::NONE, flags, -1, 0) }.unwrap();
    let full = (1..limit as usize + 16).step_by(2).find_map(|index| {
        // SAFETY: a page of the map that was just made and that nobody uses.
        unsafe { raw::mprotect(base.wrapping_add(index * page()), page(), Prot::READ) }.err()
    });
    assert_eq!(full.expect("the limit is reached").errno(), Errno::NOMEM);
    limit
}

// ---- mmap(2): EACCES ----

#[test]
fn a_map_of_a_write_only_descriptor_is_eacces() {
    let (_dir, path, _) = disk_file(1);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let name = path.to_str().unwrap();
    for error in [
        fails(FileMap::map(&file)),
        fails(FileMapPrivate::map(&file)),
        // Not even memory that can only be written to.
        fails(raw_map(Prot::WRITE, MapFlags::PRIVATE, file.as_raw_fd(), 0)),
    ] {
        kernel_says(&error, Errno::ACCESS, &["EACCES", name, "open for reading", "read(true)"]);
    }
}

#[test]
fn a_shared_writable_map_of_a_read_only_descriptor_is_eacces() {
    let (_dir, path, _) = disk_file(1);
    let file = File::open(&path).unwrap();
    let error = fails(FileMapMut::map(&file));
    let name = path.to_str().unwrap();
    kernel_says(
        &error,
        Errno::ACCESS,
        &[
            "EACCES",
            name,
            "READ | WRITE",
            "SHARED",
            "reading and writing",
            "read(true).write(true)",
        ],
    );
    // The remedy it names holds.
    FileMapPrivate::map(&file).unwrap();
}

/// Sets the attribute `a` of a file, until it is dropped.
struct AppendOnly(File);

impl AppendOnly {
    fn set(file: File) -> Option<Self> {
        let flags = rustix::fs::ioctl_getflags(&file).ok()?;
        rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::APPEND).ok()?;
        Some(Self(file))
    }
}

impl Drop for AppendOnly {
    fn drop(&mut self) {
        let flags = rustix::fs::ioctl_getflags(&self.0).unwrap();
        rustix::fs::ioctl_setflags(&self.0, flags.difference(rustix::fs::IFlags::APPEND)).unwrap();
    }
}

#[test]
fn a_shared_map_of_an_append_only_file_that_is_open_for_writing_is_eacces() {
    let (_dir, path, file) = disk_file(1);
    let Some(_attribute) = AppendOnly::set(file) else {
        return skip("the file system, or the user, has no attribute `a` to set");
    };
    let file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
    let name = path.to_str().unwrap();
    let error = fails(FileMapMut::map(&file));
    kernel_says(&error, Errno::ACCESS, &[name, "append-only", "`a` attribute", "privately"]);
    // Even read-only.
    let error = fails(FileMap::map(&file));
    kernel_says(
        &error,
        Errno::ACCESS,
        &[name, "append-only", "read(true) and nothing else", "privately"],
    );
    // The remedies hold.
    FileMapPrivate::map(&file).unwrap();
    FileMap::map(File::open(&path).unwrap()).unwrap();
}

// ---- mmap(2): EAGAIN ----

#[test]
fn a_locked_map_beyond_rlimit_memlock_is_eagain() {
    child_succeeds(|| {
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
        let error = fails(MapOptions::new().flags(MapFlags::LOCKED).anon(1 << 20));
        kernel_says(
            &error,
            Errno::AGAIN,
            &["EAGAIN", "RLIMIT_MEMLOCK", "65536 bytes", "1048576 were asked for", "ulimit -l"],
        );
    });
}

#[test]
fn a_file_that_another_locks_is_no_eagain_today() {
    // Mandatory locks (mode g+s without g+x, mount option `mand`) left the kernel in 5.15.
    let mounted = Mounted::tmpfs("mand,size=1m");
    let dir = disk_dir();
    let path = file_with(mounted.as_ref().map_or(dir.path(), Mounted::path), &pattern(1));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o2644)).unwrap();
    let holder = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // SAFETY: a `flock` of zeros is a valid one.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    let take = |file: &File, lock: &mut libc::flock| {
        // SAFETY: reads `lock`.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut *lock) }
    };
    assert_eq!(take(&holder, &mut lock), 0);
    let other = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_eq!(take(&other, &mut lock), -1, "the lock is held against others");
    let map = FileMapMut::map(&other).unwrap();
    map.write_at(b"written", 0).unwrap();
    assert_eq!(&std::fs::read(&path).unwrap()[..7], b"written");
}

// ---- mmap(2): EBADF ----

#[test]
fn a_closed_descriptor_is_ebadf() {
    let error = fails(raw_map(Prot::READ, MapFlags::PRIVATE, 987_654, 0));
    kernel_says(
        &error,
        Errno::BADF,
        &["EBADF", "descriptor 987654", "not open", "anonymous memory"],
    );
    let error = fails(raw_map(Prot::READ, MapFlags::SHARED, -1, 0));
    kernel_says(&error, Errno::BADF, &["EBADF", "descriptor -1"]);
}

#[test]
fn a_descriptor_that_is_open_as_a_path_only_is_ebadf() {
    let (_dir, path, _) = disk_file(1);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
    let error = fails(FileMap::map(&file));
    kernel_says(
        &error,
        Errno::BADF,
        &["EBADF", path.to_str().unwrap(), "O_PATH", "pass an open descriptor"],
    );
}

// ---- mmap(2): EINVAL ----

#[test]
fn an_offset_that_is_no_page_multiple_is_einval_through_the_raw_door() {
    let (_dir, path, file) = disk_file(3);
    let error = fails(raw_map(Prot::READ, MapFlags::SHARED, file.as_raw_fd(), page() as i64 + 1));
    let nearest = format!("use {} or {}", page(), 2 * page());
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", path.to_str().unwrap(), "multiple of the page size", &nearest],
    );
    // The handles round, and show the asked range.
    let map = MapOptions::new().offset(page() as u64 + 1).len(5).map(&file).unwrap();
    assert_eq!(map.read_vec(..).unwrap(), pattern(3)[page() + 1..page() + 6]);
}

#[test]
fn an_address_that_is_no_page_multiple_is_einval() {
    let space = Reservation::new(4 * page()).unwrap();
    let address = space.as_ptr() as usize + page() + 5;
    let nearest = format!("use {:#x} or {:#x}", address - 5, address - 5 + page());
    let flags = PRIVATE_ANONYMOUS | MapFlags::FIXED_NOREPLACE;
    // SAFETY: NOREPLACE replaces nothing.
    let error = fails(unsafe { raw::mmap(address as *mut u8, page(), Prot::READ, flags, -1, 0) });
    kernel_says(&error, Errno::INVAL, &["EINVAL", "the address must be a multiple", &nearest]);
    let error = fails(MapOptions::new().at(address).anon(page()));
    kernel_says(&error, Errno::INVAL, &["the address must be a multiple", &nearest]);
}

#[test]
fn a_length_of_zero_is_einval() {
    // SAFETY: no FIXED.
    let error = fails(unsafe { raw::mmap(null_mut(), 0, Prot::READ, PRIVATE_ANONYMOUS, -1, 0) });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "length 0", "must not be zero", "at least one byte"],
    );
}

#[test]
fn neither_shared_nor_private_is_einval() {
    let error = fails(raw_map(Prot::READ, MapFlags::ANONYMOUS, -1, 0));
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "either SHARED or PRIVATE", "pass one of the two"],
    );
}

#[test]
fn shared_with_private_is_einval_for_anonymous_memory_and_works_for_a_file() {
    let both = MapFlags::SHARED | MapFlags::PRIVATE;
    let error = fails(raw_map(Prot::READ, both | MapFlags::ANONYMOUS, -1, 0));
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "exclude each other", "SHARED_VALIDATE", "pass one of the two"],
    );
    let (_dir, _, file) = disk_file(1);
    let map = raw_map(Prot::READ, both, file.as_raw_fd(), 0).unwrap();
    // SAFETY: the map that was just made.
    unsafe { raw::munmap(map, page()) }.unwrap();
}

#[test]
fn a_huge_page_size_that_the_machine_has_not_is_einval() {
    let sizes = [HugePage::Kib64, HugePage::Mib8, HugePage::Gib16];
    let missing = sizes.into_iter().find(|size| {
        let kib = size.size().unwrap().bytes() >> 10;
        !std::path::Path::new(&format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB")).exists()
    });
    let Some(size) = missing else { return skip("the machine has every size") };
    let error = fails(MapOptions::new().huge_pages(size).anon(1));
    let name = format!("HUGETLB of {}", size.size().unwrap());
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", &name, "no huge pages of that size", "/sys/kernel/mm/hugepages"],
    );
}

#[test]
fn huge_pages_for_a_file_outside_hugetlbfs_are_einval() {
    let (_dir, _, file) = disk_file(1);
    let error =
        fails(raw_map(Prot::READ, MapFlags::PRIVATE | MapFlags::HUGETLB, file.as_raw_fd(), 0));
    kernel_says(&error, Errno::INVAL, &["EINVAL", "files in hugetlbfs", "leave the flag out"]);
}

// ---- mmap(2): ENFILE ----

/// The machine's limit of open files, put back when it is dropped.
struct FileMax(String);

impl Drop for FileMax {
    fn drop(&mut self) {
        std::fs::write(FILE_MAX, &self.0).unwrap();
    }
}

const FILE_MAX: &str = "/proc/sys/fs/file-max";

#[test]
fn shared_anonymous_memory_at_the_machines_limit_of_files_is_enfile() {
    if std::env::var_os("FOLIO_TEST_ENFILE").is_none_or(|value| value != "1") {
        return skip(
            "it lowers the whole machine's fs.file-max for a moment: FOLIO_TEST_ENFILE=1 runs it",
        );
    }
    let saved = FileMax(std::fs::read_to_string(FILE_MAX).unwrap());
    if !is_root() || std::fs::write(FILE_MAX, &saved.0).is_err() {
        std::mem::forget(saved);
        return skip("fs.file-max is not this user's to change");
    }
    let end = in_child(|| {
        std::fs::write(FILE_MAX, "1").unwrap();
        // CAP_SYS_ADMIN passes the limit.
        become_nobody();
        let error = fails(SharedMem::anonymous(page()));
        kernel_says(
            &error,
            Errno::NFILE,
            &["ENFILE", "anonymous memory", "fs.file-max", "close files, or raise"],
        );
        // Private memory needs no file.
        Anon::new(page()).unwrap();
    });
    drop(saved);
    assert_eq!(end, End::Exited(0));
}

// ---- mmap(2): ENODEV ----

#[test]
fn a_pipe_is_enodev() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let error = fails(FileMap::map(OwnedFd::from(reader)));
    kernel_says(&error, Errno::NODEV, &["ENODEV", "pipe:[", "cannot be mapped", "Anon::read_from"]);
}

#[test]
fn a_socket_is_enodev() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = fails(FileMap::map(OwnedFd::from(socket)));
    kernel_says(
        &error,
        Errno::NODEV,
        &["ENODEV", "socket:[", "cannot be mapped", "Anon::read_from"],
    );
}

#[test]
fn a_directory_is_enodev() {
    let dir = disk_dir();
    let error = fails(FileMap::map(File::open(dir.path()).unwrap()));
    kernel_says(&error, Errno::NODEV, &["ENODEV", dir.path().to_str().unwrap(), "a directory"]);
}

#[test]
fn a_file_of_a_process_in_proc_is_enodev() {
    let file = File::open("/proc/self/status").unwrap();
    let error = fails(FileMap::map(&file));
    kernel_says(&error, Errno::NODEV, &["ENODEV", "/status", "most of /proc", "Anon::read_from"]);
    // The remedy holds.
    assert!(Anon::read_from(&file).unwrap().starts_with(b"Name:"));
}

#[test]
fn a_file_of_the_machine_in_proc_is_eio_and_says_the_same() {
    let file = File::open("/proc/meminfo").unwrap();
    let error = fails(FileMap::map(&file));
    assert!(matches!(error.errno(), Errno::IO | Errno::NODEV), "{error}");
    kernel_says(
        &error,
        error.errno(),
        &["/proc/meminfo", "cannot be mapped", "most of /proc", "Anon::read_from"],
    );
    assert!(Anon::read_from(&file).unwrap().starts_with(b"MemTotal:"));
}

#[test]
fn a_character_device_that_cannot_be_mapped_is_enodev() {
    let file = File::open("/dev/null").unwrap();
    let error = fails(MapOptions::new().len(page()).device(&file));
    assert_eq!(error.errno(), Errno::ACCESS, "a device is mapped shared and writable: {error}");
    let file = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let error = fails(MapOptions::new().len(page()).device(&file));
    kernel_says(&error, Errno::NODEV, &["ENODEV", "/dev/null", "cannot be mapped"]);
}

// ---- mmap(2): ENOMEM ----

#[test]
fn more_areas_than_max_map_count_are_enomem() {
    child_succeeds(|| {
        let limit = fill_areas();
        let mut maps = Vec::new();
        let error = loop {
            // Two protections in turn, so that no map joins the one before.
            let prot = if maps.len() % 2 == 0 { Prot::READ } else { Prot::NONE };
            match MapOptions::new().region(page(), prot) {
                Ok(map) => maps.push(map),
                Err(error) => break error,
            }
            assert!(maps.len() < 16);
        };
        let limit = format!("vm.max_map_count allows {limit}");
        kernel_says(
            &error,
            Errno::NOMEM,
            &["ENOMEM", "mapped areas", &limit, "unmap some", "raise vm.max_map_count"],
        );
    });
}

#[test]
fn more_address_space_than_rlimit_as_is_enomem() {
    child_succeeds(|| {
        let limit = status_bytes("VmSize") + (64 << 20);
        lower_limit(libc::RLIMIT_AS, limit);
        let error = fails(Anon::new(1 << 30));
        let allows = format!("RLIMIT_AS allows {limit} bytes");
        kernel_says(
            &error,
            Errno::NOMEM,
            &["ENOMEM", &allows, "1073741824 were asked for", "ulimit -v"],
        );
        // It counts addresses, not memory.
        let error = fails(Reservation::new(1 << 30));
        kernel_says(&error, Errno::NOMEM, &[&allows]);
    });
}

#[test]
fn more_private_memory_than_rlimit_data_is_enomem() {
    child_succeeds(|| {
        let limit = status_bytes("VmData") + (64 << 20);
        lower_limit(libc::RLIMIT_DATA, limit);
        let error = fails(Anon::new(1 << 30));
        let allows = format!("RLIMIT_DATA allows {limit} bytes");
        kernel_says(
            &error,
            Errno::NOMEM,
            &["ENOMEM", &allows, "1073741824 were asked for", "ulimit -d"],
        );
        // It counts private writable memory only.
        Reservation::new(1 << 30).unwrap();
    });
}

#[test]
fn more_memory_than_the_kernel_promises_is_enomem() {
    match number("/proc/sys/vm/overcommit_memory") {
        Some(0) => {}
        _ => return skip("vm.overcommit_memory is not 0"),
    }
    let length = 1 << 45;
    let error = fails(Anon::new(length));
    kernel_says(
        &error,
        Errno::NOMEM,
        &["ENOMEM", "length 35184372088832", "vm.overcommit_memory: heuristic", "NORESERVE"],
    );
    // The remedy holds.
    MapOptions::new().flags(MapFlags::NORESERVE).anon(length).unwrap();
}

#[test]
fn more_than_the_address_space_is_enomem() {
    let error = fails(MapOptions::new().flags(MapFlags::NORESERVE).anon(1 << 47));
    kernel_says(
        &error,
        Errno::NOMEM,
        &["ENOMEM", "no range of free addresses is that long", "ask for less"],
    );
}

#[test]
fn an_empty_pool_of_huge_pages_is_enomem() {
    let Some(size) = crate::handles::default_huge_page() else {
        return skip("the kernel has no huge pages");
    };
    let _turn = crate::flags::huge_pool_turn();
    let pool = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.bytes() >> 10);
    if number(&format!("{pool}/nr_hugepages")) != Some(0)
        || number(&format!("{pool}/nr_overcommit_hugepages")) != Some(0)
    {
        return skip("the pool of huge pages is not empty");
    }
    let error = fails(MapOptions::new().huge_pages(HugePage::Default).anon(3 * size.bytes()));
    let rule = format!("huge pages of {size} has 0 of 0 pages free, and 3 were asked for");
    kernel_says(&error, Errno::NOMEM, &["ENOMEM", "HUGETLB", &rule, "nr_hugepages"]);
}

// ---- mmap(2): EPERM ----

#[test]
fn an_executable_map_of_a_file_on_a_noexec_mount_is_eperm() {
    let Some(mounted) = Mounted::tmpfs("noexec,size=1m") else {
        return skip("mounting is not allowed");
    };
    let path = file_with(mounted.path(), &pattern(1));
    let file = File::open(&path).unwrap();
    let name = path.to_str().unwrap();
    let fragments = ["EPERM", name, "EXEC", "mounted noexec", "without EXEC"];
    kernel_says(&fails(MapOptions::new().exec().map(&file)), Errno::PERM, &fragments);
    // Also where the place is taken with FIXED, which has other reasons for EPERM.
    let space = Reservation::new(page()).unwrap();
    kernel_says(
        &fails(MapOptions::new().exec().within(&space, 0).map(&file)),
        Errno::PERM,
        &fragments,
    );
    MapOptions::new().map(&file).unwrap();
}

#[test]
fn a_shared_writable_map_of_a_memfd_sealed_against_writing_is_eperm() {
    let fd = sealable_memfd("folio-errors", 1);
    rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE).unwrap();
    let error = fails(FileMapMut::map(fd.as_fd()));
    kernel_says(
        &error,
        Errno::PERM,
        &["EPERM", "memfd:folio-errors", "F_SEAL_WRITE", "read-only or privately"],
    );
    FileMapPrivate::map(fd.as_fd()).unwrap();
}

#[test]
fn a_locked_map_where_no_memory_may_be_locked_is_eperm() {
    child_succeeds(|| {
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, 0);
        let error = fails(MapOptions::new().flags(MapFlags::LOCKED).anon(page()));
        kernel_says(
            &error,
            Errno::PERM,
            &["EPERM", "may not lock memory at all", "limit is 0 bytes", "ulimit -l"],
        );
    });
}

#[test]
fn an_address_below_mmap_min_addr_is_eperm() {
    let lowest = number("/proc/sys/vm/mmap_min_addr").unwrap_or(0);
    if lowest == 0 {
        return skip("vm.mmap_min_addr is 0");
    }
    child_succeeds(move || {
        // CAP_SYS_RAWIO passes the limit.
        become_nobody();
        let flags = PRIVATE_ANONYMOUS | MapFlags::FIXED_NOREPLACE;
        // SAFETY: NOREPLACE replaces nothing.
        let error = fails(unsafe { raw::mmap(null_mut(), page(), Prot::READ, flags, -1, 0) });
        let (rule, remedy) =
            (format!("vm.mmap_min_addr ({lowest})"), format!("from {lowest:#x} on"));
        kernel_says(&error, Errno::PERM, &["EPERM", &rule, "null pointers fault", &remedy]);
    });
}

#[test]
fn nothing_safe_maps_address_zero() {
    // The kernel would let root do it.
    let error = fails(MapOptions::new().at(0).anon(page()));
    folio_says(&error, Errno::PERM, &["nothing may lie at address zero", "choose another address"]);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.starts_with("00000000-"), "{maps}");
}

// ---- mmap(2): ETXTBSY ----

/// A file in use as swap space, until it is dropped.
struct SwapFile(std::ffi::CString);

impl SwapFile {
    fn on(path: &std::path::Path, pages: usize) -> Option<Self> {
        // The header that mkswap writes: version 1, the last page's number, and the signature at
        // the end of the first page.
        let mut bytes = vec![0; pages * page()];
        bytes[1024..1028].copy_from_slice(&1_u32.to_ne_bytes());
        bytes[1028..1032].copy_from_slice(&(pages as u32 - 1).to_ne_bytes());
        bytes[page() - 10..page()].copy_from_slice(b"SWAPSPACE2");
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        File::open(path).unwrap().sync_all().unwrap();
        let name = std::ffi::CString::new(path.to_str()?).ok()?;
        // SAFETY: a path that ends with a NUL.
        (unsafe { libc::swapon(name.as_ptr(), 0) } == 0).then(|| Self(name))
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        // SAFETY: a path that ends with a NUL.
        assert_eq!(unsafe { libc::swapoff(self.0.as_ptr()) }, 0);
    }
}

#[test]
fn a_writable_shared_map_of_an_active_swap_file_is_etxtbsy() {
    let dir = disk_dir();
    let path = dir.path().join("swap");
    File::create(&path).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let Some(swap) = SwapFile::on(&path, 64) else { return skip("swapon is not allowed here") };
    let error = fails(FileMapMut::map(&file));
    kernel_says(
        &error,
        Errno::TXTBSY,
        &[
            "ETXTBSY",
            path.to_str().unwrap(),
            "in use as swap space",
            "read-only or privately",
            "swapoff",
        ],
    );
    // The remedies hold.
    FileMap::map(&file).unwrap();
    drop(swap);
    FileMapMut::map(&file).unwrap();
}

#[test]
fn denywrite_gives_nobody_etxtbsy() {
    let (_dir, path, file) = disk_file(1);
    let deny = MapFlags::DENYWRITE | MapFlags::EXECUTABLE;
    let map = MapOptions::new().flags(deny).exec().map_private(&file).unwrap();
    let mut bytes = pattern(1);
    bytes[0] = 99;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(map.read::<u8>(0).unwrap(), 99);
    FileMapMut::open(&path).unwrap().write_at(&[98], 0).unwrap();
}

// ---- mmap(2): EEXIST, EOVERFLOW, EOPNOTSUPP ----

#[test]
fn a_place_that_is_taken_is_eexist() {
    let there = pages(1, Prot::READ);
    let address = there.as_ptr() as usize;
    let error = fails(MapOptions::new().at(address).anon(page()));
    let at = format!("address {address:#x}");
    kernel_says(&error, Errno::EXIST, &["EEXIST", &at, "something is mapped", "Reservation"]);
    let mut byte = [1];
    there.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [0], "what was there is there");
}

#[test]
fn an_offset_that_ends_past_the_longest_file_is_eoverflow() {
    let (_dir, path, file) = disk_file(1);
    // The last page of all would end one byte behind the longest file.
    let last = i64::MAX - i64::MAX % page() as i64;
    let error = fails(raw_map(Prot::READ, MapFlags::SHARED, file.as_raw_fd(), last));
    let offset = format!("offset {last}");
    kernel_says(
        &error,
        Errno::OVERFLOW,
        &["EOVERFLOW", path.to_str().unwrap(), &offset, "2^63 - 1", "nearer to the start"],
    );
    let error = fails(MapOptions::new().offset(last as u64).len(page()).map(&file));
    folio_says(&error, Errno::OVERFLOW, &["what can be counted", "ask for less"]);
    // One page before, it is a map past the end of this file, which is allowed.
    MapOptions::new().offset((last - page() as i64) as u64).len(page()).map(&file).unwrap();
}

#[test]
fn sync_for_a_file_that_is_not_on_a_dax_device_is_eopnotsupp() {
    let (_dir, path, file) = disk_file(1);
    let error = fails(MapOptions::new().flags(MapFlags::SYNC).map_mut(&file));
    kernel_says(
        &error,
        Errno::OPNOTSUPP,
        &[
            "EOPNOTSUPP",
            path.to_str().unwrap(),
            "SHARED_VALIDATE",
            "SYNC",
            "DAX device",
            "leave the flag out",
        ],
    );
}

#[test]
fn an_unknown_flag_is_eopnotsupp_with_shared_validate_and_ignored_without() {
    let (_dir, _, file) = disk_file(1);
    let unknown = MapFlags::from_bits_retain(0x0200_0000);
    let error =
        fails(raw_map(Prot::READ, MapFlags::SHARED_VALIDATE | unknown, file.as_raw_fd(), 0));
    kernel_says(
        &error,
        Errno::OPNOTSUPP,
        &["SHARED_VALIDATE|0x2000000", "does not support", "leave the flag out"],
    );
    let map = raw_map(Prot::READ, MapFlags::SHARED | unknown, file.as_raw_fd(), 0).unwrap();
    // SAFETY: the map that was just made.
    unsafe { raw::munmap(map, page()) }.unwrap();
}

// ---- munmap(2) ----

#[test]
fn munmap_of_an_unaligned_address_is_einval() {
    let region = pages(2, Prot::READ);
    let address = region.as_ptr() as usize + page() + 1;
    // SAFETY: fails before it unmaps anything.
    let error = fails(unsafe { raw::munmap(address as *mut u8, page()) });
    let nearest = format!("use {:#x} or {:#x}", address - 1, address - 1 + page());
    kernel_says(&error, Errno::INVAL, &["EINVAL", "munmap", "multiple of the page size", &nearest]);
}

#[test]
fn munmap_of_no_bytes_is_einval() {
    let region = pages(1, Prot::READ);
    // SAFETY: unmaps nothing.
    let error = fails(unsafe { raw::munmap(region.as_ptr(), 0) });
    kernel_says(&error, Errno::INVAL, &["EINVAL", "length 0", "must not be zero"]);
}

#[test]
fn munmap_past_the_address_space_is_einval() {
    let last = !0 << 20;
    // SAFETY: no address of a process lies there.
    let error = fails(unsafe { raw::munmap(last as *mut u8, page()) });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "unmapped memory", "in the process's address space"],
    );
}

#[test]
fn munmap_that_splits_an_area_at_max_map_count_is_enomem() {
    child_succeeds(|| {
        let mut region = pages(3, Prot::READ_WRITE);
        let limit = fill_areas();
        let error = fails(region.unmap_range(page()..2 * page()));
        let limit = format!("vm.max_map_count allows {limit}");
        kernel_says(
            &error,
            Errno::NOMEM,
            &["munmap", "ENOMEM", &limit, "splits it", "raise vm.max_map_count"],
        );
        // Nothing changed, and without a split it works.
        region.write_at(&[1], page()).unwrap();
        region.unmap().unwrap();
    });
}

// ---- msync(2) ----

#[test]
fn invalidating_locked_pages_is_ebusy() {
    let (_dir, path, file) = disk_file(2);
    let map = FileMapMut::map(&file).unwrap();
    map.lock(..page()).unwrap();
    let error = fails(map.sync(.., WriteBack::Invalidate));
    kernel_says(
        &error,
        Errno::BUSY,
        &["msync", "EBUSY", path.to_str().unwrap(), "locked", "unlock it first"],
    );
    map.unlock(..).unwrap();
    map.sync(.., WriteBack::Invalidate).unwrap();
}

#[test]
fn msync_of_an_unaligned_address_is_einval() {
    let (_dir, _, file) = disk_file(2);
    let map = FileMapMut::map(&file).unwrap();
    let address = map.as_ptr() as usize + 1;
    let error = fails(raw::msync(address as *mut u8, page(), libc::MS_SYNC));
    let nearest = format!("use {:#x} or {:#x}", address - 1, address - 1 + page());
    kernel_says(&error, Errno::INVAL, &["msync", "EINVAL", "multiple of the page size", &nearest]);
}

#[test]
fn msync_both_now_and_later_is_einval() {
    let region = pages(1, Prot::READ);
    let error = fails(raw::msync(region.as_ptr(), page(), libc::MS_SYNC | libc::MS_ASYNC));
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "ASYNC and SYNC exclude each other", "pass one of the two"],
    );
    let error = fails(raw::msync(region.as_ptr(), page(), 0x100));
    kernel_says(&error, Errno::INVAL, &["EINVAL", "flags 0x100", "the only other flag"]);
}

#[test]
fn msync_of_a_range_with_a_hole_is_enomem() {
    // In a child, where no other thread maps something into the hole.
    child_succeeds(|| {
        let mut region = pages(3, Prot::READ);
        let base = region.as_ptr();
        region.unmap_range(page()..2 * page()).unwrap();
        let error = fails(raw::msync(base, 3 * page(), libc::MS_SYNC));
        let gap = format!("nothing lies at {:#x}", base as usize + page());
        kernel_says(
            &error,
            Errno::NOMEM,
            &["msync", "ENOMEM", "not mapped", &gap, "/proc/self/maps"],
        );
        // folio knows its holes, and asks nobody.
        let error = fails(region.sync(.., WriteBack::Wait));
        let hole = format!("bytes {}..{} of the map were unmapped", page(), 2 * page());
        folio_says(&error, Errno::NOMEM, &[&hole, "`mapped` lists"]);
    });
}

#[test]
fn a_device_that_fails_to_store_a_page_is_eio() {
    let Some(disk) = FailingDisk::new(16) else { return skip("no loop device is to be had") };
    let map = MapOptions::new().len(page()).map_mut(disk.file()).unwrap();
    map.write_at(b"lost", 0).unwrap();
    let error = fails(map.sync(.., WriteBack::Wait));
    kernel_says(
        &error,
        Errno::IO,
        &["msync", "EIO", disk.path(), "failed to store", "may be lost", "damaged"],
    );
}

// ---- mprotect(2) ----

#[test]
fn making_a_read_only_file_writable_is_eacces() {
    let (_dir, path, _) = disk_file(1);
    let mut region = FileMap::open(&path).unwrap().into_region();
    let error = fails(region.protect(.., Prot::READ_WRITE));
    kernel_says(
        &error,
        Errno::ACCESS,
        &[
            "mprotect",
            "EACCES",
            path.to_str().unwrap(),
            "READ | WRITE",
            "not opened with",
            "open the file for writing",
        ],
    );
}

#[test]
fn making_a_file_on_a_noexec_mount_executable_is_eacces() {
    let Some(mounted) = Mounted::tmpfs("noexec,size=1m") else {
        return skip("mounting is not allowed");
    };
    let path = file_with(mounted.path(), &pattern(1));
    let mut region = FileMapMut::open(&path).unwrap().into_region();
    let error = fails(region.protect(.., Prot::READ | Prot::EXEC));
    kernel_says(
        &error,
        Errno::ACCESS,
        &["EACCES", path.to_str().unwrap(), "mounted noexec", "leave out EXEC"],
    );
}

#[test]
fn mprotect_of_an_unaligned_address_is_einval() {
    let region = pages(2, Prot::READ);
    let address = region.as_ptr() as usize + 7;
    // SAFETY: fails before it changes anything.
    let error = fails(unsafe { raw::mprotect(address as *mut u8, page(), Prot::NONE) });
    let nearest = format!("use {:#x} or {:#x}", address - 7, address - 7 + page());
    kernel_says(
        &error,
        Errno::INVAL,
        &["mprotect", "EINVAL", "multiple of the page size", &nearest],
    );
}

#[test]
fn mprotect_growing_both_ways_is_einval() {
    let mut region = pages(1, Prot::READ);
    let error = fails(region.protect(.., Prot::READ | Prot::GROWSDOWN | Prot::GROWSUP));
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "GROWSDOWN | GROWSUP", "never both", "READ, WRITE and EXEC only"],
    );
}

#[test]
fn mprotect_growing_a_map_that_does_not_grow_is_einval() {
    let mut region = pages(1, Prot::READ);
    let error = fails(region.protect(.., Prot::READ | Prot::GROWSDOWN));
    kernel_says(&error, Errno::INVAL, &["EINVAL", "a map that grows down"]);
}

#[test]
fn mprotect_of_a_range_with_a_hole_is_enomem() {
    child_succeeds(|| {
        let mut region = pages(3, Prot::READ);
        let base = region.as_ptr();
        region.unmap_range(page()..2 * page()).unwrap();
        // SAFETY: nobody uses the region's bytes.
        let error = fails(unsafe { raw::mprotect(base, 3 * page(), Prot::NONE) });
        let gap = format!("nothing lies at {:#x}", base as usize + page());
        kernel_says(&error, Errno::NOMEM, &["mprotect", "ENOMEM", "not mapped", &gap]);
    });
}

#[test]
fn mprotect_that_splits_an_area_at_max_map_count_is_enomem() {
    child_succeeds(|| {
        let mut region = pages(4, Prot::READ_WRITE);
        // A range over two areas, of which neither holds all of it.
        region.protect(2 * page().., Prot::READ).unwrap();
        let limit = fill_areas();
        let error = fails(region.protect(page()..3 * page(), Prot::NONE));
        let limit = format!("vm.max_map_count allows {limit}");
        kernel_says(
            &error,
            Errno::NOMEM,
            &["mprotect", "ENOMEM", &limit, "splits it", "raise vm.max_map_count"],
        );
    });
}

#[test]
fn mprotect_that_makes_more_memory_private_than_rlimit_data_is_enomem() {
    child_succeeds(|| {
        let mut region = MapOptions::new().region(1 << 30, Prot::NONE).unwrap();
        let limit = status_bytes("VmData") + (64 << 20);
        lower_limit(libc::RLIMIT_DATA, limit);
        let error = fails(region.protect(.., Prot::READ_WRITE));
        let allows = format!("RLIMIT_DATA allows {limit} bytes");
        kernel_says(&error, Errno::NOMEM, &["mprotect", "ENOMEM", &allows, "ulimit -d"]);
        region.protect(.., Prot::READ).unwrap();
    });
}

// ---- mremap(2) ----

#[test]
fn growing_a_locked_map_beyond_rlimit_memlock_is_eagain() {
    child_succeeds(|| {
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
        let mut region = pages(1, Prot::READ_WRITE);
        region.lock(..).unwrap();
        let error = fails(region.resize(page() + (1 << 20), Resize::MayMove));
        let locked = format!("{} bytes are locked, 1048576 were asked for", page());
        kernel_says(
            &error,
            Errno::AGAIN,
            &["mremap", "EAGAIN", "RLIMIT_MEMLOCK", "limit is 65536 bytes", &locked, "ulimit -l"],
        );
        assert_eq!(region.len(), page());
    });
}

#[test]
fn growing_a_map_of_several_areas_is_efault() {
    let mut region = pages(2, Prot::READ_WRITE);
    region.protect(page().., Prot::READ).unwrap();
    let error = fails(region.resize(4 * page(), Resize::MayMove));
    kernel_says(
        &error,
        Errno::FAULT,
        &["mremap", "EFAULT", "several areas", "one protection first"],
    );
    // The remedy holds.
    region.protect(.., Prot::READ).unwrap();
    region.resize(4 * page(), Resize::MayMove).unwrap();
}

#[test]
fn mremap_of_unmapped_addresses_is_efault() {
    child_succeeds(|| {
        let region = pages(1, Prot::READ);
        let address = region.as_ptr();
        region.unmap().unwrap();
        // SAFETY: nothing is mapped there.
        let error = fails(unsafe {
            raw::mremap(address, page(), 2 * page(), libc::MREMAP_MAYMOVE, null_mut())
        });
        let gap = format!("nothing lies at {address:p}");
        kernel_says(&error, Errno::FAULT, &["mremap", "EFAULT", "unmapped memory", &gap]);
    });
}

#[test]
fn mremap_of_an_unaligned_address_is_einval() {
    let region = pages(2, Prot::READ);
    let address = region.as_ptr() as usize + 9;
    // SAFETY: fails before it changes anything.
    let error = fails(unsafe { raw::mremap(address as *mut u8, page(), page(), 0, null_mut()) });
    let nearest = format!("use {:#x} or {:#x}", address - 9, address - 9 + page());
    kernel_says(&error, Errno::INVAL, &["mremap", "EINVAL", "multiple of the page size", &nearest]);
}

#[test]
fn mremap_to_no_length_is_einval() {
    let region = pages(1, Prot::READ);
    // SAFETY: fails before it changes anything.
    let error =
        fails(unsafe { raw::mremap(region.as_ptr(), page(), 0, libc::MREMAP_MAYMOVE, null_mut()) });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "to length 0", "new length must not be zero", "unmap it"],
    );
}

#[test]
fn mremap_to_a_place_without_may_move_is_einval() {
    let region = pages(1, Prot::READ);
    // SAFETY: fails before it changes anything.
    let error = fails(unsafe {
        raw::mremap(region.as_ptr(), page(), page(), libc::MREMAP_FIXED, null_mut())
    });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "flags 0x2", "need MAYMOVE", "pass MREMAP_MAYMOVE too"],
    );
}

#[test]
fn mremap_onto_itself_is_einval() {
    let region = pages(2, Prot::READ);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let target = region.as_ptr().wrapping_add(page());
    // SAFETY: fails before it changes anything.
    let error =
        fails(unsafe { raw::mremap(region.as_ptr(), 2 * page(), 2 * page(), flags, target) });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "overlaps the old range", "apart from the old range"],
    );
}

#[test]
fn duplicating_a_private_map_by_mremap_is_einval() {
    let region = pages(1, Prot::READ);
    // SAFETY: fails before it changes anything.
    let error =
        fails(unsafe { raw::mremap(region.as_ptr(), 0, page(), libc::MREMAP_MAYMOVE, null_mut()) });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "length 0", "private map cannot be duplicated", "a second time"],
    );
}

#[test]
fn growing_in_place_against_a_neighbour_is_enomem() {
    let mut region = pages(2, Prot::READ_WRITE);
    let _neighbour = region.split_off(page()).unwrap();
    let error = fails(region.resize(2 * page(), Resize::InPlace));
    kernel_says(
        &error,
        Errno::NOMEM,
        &[
            "mremap",
            "ENOMEM",
            "InPlace",
            "cannot grow where it is",
            "allow the move",
            "Reservation",
        ],
    );
    region.resize(2 * page(), Resize::MayMove).unwrap();
}

#[test]
fn moving_a_map_at_max_map_count_is_enomem() {
    child_succeeds(|| {
        let mut region = pages(2, Prot::READ_WRITE);
        let _neighbour = region.split_off(page()).unwrap();
        let limit = fill_areas();
        let error = fails(region.resize(2 * page(), Resize::MayMove));
        let limit = format!("vm.max_map_count allows {limit}");
        kernel_says(&error, Errno::NOMEM, &["mremap", "ENOMEM", &limit, "raise vm.max_map_count"]);
    });
}

#[test]
fn growing_a_map_beyond_rlimit_as_is_enomem() {
    child_succeeds(|| {
        let mut block = Anon::new(page()).unwrap();
        let limit = status_bytes("VmSize") + (64 << 20);
        lower_limit(libc::RLIMIT_AS, limit);
        let error = fails(block.resize(page() + (1 << 30)));
        let allows = format!("RLIMIT_AS allows {limit} bytes");
        kernel_says(
            &error,
            Errno::NOMEM,
            &["mremap", "ENOMEM", &allows, "1073741824 were asked for", "ulimit -v"],
        );
        assert_eq!(block.len(), page());
    });
}

// ---- mlock(2) ----

#[test]
fn locking_beyond_rlimit_memlock_is_enomem() {
    child_succeeds(|| {
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
        let region = MapOptions::new().region(1 << 20, Prot::READ_WRITE).unwrap();
        for error in [fails(region.lock(..)), fails(region.lock_on_fault(..))] {
            kernel_says(
                &error,
                Errno::NOMEM,
                &[
                    "mlock",
                    "ENOMEM",
                    "RLIMIT_MEMLOCK",
                    "65536 bytes",
                    "1048576 were asked for",
                    "ulimit -l",
                ],
            );
        }
        region.lock(..64 << 10).unwrap();
    });
}

#[test]
fn locking_a_range_with_a_hole_is_enomem() {
    child_succeeds(|| {
        let mut region = pages(3, Prot::READ);
        let base = region.as_ptr();
        region.unmap_range(page()..2 * page()).unwrap();
        let gap = format!("nothing lies at {:#x}", base as usize + page());
        let error = fails(raw::mlock(base, 3 * page(), false));
        kernel_says(&error, Errno::NOMEM, &["mlock", "ENOMEM", "not mapped", &gap]);
        let error = fails(raw::munlock(base, 3 * page()));
        kernel_says(&error, Errno::NOMEM, &["munlock", "ENOMEM", "not mapped", &gap]);
    });
}

#[test]
fn locking_pages_past_the_end_of_the_file_is_enomem() {
    let (_dir, path, file) = disk_file(1);
    let map = MapOptions::new().len(2 * page()).map(&file).unwrap();
    let error = fails(map.lock(..));
    kernel_says(
        &error,
        Errno::NOMEM,
        &["mlock", "ENOMEM", path.to_str().unwrap(), "past the end of the file", "on fault"],
    );
    map.lock(..page()).unwrap();
    map.lock_on_fault(..).unwrap();
}

#[test]
fn locking_pages_without_access_is_enomem() {
    let region = pages(1, Prot::NONE);
    let error = fails(region.lock(..));
    kernel_says(&error, Errno::NOMEM, &["mlock", "ENOMEM", "protection forbids", "can be read"]);
}

#[test]
fn locking_that_splits_an_area_at_max_map_count_is_enomem() {
    child_succeeds(|| {
        let region = pages(3, Prot::READ_WRITE);
        let limit = fill_areas();
        let error = fails(region.lock(page()..2 * page()));
        let limit = format!("vm.max_map_count allows {limit}");
        kernel_says(&error, Errno::NOMEM, &["mlock", "ENOMEM", &limit, "raise vm.max_map_count"]);
    });
}

#[test]
fn locking_where_no_memory_may_be_locked_is_eperm() {
    child_succeeds(|| {
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, 0);
        let error = fails(Anon::new(page()).unwrap().lock(..));
        kernel_says(
            &error,
            Errno::PERM,
            &["mlock", "EPERM", "may not lock memory at all", "limit is 0 bytes", "CAP_IPC_LOCK"],
        );
    });
}

#[test]
fn locking_past_the_end_of_the_address_space_is_einval() {
    let region = pages(1, Prot::READ);
    let length = usize::MAX - region.as_ptr() as usize;
    let fragments = ["EINVAL", "end of the address space", "lock less"];
    kernel_says(&fails(raw::munlock(region.as_ptr(), length)), Errno::INVAL, &fragments);
    // Without CAP_IPC_LOCK the limit is looked at first.
    if is_root() {
        kernel_says(&fails(raw::mlock(region.as_ptr(), length, false)), Errno::INVAL, &fragments);
    }
}

// ---- madvise(2) ----

#[test]
fn removing_pages_of_a_file_that_is_mapped_read_only_is_eacces() {
    let (_dir, path, _) = disk_file(1);
    let mut region = FileMap::open(&path).unwrap().into_region();
    let error = fails(region.discard(.., Discard::Remove));
    kernel_says(
        &error,
        Errno::ACCESS,
        &[
            "madvise",
            "EACCES",
            path.to_str().unwrap(),
            "open for writing",
            "FileMapMut",
            "DontNeed",
        ],
    );
    assert_eq!(std::fs::read(&path).unwrap(), pattern(1));
}

#[test]
fn advice_that_splits_an_area_at_max_map_count_is_eagain() {
    child_succeeds(|| {
        let region = pages(3, Prot::READ_WRITE);
        let limit = fill_areas();
        let error = fails(region.advise(page()..2 * page(), Advice::Random));
        let limit = format!("vm.max_map_count allows {limit}");
        kernel_says(
            &error,
            Errno::AGAIN,
            &["madvise", "EAGAIN", "Random", &limit, "raise vm.max_map_count"],
        );
    });
}

/// An aligned range that a huge page would fit, with its first byte written, and no huge page yet:
/// `Advice::HugePage` wakes the kernel's own thread, which may make one at once. `None` without
/// transparent huge pages.
fn collapsible() -> Option<(Reservation, Region)> {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return None;
    }
    let huge =
        PageSize::new(number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")? as usize)?;
    let space = Reservation::aligned(huge.bytes(), huge).ok()?;
    let region = MapOptions::new()
        .within(&space, 0)
        .transparent_huge_pages(false)
        .region(huge.bytes(), Prot::READ_WRITE);
    let region = region.unwrap();
    region.write_at(&[1], 0).unwrap();
    Some((space, region))
}

#[test]
fn collapsing_a_range_with_a_pinned_page_is_eagain() {
    let Some((_space, region)) = collapsible() else {
        return skip("the kernel has no transparent huge pages");
    };
    let (reader, writer) = std::io::pipe().unwrap();
    let bytes = libc::iovec { iov_base: region.as_ptr().cast(), iov_len: page() };
    assert_eq!(
        // SAFETY: the pipe takes a reference to the page, which stays mapped.
        unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const bytes, 1, 0) },
        page() as isize
    );
    region.advise(.., Advice::HugePage).unwrap();
    let error = fails(region.advise(.., Advice::Collapse));
    kernel_says(
        &error,
        Errno::AGAIN,
        &["madvise", "EAGAIN", "Collapse", "pinned or busy", "try again later"],
    );
    // The remedy holds; the kernel's own thread may be at it for a moment.
    drop((reader, writer));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(error) = region.advise(.., Advice::Collapse) {
        assert_eq!(error.errno(), Errno::AGAIN, "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}

#[test]
fn collapsing_a_range_whose_missing_pages_are_watched_is_ebusy() {
    const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
    const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
    let Some((_space, region)) = collapsible() else {
        return skip("the kernel has no transparent huge pages");
    };
    // SAFETY: makes a descriptor. (1 is UFFD_USER_MODE_ONLY.)
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | 1) };
    if fd < 0 {
        return skip("userfaultfd is not allowed");
    }
    // SAFETY: just made, and owned by nobody else.
    let watcher = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut api = [0xaa_u64, 0, 0];
    // Start, length, MODE_MISSING, and room for the answer.
    let mut register = [region.as_ptr() as u64, region.len() as u64, 1, 0];
    // SAFETY: `struct uffdio_api` is three u64, `struct uffdio_register` four.
    unsafe {
        assert_eq!(libc::ioctl(watcher.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()), 0);
        assert_eq!(libc::ioctl(watcher.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()), 0);
    }
    region.advise(.., Advice::HugePage).unwrap();
    let error = fails(region.advise(.., Advice::Collapse));
    kernel_says(
        &error,
        Errno::BUSY,
        &["madvise", "EBUSY", "Collapse", "userfaultfd", "populate the range first"],
    );
}

#[test]
fn will_need_of_anonymous_memory_is_no_ebadf_today() {
    // It reads swapped-out pages in. Only a kernel built without swap says that there is no file.
    let region = pages(1, Prot::READ_WRITE);
    match region.advise(.., Advice::WillNeed) {
        Ok(()) => assert!(std::path::Path::new("/proc/swaps").exists()),
        Err(error) => {
            kernel_says(&error, Errno::BADF, &["EBADF", "not of a file", "file maps only"]);
            assert!(!std::path::Path::new("/proc/swaps").exists());
        }
    }
}

#[test]
fn a_device_that_fails_to_free_pages_is_eio() {
    let Some(disk) = FailingDisk::new(16) else { return skip("no loop device is to be had") };
    let mut region = MapOptions::new().len(page()).map_mut(disk.file()).unwrap().into_region();
    let error = fails(region.discard(.., Discard::Remove));
    kernel_says(
        &error,
        Errno::IO,
        &["madvise", "EIO", disk.path(), "failed to free", "check the device"],
    );
}

#[test]
fn populating_pages_past_the_end_of_the_file_is_efault() {
    let (_dir, path, file) = disk_file(1);
    let map = MapOptions::new().len(2 * page()).map_mut(&file).unwrap();
    for advice in [Advice::PopulateRead, Advice::PopulateWrite] {
        let error = fails(map.advise(.., advice));
        if error.errno() == Errno::INVAL {
            return skip("MADV_POPULATE needs Linux 5.14");
        }
        kernel_says(
            &error,
            Errno::FAULT,
            &[
                "madvise",
                "EFAULT",
                path.to_str().unwrap(),
                "past the end of the file",
                "keep to the pages",
            ],
        );
        map.advise(..page(), advice).unwrap();
    }
}

#[test]
fn advice_for_an_unaligned_address_is_einval() {
    let region = pages(2, Prot::READ);
    let address = region.as_ptr() as usize + 3;
    // SAFETY: fails before it changes anything.
    let error = fails(unsafe { raw::madvise(address as *mut u8, page(), libc::MADV_NORMAL) });
    let nearest = format!("use {:#x} or {:#x}", address - 3, address - 3 + page());
    kernel_says(
        &error,
        Errno::INVAL,
        &["madvise", "EINVAL", "multiple of the page size", &nearest],
    );
}

#[test]
fn advice_that_the_kernel_does_not_know_is_einval() {
    let region = pages(1, Prot::READ);
    // SAFETY: no such advice, so no bytes change.
    let error = fails(unsafe { raw::madvise(region.as_ptr(), page(), 9999) });
    kernel_says(
        &error,
        Errno::INVAL,
        &["EINVAL", "advice 9999", "does not know the advice", "leave it out"],
    );
}

fn first_byte(region: &Region) -> u8 {
    let mut byte = [0];
    region.read_at(&mut byte, 0).unwrap();
    byte[0]
}

#[test]
fn dropping_locked_pages_is_einval() {
    let mut region = pages(2, Prot::READ_WRITE);
    region.lock(..).unwrap();
    region.write_at(&[7], 0).unwrap();
    let error = fails(region.discard(.., Discard::DontNeed));
    kernel_says(
        &error,
        Errno::INVAL,
        &["madvise", "EINVAL", "DontNeed", "locked pages are not dropped", "unlock them first"],
    );
    assert_eq!(first_byte(&region), 7);
    region.unlock(..).unwrap();
    region.discard(.., Discard::DontNeed).unwrap();
    assert_eq!(first_byte(&region), 0);
}

#[test]
fn freeing_pages_of_a_file_is_einval() {
    let (_dir, path, file) = disk_file(1);
    let region = FileMapPrivate::map(&file).unwrap().into_region();
    // SAFETY: nothing relies on the bytes.
    let error = fails(unsafe { region.advise_unchecked(.., UncheckedAdvice::Free) });
    kernel_says(
        &error,
        Errno::INVAL,
        &[
            "madvise",
            "EINVAL",
            path.to_str().unwrap(),
            "Free",
            "this kind of memory",
            "private anonymous memory",
        ],
    );
}

#[test]
fn advice_for_a_range_with_a_hole_is_enomem() {
    child_succeeds(|| {
        let mut region = pages(3, Prot::READ);
        let base = region.as_ptr();
        region.unmap_range(page()..2 * page()).unwrap();
        // SAFETY: changes no byte.
        let error = fails(unsafe { raw::madvise(base, 3 * page(), libc::MADV_RANDOM) });
        let gap = format!("nothing lies at {:#x}", base as usize + page());
        kernel_says(&error, Errno::NOMEM, &["madvise", "ENOMEM", "not mapped", &gap]);
    });
}

#[test]
fn poisoning_pages_without_cap_sys_admin_is_eperm_where_the_kernel_can_poison() {
    let can = std::path::Path::new("/proc/sys/vm/memory_failure_recovery").exists();
    child_succeeds(move || {
        become_nobody();
        let region = pages(1, Prot::READ_WRITE);
        // SAFETY: nothing relies on the bytes.
        let error = fails(unsafe { region.advise_unchecked(.., UncheckedAdvice::HwPoison) });
        if can {
            kernel_says(
                &error,
                Errno::PERM,
                &["EPERM", "HwPoison", "CAP_SYS_ADMIN", "run with the capability"],
            );
        } else {
            kernel_says(
                &error,
                Errno::INVAL,
                &["EINVAL", "HwPoison", "was built without it", "leave it out"],
            );
        }
    });
}

// ---- mseal(2), and EPERM of the others ----

/// A sealed region of these pages, and its address; `None` before Linux 6.10. It is there for the
/// life of the process, so in children only.
fn sealed(count: usize, prot: Prot) -> Option<&'static Region> {
    match pages(count, prot).seal() {
        Ok(region) => Some(region),
        Err(refused) => {
            assert!(
                matches!(refused.error.errno(), Errno::NOSYS | Errno::PERM),
                "{}",
                refused.error
            );
            kernel_says(&refused.error, refused.error.errno(), &["mseal", "Linux 6.10", "static"]);
            None
        }
    }
}

/// A call on sealed memory: EPERM, with the reason.
fn is_forbidden_for_sealed_memory(
    prot: Prot,
    call: impl FnOnce(*mut u8) -> Error,
    fragments: &[&str],
) {
    child_succeeds(|| {
        let Some(region) = sealed(2, prot) else { return skip("mseal needs Linux 6.10") };
        let error = call(region.as_ptr());
        kernel_says(&error, Errno::PERM, &[&["EPERM", "sealed"], fragments].concat());
        let mut byte = [1];
        region.read_at(&mut byte, page()).unwrap();
        assert_eq!(byte, [0], "it is there");
    });
}

#[test]
fn unmapping_sealed_memory_is_eperm() {
    // SAFETY: nobody uses the bytes.
    let call = |at| fails(unsafe { raw::munmap(at, page()) });
    is_forbidden_for_sealed_memory(
        Prot::READ,
        call,
        &["munmap", "never be unmapped", "life of the process"],
    );
}

#[test]
fn protecting_sealed_memory_is_eperm() {
    // SAFETY: nobody uses the bytes.
    let call = |at| fails(unsafe { raw::mprotect(at, page(), Prot::READ_WRITE) });
    is_forbidden_for_sealed_memory(Prot::READ, call, &["mprotect", "protected otherwise"]);
}

#[test]
fn moving_sealed_memory_is_eperm() {
    // SAFETY: nobody uses the bytes.
    let call = |at| fails(unsafe { raw::mremap(at, 2 * page(), page(), 0, null_mut()) });
    is_forbidden_for_sealed_memory(Prot::READ, call, &["mremap", "moved"]);
}

#[test]
fn replacing_sealed_memory_is_eperm() {
    let flags = PRIVATE_ANONYMOUS | MapFlags::FIXED;
    // SAFETY: nobody uses the bytes.
    let call = |at| fails(unsafe { raw::mmap(at, page(), Prot::READ, flags, -1, 0) });
    is_forbidden_for_sealed_memory(Prot::READ, call, &["mmap", "mseal", "choose another address"]);
}

#[test]
fn dropping_sealed_read_only_memory_is_eperm() {
    // SAFETY: nobody uses the bytes.
    let call = |at| fails(unsafe { raw::madvise(at, page(), libc::MADV_DONTNEED) });
    is_forbidden_for_sealed_memory(
        Prot::READ,
        call,
        &["madvise", "destroy the contents", "mseal", "leave the advice out"],
    );
}

#[test]
fn sealing_unmapped_addresses_is_enomem() {
    child_succeeds(|| {
        let region = pages(3, Prot::READ);
        let middle = region.as_ptr().wrapping_add(page());
        // SAFETY: nobody uses the bytes; in this child nothing else is mapped there later.
        unsafe { raw::munmap(middle, page()) }.unwrap();
        let refused = region.seal().unwrap_err();
        if refused.error.errno() == Errno::NOSYS {
            return skip("mseal needs Linux 6.10");
        }
        let gap = format!("nothing lies at {middle:p}");
        kernel_says(&refused.error, Errno::NOMEM, &["mseal", "ENOMEM", "not mapped", &gap]);
    });
}

// ---- folio's own refusals ----

#[test]
fn protect_names_the_nearest_whole_pages() {
    let mut region = pages(4, Prot::READ_WRITE);
    let p = page();
    let error = fails(region.protect(1..3 * p - 1, Prot::READ));
    let nearest = format!("the nearest are 0..{} (outside) and {}..{} (inside)", 3 * p, p, 2 * p);
    folio_says(&error, Errno::INVAL, &["mprotect", "whole pages", &nearest]);
    let error = fails(region.protect(p + 1..p + 2, Prot::READ));
    let nearest = format!("the nearest is {}..{}", p, 2 * p);
    folio_says(&error, Errno::INVAL, &[&nearest]);
    // Nothing was changed.
    region.write_at(&[1], p).unwrap();
}

#[test]
fn unmap_range_names_the_nearest_whole_pages() {
    let mut region = pages(4, Prot::READ_WRITE);
    let p = page();
    let error = fails(region.unmap_range(p - 1..4 * p));
    let nearest = format!("the nearest are 0..{} (outside) and {p}..{} (inside)", 4 * p, 4 * p);
    folio_says(&error, Errno::INVAL, &["munmap", "whole pages", &nearest]);
    // Nothing was unmapped.
    assert!(region.mapped().eq(std::iter::once(0..4 * p)));
}

#[test]
fn discard_names_the_nearest_whole_pages() {
    let mut block = Anon::new(3 * page()).unwrap();
    block.fill(7);
    let p = page();
    let error = fails(block.discard(p..=2 * p));
    let nearest = format!("the nearest are {p}..{} (outside) and {p}..{} (inside)", 3 * p, 2 * p);
    folio_says(&error, Errno::INVAL, &["madvise", "whole pages", &nearest]);
    assert!(block.iter().all(|&byte| byte == 7));
}

#[test]
fn a_range_past_the_end_of_a_map_is_einval_and_names_the_end() {
    let region = pages(2, Prot::READ);
    let error = fails(region.sync(page()..=2 * page(), WriteBack::Wait));
    let keep = format!("keep to 0..{}", 2 * page());
    folio_says(&error, Errno::INVAL, &["msync", "inside the map", &keep]);
}

#[test]
fn an_option_that_a_map_cannot_have_is_einval_and_names_the_other_way() {
    let error = fails(MapOptions::new().flags(MapFlags::GROWSDOWN).anon(page()));
    folio_says(&error, Errno::INVAL, &["anonymous memory", "GROWSDOWN", "raw::mmap"]);
    let error = fails(MapOptions::new().flags(MapFlags::FIXED).anon(page()));
    folio_says(&error, Errno::INVAL, &["FIXED", "`at` or `within`"]);
}

// ---- The error itself ----

#[test]
fn an_error_becomes_an_io_error_with_its_kind_and_its_message() {
    let error = fails(FileMap::open("/nowhere/at/all"));
    kernel_says(
        &error,
        Errno::NOENT,
        &["open", "/nowhere/at/all", "ENOENT", "no such file", "check the path"],
    );
    let text = error.to_string();
    let error = std::io::Error::from(error);
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_refusal_gives_its_parts() {
    let (_dir, path, _) = disk_file(1);
    let file = File::open(&path).unwrap();
    let error = fails(FileMapMut::map(&file));
    let refusal = error.call_error().unwrap();
    assert_eq!(refusal.call(), "mmap");
    assert_eq!(refusal.subject().object(), path.to_str().unwrap());
    assert_eq!((refusal.subject().offset(), refusal.subject().length()), (Some(0), Some(page())));
    assert!(error.fault().is_none());
    let text = format!("{}; {}", refusal.rule(), refusal.remedy());
    assert!(error.to_string().ends_with(&text), "{error}");
}

#[test]
fn an_error_can_be_cloned_and_has_its_number() {
    let error = FileMap::open("/none/such").unwrap_err();
    let clone = error.clone();
    assert_eq!(clone.to_string(), error.to_string());
    assert_eq!((clone.errno(), clone.raw_os_error()), (Errno::NOENT, libc::ENOENT));
    let fault = pages(1, Prot::NONE).read_at(&mut [0], 0).unwrap_err();
    assert_eq!(fault.clone().raw_os_error(), libc::EFAULT);
}
