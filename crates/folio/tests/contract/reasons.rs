//! The reason that an error states is one of the request: an errno alone does not say it.

use crate::common::{
    Mounted, become_nobody, child_succeeds, disk_dir, file_with, is_root, lower_limit, page,
    pattern, says, skip,
};
use folio::{
    Advice, Anon, Discard, Errno, Error, FileMap, FileMapMut, Fork, MapFlags, MapOptions, Populate,
    Prot, Region, Reservation, Resize, SharedMem, raw,
};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::ControlFlow;

#[track_caller]
fn not_asked(error: &Error) {
    assert!(!error.call_error().unwrap().by_kernel(), "{error}");
}

fn pages(count: usize, prot: Prot) -> Region {
    MapOptions::new().region(count * page(), prot).unwrap()
}

#[test]
fn a_path_with_a_nul_is_einval_and_the_kernel_was_not_asked() {
    let path = "/tmp/with\0nul";
    for error in [
        says(FileMap::open(path), Errno::INVAL, &["NUL"], &["EIO", "\0"]),
        says(FileMapMut::create(path, 1), Errno::INVAL, &["NUL"], &["EIO"]),
        says(SharedMem::memfd("a\0b", 1), Errno::INVAL, &["NUL"], &["no more than"]),
        says(
            folio::shm::SegmentOptions::new().create_file::<[u8]>(path),
            Errno::INVAL,
            &["NUL"],
            &["no more than"],
        ),
    ] {
        not_asked(&error);
    }
}

#[test]
fn a_length_that_no_file_can_have_is_efbig_and_makes_no_file() {
    let dir = disk_dir();
    let path = dir.path().join("new");
    for length in [u64::MAX, 1 << 63] {
        let error = says(FileMapMut::create(&path, length), Errno::FBIG, &["2^63 - 1"], &["EIO"]);
        not_asked(&error);
        assert!(!path.exists());
    }
}

#[test]
fn a_place_past_the_end_of_the_addresses_says_so_and_not_that_memory_is_short() {
    let last = usize::MAX - (page() - 1);
    let wrong = ["promise", "overcommit", "NORESERVE"];
    says(
        MapOptions::new().at(last).anon(1),
        Errno::NOMEM,
        &["passes the end of the process's addresses"],
        &wrong,
    );
    let dir = disk_dir();
    let file = File::open(file_with(dir.path(), &pattern(1))).unwrap();
    says(MapOptions::new().at(last).map(&file), Errno::NOMEM, &["passes the end"], &wrong);
}

#[test]
fn populating_for_writing_where_writing_is_forbidden_speaks_of_the_protection() {
    let region = pages(1, Prot::READ);
    let wrong = ["does not know the advice", "this kernel"];
    says(region.advise(.., Advice::PopulateWrite), Errno::INVAL, &["forbids writing"], &wrong);
    let region = pages(1, Prot::NONE);
    says(region.advise(.., Advice::PopulateRead), Errno::INVAL, &["forbids reading"], &wrong);
    let dir = disk_dir();
    let map = FileMap::open(file_with(dir.path(), &pattern(1))).unwrap();
    says(map.advise(.., Advice::PopulateWrite), Errno::INVAL, &["forbids writing"], &wrong);
}

#[test]
fn einval_of_advice_names_locks_only_where_the_advice_drops_pages() {
    let dir = disk_dir();
    let mut region = FileMapMut::open(file_with(dir.path(), &pattern(1))).unwrap().into_region();
    if region.lock(..).is_err() {
        return skip("locking is not allowed");
    }
    says(region.set_fork(Fork::Wiped), Errno::INVAL, &["private anonymous memory"], &["locked"]);
    says(
        region.discard(.., Discard::DontNeed),
        Errno::INVAL,
        &["locked pages"],
        &["know the advice"],
    );
}

#[test]
fn growing_a_map_that_is_locked_in_part_speaks_of_the_lock() {
    let mut region = pages(2, Prot::READ_WRITE);
    if region.lock(..page()).is_err() {
        return skip("locking is not allowed");
    }
    let parts = ["locked and another part is not", "unlock all of it"];
    says(region.resize(4 * page(), Resize::MayMove), Errno::FAULT, &parts, &["protection"]);
    // The remedy holds.
    region.unlock(..).unwrap();
    region.resize(4 * page(), Resize::MayMove).unwrap();
}

#[test]
fn growing_a_map_with_two_kinds_of_advice_speaks_of_the_advice() {
    let mut region = pages(2, Prot::READ_WRITE);
    region.advise(..page(), Advice::DontDump).unwrap();
    says(
        region.resize(4 * page(), Resize::MayMove),
        Errno::FAULT,
        &["different advice"],
        &["protection"],
    );
    region.advise(.., Advice::DontDump).unwrap();
    region.resize(4 * page(), Resize::MayMove).unwrap();
}

#[test]
fn a_length_beyond_all_addresses_is_too_long_and_not_some_other_rule() {
    let wrong = ["reservation", "holes", "zero"];
    let long = ["no range of addresses is that long"];
    says(pages(1, Prot::READ).resize(usize::MAX, Resize::MayMove), Errno::NOMEM, &long, &wrong);
    says(Anon::new(1).unwrap().resize(usize::MAX), Errno::NOMEM, &long, &wrong);
    says(Anon::new(1).unwrap().grow(usize::MAX), Errno::NOMEM, &long, &wrong);
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut inside = MapOptions::new().within(&reservation, 0).anon(1).unwrap();
    says(inside.resize(usize::MAX), Errno::NOMEM, &long, &["outside", "zero"]);
    let dir = disk_dir();
    let mut map = FileMap::open(file_with(dir.path(), &pattern(1))).unwrap();
    says(map.resize(usize::MAX), Errno::NOMEM, &long, &wrong);
}

#[test]
fn each_reason_that_a_region_cannot_be_resized_has_its_own_error() {
    let mut holes = pages(3, Prot::READ);
    holes.unmap_range(page()..2 * page()).unwrap();
    says(
        holes.resize(page(), Resize::MayMove),
        Errno::INVAL,
        &["was unmapped", "holes"],
        &["reservation"],
    );
    says(
        pages(1, Prot::READ).resize(0, Resize::MayMove),
        Errno::INVAL,
        &["must not be zero"],
        &["reservation"],
    );
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut inside = MapOptions::new().within(&reservation, 0).region(page(), Prot::READ).unwrap();
    says(
        inside.resize(2 * page(), Resize::MayMove),
        Errno::INVAL,
        &["lies in a reservation"],
        &["hole"],
    );
    let mut empty = Anon::new(0).unwrap().into_region();
    says(empty.resize(page(), Resize::MayMove), Errno::INVAL, &["empty"], &["reservation"]);
}

#[test]
fn a_map_that_may_move_and_does_not_grow_speaks_of_memory_and_not_of_its_place() {
    child_succeeds(|| {
        let mut region = pages(1, Prot::READ_WRITE);
        let huge = 1_usize << 45;
        says(region.resize(huge, Resize::MayMove), Errno::NOMEM, &[], &["not allowed to move"]);
    });
}

#[test]
fn an_error_of_shared_memory_read_past_its_end_has_its_name_and_length() {
    for shared in [SharedMem::anonymous(page()).unwrap(), SharedMem::dev_zero(page()).unwrap()] {
        let keep = format!("keep to 0..{}", page());
        let wrong = ["deleted"];
        let error = shared.read_at(&mut [0; 2], page());
        says(error, Errno::INVAL, &["read_at of shared anonymous memory", &keep], &wrong);
        says(
            shared.read::<u64>(page() + 1),
            Errno::INVAL,
            &["read of shared", &keep, "past the end"],
            &wrong,
        );
    }
    says(
        SharedMem::anonymous(0).unwrap().read_at(&mut [0], 0),
        Errno::INVAL,
        &["the map is empty"],
        &[],
    );
}

#[test]
fn seeking_too_far_forwards_is_not_seeking_before_the_start() {
    let dir = disk_dir();
    let map = FileMap::open(file_with(dir.path(), &pattern(1))).unwrap();
    let mut reader = map.reader();
    reader.seek(SeekFrom::Start(u64::MAX)).unwrap();
    let error = reader.seek(SeekFrom::Current(i64::MAX)).unwrap_err().to_string();
    assert!(
        error.contains("past the last position") && !error.contains("before the start"),
        "{error}"
    );
    reader.seek(SeekFrom::Start(0)).unwrap();
    let error = reader.seek(SeekFrom::Current(-1)).unwrap_err().to_string();
    assert!(error.contains("before the start"), "{error}");
}

#[test]
fn errors_name_the_call_that_was_made() {
    let dir = disk_dir();
    let file =
        File::options().read(true).write(true).open(file_with(dir.path(), &pattern(2))).unwrap();
    let map = FileMapMut::map(&file).unwrap();
    file.set_len(page() as u64).unwrap();
    let at = page();
    let call = |result: folio::Result<()>, call: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.starts_with(&format!("{call} of ")), "{text}");
    };
    for how in [Populate::Read, Populate::Write] {
        call(
            map.populate(.., how, usize::MAX, |_, _| ControlFlow::Continue(())).map(drop),
            "populate",
        );
    }
    call(map.read_vec(at..).map(drop), "read_vec");
    call(map.read::<u64>(at).map(drop), "read");
    call(map.write(at, &1_u64), "write");
    call(map.read_at(&mut [0], at), "read_at");
    call(map.write_at(&[0], at), "write_at");
    let mut reader = map.reader();
    reader.seek(SeekFrom::Start(at as u64)).unwrap();
    let text = std::io::Read::read(&mut reader, &mut [0]).unwrap_err().to_string();
    assert!(text.starts_with("reader of "), "{text}");
    let shared = SharedMem::anonymous(page()).unwrap();
    let view = shared.view().unwrap();
    call(view.read::<u64>(page()).map(drop), "read");
    call(view.write(page(), &1_u64), "write");
    call(view.copy_to(&mut [0], page()), "copy_to");
    call(view.copy_from(&[0], page()), "copy_from");
    let map = FileMap::map(file).unwrap();
    call(map.read_at_verified(&mut [0], 2 * page()), "read_at_verified");
}

#[test]
fn a_map_of_a_file_in_hugetlbfs_that_finds_no_page_speaks_of_the_pool() {
    let Some(size) = crate::handles::default_huge_page() else {
        return skip("the kernel has no huge pages");
    };
    let _turn = crate::flags::huge_pool_turn();
    let pool = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.bytes() >> 10);
    let number = |name: &str| std::fs::read_to_string(format!("{pool}/{name}")).unwrap_or_default();
    if number("nr_hugepages").trim() != "0" || number("nr_overcommit_hugepages").trim() != "0" {
        return skip("the pool of huge pages is not empty");
    }
    let Some(mounted) = Mounted::new(&["-t", "hugetlbfs", "none"]) else {
        return skip("mounting is not allowed");
    };
    let path = mounted.path().join("file");
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(size.bytes() as u64).unwrap();
    let parts = ["the pool of huge pages", "0 of 0 pages free", "1 were asked for"];
    let wrong = ["overcommit", "NORESERVE", "promise"];
    says(FileMapMut::map(&file), Errno::NOMEM, &parts, &wrong);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: no FIXED.
    let raw = unsafe {
        raw::mmap(std::ptr::null_mut(), size.bytes(), Prot::READ_WRITE, MapFlags::SHARED, fd, 0)
    };
    says(raw, Errno::NOMEM, &parts, &wrong);
}

#[test]
fn a_map_of_a_file_that_finds_no_memory_does_not_blame_overcommit() {
    let dir = disk_dir();
    let file = File::open(file_with(dir.path(), &pattern(1))).unwrap();
    // Too many bytes for the free addresses of most machines, and no private memory.
    let map = MapOptions::new().len((1 << 46) - page()).map(&file);
    let Ok(first) = map else {
        says(map, Errno::NOMEM, &[], &["overcommit", "NORESERVE"]);
        return;
    };
    let more = (0..4).map(|_| MapOptions::new().len((1 << 46) - page()).map(&file));
    let error = more.map_while(|map| map.err().map(Err::<(), _>)).last();
    drop(first);
    match error {
        Some(error) => drop(says(error, Errno::NOMEM, &[], &["overcommit", "NORESERVE"])),
        None => skip("the machine has addresses for all of it"),
    }
}

#[test]
fn a_new_map_under_mlockall_says_why_it_is_locked() {
    child_succeeds(|| {
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
        // SAFETY: concerns maps to come, of this child.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return;
        }
        says(Anon::new(1 << 20), Errno::AGAIN, &["mlockall", "RLIMIT_MEMLOCK"], &[]);
    });
}

#[test]
fn opening_names_the_part_of_the_path_that_is_wrong() {
    let dir = disk_dir();
    let file = file_with(dir.path(), b"bytes");
    says(FileMap::open(file.join("below")), Errno::NOTDIR, &["no directory"], &["no more than"]);
    let long = dir.path().join("x".repeat(300));
    says(FileMap::open(long), Errno::NAMETOOLONG, &["longer than"], &["no more than"]);
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    says(FileMap::open(socket), Errno::NXIO, &["socket"], &["no more than"]);
    if is_root() {
        return;
    }
    says(FileMap::open("/etc/shadow"), Errno::ACCESS, &["rights"], &[]);
}
