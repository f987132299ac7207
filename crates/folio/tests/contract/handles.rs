//! The handles: the operations that each kind of memory gives to safe code, and those that it
//! refuses. Forks are in `fork`, faults and guards in `faults`.

use crate::common::{
    End, child_succeeds, disk_dir, file_with, in_child, memory_dir, page, pattern, skip,
    spawn_child, wait,
};
use folio::{
    Advice, Anon, Device, Errno, Error, FaultCause, FileMap, FileMapMut, FileMapPrivate, HugePage,
    MapOptions, PageSize, Prot, Region, Reservation, Sealed, SharedMem, WriteBack,
};
use std::fs::File;
use std::io::{BufRead, Cursor, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The errno of a call that had to fail.
#[track_caller]
fn errno<T>(result: Result<T, impl Into<Error>>) -> Errno {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into().errno(),
    }
}

/// The message of a call that had to fail.
#[track_caller]
fn message<T>(result: Result<T, impl Into<Error>>) -> String {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into().to_string(),
    }
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Whether anything is mapped at an address, by the kernel's word. Only for children: threads map
/// and unmap.
fn is_mapped(address: usize) -> bool {
    let mut resident = [0_u8];
    // SAFETY: mincore(2) of one page writes one byte.
    unsafe {
        libc::mincore((address & !(page() - 1)) as *mut _, page(), resident.as_mut_ptr()) == 0
    }
}

/// A plain memfd, with seals or none.
fn memfd(bytes: &[u8], seals: libc::c_int) -> OwnedFd {
    // SAFETY: a name that ends with NUL.
    let fd = unsafe {
        libc::memfd_create(c"test".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC)
    };
    assert!(fd >= 0);
    // SAFETY: just opened, and owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    File::from(fd.try_clone().unwrap()).write_all(bytes).unwrap();
    // SAFETY: takes and changes no memory.
    assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
    fd
}

// Anon

#[test]
fn anonymous_memory_is_zero_and_holds_stores() {
    let len = 3 * page() + 5;
    let mut anon = Anon::new(len).unwrap();
    assert_eq!(&anon[..], vec![0; len]);
    anon.iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
    assert!(anon.iter().enumerate().all(|(index, &byte)| byte == index as u8));
}

#[test]
fn anonymous_memory_of_no_bytes_is_an_empty_slice_that_can_grow() {
    let mut anon = Anon::new(0).unwrap();
    assert!(anon.is_empty());
    assert_eq!(&anon[..], b"");
    anon.grow(10).unwrap();
    assert_eq!(&anon[..], [0; 10]);
}

#[test]
fn growing_within_the_capacity_keeps_the_address_and_the_bytes() {
    let mut anon = MapOptions::new().capacity(64 * page()).anon(10).unwrap();
    let start = anon.as_ptr();
    anon.fill(7);
    for pages in [1, 2, 17, 64] {
        anon.grow(pages * page()).unwrap();
        assert_eq!(anon.as_ptr(), start);
        assert_eq!(anon.len(), pages * page());
        assert_eq!(anon[..10], [7; 10]);
        assert!(anon[10..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn growing_past_the_capacity_is_refused_and_changes_nothing() {
    let mut anon = MapOptions::new().capacity(2 * page()).anon(page()).unwrap();
    anon.fill(7);
    assert_eq!(errno(anon.grow(2 * page() + 1)), Errno::NOMEM);
    assert_eq!(&anon[..], vec![7; page()]);
    anon.grow(2 * page()).unwrap();
}

#[test]
fn growing_never_runs_over_the_guard_page() {
    for capacity in [1, 3] {
        let options = MapOptions::new().guard_pages().capacity(capacity * page());
        let mut anon = options.anon(page()).unwrap();
        let behind = anon.as_ptr() as usize + capacity * page();
        assert_eq!(errno(anon.grow((capacity + 1) * page())), Errno::NOMEM);
        anon.grow(capacity * page()).unwrap();
        // A guard page: nothing else can be mapped there, and nobody can store there.
        assert_eq!(errno(MapOptions::new().at(behind).anon(page())), Errno::EXIST);
        let end = in_child(|| {
            // SAFETY: it does not return: the page has no access.
            unsafe { (behind as *mut u8).write_volatile(1) };
        });
        assert_eq!(end, End::Killed(libc::SIGSEGV));
    }
}

#[test]
fn growth_is_made_as_the_map_was() {
    child_succeeds(|| {
        let mut anon = MapOptions::new().capacity(4 * page()).exec().lock().anon(page()).unwrap();
        let start = anon.as_ptr() as usize;
        anon.grow(4 * page()).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let area = smaps
            .split_once(&format!("{start:x}-{:x} rwxp", start + 4 * page()))
            .expect("one area, executable");
        let locked = area.1.lines().find_map(|line| line.strip_prefix("Locked:")).unwrap().trim();
        assert_eq!(locked, format!("{} kB", 4 * page() / 1024));
    });
}

#[test]
fn growing_where_another_map_lies_is_refused_and_changes_nothing() {
    let reservation = Reservation::new(2 * page()).unwrap();
    let mut first = MapOptions::new().within(&reservation, 0).anon(page()).unwrap();
    let mut second = MapOptions::new().within(&reservation, page()).anon(page()).unwrap();
    second.fill(9);
    assert_eq!(errno(first.grow(2 * page())), Errno::EXIST);
    assert_eq!((first.len(), &second[..]), (page(), &vec![9; page()][..]));
    drop(second);
    first.grow(2 * page()).unwrap();
    assert_eq!(first[page()..], vec![0; page()]);
}

#[test]
fn resizing_keeps_the_bytes_wherever_the_map_moves() {
    let bytes = pattern(4);
    let mut anon = Anon::new(bytes.len()).unwrap();
    anon.copy_from_slice(&bytes);
    // Something right behind it, so that it has to move.
    let wall = MapOptions::new().hint(anon.as_ptr() as usize + anon.len()).anon(page()).unwrap();
    anon.resize(1000 * page()).unwrap();
    assert_eq!(anon[..bytes.len()], bytes);
    assert!(anon[bytes.len()..].iter().all(|&byte| byte == 0));
    anon.resize(page() + 3).unwrap();
    assert_eq!(anon[..], bytes[..page() + 3]);
    drop(wall);
}

#[test]
fn bytes_that_were_cut_off_never_come_back() {
    let plain = || Anon::new(3 * page()).unwrap();
    let roomy = || MapOptions::new().capacity(3 * page()).anon(page()).unwrap();
    let cuts = [0, 1, page() / 2, page() - 1, page(), page() + 1, 2 * page(), 3 * page() - 1];
    for cut in cuts {
        let mut anon = plain();
        anon.fill(0xff);
        anon.resize(cut).unwrap();
        anon.resize(3 * page()).unwrap();
        assert!(anon[..cut].iter().all(|&byte| byte == 0xff), "cut at {cut}: kept bytes are gone");
        assert!(anon[cut..].iter().all(|&byte| byte == 0), "cut at {cut}: old bytes came back");
    }
    for cut in cuts.into_iter().filter(|&cut| cut <= page()) {
        let mut anon = roomy();
        let start = anon.as_ptr();
        anon.fill(0xff);
        anon.resize(cut).unwrap();
        anon.grow(2 * page()).unwrap();
        assert_eq!(anon.as_ptr(), start, "a map with capacity stays where it is");
        assert!(anon[cut..].iter().all(|&byte| byte == 0), "cut at {cut}: old bytes came back");
    }
}

#[test]
fn discarded_pages_read_as_zero_and_give_their_memory_back() {
    let mut anon = MapOptions::new().transparent_huge_pages(false).anon(4 * page()).unwrap();
    anon.fill(7);
    anon.discard(page()..3 * page()).unwrap();
    let resident = anon.residency(..).unwrap().known().unwrap();
    assert_eq!(resident.iter().collect::<Vec<_>>(), [true, false, false, true]);
    assert!(anon[page()..3 * page()].iter().all(|&byte| byte == 0));
    assert!(anon[..page()].iter().chain(&anon[3 * page()..]).all(|&byte| byte == 7));
}

#[test]
fn discarding_parts_of_pages_is_refused_with_the_nearest_whole_ones() {
    let mut anon = Anon::new(4 * page()).unwrap();
    anon.fill(7);
    let text = message(anon.discard(1..2 * page()));
    assert!(text.contains(&format!("{}..{}", page(), 2 * page())), "{text}");
    assert!(text.contains(&format!("{}..{}", 0, 2 * page())), "{text}");
    assert!(anon.iter().all(|&byte| byte == 7));
    // A range that ends with the map takes the rest of its last page, which is nobody's.
    anon.resize(3 * page() + 9).unwrap();
    anon.discard(3 * page()..).unwrap();
    assert_eq!(anon[3 * page()..], [0; 9]);
    anon.discard(5..5).unwrap();
}

/// Machine code of `fn() -> u32 { 42 }`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const FORTY_TWO: &[u8] = if cfg!(target_arch = "x86_64") {
    &[0xb8, 42, 0, 0, 0, 0xc3] // mov eax, 42; ret
} else {
    &[0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6] // mov w0, #42; ret
};

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn generated_code_runs_once_it_is_protected_so_and_can_be_stored_to_no_more() {
    let mut anon = Anon::new(FORTY_TWO.len()).unwrap();
    anon.copy_from_slice(FORTY_TWO);
    let region = anon.protect(Prot::READ | Prot::EXEC).unwrap();
    // SAFETY: the region holds a function of that type. On aarch64 the page was never executed
    // before, and the call to mprotect(2) makes the stores visible to instruction fetches.
    let answer =
        unsafe { std::mem::transmute::<*mut u8, extern "C" fn() -> u32>(region.as_ptr())() };
    assert_eq!(answer, 42);
    let fault = region.write_at(&[0], 0).unwrap_err();
    assert_eq!(fault.fault().unwrap().cause(), FaultCause::Protection);
}

#[test]
fn a_refused_protection_gives_the_map_back_unchanged() {
    child_succeeds(|| {
        const PR_SET_MDWE: libc::c_int = 65;
        // From here on the process may make nothing executable that was not.
        // SAFETY: changes no memory.
        if unsafe { libc::prctl(PR_SET_MDWE, 1, 0, 0, 0) } != 0 {
            return skip("no PR_SET_MDWE (Linux 6.3)");
        }
        let mut anon = Anon::new(100).unwrap();
        anon.fill(7);
        let refused = anon.protect(Prot::READ | Prot::EXEC).unwrap_err();
        assert_eq!(refused.error.errno(), Errno::ACCESS);
        let mut anon = refused.map;
        assert_eq!(&anon[..], [7; 100]);
        anon[0] = 8;
    });
}

#[test]
fn a_region_of_plain_memory_becomes_slices_again() {
    let mut anon = Anon::new(100).unwrap();
    anon.copy_from_slice(&[7; 100]);
    let region = anon.protect(Prot::READ).unwrap();
    let mut region = region;
    region.protect(.., Prot::READ_WRITE).unwrap();
    // SAFETY: private anonymous memory, readable and writable; nothing else refers to it.
    let mut anon = unsafe { Anon::from_region(region) }.unwrap();
    assert_eq!((anon.len(), &anon[..100]), (page(), &[7; 100][..]));
    anon[page() - 1] = 1;
}

#[test]
fn a_region_with_a_hole_is_refused_as_slices_and_given_back() {
    let mut region = Anon::new(3 * page()).unwrap().into_region();
    region.unmap_range(page()..2 * page()).unwrap();
    // SAFETY: it is refused.
    let refused = unsafe { Anon::from_region(region) }.unwrap_err();
    assert_eq!(refused.error.errno(), Errno::INVAL);
    assert_eq!(refused.map.mapped().collect::<Vec<_>>(), [0..page(), 2 * page()..3 * page()]);
}

#[test]
fn files_that_cannot_be_mapped_can_be_read() {
    // More than is read at first.
    let bytes = pattern(50);
    let (here, mut there) = UnixStream::pair().unwrap();
    let writer = {
        let bytes = bytes.clone();
        std::thread::spawn(move || there.write_all(&bytes).unwrap())
    };
    let anon = Anon::read_from(&here).unwrap();
    writer.join().unwrap();
    assert_eq!(&anon[..], bytes);

    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"through a pipe").unwrap();
    drop(writer);
    assert_eq!(&Anon::read_from(&reader).unwrap()[..], b"through a pipe");
    assert_eq!(&Anon::read_from(&reader).unwrap()[..], b"", "the pipe is at its end");

    let version = Anon::read_from(File::open("/proc/version").unwrap()).unwrap();
    assert_eq!(&version[..], std::fs::read("/proc/version").unwrap());
}

#[test]
fn reading_starts_at_the_descriptors_position() {
    let dir = disk_dir();
    let mut file = open(&file_with(dir.path(), b"0123456789"));
    file.seek(SeekFrom::Start(4)).unwrap();
    assert_eq!(&Anon::read_from(&file).unwrap()[..], b"456789");
}

#[test]
fn reading_an_unreadable_file_is_an_error_that_names_it() {
    let dir = disk_dir();
    let text = message(Anon::read_from(File::open(dir.path()).unwrap()));
    assert!(text.contains("EISDIR") && text.contains(dir.path().to_str().unwrap()), "{text}");
}

#[test]
fn bytes_of_a_map_are_the_map_and_unmap_it_with_the_last_of_them() {
    child_succeeds(|| {
        let mut anon = Anon::new(2 * page()).unwrap();
        anon[page()] = 7;
        let start = anon.as_ptr();
        let bytes = bytes::Bytes::from(anon);
        assert_eq!(bytes.as_ptr(), start, "no copy");
        let part = bytes.slice(page()..);
        drop(bytes);
        assert!(is_mapped(start as usize));
        assert_eq!(part[0], 7);
        drop(part);
        assert!(!is_mapped(start as usize));

        let sealed = bytes::Bytes::from(Sealed::copy_of(b"sealed").unwrap());
        assert_eq!(&sealed[..], b"sealed");
        let start = sealed.as_ptr() as usize;
        drop(sealed);
        assert!(!is_mapped(start));
    });
}

#[test]
fn dropping_a_map_gives_its_addresses_back() {
    child_succeeds(|| {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(2));
        let options = MapOptions::new().offset(10);
        let maps: [Region; 4] = [
            Anon::new(page()).unwrap().into(),
            Sealed::copy_of(&pattern(1)).unwrap().into(),
            options.map(open(&path)).unwrap().into(),
            SharedMem::memfd("gone", page()).unwrap().into(),
        ];
        let starts = maps.each_ref().map(|map| map.as_ptr() as usize);
        assert!(starts.into_iter().all(is_mapped));
        drop(maps);
        assert!(!starts.into_iter().any(is_mapped));
        // The second page of a map whose first bytes are not shown goes too.
        let map = options.len(page()).map_mut(open(&path)).unwrap();
        let last = map.as_ptr() as usize + map.len() - 1;
        assert!(is_mapped(last));
        map.unmap().unwrap();
        assert!(!is_mapped(last));
    });
}

// Sealed

#[test]
fn sealed_memory_holds_its_first_bytes() {
    let bytes = pattern(3);
    let sealed = Sealed::build(bytes.len() - 5, |zeroed| {
        assert!(zeroed.iter().all(|&byte| byte == 0));
        zeroed.copy_from_slice(&bytes[5..]);
    })
    .unwrap();
    assert_eq!(sealed[..], bytes[5..]);
    assert_eq!(sealed, Sealed::copy_of(&bytes[5..]).unwrap());
}

#[test]
fn sealed_memory_cannot_be_changed_by_anybody() {
    let sealed = Sealed::copy_of(b"for ever").unwrap();
    let seen = |result: std::io::Result<()>| result.map_err(|error| error.raw_os_error().unwrap());
    // Not through its descriptor, nor one that was opened anew.
    let again = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
    for file in [Some(File::from(sealed.as_fd().try_clone_to_owned().unwrap())), again.ok()]
        .into_iter()
        .flatten()
    {
        assert_eq!(seen(file.write_all_at(b"x", 0)), Err(libc::EPERM), "write(2)");
        assert_eq!(seen(file.set_len(1)), Err(libc::EPERM), "ftruncate(2), to shrink");
        assert_eq!(seen(file.set_len(100)), Err(libc::EPERM), "ftruncate(2), to grow");
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: fallocate(2) touches no memory of this process.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), punch, 0, 8) }, -1, "fallocate(2)");
        assert_eq!(errno(FileMapMut::map(&file)), Errno::PERM, "mmap(2), shared and writable");
        assert_eq!(errno(SharedMem::from_fd(file.try_clone().unwrap())), Errno::PERM);
        // SAFETY: fcntl(2) touches no memory of this process.
        let sealed_again = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, 0) };
        assert_eq!(sealed_again, -1, "not even by more seals");
        // A private map is one's own.
        let private = FileMapPrivate::map(&file).unwrap();
        private.write_at(b"own", 0).unwrap();
    }
    assert_eq!(&sealed[..], b"for ever");
    let mut region = sealed.into_region();
    assert_eq!(errno(region.protect(.., Prot::READ_WRITE)), Errno::ACCESS, "mprotect(2)");
}

#[test]
fn sealed_memory_is_taken_from_a_descriptor_with_all_three_seals_only() {
    const ALL: libc::c_int = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
    for missing in [libc::F_SEAL_WRITE, libc::F_SEAL_GROW, libc::F_SEAL_SHRINK, ALL] {
        let text = message(Sealed::from_fd(memfd(b"bytes", ALL & !missing)));
        assert!(text.contains("sealed against writing, growing and shrinking"), "{text}");
    }
    // A seal against new writable maps leaves the old ones alone.
    let future =
        memfd(b"bytes", libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK);
    assert_eq!(errno(Sealed::from_fd(future)), Errno::INVAL);
    assert_eq!(&Sealed::from_fd(memfd(b"bytes", ALL)).unwrap()[..], b"bytes");
}

#[test]
fn sealed_memory_is_never_a_file_or_a_pipe() {
    let dir = disk_dir();
    let (reader, _writer) = std::io::pipe().unwrap();
    assert_eq!(errno(Sealed::from_fd(open(&file_with(dir.path(), b"bytes")))), Errno::INVAL);
    assert_eq!(errno(Sealed::from_fd(reader)), Errno::INVAL);
}

#[test]
fn a_child_forked_while_sealed_memory_is_filled_cannot_change_it() {
    let (mut go, wait_for_it) = UnixStream::pair().unwrap();
    let mut child = None;
    let sealed = Sealed::build(2 * page(), |bytes| {
        bytes.fill(1);
        child = Some(spawn_child(|| {
            // It has the memory mapped writable, and goes on using it after it was sealed.
            (&wait_for_it).read_exact(&mut [0]).unwrap();
            bytes.fill(2);
        }));
    })
    .unwrap();
    go.write_all(&[0]).unwrap();
    assert_eq!(wait(child.unwrap().0), End::Exited(0));
    assert_eq!(&sealed[..], vec![1; 2 * page()]);
}

#[test]
fn a_child_gets_sealed_memory_through_a_socket_and_outlives_the_makers_handle() {
    let (here, there) = UnixStream::pair().unwrap();
    let bytes = pattern(3);
    // Forked first: it inherits no map of the memory.
    let (pid, _) = spawn_child(|| {
        let sealed = Sealed::receive_from(&there).unwrap();
        (&there).read_exact(&mut [0]).unwrap();
        assert_eq!(sealed[..], pattern(3)[7..]);
        assert_eq!(errno(FileMapMut::map(OwnedFd::from(sealed))), Errno::PERM);
    });
    let sealed = Sealed::copy_of(&bytes[7..]).unwrap();
    sealed.send_to(&here).unwrap();
    drop(sealed);
    (&here).write_all(&[0]).unwrap();
    assert_eq!(wait(pid), End::Exited(0));
}

#[test]
fn sealed_memory_of_a_child_outlives_the_child() {
    let (here, there) = UnixStream::pair().unwrap();
    child_succeeds(|| Sealed::copy_of(b"an inheritance").unwrap().send_to(&there).unwrap());
    assert_eq!(&Sealed::receive_from(&here).unwrap()[..], b"an inheritance");
}

#[test]
fn a_child_that_sends_memory_without_seals_is_not_believed() {
    let (here, there) = UnixStream::pair().unwrap();
    child_succeeds(|| SharedMem::memfd("open", 100).unwrap().send_to(&there).unwrap());
    assert_eq!(errno(Sealed::receive_from(&here)), Errno::INVAL);
}

#[test]
fn a_socket_without_a_descriptor_is_an_error_that_says_which() {
    let (here, mut there) = UnixStream::pair().unwrap();
    there.write_all(b"x").unwrap();
    let text = message(Sealed::receive_from(&here));
    assert!(text.contains("no descriptor"), "{text}");
    drop(there);
    let text = message(Sealed::receive_from(&here));
    assert!(text.contains("closed the socket"), "{text}");
    // And no signal for a sender without a receiver.
    assert_eq!(errno(Sealed::copy_of(b"x").unwrap().send_to(&here)), Errno::PIPE);
}

#[test]
fn sealed_memory_of_no_bytes_can_be_passed_too() {
    let (here, there) = UnixStream::pair().unwrap();
    let sealed = Sealed::copy_of(b"").unwrap();
    assert_eq!(&sealed[..], b"");
    sealed.send_to(&here).unwrap();
    assert!(Sealed::receive_from(&there).unwrap().is_empty());
}

#[test]
fn sealed_memory_comes_in_huge_pages_where_the_machine_has_them() {
    let _turn = crate::flags::huge_pool_turn();
    let Some(huge) = default_huge_page().filter(|_| free_huge_pages() >= 4) else {
        return skip("no free huge pages");
    };
    let sealed =
        MapOptions::new().huge_pages(HugePage::Default).sealed(10, |bytes| bytes.fill(7)).unwrap();
    assert_eq!((&sealed[..], sealed.page_size()), (&[7; 10][..], huge));
    let again = Sealed::from_fd(sealed.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(
        (again.len(), again.page_size()),
        (huge.bytes(), huge),
        "a huge memfd is as long as its pages"
    );
    let mut anon =
        MapOptions::new().huge_pages(HugePage::Default).capacity(2 * huge.bytes()).anon(1).unwrap();
    let before = free_huge_pages();
    anon.grow(2 * huge.bytes()).unwrap();
    assert_eq!(free_huge_pages(), before - 1, "what grows is of huge pages too");
    anon[huge.bytes()] = 1;
}

pub(crate) fn default_huge_page() -> Option<PageSize> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let size = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    PageSize::new(size.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10)
}

fn free_huge_pages() -> usize {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.map_or(0, |free| free.trim().parse().unwrap())
}

// FileMap, FileMapMut, FileMapPrivate

#[test]
fn a_file_is_shown_from_any_byte_to_any_byte() {
    let dir = disk_dir();
    let bytes = pattern(4);
    let bytes = &bytes[..bytes.len() - 13];
    let file = open(&file_with(dir.path(), bytes));
    let (p, end) = (page(), bytes.len());
    for (offset, length) in [
        (0, end),
        (1, 1),
        (p - 1, 2),
        (p, p),
        (p + 7, 2 * p - 7),
        (3 * p + 5, p - 18),
        (end - 1, 1),
    ] {
        let options = MapOptions::new().offset(offset as u64).len(length);
        let expected = &bytes[offset..offset + length];
        let map = options.map(&file).unwrap();
        assert_eq!((map.offset(), map.len()), (offset as u64, length));
        assert_eq!(map.read_vec(..).unwrap(), expected, "shared, {length} bytes from {offset}");
        assert_eq!(errno(map.read_at(&mut [0], length)), Errno::INVAL, "not a byte more");
        assert_eq!(options.map_mut(&file).unwrap().read_vec(..).unwrap(), expected);
        assert_eq!(options.map_private(&file).unwrap().read_vec(..).unwrap(), expected);
        let to_the_end = MapOptions::new().offset(offset as u64).map(&file).unwrap();
        assert_eq!(to_the_end.read_vec(..).unwrap(), bytes[offset..]);
    }
}

#[test]
fn stores_land_where_the_offset_says() {
    let dir = disk_dir();
    let mut bytes = pattern(3);
    let path = file_with(dir.path(), &bytes);
    let map = MapOptions::new().offset(page() as u64 + 100).len(50).map_mut(open(&path)).unwrap();
    map.write_at(b"here", 46).unwrap();
    assert_eq!(
        errno(map.write_at(b"here", 47)),
        Errno::INVAL,
        "past the map, though inside the file"
    );
    bytes[page() + 146..page() + 150].copy_from_slice(b"here");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file is changed there and nowhere else");
}

#[test]
fn an_offset_past_the_end_is_refused_and_says_how_long_the_file_is() {
    let dir = disk_dir();
    let file = open(&file_with(dir.path(), &[1; 100]));
    assert_eq!(MapOptions::new().offset(100).map(&file).unwrap().len(), 0);
    let text = message(MapOptions::new().offset(101).map(&file));
    assert!(text.contains("past the end") && text.contains("100 bytes"), "{text}");
}

#[test]
fn past_the_end_are_zeros_to_the_pages_end_then_faults_until_the_file_grows() {
    let dir = disk_dir();
    let file = open(&file_with(dir.path(), &[1; 100]));
    let map = MapOptions::new().len(2 * page()).map(&file).unwrap();
    assert_eq!(map.read_vec(..101).unwrap()[99..], [1, 0]);
    let error = map.read_at(&mut [0; 2], page() - 1).unwrap_err();
    let fault = error.fault().unwrap();
    assert_eq!((fault.cause(), fault.range()), (FaultCause::PastEnd, page()..page() + 1));
    file.write_all_at(&[2], 2 * page() as u64 - 1).unwrap();
    assert_eq!(map.read::<u8>(2 * page() - 1).unwrap(), 2);
}

#[test]
fn an_empty_file_maps_to_no_bytes() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"");
    let maps: [Box<dyn Fn() -> usize>; 3] = [
        Box::new(|| FileMap::open(&path).unwrap().guard(|view| view.bytes().count()).unwrap()),
        Box::new(|| FileMapMut::open(&path).unwrap().read_vec(..).unwrap().len()),
        Box::new(|| {
            FileMapPrivate::open(&path).unwrap().reader().read_to_end(&mut Vec::new()).unwrap()
        }),
    ];
    assert!(maps.iter().all(|len| len() == 0));
    let map = FileMap::open(&path).unwrap();
    assert_eq!(errno(map.read::<u8>(0)), Errno::INVAL);
    // And an operation on all of its pages touches none.
    map.advise(.., Advice::WillNeed).unwrap();
    map.lock(..).unwrap();
    assert_eq!(map.residency(..).unwrap().known().unwrap().total_bytes(), 0);
}

#[test]
fn a_map_at_the_end_of_its_file_follows_the_files_growth() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &[]);
    for end in [0, 10, page() as u64 + 10] {
        let file = open(&path);
        file.set_len(end).unwrap();
        let mut map = MapOptions::new().offset(end).map(open(&path)).unwrap();
        assert_eq!((map.len(), map.offset()), (0, end));
        assert_eq!(map.resize_to_file().unwrap(), 0);
        file.write_all_at(b"a new line", end).unwrap();
        assert_eq!(map.resize_to_file().unwrap(), 10);
        assert_eq!((map.read_vec(..).unwrap(), map.offset()), (b"a new line".to_vec(), end));
    }
}

#[test]
fn files_that_cannot_be_mapped_give_an_error_that_says_to_read_them() {
    let dir = disk_dir();
    let (reader, _writer) = std::io::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let unmappable: [(&str, OwnedFd); 4] = [
        // It has no bytes, by its size, but is not empty.
        ("a file of /proc", File::open("/proc/self/status").unwrap().into()),
        ("a directory", File::open(dir.path()).unwrap().into()),
        ("a pipe", reader.into()),
        ("a socket", socket.into()),
    ];
    for (name, fd) in &unmappable {
        for options in [MapOptions::new(), MapOptions::new().len(100)] {
            let error = options.map(fd).unwrap_err();
            assert_eq!(error.errno(), Errno::NODEV, "{name}");
            assert!(error.to_string().contains("Anon::read_from"), "{name}: {error}");
        }
    }
    let text = message(FileMap::open("/proc/self/status"));
    assert!(text.contains("/status"), "{text}");
}

#[test]
fn a_character_device_is_no_file_and_the_error_names_the_handle_for_it() {
    let text = message(FileMap::open("/dev/zero"));
    assert!(text.contains("Device"), "{text}");
}

#[test]
fn values_are_read_and_written_at_any_offset() {
    #[derive(Debug, PartialEq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
    #[repr(C)]
    struct Record {
        key: [u8; 4],
        value: u32,
    }
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let map = MapOptions::new().offset(1).map_mut(open(&path)).unwrap();
    let record = Record { key: *b"\0key", value: 0xdead_beef };
    // Across a page boundary, and aligned to nothing.
    for offset in [0, 3, page() - 5] {
        map.write(offset, &record).unwrap();
        assert_eq!(map.read::<Record>(offset).unwrap(), record);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[offset + 1..offset + 5], record.key);
        assert_eq!(bytes[offset + 5..offset + 9], record.value.to_ne_bytes());
    }
    assert_eq!(errno(map.read::<u64>(map.len() - 7)), Errno::INVAL);
    assert_eq!(errno(map.write(map.len() - 7, &0_u64)), Errno::INVAL);
    assert_eq!(errno(map.read::<u64>(usize::MAX - 3)), Errno::INVAL, "the sum does not overflow");
}

#[test]
fn ranges_are_copied_out_or_refused_whole() {
    let dir = disk_dir();
    let bytes = pattern(2);
    let map = MapOptions::new().offset(9).map(open(&file_with(dir.path(), &bytes))).unwrap();
    let (shown, len) = (&bytes[9..], map.len());
    assert_eq!(map.read_vec(..).unwrap(), shown);
    assert_eq!(map.read_vec(5..=page()).unwrap(), shown[5..=page()]);
    assert_eq!(map.read_vec(len..).unwrap(), []);
    assert_eq!(errno(map.read_vec(len - 1..=len)), Errno::INVAL);
    #[expect(clippy::reversed_empty_ranges, reason = "it is what must be refused")]
    let reversed = map.read_vec(2..1);
    assert_eq!(errno(reversed), Errno::INVAL);
}

#[test]
fn a_reader_is_a_stream_of_the_same_bytes_as_any_other() {
    let dir = disk_dir();
    let bytes = pattern(20);
    let map = MapOptions::new().offset(3).map(open(&file_with(dir.path(), &bytes))).unwrap();
    let (mut reader, mut model) = (map.reader(), Cursor::new(&bytes[3..]));
    let len = map.len() as u64;
    let mut seed = 42_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    for step in 0..3000 {
        match random(5) {
            0 => {
                let to = match random(3) {
                    0 => SeekFrom::Start(random(len + 100)),
                    1 => SeekFrom::End(-(random(len) as i64)),
                    _ => SeekFrom::Current(random(2000) as i64 - 1000),
                };
                assert_eq!(reader.seek(to).ok(), model.seek(to).ok(), "step {step}: {to:?}");
            }
            1 => {
                // A buffer holds some of the bytes that follow, and nothing else.
                let rest = model.fill_buf().unwrap();
                let held = reader.fill_buf().unwrap();
                assert_eq!(held, &rest[..held.len()], "step {step}");
                assert_eq!(held.is_empty(), rest.is_empty(), "step {step}");
                let used = random(held.len() as u64 + 1) as usize;
                reader.consume(used);
                model.consume(used);
            }
            _ => {
                let wanted = random(40_000) as usize;
                let (mut got, mut expected) = (Vec::new(), Vec::new());
                (&mut reader).take(wanted as u64).read_to_end(&mut got).unwrap();
                (&mut model).take(wanted as u64).read_to_end(&mut expected).unwrap();
                assert_eq!(got, expected, "step {step}: {wanted} bytes");
            }
        }
        assert_eq!(
            reader.stream_position().unwrap(),
            model.stream_position().unwrap(),
            "step {step}"
        );
    }
    assert!(reader.seek(SeekFrom::Current(i64::MIN)).is_err());
}

#[test]
fn a_reader_of_a_file_that_was_truncated_ends_in_an_error_and_not_in_zeros() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(20));
    let map = FileMap::open(&path).unwrap();
    let mut reader = map.reader();
    reader.read_exact(&mut [0; 10]).unwrap();
    open(&path).set_len(8 * page() as u64).unwrap();
    let mut read = Vec::new();
    let error = reader.read_to_end(&mut read).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(read.iter().zip(&pattern(20)[10..]).all(|(read, byte)| read == byte));
    assert!(error.to_string().contains("truncated"), "{error}");
}

/// Open descriptors of this process, without the one that counts them.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

#[test]
fn a_map_of_a_borrowed_descriptor_keeps_none_and_works_when_it_is_closed() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"bytes");
    child_succeeds(|| {
        let before = descriptors();
        let file = open(&path);
        let map = FileMap::map(&file).unwrap();
        assert_eq!(descriptors(), before + 1);
        drop(file);
        assert_eq!(descriptors(), before);
        assert!(map.file().is_none());
        assert_eq!(map.read_vec(..).unwrap(), b"bytes");
        let mut map = map;
        for refused in
            [errno(map.resize_to_file()), errno(map.is_verity()), errno(map.cache_stat(..))]
        {
            assert_eq!(refused, Errno::BADF);
        }
        let text = message(map.read_at_verified(&mut [0], 0));
        assert!(text.contains("Arc<File>"), "the error says what to do: {text}");
    });
}

#[test]
fn a_map_of_an_owned_descriptor_keeps_it_and_closes_it_when_dropped() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"bytes");
    child_succeeds(|| {
        let before = descriptors();
        let map = FileMap::map(open(&path)).unwrap();
        assert_eq!(descriptors(), before + 1);
        assert!(map.file().is_some());
        drop(map);
        assert_eq!(descriptors(), before);
        drop(FileMapMut::open(&path).unwrap().into_region());
        assert_eq!(descriptors(), before);
        // Refused maps close it too.
        assert!(FileMap::map(File::open("/proc/self/status").unwrap()).is_err());
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn many_maps_keep_one_descriptor_through_an_arc() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    child_succeeds(|| {
        let before = descriptors();
        let file = Arc::new(open(&path));
        let maps: Vec<_> =
            (0..10).map(|offset| MapOptions::new().offset(offset).map(&file).unwrap()).collect();
        drop(file);
        assert_eq!(descriptors(), before + 1);
        assert!(maps.iter().all(|map| map.file().is_some()));
        drop(maps);
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn memfds_keep_their_descriptor_devices_and_anonymous_shared_memory_do_not() {
    child_succeeds(|| {
        let before = descriptors();
        let device = Device::open("/dev/zero", page()).unwrap();
        let (anonymous, zero) =
            (SharedMem::anonymous(10).unwrap(), SharedMem::dev_zero(10).unwrap());
        assert_eq!(descriptors(), before);
        let memfd = SharedMem::memfd("kept", 10).unwrap();
        assert_eq!(descriptors(), before + 1);
        drop((device, anonymous, zero, memfd));
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn a_file_map_is_resized_from_its_offset_and_the_file_stays() {
    let dir = disk_dir();
    let bytes = pattern(8);
    let path = file_with(dir.path(), &bytes);
    let mut map = MapOptions::new().offset(100).len(50).map(open(&path)).unwrap();
    for length in [51, page(), 3 * page() + 1, 8 * page() - 100, 10, 0, 2 * page()] {
        map.resize(length).unwrap();
        assert_eq!((map.offset(), map.len()), (100, length));
        assert_eq!(map.read_vec(..).unwrap(), bytes[100..100 + length], "{length} bytes");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(map.resize_to_file().unwrap(), bytes.len() - 100);
    open(&path).set_len(page() as u64).unwrap();
    assert_eq!(map.resize_to_file().unwrap(), page() - 100);
    assert_eq!(map.read_vec(..).unwrap(), bytes[100..page()]);
}

#[test]
fn an_empty_map_without_a_descriptor_cannot_be_resized() {
    let dir = disk_dir();
    let file = open(&file_with(dir.path(), b""));
    let mut map = FileMap::map(&file).unwrap();
    assert_eq!(errno(map.resize(10)), Errno::BADF);
}

#[test]
fn a_verified_read_sees_truncation_inside_a_page() {
    let dir = disk_dir();
    let file = Arc::new(open(&file_with(dir.path(), &[1; 100])));
    let map = MapOptions::new().offset(10).map(&file).unwrap();
    let mut buffer = [0; 50];
    map.read_at_verified(&mut buffer, 40).unwrap();
    assert_eq!(buffer, [1; 50]);
    file.set_len(60).unwrap();
    // The kernel shows zeros, and no fault.
    map.read_at(&mut buffer, 40).unwrap();
    assert_eq!((&buffer[..10], &buffer[10..]), (&[1; 10][..], &[0; 40][..]));
    let error = map.read_at_verified(&mut buffer, 40).unwrap_err();
    let fault = error.fault().unwrap();
    assert_eq!(
        (fault.cause(), fault.range(), fault.file_offset()),
        (FaultCause::PastEnd, 50..90, Some(60))
    );
    map.read_at_verified(&mut buffer[..10], 40).unwrap();
    assert!(map.read_at_verified(&mut [0], 50).is_err(), "the first byte that is gone");
    map.read_at_verified(&mut [], 90).unwrap();
}

#[test]
fn private_writes_never_reach_the_file() {
    let dir = disk_dir();
    let bytes = pattern(3);
    let path = file_with(dir.path(), &bytes);
    let map = MapOptions::new().offset(7).map_private(File::open(&path).unwrap()).unwrap();
    map.write_at(&vec![0; map.len()], 0).unwrap();
    map.sync(.., WriteBack::Wait).unwrap();
    assert!(map.read_vec(..).unwrap().iter().all(|&byte| byte == 0));
    assert_eq!(FileMap::open(&path).unwrap().read_vec(..).unwrap(), bytes);
    drop(map);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn shared_writes_are_in_the_file_at_once_without_a_sync() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let map = FileMapMut::open(&path).unwrap();
    map.write_at(b"across", page() - 3).unwrap();
    let mut read = [0; 6];
    open(&path).read_exact_at(&mut read, page() as u64 - 3).unwrap();
    assert_eq!(&read, b"across");
}

#[test]
fn a_sync_that_waits_leaves_no_dirty_page_in_its_range() {
    let dir = disk_dir();
    let map = FileMapMut::create(dir.path().join("new"), 8 * page() as u64).unwrap();
    map.write_at(&pattern(8), 0).unwrap();
    let Ok(stat) = map.cache_stat(..) else { return skip("no cachestat (Linux 6.5)") };
    if stat.dirty == 0 {
        return skip("the file system writes at once");
    }
    map.sync(..4 * page(), WriteBack::Wait).unwrap();
    let stat = map.cache_stat(..4 * page()).unwrap();
    assert_eq!((stat.dirty, stat.write_back), (0, 0));
    assert_eq!(stat.cached, 4 * page() as u64);
}

#[test]
fn punched_pages_are_a_hole_and_zeros_for_everyone() {
    let dir = disk_dir();
    let bytes = pattern(8);
    let path = file_with(dir.path(), &bytes);
    let file = open(&path);
    file.sync_all().unwrap();
    let other = FileMap::open(&path).unwrap();
    let blocks = file.metadata().unwrap().blocks();
    let mut map = FileMapMut::open(&path).unwrap();
    match map.punch(2 * page()..6 * page()) {
        Err(error) if error.errno() == Errno::OPNOTSUPP => {
            return skip("the file system has no holes");
        }
        result => result.unwrap(),
    }
    let mut expected = bytes;
    expected[2 * page()..6 * page()].fill(0);
    assert_eq!(other.read_vec(..).unwrap(), expected);
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    assert!(file.metadata().unwrap().blocks() < blocks, "the space was given back");
}

#[test]
fn punching_never_reaches_bytes_that_the_map_does_not_show() {
    let Some(dir) = memory_dir() else { return skip("no tmpfs at /dev/shm") };
    let bytes = pattern(5);
    let file = open(&file_with(dir.path(), &bytes));
    let options = MapOptions::new().offset(100).len(3 * page());
    let mut map = options.map_mut(&file).unwrap();
    map.punch(..).unwrap();
    let mut expected = bytes.clone();
    expected[100..100 + 3 * page()].fill(0);
    assert!(FileMap::map(&file).unwrap().read_vec(..).unwrap() == expected);
    // A map of less than a page, and parts that are no pages.
    file.write_all_at(&bytes, 0).unwrap();
    let mut small = MapOptions::new().offset(10).len(20).map_mut(&file).unwrap();
    small.punch(..).unwrap();
    assert_eq!(errno(small.punch(1..)), Errno::INVAL);
    assert_eq!(errno(small.punch(..1)), Errno::INVAL);
    assert_eq!(errno(map.punch(..page())), Errno::INVAL, "it ends inside a page of the file");
    expected = bytes;
    expected[10..30].fill(0);
    assert!(FileMap::map(&file).unwrap().read_vec(..).unwrap() == expected);
}

#[test]
fn reverted_pages_show_the_file_again() {
    let dir = disk_dir();
    let bytes = pattern(4);
    let path = file_with(dir.path(), &bytes);
    let mut map = MapOptions::new().offset(100).len(3 * page()).map_private(open(&path)).unwrap();
    map.write_at(&vec![0; map.len()], 0).unwrap();
    let second = page() - 100;
    map.revert(second..second + page()).unwrap();
    let shown = map.read_vec(..).unwrap();
    assert_eq!(shown[second..second + page()], bytes[page()..2 * page()]);
    assert!(shown[..second].iter().chain(&shown[second + page()..]).all(|&byte| byte == 0));
    assert_eq!(errno(map.revert(1..second)), Errno::INVAL);
    // The map's ends take the rest of their pages along, which no other handle shows.
    map.revert(..).unwrap();
    assert_eq!(map.read_vec(..).unwrap(), bytes[100..100 + 3 * page()]);
}

#[test]
fn accesses_without_protection_are_errors_until_it_is_given_back() {
    let dir = disk_dir();
    let mut map =
        MapOptions::new().offset(5).map_mut(open(&file_with(dir.path(), &pattern(2)))).unwrap();
    map.protect(.., Prot::READ).unwrap();
    let error = map.write_at(&[1], 0).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::Protection);
    map.read::<u8>(0).unwrap();
    map.protect(page() - 5.., Prot::NONE).unwrap();
    map.read_at(&mut [0; 8], page() - 13).unwrap();
    let error = map.read_at(&mut [0; 8], page() - 12).unwrap_err();
    assert_eq!(error.fault().unwrap().range(), page() - 5..page() - 4);
    map.protect(.., Prot::READ_WRITE).unwrap();
    map.write_at(&[1], 0).unwrap();
}

#[test]
fn a_right_that_the_descriptor_has_not_cannot_be_added_later() {
    let dir = disk_dir();
    let mut map = FileMap::map(File::open(file_with(dir.path(), b"bytes")).unwrap()).unwrap();
    assert_eq!(errno(map.protect(.., Prot::READ_WRITE)), Errno::ACCESS);
    assert_eq!(map.read_vec(..).unwrap(), b"bytes");
}

#[test]
fn a_promise_makes_a_file_map_a_slice_and_can_be_taken_back() {
    let dir = disk_dir();
    let bytes = pattern(2);
    let map = MapOptions::new().offset(11).map(open(&file_with(dir.path(), &bytes))).unwrap();
    // SAFETY: the file is this test's alone.
    let stable = unsafe { map.assume_stable() };
    assert_eq!(stable[..], bytes[11..]);
    assert_eq!(stable.as_map().offset(), 11);
    let map = stable.into_inner();
    // SAFETY: the file is this test's alone.
    let bytes_of_it = bytes::Bytes::from(unsafe { map.assume_stable() });
    assert_eq!(bytes_of_it[..], bytes[11..]);
}

#[test]
fn a_promise_of_exclusive_use_makes_a_file_map_a_mutable_slice() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"0123456789");
    let map = MapOptions::new().offset(2).map_mut(open(&path)).unwrap();
    // SAFETY: the file is this test's alone.
    let mut exclusive = unsafe { map.assume_exclusive() };
    exclusive[..3].copy_from_slice(b"abc");
    exclusive.sync(.., WriteBack::Wait).unwrap();
    assert_eq!(&exclusive[..], b"abc56789");
    assert_eq!(exclusive.into_inner().read_vec(..4).unwrap(), b"abc5");
    assert_eq!(std::fs::read(&path).unwrap(), b"01abc56789");
}

#[test]
fn a_created_file_has_its_length_its_space_and_its_old_bytes() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"old");
    let map = FileMapMut::create(&path, 10 * page() as u64 + 1).unwrap();
    assert_eq!(map.len(), 10 * page() + 1);
    assert_eq!(map.read_vec(..5).unwrap(), b"old\0\0");
    let status = std::fs::metadata(&path).unwrap();
    assert_eq!(status.len(), map.len() as u64);
    assert!(status.blocks() * 512 >= status.len(), "reserved: {} blocks", status.blocks());
    let text = message(FileMapMut::create(dir.path().join("no/such/dir"), 1));
    assert!(text.contains("no/such/dir"), "{text}");
}

#[test]
fn reserving_fills_the_holes_of_the_mapped_part_and_no_others() {
    let dir = disk_dir();
    let path = dir.path().join("sparse");
    let file = File::create_new(&path).unwrap();
    let (p, chunk) = (page() as u64, 64 * 1024);
    file.set_len(4 * chunk).unwrap();
    file.write_all_at(b"data", 2 * chunk).unwrap();
    file.sync_all().unwrap();
    let before = file.metadata().unwrap();
    if before.blocks() * 512 >= 4 * chunk {
        return skip("the file system has no holes");
    }
    let map = MapOptions::new()
        .offset(chunk)
        .len(2 * chunk as usize)
        .preallocate()
        .map_mut(open(&path))
        .unwrap();
    let after = file.metadata().unwrap();
    assert_eq!(after.len(), before.len());
    let room = after.blocks() * 512;
    assert!(
        (2 * chunk..=2 * chunk + 2 * p).contains(&room),
        "{room} bytes for the mapped {}",
        2 * chunk
    );
    assert_eq!(map.read_vec(chunk as usize..chunk as usize + 5).unwrap(), b"data\0");
}

#[test]
fn reserving_a_file_without_holes_moves_none_of_its_times() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    let file = open(&path);
    file.sync_all().unwrap();
    let times = |file: &File| {
        let status = file.metadata().unwrap();
        (status.mtime(), status.mtime_nsec(), status.ctime(), status.ctime_nsec(), status.blocks())
    };
    let before = times(&file);
    // Longer than a clock's tick, so that a time that moved would differ.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let map = MapOptions::new().preallocate().map_mut(&file).unwrap();
    assert_eq!(times(&file), before);
    // A length past the end reserves nothing there.
    drop(MapOptions::new().preallocate().len(100 * page()).map_mut(&file).unwrap());
    assert_eq!(times(&file), before);
    drop(map);
}

#[test]
fn reserving_never_moves_the_position_of_another_reader() {
    for dir in [Some(disk_dir()), memory_dir()].into_iter().flatten() {
        let path = file_with(dir.path(), &[7]);
        let file = open(&path);
        // Data behind a hole: where the position goes when holes are looked for, there is something
        // else to read.
        file.set_len(64 * page() as u64).unwrap();
        file.write_all_at(&[9; 64], 63 * page() as u64).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    drop(MapOptions::new().len(64 * page()).preallocate().map_mut(&file).unwrap());
                }
            });
            let moved = (0..200_000).find(|_| (&file).stream_position().unwrap() != 0);
            ended.store(true, Ordering::Relaxed);
            assert_eq!(moved, None, "in {dir:?}");
        });
    }
}

#[test]
fn reserving_fills_every_hole_of_many() {
    for dir in [Some(disk_dir()), memory_dir()].into_iter().flatten() {
        let path = dir.path().join("sparse");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        // More parts than the kernel is asked for at once, with a hole before, between and behind.
        let pages = 401_u64;
        file.set_len(pages * page() as u64).unwrap();
        for number in (1..pages).step_by(2) {
            file.write_all_at(&[number as u8], number * page() as u64).unwrap();
        }
        file.sync_all().unwrap();
        if file.metadata().unwrap().blocks() * 512 >= pages * page() as u64 {
            skip("the file system has no holes this small");
            continue;
        }
        let map = MapOptions::new().preallocate().map_mut(&file).unwrap();
        let room = file.metadata().unwrap().blocks() * 512;
        assert!(room >= pages * page() as u64, "{room} bytes of {}, in {dir:?}", map.len());
        for number in 0..pages as usize {
            let byte = if number % 2 == 1 { number as u8 } else { 0 };
            assert_eq!(map.read::<u8>(number * page()).unwrap(), byte);
        }
    }
}

#[test]
fn reserve_is_refused_where_it_means_nothing() {
    let dir = disk_dir();
    let file = open(&file_with(dir.path(), b"bytes"));
    let reserve = MapOptions::new().preallocate();
    assert_eq!(errno(reserve.map_private(&file)), Errno::INVAL);
    assert_eq!(errno(reserve.anon(10)), Errno::INVAL);
    assert_eq!(
        errno(reserve.clone().flags(folio::MapFlags::NORESERVE).map_mut(&file)),
        Errno::INVAL
    );
    assert_eq!(errno(reserve.flags(folio::MapFlags::NORESERVE).shared_memfd(10)), Errno::INVAL);
}

#[test]
fn a_file_without_fs_verity_is_not_verity() {
    let dir = disk_dir();
    assert!(!FileMap::open(file_with(dir.path(), b"bytes")).unwrap().is_verity().unwrap());
    if let Some(dir) = memory_dir() {
        assert!(!FileMap::open(file_with(dir.path(), b"bytes")).unwrap().is_verity().unwrap());
    }
}

#[test]
fn a_map_that_was_sealed_stays_for_the_life_of_the_process() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"bytes");
    child_succeeds(|| {
        let map = match FileMapMut::open(&path).unwrap().seal() {
            Ok(map) => map,
            Err(refused) if refused.error.errno() == Errno::NOSYS => {
                return skip("no mseal (Linux 6.10)");
            }
            Err(refused) => panic!("{refused}"),
        };
        // SAFETY: nothing uses the range in this child but `map`, if it is still there.
        assert_eq!(unsafe { libc::munmap(map.as_ptr() as *mut _, page()) }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
        map.write_at(b"BYTES", 0).unwrap();
        assert_eq!(map.read_vec(..).unwrap(), b"BYTES");
        // Its pages cannot be replaced, so a guard could not keep its promise.
        assert_eq!(errno(map.guard(|_| ())), Errno::PERM);
        let anon: &'static Anon = Anon::new(10).unwrap().seal().unwrap();
        assert_eq!(&anon[..], [0; 10]);
    });
}

// SharedMem

fn shared_kinds(length: usize) -> [(&'static str, SharedMem); 3] {
    [
        ("anonymous", SharedMem::anonymous(length).unwrap()),
        ("/dev/zero", SharedMem::dev_zero(length).unwrap()),
        ("memfd", SharedMem::memfd("kind", length).unwrap()),
    ]
}

#[test]
fn shared_memory_is_zero_and_one_memory_through_copies_views_and_atomics() {
    for (kind, shared) in shared_kinds(page() + 10) {
        assert!(shared.view().unwrap().bytes().all(|byte| byte == 0), "{kind}");
        shared.write_at(&7_u32.to_ne_bytes(), 8).unwrap();
        assert_eq!(
            shared.atomic::<AtomicU32>(8).unwrap().fetch_add(1, Ordering::SeqCst),
            7,
            "{kind}"
        );
        assert_eq!(shared.view().unwrap().read::<u32>(8).unwrap(), 8, "{kind}");
        shared.view().unwrap().write(8, &9_u32).unwrap();
        assert_eq!(shared.read::<u32>(8).unwrap(), 9, "{kind}");
        assert!(shared.view().unwrap().set(page() + 9, 1));
        assert!(!shared.view().unwrap().set(page() + 10, 1), "the rest of the page is not shown");
        assert_eq!(shared.read_vec(page()..).unwrap(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(errno(shared.write_at(&[1, 1], page() + 9)), Errno::INVAL);
    }
}

#[test]
fn an_atomic_lies_inside_and_aligned_or_is_refused_with_the_nearest_place() {
    let shared = SharedMem::anonymous(page()).unwrap();
    shared.atomic::<AtomicU16>(2).unwrap();
    shared.atomic::<AtomicU64>(page() - 8).unwrap();
    assert_eq!(shared.atomics::<AtomicU8>(1, page() - 1).unwrap().len(), page() - 1);
    assert_eq!(shared.atomics::<AtomicU64>(page(), 0).unwrap().len(), 0);
    let text = message(shared.atomic::<AtomicU64>(12));
    assert!(text.contains("use 8 or 16"), "{text}");
    for (offset, count) in
        [(page() - 8, 2), (page(), 1), (0, page() / 8 + 1), (8, usize::MAX), (usize::MAX - 7, 1)]
    {
        assert_eq!(
            errno(shared.atomics::<AtomicU64>(offset, count)),
            Errno::INVAL,
            "{count} from {offset}"
        );
    }
}

#[test]
fn a_part_of_a_view_is_the_same_memory_and_ends_where_it_says() {
    let shared = SharedMem::anonymous(100).unwrap();
    let part = shared.view_range(10..20).unwrap();
    shared.view().unwrap().copy_from(b"0123456789x", 10).unwrap();
    assert_eq!(part.bytes().collect::<Vec<_>>(), b"0123456789");
    assert_eq!((part.get(9), part.get(10)), (Some(b'9'), None));
    assert_eq!(part.slice(8..).unwrap().read::<[u8; 2]>(0).unwrap(), *b"89");
    assert_eq!(errno(part.read::<u16>(9)), Errno::INVAL);
    assert_eq!(errno(part.slice(8..11)), Errno::INVAL);
    assert_eq!(errno(shared.view_range(..101)), Errno::INVAL);
    let mut words = part.words();
    assert_eq!(words.next(), Some(u64::from_ne_bytes(*b"01234567")));
    assert_eq!(words.rest().bytes().collect::<Vec<_>>(), b"89");
    assert_eq!(words.next(), None);
}

#[test]
fn nobody_can_take_pages_of_shared_memory_away() {
    let shared = SharedMem::memfd("whole", 3 * page()).unwrap();
    let file = File::from(shared.file().unwrap().try_clone_to_owned().unwrap());
    let error = file.set_len(page() as u64).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    file.set_len(4 * page() as u64).unwrap();
    shared.write(3 * page() - 4, &1_u32).unwrap();
}

#[test]
fn shared_memory_is_taken_from_a_memfd_that_cannot_shrink_only() {
    let dir = disk_dir();
    let text = message(SharedMem::from_fd(memfd(&[1; 10], 0)));
    assert!(text.contains("F_SEAL_SHRINK"), "{text}");
    assert_eq!(
        errno(SharedMem::from_fd(open(&file_with(dir.path(), b"bytes")))),
        Errno::INVAL,
        "a file"
    );
    let sealed = libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE;
    assert_eq!(
        errno(SharedMem::from_fd(memfd(&[1; 10], sealed))),
        Errno::PERM,
        "sealed against writing"
    );
    let shared = SharedMem::from_fd(memfd(&[1; 10], libc::F_SEAL_SHRINK)).unwrap();
    assert_eq!(shared.read_vec(..).unwrap(), [1; 10]);
    let long = MapOptions::new().len(11).shared_from_fd(memfd(&[1; 10], libc::F_SEAL_SHRINK));
    assert_eq!(
        errno(long),
        Errno::INVAL,
        "past the end, where another process decides what is there"
    );
}

#[test]
fn an_unrelated_process_reaches_shared_memory_through_a_socket() {
    let (here, there) = UnixStream::pair().unwrap();
    // Forked before the memory is made.
    let (pid, _) = spawn_child(|| {
        let shared = SharedMem::receive_from(&there).unwrap();
        let turn = shared.atomic::<AtomicU32>(0).unwrap();
        assert_eq!(turn.load(Ordering::Acquire), 1);
        shared.write_at(b"from the child", 4).unwrap();
        turn.store(2, Ordering::Release);
    });
    let shared = SharedMem::memfd("passed", 100).unwrap();
    let turn = shared.atomic::<AtomicU32>(0).unwrap();
    turn.store(1, Ordering::Release);
    shared.send_to(&here).unwrap();
    assert_eq!(wait(pid), End::Exited(0));
    assert_eq!(turn.load(Ordering::Acquire), 2);
    assert_eq!(shared.read_vec(4..18).unwrap(), b"from the child");
}

#[test]
fn anonymous_shared_memory_cannot_be_sent_and_names_kinds_that_can() {
    let (here, _there) = UnixStream::pair().unwrap();
    let text = message(SharedMem::anonymous(10).unwrap().send_to(&here));
    assert!(text.contains("SharedMem::memfd"), "{text}");
}

#[test]
fn a_memfds_space_is_reserved_when_it_is_made_unless_asked_otherwise() {
    let space = |shared: &SharedMem| {
        File::from(shared.file().unwrap().try_clone_to_owned().unwrap())
            .metadata()
            .unwrap()
            .blocks()
            * 512
    };
    let length = 8 * page();
    assert_eq!(space(&SharedMem::memfd("full", length).unwrap()), length as u64);
    assert_eq!(space(&MapOptions::new().no_reserve().shared_memfd(length).unwrap()), 0);
}

#[test]
fn a_memfd_is_seen_by_its_name() {
    // Longer than any name of a VMA that the kernel accepts.
    let name = format!("name-{}", "x".repeat(100));
    let shared = SharedMem::memfd(&name, 10).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", shared.as_ptr() as usize);
    assert!(
        maps.lines()
            .any(|line| line.starts_with(&start) && line.contains(&format!("memfd:{name}")))
    );
}

#[test]
fn shared_memory_of_no_bytes_is_an_empty_view() {
    for (kind, shared) in shared_kinds(0) {
        assert!(shared.view().unwrap().is_empty(), "{kind}");
        assert_eq!(errno(shared.atomic::<AtomicU8>(0)), Errno::INVAL, "{kind}");
    }
}

// Properties of all handles

#[test]
fn every_handle_becomes_the_region_that_it_stands_on() {
    let dir = disk_dir();
    let bytes = pattern(2);
    let file = open(&file_with(dir.path(), &bytes));
    let shown = &bytes[..=page()];
    let filled = |shared: SharedMem| {
        shared.write_at(shown, 0).unwrap();
        shared
    };
    let mut anon = Anon::new(shown.len()).unwrap();
    anon.copy_from_slice(shown);
    let device = Device::open("/dev/zero", shown.len()).unwrap();
    device.write_at(shown, 0).unwrap();
    let options = MapOptions::new().len(shown.len());
    let regions: [(&str, Region); 9] = [
        ("Anon", anon.into()),
        ("Sealed", Sealed::copy_of(shown).unwrap().into()),
        ("FileMap", options.map(&file).unwrap().into()),
        ("FileMapMut", options.map_mut(&file).unwrap().into()),
        ("FileMapPrivate", options.map_private(&file).unwrap().into()),
        ("anonymous", filled(SharedMem::anonymous(shown.len()).unwrap()).into()),
        ("/dev/zero", filled(SharedMem::dev_zero(shown.len()).unwrap()).into()),
        ("memfd", filled(SharedMem::memfd("region", shown.len()).unwrap()).into()),
        ("Device", device.into()),
    ];
    for (kind, region) in regions {
        assert_eq!((region.len(), region.page_size()), (2 * page(), PageSize::system()), "{kind}");
        let mut read = vec![0; shown.len()];
        region.read_at(&mut read, 0).unwrap();
        assert!(read == shown, "{kind}");
        region.unmap().unwrap_or_else(|refused| panic!("{kind}: {refused}"));
    }
    // A region starts with the page, the handle with the byte that was asked for.
    let region = MapOptions::new().offset(100).map(&file).unwrap().into_region();
    let mut first = [0];
    region.read_at(&mut first, 0).unwrap();
    assert_eq!(first, bytes[..1]);
}

#[test]
fn an_option_that_a_kind_of_map_cannot_have_is_refused_and_never_ignored() {
    let dir = disk_dir();
    let file = open(&file_with(dir.path(), &pattern(1)));
    let new = MapOptions::new;
    let shrinkable = || memfd(&[1; 10], libc::F_SEAL_SHRINK);
    let all = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let shapes = [new().capacity(8 * page()), new().guard_pages()];
    let device = File::options().read(true).write(true).open("/dev/zero").unwrap();
    for options in &shapes {
        let refused = [
            options.map(&file).err(),
            options.map_mut(&file).err(),
            options.map_private(&file).err(),
            options.shared_dev_zero(10).err(),
            options.shared_memfd(10).err(),
            options.shared_from_fd(shrinkable()).err(),
            options.sealed(10, |_| ()).err(),
            options.sealed_from_fd(memfd(&[1; 10], all)).err(),
            options.clone().len(page()).device(&device).err(),
        ];
        for (index, error) in refused.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("{options:?}: kind {index} took it"));
            assert_eq!(error.errno(), Errno::INVAL);
            assert!(!error.call_error().unwrap().by_kernel());
        }
    }
    let refused: [(&str, Option<Error>); 11] = [
        ("shared memory does not grow", shapes[0].shared_anonymous(10).err()),
        ("memory has no offset", new().offset(1).anon(10).err()),
        ("shared memory has no offset", new().offset(1).shared_memfd(10).err()),
        ("a length beside the argument", new().len(10).sealed(10, |_| ()).err()),
        ("sealed slices must not fault", new().no_reserve().sealed(10, |_| ()).err()),
        (
            "a file's pages are the file system's",
            new().huge_pages(HugePage::Default).map(&file).err(),
        ),
        (
            "a memfd's pages are its maker's",
            new().huge_pages(HugePage::Default).shared_from_fd(shrinkable()).err(),
        ),
        ("a file has a name", new().name("mine").map(&file).err()),
        ("a memfd has a name", new().name("mine").shared_from_fd(shrinkable()).err()),
        ("a device has a name", new().name("mine").len(page()).device(&device).err()),
        ("a device has no space to reserve", new().preallocate().len(page()).device(&device).err()),
    ];
    for (rule, error) in refused {
        assert_eq!(
            error.unwrap_or_else(|| panic!("{rule}: it was taken")).errno(),
            Errno::INVAL,
            "{rule}"
        );
    }
}

#[test]
fn a_handle_may_be_used_and_dropped_in_another_thread() {
    let dir = disk_dir();
    let map = FileMapMut::open(file_with(dir.path(), b"bytes")).unwrap();
    let shared = Arc::new(SharedMem::anonymous(8).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for _ in 0..1000 {
                    shared.atomic::<AtomicU64>(0).unwrap().fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(shared.read::<u64>(0).unwrap(), 4000);
    std::thread::spawn(move || assert_eq!(map.read_vec(..).unwrap(), b"bytes")).join().unwrap();
}

// Settings of a map outlive a time without bytes

#[test]
fn a_file_map_cut_to_nothing_keeps_its_options_and_its_place() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let exec = MapOptions::new().exec();
    let reservation = Reservation::new(4 * page()).unwrap();
    let there = exec.clone().within(&reservation, page());
    for options in [exec, there] {
        let mut map = match options.map(open(&path)) {
            Ok(map) => map,
            Err(error) if error.errno() == Errno::PERM => {
                return skip("the disk is mounted noexec");
            }
            Err(error) => panic!("{error}"),
        };
        let before = map.as_ptr();
        map.resize(0).unwrap();
        assert!(map.is_empty() && map.read_vec(..).unwrap().is_empty());
        assert_eq!(errno(map.read_at(&mut [0], 0)), Errno::INVAL);
        map.resize(2 * page()).unwrap();
        if reservation.used() > 0 {
            assert_eq!(map.as_ptr(), before);
        }
        assert_eq!(map.read_vec(..).unwrap(), pattern(2));
        assert_eq!(rights(map.as_ptr() as usize), "r-xs");
    }
}

#[test]
fn a_map_of_an_empty_file_gets_its_options_and_its_place_with_its_first_bytes() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"");
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut map = match MapOptions::new().exec().within(&reservation, page()).map(open(&path)) {
        Ok(map) => map,
        Err(error) if error.errno() == Errno::PERM => return skip("the disk is mounted noexec"),
        Err(error) => panic!("{error}"),
    };
    std::fs::write(&path, pattern(1)).unwrap();
    assert_eq!(map.resize_to_file().unwrap(), page());
    assert_eq!(map.as_ptr() as usize, reservation.as_ptr() as usize + page());
    assert_eq!(rights(map.as_ptr() as usize), "r-xs");
    map.resize(0).unwrap();
    map.resize(page()).unwrap();
    assert_eq!((reservation.used(), rights(map.as_ptr() as usize)), (page(), "r-xs".to_owned()));
}

/// The rights of the area that starts at an address.
fn rights(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.starts_with(&format!("{address:x}-"))).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn memory_from_a_region_does_not_grow_over_a_possible_guard_page() {
    let reservation = Reservation::new(4 * page()).unwrap();
    for anon in [
        MapOptions::new().guard_pages().anon(page()),
        MapOptions::new().capacity(4 * page()).anon(page()),
        MapOptions::new().within(&reservation, 0).anon(page()),
    ] {
        // SAFETY: just made as plain memory, and nobody else's.
        let mut anon = unsafe { Anon::from_region(anon.unwrap().into_region()) }.unwrap();
        assert_eq!(errno(anon.grow(page() + 1)), Errno::NOMEM);
        assert_eq!(errno(anon.resize(page() + 1)), Errno::NOMEM);
        anon.resize(10).unwrap();
        anon.grow(page()).unwrap();
        anon[page() - 1] = 1;
    }
    // SAFETY: just made as plain memory, and nobody else's.
    let mut free = unsafe { Anon::from_region(Anon::new(page()).unwrap().into_region()) }.unwrap();
    free.resize(3 * page()).unwrap();
    free[3 * page() - 1] = 1;
}

#[test]
fn huge_pages_without_a_promise_of_memory_are_refused() {
    let options = MapOptions::new().huge_pages(HugePage::Default).flags(folio::MapFlags::NORESERVE);
    let error = options.anon(1).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.to_string().contains("NORESERVE"), "{error}");
}

#[test]
fn discarded_huge_pages_are_zero_and_stay() {
    const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let Some(_turn) = crate::flags::huge_pool_turn() else {
        return skip("the kernel has no huge pages");
    };
    let Ok(before) = std::fs::read_to_string(POOL) else {
        return skip("the kernel has no pages of 2 MiB");
    };
    if before.trim() != "0" || std::fs::write(POOL, "2").is_err() {
        return skip("the pool is someone else's");
    }
    let end = in_child(|| {
        let huge = 2 << 20;
        let Ok(mut anon) = MapOptions::new().huge_pages(HugePage::Mib2).anon(huge + 10) else {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(2) };
        };
        // The pool has no pages but those that the map holds: the test cannot get a page again that
        // it gives back.
        std::fs::write(POOL, "0").unwrap();
        anon.fill(7);
        assert_eq!(errno(anon.discard(page()..huge)), Errno::INVAL);
        anon.discard(huge..).unwrap();
        assert_eq!((anon[huge - 1], anon[huge]), (7, 0));
        anon.discard(..).unwrap();
        assert!(anon.iter().all(|&byte| byte == 0));
        anon.fill(8);
    });
    std::fs::write(POOL, before.trim()).unwrap();
    match end {
        End::Exited(2) => skip("no two huge pages free"),
        end => assert_eq!(end, End::Exited(0)),
    }
}

#[test]
fn the_traits_of_typed_access_come_with_folio() {
    fn second<T: folio::zerocopy::FromBytes>(anon: &SharedMem) -> T {
        anon.read(size_of::<T>()).unwrap()
    }
    let shared = SharedMem::anonymous(8).unwrap();
    shared.write(4, &7_u32).unwrap();
    assert_eq!(second::<u32>(&shared), 7);
}
