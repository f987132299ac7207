//! One test for each flag of mmap(2), on its effect in today's kernel; hugetlb pages; and requests
//! that folio refuses before it asks the kernel.

use crate::common::{
    End, become_nobody, child_succeeds, disk_dir, file_with, in_child, is_root, memory_dir, page,
    pattern, skip,
};
use crate::regions::{
    Area, area_at, faulted, is_mapped, kernel_since, refused_by_kernel, refused_by_rule,
};
use folio::{
    Anon, Errno, FaultCause, FileMapMut, Fork, HugePage, MapFlags, MapOptions, PageSize, Prot,
    Region, Reservation, raw,
};
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

fn with(flags: MapFlags) -> MapOptions {
    MapOptions::new().flags(flags)
}

/// A file of two pages, open for both.
fn file() -> (tempfile::TempDir, File) {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let file = File::options().read(true).write(true).open(path).unwrap();
    (dir, file)
}

/// Maps two pages of a file with exactly these flags.
fn raw_map(file: &File, prot: Prot, flags: MapFlags) -> folio::Result<Region> {
    // SAFETY: no FIXED, so nothing is replaced.
    let start =
        unsafe { raw::mmap(std::ptr::null_mut(), 2 * page(), prot, flags, file.as_raw_fd(), 0) }?;
    // SAFETY: just mapped, and nobody else's.
    unsafe { Region::from_raw_parts(start, 2 * page(), PageSize::system()) }
}

/// The same of no file.
fn raw_anonymous(address: *mut u8, pages: usize, flags: MapFlags) -> folio::Result<*mut u8> {
    assert!(!flags.contains(MapFlags::FIXED));
    let flags = flags | MapFlags::ANONYMOUS;
    // SAFETY: no FIXED, so nothing is replaced.
    unsafe { raw::mmap(address, pages * page(), Prot::READ_WRITE, flags, -1, 0) }
}

fn area(region: &Region) -> Area {
    area_at(region.as_ptr())
}

fn byte(region: &Region) -> u8 {
    let mut byte = [0];
    region.read_at(&mut byte, 0).unwrap();
    byte[0]
}

fn region(flags: MapFlags) -> Region {
    with(flags).region(4 * page(), Prot::READ_WRITE).unwrap()
}

fn resident(block: &Anon) -> usize {
    block.residency(..).unwrap().known().unwrap().resident_bytes()
}

// Which processes share it.

#[test]
fn shared_stores_are_seen_by_read_and_by_other_maps_at_once() {
    let (_dir, file) = file();
    let map = raw_map(&file, Prot::READ_WRITE, MapFlags::SHARED).unwrap();
    let other = raw_map(&file, Prot::READ, MapFlags::SHARED).unwrap();
    map.write_at(&[0xEE], 0).unwrap();
    let mut byte_read = [0];
    file.read_exact_at(&mut byte_read, 0).unwrap();
    assert_eq!((byte_read[0], byte(&other)), (0xEE, 0xEE));
}

#[test]
fn private_stores_copy_the_page_and_never_reach_the_file() {
    let (_dir, file) = file();
    let map = raw_map(&file, Prot::READ_WRITE, MapFlags::PRIVATE).unwrap();
    map.write_at(&[0xEE], 0).unwrap();
    file.write_all_at(&[0x11], 1).unwrap();
    file.write_all_at(&[0x22], page() as u64).unwrap();
    let mut bytes = vec![0; 2 * page()];
    map.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[0], 0xEE);
    assert_eq!(bytes[1], pattern(1)[1], "the copied page is this process's own");
    assert_eq!(bytes[page()], 0x22, "the other still shows the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte[0], pattern(1)[0]);
}

#[test]
fn shared_and_private_together_are_shared_validate_for_a_file() {
    assert_eq!(MapFlags::SHARED | MapFlags::PRIVATE, MapFlags::SHARED_VALIDATE);
    let (_dir, file) = file();
    let map = raw_map(&file, Prot::READ_WRITE, MapFlags::SHARED | MapFlags::PRIVATE).unwrap();
    map.write_at(&[0xEE], 0).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte[0], 0xEE, "it is shared");
}

#[test]
fn shared_and_private_together_are_einval_for_anonymous_memory() {
    let both = MapFlags::SHARED | MapFlags::PRIVATE;
    let error = refused_by_kernel(raw_anonymous(std::ptr::null_mut(), 1, both), Errno::INVAL);
    assert!(error.to_string().contains("exclude each other"), "{error}");
}

#[test]
fn shared_validate_refuses_a_flag_that_shared_ignores() {
    let (_dir, file) = file();
    let unknown = MapFlags::from_bits_retain(0x0200_0000);
    raw_map(&file, Prot::READ, MapFlags::SHARED | unknown).unwrap();
    refused_by_kernel(
        raw_map(&file, Prot::READ, MapFlags::SHARED_VALIDATE | unknown),
        Errno::OPNOTSUPP,
    );
}

#[test]
fn shared_validate_can_be_asked_for_and_placed() {
    let (_dir, file) = file();
    let options = with(MapFlags::SHARED_VALIDATE);
    let map = options.map_mut(&file).unwrap();
    map.write_at(&[0xEE], 0).unwrap();
    child_succeeds(|| {
        let free = options.map(&file).unwrap().as_ptr() as usize;
        let placed = options.clone().at(free).map(&file).unwrap();
        assert_eq!(placed.as_ptr() as usize, free);
        assert_eq!(placed.read::<u8>(0).unwrap(), 0xEE);
        // The kernel refuses NOREPLACE beside it, but nothing is replaced.
        refused_by_kernel(options.clone().at(free).map(&file), Errno::EXIST);
        refused_by_kernel(options.clone().at(free + 1).map(&file), Errno::INVAL);
        assert_eq!(placed.read::<u8>(0).unwrap(), 0xEE);
    });
}

#[test]
fn anonymous_ignores_descriptor_and_offset() {
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    assert_eq!(MapFlags::ANON, MapFlags::ANONYMOUS);
    let offset = 16 * page() as i64;
    // SAFETY: no FIXED, so nothing is replaced.
    let start =
        unsafe { raw::mmap(std::ptr::null_mut(), page(), Prot::READ, flags, 999_999, offset) }
            .unwrap();
    // SAFETY: just mapped, and nobody else's.
    let region = unsafe { Region::from_raw_parts(start, page(), PageSize::system()) }.unwrap();
    assert_eq!(byte(&region), 0);
    // Ignored, but an offset between pages is still refused.
    // SAFETY: no FIXED, so nothing is replaced.
    refused_by_kernel(
        unsafe { raw::mmap(std::ptr::null_mut(), page(), Prot::READ, flags, -1, 1) },
        Errno::INVAL,
    );
}

// Where it lies.

#[test]
fn fixed_replaces_the_map_there() {
    let region = region(MapFlags::empty());
    region.write_at(&vec![7; 4 * page()], 0).unwrap();
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::FIXED;
    let second = region.as_ptr().wrapping_add(page());
    // SAFETY: the page is this region's, which gives out no references.
    let start = unsafe { raw::mmap(second, page(), Prot::READ_WRITE, flags, -1, 0) }.unwrap();
    assert_eq!(start, second);
    let mut bytes = vec![1; 4 * page()];
    region.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[page()..2 * page()].iter().all(|&byte| byte == 0));
    assert!(bytes[..page()].iter().chain(&bytes[2 * page()..]).all(|&byte| byte == 7));
}

#[test]
fn fixed_noreplace_fails_where_something_is_mapped() {
    let region = region(MapFlags::empty());
    region.write_at(&[7], page()).unwrap();
    let there = region.as_ptr().wrapping_add(page());
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    refused_by_kernel(raw_anonymous(there, 1, flags), Errno::EXIST);
    let mut byte = [0];
    region.read_at(&mut byte, page()).unwrap();
    assert_eq!(byte, [7]);
}

#[test]
fn fixed_noreplace_takes_exactly_a_free_address() {
    child_succeeds(|| {
        let region = region(MapFlags::empty());
        let free = region.as_ptr();
        drop(region);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        assert_eq!(raw_anonymous(free, 4, flags).unwrap(), free);
    });
}

#[test]
fn bits_32_maps_below_two_gibibytes() {
    if cfg!(not(target_arch = "x86_64")) {
        assert!(MapFlags::BITS_32.is_empty());
        return skip("only x86-64 has the flag");
    }
    let low = region(MapFlags::BITS_32);
    assert!(low.as_ptr() as usize + low.len() <= 1 << 31, "{low:?}");
    let (_dir, file) = file();
    let map = with(MapFlags::BITS_32).map(&file).unwrap();
    assert!((map.as_ptr() as usize) < 1 << 31);
    // Without it this machine maps higher, so the flag did it.
    assert!(region(MapFlags::empty()).as_ptr() as usize > 1 << 31);
}

#[test]
fn bits_32_is_refused_where_the_kernel_would_ignore_it() {
    if MapFlags::BITS_32.is_empty() {
        return skip("only x86-64 has the flag");
    }
    let reservation = Reservation::new(4 * page()).unwrap();
    let low = with(MapFlags::BITS_32);
    refused_by_rule(low.clone().at(1 << 30).anon(1), Errno::INVAL, "where the place is given");
    refused_by_rule(
        low.clone().within(&reservation, 0).anon(1),
        Errno::INVAL,
        "where the place is given",
    );
    refused_by_rule(low.clone().capacity(page()).anon(1), Errno::INVAL, "inside a reservation");
    refused_by_rule(low.guard_pages().anon(1), Errno::INVAL, "inside a reservation");
}

#[test]
fn growsdown_grows_below_the_map_through_the_raw_door() {
    child_succeeds(|| {
        // Free addresses with room below, farther than the kernel's gap under a stack.
        let room = MapOptions::new().region(8 << 20, Prot::NONE).unwrap();
        let start = room.as_ptr().wrapping_add(4 << 20);
        drop(room);
        let flags = MapFlags::PRIVATE | MapFlags::GROWSDOWN | MapFlags::FIXED_NOREPLACE;
        assert_eq!(raw_anonymous(start, 1, flags).unwrap(), start);
        let below = start.wrapping_sub(1);
        assert!(!is_mapped(start.wrapping_sub(page())));
        // SAFETY: the kernel extends the map to this page, in a process with one thread, where
        // nobody else has it.
        unsafe { below.write_volatile(7) };
        assert!(is_mapped(start.wrapping_sub(page())));
        assert!(area_at(below).has("gd"));
    });
}

#[test]
fn without_growsdown_the_page_below_is_no_ones() {
    let end = in_child(|| {
        let room = MapOptions::new().region(8 << 20, Prot::NONE).unwrap();
        let start = room.as_ptr().wrapping_add(4 << 20);
        drop(room);
        raw_anonymous(start, 1, MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE).unwrap();
        // SAFETY: not sound, as the test shows: the child ends here.
        unsafe { start.wrapping_sub(1).write_volatile(7) };
    });
    assert_eq!(end, End::Killed(libc::SIGSEGV));
}

// Flags without effect.

#[test]
fn denywrite_lets_everyone_write_to_the_file() {
    let (dir, file) = file();
    let map = with(MapFlags::DENYWRITE).map(&file).unwrap();
    File::options()
        .write(true)
        .open(dir.path().join("file"))
        .unwrap()
        .write_all_at(&[0xEE], 0)
        .unwrap();
    assert_eq!(map.read::<u8>(0).unwrap(), 0xEE);
}

#[test]
fn executable_gives_no_right_to_execute() {
    let (_dir, file) = file();
    let map = with(MapFlags::EXECUTABLE).map(&file).unwrap();
    assert_eq!(area_at(map.as_ptr()).rights, "r--s");
    assert_eq!(area(&region(MapFlags::EXECUTABLE)).rights, "rw-p");
}

#[test]
fn file_is_zero_and_changes_nothing() {
    assert!(MapFlags::FILE.is_empty());
    let (_dir, file) = file();
    assert_eq!(with(MapFlags::FILE).map(&file).unwrap().read_vec(..).unwrap(), pattern(2));
}

#[test]
fn uninitialized_memory_is_zeros_all_the_same() {
    // The kernel would hand out memory that was just used and given back.
    let mut dirty = Anon::new(256 * page()).unwrap();
    dirty.fill(0xEE);
    drop(dirty);
    let block = with(MapFlags::UNINITIALIZED).anon(256 * page()).unwrap();
    assert!(block.iter().all(|&byte| byte == 0));
}

// Which pages are faulted in, and when.

#[test]
fn populate_faults_every_page_in() {
    assert_eq!(resident(&with(MapFlags::POPULATE).anon(8 * page()).unwrap()), 8 * page());
    assert_eq!(resident(&Anon::new(8 * page()).unwrap()), 0);
}

#[test]
fn populate_as_a_flag_does_not_report_a_failure_and_the_option_does() {
    let (_dir, file) = file();
    let options = MapOptions::new().len(4 * page());
    let map = options.clone().flags(MapFlags::POPULATE).map(&file).unwrap();
    faulted(map.read_at(&mut [0], 2 * page()), 2 * page()..2 * page() + 1, FaultCause::PastEnd);
    let error = options.populate().map(&file).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::PastEnd);
}

#[test]
fn nonblock_makes_populate_do_nothing() {
    let flags = MapFlags::POPULATE | MapFlags::NONBLOCK;
    assert_eq!(resident(&with(flags).anon(8 * page()).unwrap()), 0);
}

#[test]
fn nonblock_alone_is_refused_for_every_kind_of_map() {
    let (_dir, file) = file();
    let options = with(MapFlags::NONBLOCK);
    let words = "beside POPULATE only";
    refused_by_rule(options.anon(1), Errno::INVAL, words);
    refused_by_rule(options.region(1, Prot::READ), Errno::INVAL, words);
    refused_by_rule(options.droppable(1), Errno::INVAL, words);
    refused_by_rule(options.map(&file), Errno::INVAL, words);
    refused_by_rule(options.map_mut(&file), Errno::INVAL, words);
    refused_by_rule(options.map_private(&file), Errno::INVAL, words);
    refused_by_rule(options.shared_anonymous(1), Errno::INVAL, words);
    refused_by_rule(options.shared_dev_zero(1), Errno::INVAL, words);
    refused_by_rule(options.shared_memfd(1), Errno::INVAL, words);
    refused_by_rule(options.sealed(1, |_| ()), Errno::INVAL, words);
    refused_by_rule(options.clone().len(1).device(&file), Errno::INVAL, words);
}

#[test]
fn locked_pages_are_in_and_stay() {
    if !is_root() {
        return skip("needs root, for RLIMIT_MEMLOCK may be zero");
    }
    let block = with(MapFlags::LOCKED).anon(8 * page()).unwrap();
    assert_eq!(resident(&block), 8 * page());
    assert!(area_at(block.as_ptr()).has("lo"));
}

#[test]
fn locked_does_not_report_a_page_that_cannot_be_supplied_and_lock_does() {
    if !is_root() {
        return skip("needs root, for RLIMIT_MEMLOCK may be zero");
    }
    let (_dir, file) = file();
    let options = MapOptions::new().len(4 * page());
    options.clone().flags(MapFlags::LOCKED).map(&file).unwrap();
    refused_by_kernel(options.lock().map(&file), Errno::NOMEM);
}

#[test]
fn locked_counts_against_the_limit() {
    if !is_root() {
        return skip("needs root, to become another user");
    }
    child_succeeds(|| {
        let limit = libc::rlimit { rlim_cur: 2 * page() as u64, rlim_max: 2 * page() as u64 };
        // SAFETY: `limit` is a limit; this child's alone is set.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
        become_nobody();
        let locked = with(MapFlags::LOCKED);
        let _two = locked.region(2 * page(), Prot::READ).unwrap();
        refused_by_kernel(locked.region(page(), Prot::READ), Errno::AGAIN);
    });
}

// How the memory is accounted.

#[test]
fn noreserve_is_not_counted_against_the_commit_limit() {
    if std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap().trim() == "2" {
        return skip("the kernel ignores NORESERVE with vm.overcommit_memory = 2");
    }
    let counted = region(MapFlags::empty());
    let not = region(MapFlags::NORESERVE);
    // `ac`: accountable; `nr`: no reserve.
    assert!(area(&counted).has("ac") && !area(&counted).has("nr"), "{:?}", area(&counted));
    assert!(area(&not).has("nr") && !area(&not).has("ac"), "{:?}", area(&not));
}

#[test]
fn stack_keeps_transparent_huge_pages_away() {
    let stack = area(&region(MapFlags::STACK));
    if !kernel_since(6, 7) {
        assert!(!stack.has("nh"), "it did nothing before Linux 6.7");
        return skip("it means something since Linux 6.7");
    }
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        return skip("no transparent huge pages in this kernel");
    }
    assert!(stack.has("nh"), "{:?}", stack.flags);
    assert!(!stack.has("gd"), "it does not grow");
    assert!(!area(&region(MapFlags::empty())).has("nh"));
}

#[test]
fn sync_is_refused_for_files_that_are_not_on_dax() {
    let (_dir, on_disk) = file();
    let mut files = vec![on_disk];
    let memory = memory_dir();
    if let Some(memory) = &memory {
        let path = file_with(memory.path(), &pattern(2));
        files.push(File::options().read(true).write(true).open(path).unwrap());
    }
    for file in &files {
        refused_by_kernel(with(MapFlags::SYNC).map_mut(file), Errno::OPNOTSUPP);
        refused_by_kernel(
            with(MapFlags::SYNC | MapFlags::SHARED_VALIDATE).map_mut(file),
            Errno::OPNOTSUPP,
        );
    }
}

#[test]
fn sync_is_refused_by_rule_where_it_can_mean_nothing() {
    let (_dir, file) = file();
    let words = "a file on a DAX device";
    refused_by_rule(with(MapFlags::SYNC).anon(1), Errno::INVAL, words);
    refused_by_rule(with(MapFlags::SYNC).map_private(&file), Errno::INVAL, words);
    refused_by_rule(with(MapFlags::SYNC).shared_anonymous(1), Errno::INVAL, words);
    refused_by_rule(with(MapFlags::SYNC).sealed(1, |_| ()), Errno::INVAL, words);
}

#[test]
fn droppable_memory_is_never_dumped_or_inherited_and_comes_without_slices() {
    if !kernel_since(6, 11) {
        assert!(MapOptions::new().droppable(page()).is_err());
        return skip("DROPPABLE came with Linux 6.11");
    }
    let region = MapOptions::new().droppable(2 * page()).unwrap();
    region.write_at(&[7], 0).unwrap();
    assert!([0, 7].contains(&byte(&region)));
    let area = area(&region);
    for flag in ["dp", "dd", "wf", "nr"] {
        assert!(area.has(flag), "no `{flag}`: {area:?}");
    }
    child_succeeds(|| assert_eq!(byte(&region), 0, "a child finds zeros"));
}

#[test]
fn droppable_memory_cannot_be_locked() {
    if !kernel_since(6, 11) {
        return skip("DROPPABLE came with Linux 6.11");
    }
    let region = MapOptions::new().droppable(page()).unwrap();
    // mlock(2) passes it over without a word; the area is not locked.
    let _ = region.lock(..);
    assert!(!area(&region).has("lo"));
    refused_by_rule(
        MapOptions::new().lock().droppable(page()),
        Errno::INVAL,
        "locked pages cannot be dropped",
    );
    refused_by_rule(
        MapOptions::new().lock_on_fault().droppable(page()),
        Errno::INVAL,
        "locked pages cannot be dropped",
    );
}

// Transparent huge pages.

#[test]
fn transparent_huge_pages_are_asked_for_and_declined() {
    if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        MapOptions::new().transparent_huge_pages(true).anon(page()).unwrap();
        return skip("no transparent huge pages in this kernel");
    }
    let of = |want| {
        let block = MapOptions::new().transparent_huge_pages(want).anon(page()).unwrap();
        area_at(block.as_ptr())
    };
    assert!(of(true).has("hg") && !of(true).has("nh"));
    assert!(of(false).has("nh") && !of(false).has("hg"));
}

#[test]
fn memory_that_asks_for_them_gets_transparent_huge_pages() {
    let enabled =
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if !enabled.contains("[madvise]") && !enabled.contains("[always]") {
        return skip("transparent huge pages are off");
    }
    let size =
        std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").unwrap();
    let huge: usize = size.trim().parse().unwrap();
    let reservation = Reservation::aligned(2 * huge, PageSize::new(huge).unwrap()).unwrap();
    let place = |offset| MapOptions::new().within(&reservation, offset);
    let mut with = place(0).transparent_huge_pages(true).anon(huge).unwrap();
    let mut without = place(huge).transparent_huge_pages(false).anon(huge).unwrap();
    with[0] = 1;
    without[0] = 1;
    assert_eq!(area_at(without.as_ptr()).kib["AnonHugePages"], 0);
    if area_at(with.as_ptr()).kib["AnonHugePages"] == 0 {
        return skip("the kernel had no huge page to give");
    }
    assert_eq!(resident(&with), huge);
}

// Huge pages of the pool.

/// A number from a file.
fn number(path: &str) -> usize {
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// A turn at the machine's pool of huge pages: while a test holds it, no other test that takes
/// turns changes the pool or counts on it.
pub(crate) fn huge_pool_turn() -> Option<File> {
    // The lock is on the kernel's own directory, so that it is one for threads and for other test
    // programs.
    let pools = File::open("/sys/kernel/mm/hugepages").ok()?;
    pools.lock().ok()?;
    Some(pools)
}

const HUGE: usize = 2 << 20;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// The machine's pool of 2 MiB pages, made as large as a test needs it, and given back as it was.
struct Pool {
    before: String,
    _turn: File,
}

impl Pool {
    /// A pool with this many pages free and no more, or `None` where there can be none.
    fn with(pages: usize) -> Option<Self> {
        let turn = huge_pool_turn()?;
        let path = format!("{POOL}/nr_hugepages");
        let pool = Self { before: std::fs::read_to_string(&path).ok()?, _turn: turn };
        if pool.before.trim() != "0" {
            // It is other programs' pool.
            return None;
        }
        std::fs::write(&path, pages.to_string()).ok()?;
        let more = number(&format!("{POOL}/nr_overcommit_hugepages"));
        (pool.free() == pages && number(&path) == pages && more == 0).then_some(pool)
    }

    #[expect(clippy::unused_self, reason = "the number means something during one's turn only")]
    fn free(&self) -> usize {
        number(&format!("{POOL}/free_hugepages")) - number(&format!("{POOL}/resv_hugepages"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = std::fs::write(format!("{POOL}/nr_hugepages"), &self.before);
    }
}

const NO_POOL: &str = "no pool of huge pages, or no right to fill it";

fn huge() -> MapOptions {
    MapOptions::new().huge_pages(HugePage::Mib2)
}

#[test]
fn a_huge_map_is_rounded_up_to_whole_huge_pages() {
    let Some(pool) = Pool::with(4) else { return skip(NO_POOL) };
    let region = huge().region(HUGE + 1, Prot::READ_WRITE).unwrap();
    assert_eq!((region.len(), region.page_size().bytes()), (2 * HUGE, HUGE));
    assert_eq!(region.as_ptr() as usize % HUGE, 0);
    let area = area(&region);
    assert!(area.has("ht"), "{area:?}");
    assert_eq!(area.kib["KernelPageSize"], HUGE >> 10);
    assert_eq!(pool.free(), 2);
    // The whole length is given back: nothing leaks because a length was not rounded.
    region.unmap().unwrap();
    assert_eq!(pool.free(), 4);
}

#[test]
fn a_huge_block_shows_the_asked_length_and_gives_back_the_real_one() {
    let Some(pool) = Pool::with(2) else { return skip(NO_POOL) };
    let mut block = huge().anon(HUGE + 10).unwrap();
    assert_eq!((block.len(), block.page_size().bytes()), (HUGE + 10, HUGE));
    block[HUGE + 9] = 1;
    assert_eq!(pool.free(), 0);
    drop(block);
    assert_eq!(pool.free(), 2);
}

#[test]
fn huge_pages_are_all_there_at_creation() {
    let Some(_pool) = Pool::with(2) else { return skip(NO_POOL) };
    let region = huge().region(2 * HUGE, Prot::READ_WRITE).unwrap();
    assert_eq!(area(&region).kib["Private_Hugetlb"], (2 * HUGE) >> 10);
}

#[test]
fn an_empty_pool_is_an_error_that_names_the_pool() {
    let Some(_pool) = Pool::with(0) else { return skip(NO_POOL) };
    let error = refused_by_kernel(huge().anon(1), Errno::NOMEM);
    let text = error.to_string();
    assert!(text.contains("0 of 0 pages free") && text.contains("nr_hugepages"), "{text}");
}

#[test]
fn a_pool_that_is_too_small_is_an_error_and_nothing_is_taken() {
    let Some(pool) = Pool::with(2) else { return skip(NO_POOL) };
    refused_by_kernel(huge().anon(3 * HUGE), Errno::NOMEM);
    assert_eq!(pool.free(), 2);
}

#[test]
fn an_empty_pool_found_late_is_an_error_and_no_signal() {
    let Some(pool) = Pool::with(0) else { return skip(NO_POOL) };
    // NORESERVE makes the kernel promise memory that it does not have. By the raw door the map is
    // there, and each access says so.
    let flags =
        MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE | HugePage::Mib2.flags();
    // SAFETY: a new map, anywhere.
    let start =
        unsafe { raw::mmap(std::ptr::null_mut(), HUGE, Prot::READ_WRITE, flags, -1, 0) }.unwrap();
    // SAFETY: just mapped with pages of this size, and nobody else's.
    let region =
        unsafe { Region::from_raw_parts(start, HUGE, PageSize::new(HUGE).unwrap()) }.unwrap();
    faulted(region.write_at(&[1], 5), 5..6, FaultCause::NoBacking);
    drop(pool);
}

#[test]
fn an_empty_pool_leaves_the_place_in_a_reservation_reserved() {
    let Some(_pool) = Pool::with(0) else { return skip(NO_POOL) };
    child_succeeds(|| {
        let reservation = Reservation::aligned(2 * HUGE, PageSize::new(HUGE).unwrap()).unwrap();
        refused_by_kernel(huge().within(&reservation, HUGE).anon(HUGE), Errno::NOMEM);
        assert_eq!(reservation.used(), 0);
        // The kernel had unmapped it to make room: anyone's map could have come to lie there.
        assert!(is_mapped(reservation.as_ptr().wrapping_add(HUGE)));
        let small =
            MapOptions::new().within(&reservation, HUGE).region(HUGE, Prot::READ_WRITE).unwrap();
        small.write_at(&[7], 0).unwrap();
    });
}

#[test]
fn ranges_of_a_huge_map_are_whole_huge_pages() {
    let Some(pool) = Pool::with(2) else { return skip(NO_POOL) };
    let mut region = huge().region(2 * HUGE, Prot::READ_WRITE).unwrap();
    for result in [
        region.protect(..page(), Prot::READ),
        region.unmap_range(page()..HUGE),
        region.discard(HUGE + page().., folio::Discard::DontNeed),
        region.split_off(page()).map(drop),
    ] {
        refused_by_rule(result, Errno::INVAL, "2 MiB");
    }
    // Operations that round outwards round to huge pages, and no further.
    region.write_at(&[7], HUGE).unwrap();
    region
        .populate(HUGE..=HUGE, folio::Populate::Write, 1, |done, all| {
            assert_eq!((done, all), (HUGE, HUGE));
            ControlFlow::Continue(())
        })
        .unwrap();
    region.protect(..HUGE, Prot::READ).unwrap();
    faulted(region.write_at(&[1], HUGE - 1), HUGE - 1..HUGE, FaultCause::Protection);
    let high = region.split_off(HUGE).unwrap();
    assert_eq!(byte(&high), 7);
    region.unmap().unwrap();
    assert_eq!((pool.free(), byte(&high)), (1, 7));
}

#[test]
fn huge_maps_are_guarded_by_whole_huge_pages() {
    let Some(_pool) = Pool::with(1) else { return skip(NO_POOL) };
    let block = huge().guard_pages().anon(10).unwrap();
    let start = block.as_ptr();
    let load = |address: *const u8| {
        in_child(|| {
            // SAFETY: a load that may kill its child, as the test shows.
            let _ = unsafe { address.read_volatile() };
        })
    };
    assert_eq!(load(start.wrapping_sub(1)), End::Killed(libc::SIGSEGV));
    assert_eq!(load(start.wrapping_add(HUGE)), End::Killed(libc::SIGSEGV));
    assert_eq!(load(start.wrapping_add(HUGE - 1)), End::Exited(0));
}

#[test]
fn a_guard_that_meets_a_missing_huge_page_loses_that_page_only() {
    let Some(_pool) = Pool::with(4) else { return skip(NO_POOL) };
    let Some(mounted) =
        crate::common::Mounted::new(&["-t", "hugetlbfs", "-o", "pagesize=2M", "none"])
    else {
        return skip("mounting is not allowed");
    };
    let path = mounted.path().join("file");
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(4 * HUGE as u64).unwrap();
    for keeps_descriptor in [true, false] {
        let map = if keeps_descriptor {
            folio::FileMap::map(File::open(&path).unwrap()).unwrap()
        } else {
            folio::FileMap::map(&file).unwrap()
        };
        assert_eq!(map.read::<u8>(3 * HUGE).unwrap(), 0);
        file.set_len(HUGE as u64).unwrap();
        let error = map.guard(|view| (view.get(2 * HUGE + 5), view.get(0))).unwrap_err();
        assert_eq!(error.fault().unwrap().range(), 2 * HUGE..3 * HUGE, "{error}");
        assert_eq!(error.fault().unwrap().object(), path.to_str().unwrap(), "{error}");
        assert!(!error.to_string().contains("given up"), "{error}");
        file.set_len(4 * HUGE as u64).unwrap();
        for at in [0, HUGE, 3 * HUGE] {
            assert_eq!(map.read::<u8>(at).unwrap(), 0, "the other pages are as before");
        }
        faulted(map.read::<u8>(2 * HUGE).map(drop), 2 * HUGE..2 * HUGE + 1, FaultCause::Protection);
        map.guard_range(..HUGE, |view| view.get(0)).unwrap();
    }
}

#[test]
fn shared_memory_has_no_huge_pages_since_a_sharer_could_take_them_away() {
    for refused in
        [huge().shared_anonymous(10), huge().shared_memfd(10), huge().shared_dev_zero(10)]
    {
        refused_by_rule(refused, Errno::INVAL, "punch a hole");
    }
}

const EVERY_SIZE: [(HugePage, usize); 12] = [
    (HugePage::Kib64, 64 << 10),
    (HugePage::Kib512, 512 << 10),
    (HugePage::Mib1, 1 << 20),
    (HugePage::Mib2, 2 << 20),
    (HugePage::Mib8, 8 << 20),
    (HugePage::Mib16, 16 << 20),
    (HugePage::Mib32, 32 << 20),
    (HugePage::Mib256, 256 << 20),
    (HugePage::Mib512, 512 << 20),
    (HugePage::Gib1, 1 << 30),
    (HugePage::Gib2, 2 << 30),
    (HugePage::Gib16, 16 << 30),
];

#[test]
fn every_huge_page_size_is_asked_for_by_its_logarithm() {
    for (size, bytes) in EVERY_SIZE {
        assert_eq!(size.size().map(PageSize::bytes), Some(bytes));
        let bits = size.flags().bits();
        assert_eq!(bits & libc::MAP_HUGETLB, libc::MAP_HUGETLB);
        assert_eq!(
            1_usize << ((bits >> libc::MAP_HUGE_SHIFT) & libc::MAP_HUGE_MASK),
            bytes,
            "{size:?}"
        );
    }
    assert_eq!(HugePage::Mib2.flags().bits(), libc::MAP_HUGETLB | libc::MAP_HUGE_2MB);
    assert_eq!(HugePage::Gib1.flags().bits(), libc::MAP_HUGETLB | libc::MAP_HUGE_1GB);
    assert_eq!(HugePage::Gib16.flags().bits(), libc::MAP_HUGETLB | libc::MAP_HUGE_16GB);
    assert_eq!(HugePage::Default.flags(), MapFlags::HUGETLB);
}

#[test]
fn the_default_huge_page_is_the_machines() {
    assert_eq!(HugePage::Default.size(), None, "only the machine knows");
    let Some(pool) = Pool::with(1) else { return skip(NO_POOL) };
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"));
    let expected =
        line.map(|kib| kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10);
    let map = MapOptions::new().huge_pages(HugePage::Default).anon(1).unwrap();
    assert_eq!(Some(map.page_size().bytes()), expected);
    drop(pool);
}

#[test]
fn a_huge_page_size_that_the_machine_lacks_is_einval_and_one_it_has_is_not() {
    let Some(_turn) = huge_pool_turn() else { return skip("no huge pages in this kernel") };
    for (size, bytes) in EVERY_SIZE {
        let pool = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", bytes >> 10);
        let result = MapOptions::new().huge_pages(size).anon(1);
        if !std::path::Path::new(&pool).exists() {
            refused_by_kernel(result, Errno::INVAL);
        } else if number(&format!("{pool}/free_hugepages")) == 0 {
            refused_by_kernel(result, Errno::NOMEM);
        } else {
            assert_eq!(result.unwrap().page_size().bytes(), bytes);
        }
    }
}

// Requests that folio refuses before it asks the kernel.

#[test]
fn flags_that_have_an_option_of_their_own_are_refused_and_the_rule_names_it() {
    let (_dir, file) = file();
    let refusals = [
        (MapFlags::FIXED, "`at` or `within`"),
        (MapFlags::FIXED_NOREPLACE, "`at` or `within`"),
        (MapFlags::GROWSDOWN, "only the raw door"),
        (MapFlags::SHARED, "follows from the kind of map"),
        (MapFlags::PRIVATE, "follows from the kind of map"),
        (MapFlags::ANONYMOUS, "follows from the kind of map"),
        (MapFlags::HUGETLB, "`huge_pages`"),
        (HugePage::Mib2.flags(), "`huge_pages`"),
        (MapFlags::DROPPABLE, "`droppable`"),
        (MapFlags::from_bits_retain(0x0200_0000), "not one that this kind of map takes"),
    ];
    for (flag, words) in refusals {
        refused_by_rule(with(flag).anon(1), Errno::INVAL, words);
        refused_by_rule(with(flag).region(1, Prot::READ), Errno::INVAL, words);
        refused_by_rule(with(flag).droppable(1), Errno::INVAL, words);
        refused_by_rule(with(flag).map(&file), Errno::INVAL, words);
        refused_by_rule(with(flag).map_mut(&file), Errno::INVAL, words);
        refused_by_rule(with(flag).map_private(&file), Errno::INVAL, words);
        refused_by_rule(with(flag).shared_anonymous(1), Errno::INVAL, words);
        refused_by_rule(with(flag).shared_memfd(1), Errno::INVAL, words);
        refused_by_rule(with(flag).sealed(1, |_| ()), Errno::INVAL, words);
        refused_by_rule(with(flag).clone().len(1).device(&file), Errno::INVAL, words);
    }
    // Beside SHARED_VALIDATE too.
    for (flag, words) in
        refusals.into_iter().filter(|(flag, _)| !MapFlags::SHARED_VALIDATE.contains(*flag))
    {
        refused_by_rule(with(flag | MapFlags::SHARED_VALIDATE).map_mut(&file), Errno::INVAL, words);
    }
}

#[test]
fn the_error_of_a_refused_flag_shows_the_flags() {
    let error = refused_by_rule(
        with(MapFlags::GROWSDOWN | MapFlags::STACK).anon(1),
        Errno::INVAL,
        "raw door",
    );
    assert!(error.to_string().contains("GROWSDOWN|STACK"), "{error}");
}

#[test]
fn reserve_and_noreserve_exclude_each_other() {
    let (_dir, file) = file();
    let options = with(MapFlags::NORESERVE).preallocate();
    let words = "exclude each other";
    refused_by_rule(options.map_mut(&file), Errno::INVAL, words);
    refused_by_rule(options.shared_anonymous(1), Errno::INVAL, words);
    refused_by_rule(options.shared_dev_zero(1), Errno::INVAL, words);
    refused_by_rule(options.shared_memfd(1), Errno::INVAL, words);
}

#[test]
fn reserve_is_for_files_and_shared_memory() {
    let (_dir, file) = file();
    let words = "reserve is for files and shared memory";
    for options in [MapOptions::new().preallocate(), MapOptions::new().no_reserve()] {
        refused_by_rule(options.anon(1), Errno::INVAL, words);
        refused_by_rule(options.region(1, Prot::READ), Errno::INVAL, words);
        refused_by_rule(options.droppable(1), Errno::INVAL, words);
    }
    refused_by_rule(
        MapOptions::new().preallocate().map_private(&file),
        Errno::INVAL,
        "copied pages are memory",
    );
}

#[test]
fn huge_pages_are_refused_for_files_with_a_page_size_of_their_own() {
    let (_dir, file) = file();
    refused_by_rule(huge().map(&file), Errno::INVAL, "the file system's");
    refused_by_rule(huge().map_mut(&file), Errno::INVAL, "the file system's");
    refused_by_rule(huge().map_private(&file), Errno::INVAL, "the file system's");
    refused_by_rule(huge().len(1).device(&file), Errno::INVAL, "the driver's");
    refused_by_rule(huge().shared_dev_zero(1), Errno::INVAL, "punch a hole");
    refused_by_rule(huge().droppable(1), Errno::INVAL, "cannot be dropped");
    let memfd = MapOptions::new().shared_memfd(1).unwrap();
    let fd = memfd.file().unwrap().try_clone_to_owned().unwrap();
    refused_by_rule(huge().shared_from_fd(fd), Errno::INVAL, "punch a hole");
}

#[test]
fn offsets_and_lengths_are_options_of_files_only() {
    let offset = MapOptions::new().offset(page() as u64);
    let length = MapOptions::new().len(page());
    for (options, words) in [
        (offset, "an offset is for files and devices"),
        (length, "the length is the method's argument"),
    ] {
        refused_by_rule(options.anon(1), Errno::INVAL, words);
        refused_by_rule(options.region(1, Prot::READ), Errno::INVAL, words);
        refused_by_rule(options.droppable(1), Errno::INVAL, words);
        refused_by_rule(options.shared_anonymous(1), Errno::INVAL, words);
        refused_by_rule(options.shared_dev_zero(1), Errno::INVAL, words);
        refused_by_rule(options.shared_memfd(1), Errno::INVAL, words);
        refused_by_rule(options.sealed(1, |_| ()), Errno::INVAL, words);
    }
}

#[test]
fn a_region_has_a_length_and_no_capacity() {
    refused_by_rule(MapOptions::new().region(0, Prot::READ), Errno::INVAL, "must not be zero");
    refused_by_rule(MapOptions::new().droppable(0), Errno::INVAL, "must not be zero");
    let room = MapOptions::new().capacity(page());
    refused_by_rule(room.region(1, Prot::READ), Errno::INVAL, "capacity is for Anon");
    refused_by_rule(room.droppable(1), Errno::INVAL, "capacity is for Anon");
}

#[test]
fn only_private_anonymous_memory_is_wiped_on_fork() {
    let (_dir, file) = file();
    let wiped = MapOptions::new().fork(Fork::Wiped);
    refused_by_rule(wiped.map(&file), Errno::INVAL, "private anonymous memory");
    refused_by_rule(wiped.map_mut(&file), Errno::INVAL, "private anonymous memory");
    refused_by_rule(wiped.map_private(&file), Errno::INVAL, "private anonymous memory");
    assert!(area_at(wiped.anon(1).unwrap().as_ptr()).has("wf"));
}

#[test]
fn an_offset_past_the_end_of_a_file_is_refused() {
    let (_dir, file) = file();
    let past = MapOptions::new().offset(2 * page() as u64 + 1);
    let error = refused_by_rule(past.map(&file), Errno::INVAL, "past the end");
    assert!(error.to_string().contains(&format!("{} bytes", 2 * page())), "{error}");
    assert!(MapOptions::new().offset(2 * page() as u64).map(&file).unwrap().is_empty());
}

#[test]
fn numbers_that_cannot_be_counted_are_refused() {
    let (_dir, file) = file();
    let words = "what can be counted";
    refused_by_rule(MapOptions::new().anon(usize::MAX), Errno::OVERFLOW, words);
    refused_by_rule(MapOptions::new().len(usize::MAX).map(&file), Errno::OVERFLOW, words);
    refused_by_rule(
        MapOptions::new().offset(u64::MAX - 5).len(1).map(&file),
        Errno::OVERFLOW,
        words,
    );
}

#[test]
fn refused_requests_leave_the_file_as_it_was() {
    let (_dir, file) = file();
    let before = file.metadata().unwrap().len();
    let _ = with(MapFlags::GROWSDOWN).preallocate().len(64 * page()).map_mut(&file);
    let _ = huge().preallocate().len(64 * page()).map_mut(&file);
    assert_eq!(file.metadata().unwrap().len(), before);
    assert_eq!(FileMapMut::map(&file).unwrap().read_vec(..).unwrap(), pattern(2));
}

// In words.

#[test]
fn flags_are_shown_by_name() {
    let shown = |flags: MapFlags| flags.to_string();
    assert_eq!(shown(MapFlags::empty()), "no flags");
    assert_eq!(shown(MapFlags::PRIVATE | MapFlags::ANON), "PRIVATE|ANONYMOUS");
    assert_eq!(shown(MapFlags::SHARED), "SHARED");
    assert_eq!(shown(MapFlags::SHARED_VALIDATE | MapFlags::SYNC), "SHARED_VALIDATE|SYNC");
    assert_eq!(shown(MapFlags::HUGETLB | MapFlags::PRIVATE), "HUGETLB|PRIVATE");
    assert_eq!(shown(HugePage::Mib2.flags()), "HUGETLB of 2 MiB");
    assert_eq!(shown(HugePage::Gib16.flags() | MapFlags::LOCKED), "HUGETLB of 16 GiB|LOCKED");
    assert_eq!(shown(MapFlags::from_bits_retain(0x0200_0000) | MapFlags::STACK), "STACK|0x2000000");
}

#[test]
fn every_flag_is_shown_by_its_own_name() {
    for (name, flag) in [
        ("FIXED", MapFlags::FIXED),
        ("FIXED_NOREPLACE", MapFlags::FIXED_NOREPLACE),
        ("DENYWRITE", MapFlags::DENYWRITE),
        ("EXECUTABLE", MapFlags::EXECUTABLE),
        ("GROWSDOWN", MapFlags::GROWSDOWN),
        ("LOCKED", MapFlags::LOCKED),
        ("NONBLOCK", MapFlags::NONBLOCK),
        ("NORESERVE", MapFlags::NORESERVE),
        ("POPULATE", MapFlags::POPULATE),
        ("STACK", MapFlags::STACK),
        ("SYNC", MapFlags::SYNC),
        ("UNINITIALIZED", MapFlags::UNINITIALIZED),
        ("DROPPABLE", MapFlags::DROPPABLE),
    ] {
        assert_eq!(flag.to_string(), name);
    }
}

#[test]
fn protections_are_shown_by_name() {
    assert_eq!(Prot::NONE.to_string(), "NONE");
    assert_eq!(Prot::READ.to_string(), "READ");
    assert_eq!(Prot::READ_WRITE.to_string(), "READ | WRITE");
    assert_eq!((Prot::READ | Prot::EXEC).to_string(), "READ | EXEC");
    assert_eq!(Prot::from_bits_retain(0x80).to_string(), "0x80");
}

#[test]
fn every_protection_has_the_kernels_name() {
    for (prot, rights) in [
        (Prot::NONE, "---p"),
        (Prot::READ, "r--p"),
        (Prot::READ_WRITE, "rw-p"),
        (Prot::WRITE, "-w-p"),
        (Prot::READ | Prot::EXEC, "r-xp"),
        (Prot::READ_WRITE | Prot::EXEC, "rwxp"),
    ] {
        assert_eq!(area(&MapOptions::new().region(1, prot).unwrap()).rights, rights);
    }
    assert_eq!(area(&MapOptions::new().exec().region(1, Prot::READ).unwrap()).rights, "r-xp");
}

#[test]
fn a_page_that_may_be_written_or_executed_may_also_be_read() {
    if cfg!(not(target_arch = "x86_64")) {
        return skip("other machines can tell them apart");
    }
    let region = MapOptions::new().region(1, Prot::WRITE).unwrap();
    region.write_at(&[7], 0).unwrap();
    assert_eq!(byte(&region), 7);
}
