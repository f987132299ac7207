//! Settings on a map without bytes hold once it has some.

use crate::common::{child_succeeds, disk_dir, file_with, page, skip};
use folio::{Advice, Anon, Errno, FileMap, FileMapMut, Fork, MapOptions, Prot, Reservation};
use std::fs::File;

/// The words of `VmFlags` of the area at an address.
fn flags_at(at: *const u8) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if inside {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        } else if let Some((start, rest)) = line.split_once('-')
            && let Ok(start) = usize::from_str_radix(start, 16)
            && let Some(Ok(end)) = rest.split(' ').next().map(|end| usize::from_str_radix(end, 16))
        {
            inside = (start..end).contains(&(at as usize));
        }
    }
    panic!("nothing is mapped at {at:?}")
}

#[track_caller]
fn has(at: *const u8, flags: &[&str]) {
    let found = flags_at(at);
    for flag in flags {
        assert!(found.iter().any(|known| known == flag), "{flag} is missing in {found:?}");
    }
}

#[track_caller]
fn lacks(at: *const u8, flag: &str) {
    let found = flags_at(at);
    assert!(!found.iter().any(|known| known == flag), "{flag} is in {found:?}");
}

/// An empty file, open for reading and writing.
fn empty_file() -> (tempfile::TempDir, File) {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"");
    let file = File::options().read(true).write(true).open(path).unwrap();
    (dir, file)
}

#[test]
fn empty_memory_with_wipe_on_fork_is_wiped_in_children_once_it_has_bytes() {
    let mut secret = Anon::new(0).unwrap();
    secret.set_fork(Fork::Wiped).unwrap();
    secret.resize(page()).unwrap();
    has(secret.as_ptr(), &["wf"]);
    secret.fill(7);
    secret.resize(3 * page()).unwrap();
    secret.fill(7);
    child_succeeds(|| assert!(secret.iter().all(|&byte| byte == 0)));
    assert!(secret.iter().all(|&byte| byte == 7));
}

#[test]
fn the_last_fork_setting_before_the_bytes_counts() {
    let mut secret = MapOptions::new().fork(Fork::Wiped).anon(0).unwrap();
    secret.set_fork(Fork::Inherit).unwrap();
    secret.resize(page()).unwrap();
    lacks(secret.as_ptr(), "wf");
    let mut secret = MapOptions::new().fork(Fork::Wiped).anon(0).unwrap();
    secret.set_fork(Fork::Absent).unwrap();
    secret.resize(0).unwrap();
    secret.grow(page()).unwrap();
    has(secret.as_ptr(), &["dc"]);
}

#[test]
fn a_map_of_an_empty_file_that_is_kept_from_children_is_kept_once_it_has_bytes() {
    let (_dir, file) = empty_file();
    let mut map = FileMap::map(file.try_clone().unwrap()).unwrap();
    map.set_fork(Fork::Absent).unwrap();
    file.set_len(2 * page() as u64).unwrap();
    map.resize_to_file().unwrap();
    has(map.as_ptr(), &["dc"]);
    child_succeeds(|| assert_eq!(map.read::<u8>(0).unwrap_err().errno(), Errno::NOMEM));
    assert_eq!(map.read::<u8>(0).unwrap(), 0);
}

#[test]
fn a_file_map_cannot_be_wiped_before_it_has_bytes_either() {
    let (_dir, file) = empty_file();
    let mut map = FileMap::map(file).unwrap();
    let error = map.set_fork(Fork::Wiped).unwrap_err();
    assert!(
        error.errno() == Errno::INVAL && error.to_string().contains("map of a file"),
        "{error}"
    );
}

#[test]
fn the_protection_of_a_map_of_an_empty_file_holds_once_it_has_bytes() {
    let (_dir, file) = empty_file();
    let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
    map.protect(.., Prot::READ).unwrap();
    file.set_len(page() as u64).unwrap();
    map.resize_to_file().unwrap();
    assert_eq!(
        map.write_at(&[1], 0).unwrap_err().fault().unwrap().cause(),
        folio::FaultCause::Protection
    );
    assert_eq!(map.read::<u8>(0).unwrap(), 0);
}

#[test]
fn advice_locks_and_names_of_memory_without_bytes_hold_once_it_has_some() {
    let mut anon = Anon::new(0).unwrap();
    anon.advise(.., Advice::Random).unwrap();
    anon.advise(.., Advice::DontDump).unwrap();
    anon.lock_on_fault(..).unwrap();
    anon.name_area("folio-late").unwrap();
    // It acts once, and there is nothing to act on.
    anon.advise(.., Advice::PopulateWrite).unwrap();
    if anon.resize(page()).is_err() {
        return skip("locking is not allowed");
    }
    has(anon.as_ptr(), &["rr", "dd", "lo"]);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", anon.as_ptr() as usize);
    let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
    let kernel_has_names = Anon::new(1).unwrap().name_area("folio-name").unwrap();
    assert!(!kernel_has_names || line.contains("folio-late"), "{line}");
}

#[test]
fn what_is_unlocked_before_the_bytes_come_is_not_locked() {
    let mut anon = Anon::new(0).unwrap();
    anon.lock(..).unwrap();
    anon.unlock(..).unwrap();
    anon.resize(page()).unwrap();
    lacks(anon.as_ptr(), "lo");
}

#[test]
fn a_map_of_an_empty_file_keeps_its_advice_and_lock() {
    let (_dir, file) = empty_file();
    let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
    map.advise(.., Advice::Sequential).unwrap();
    map.lock(..).unwrap();
    file.set_len(page() as u64).unwrap();
    if map.resize_to_file().is_err() {
        return skip("locking is not allowed");
    }
    has(map.as_ptr(), &["sr", "lo"]);
}

#[test]
fn a_map_that_was_cut_to_no_bytes_takes_settings_for_those_to_come() {
    let mut anon = Anon::new(page()).unwrap();
    anon.resize(0).unwrap();
    anon.advise(.., Advice::Random).unwrap();
    anon.resize(2 * page()).unwrap();
    has(anon.as_ptr(), &["rr"]);
    let dir = disk_dir();
    let mut map = FileMapMut::open(file_with(dir.path(), &vec![1; 2 * page()])).unwrap();
    map.resize(0).unwrap();
    map.advise(.., Advice::Random).unwrap();
    map.protect(.., Prot::READ).unwrap();
    map.resize(2 * page()).unwrap();
    has(map.as_ptr(), &["rr"]);
    assert!(map.write_at(&[1], 0).is_err());
}

#[test]
fn settings_reach_all_pages_that_memory_in_a_reservation_gets_at_first() {
    let reservation = Reservation::new(8 * page()).unwrap();
    for mut anon in [
        MapOptions::new().capacity(4 * page()).anon(0).unwrap(),
        MapOptions::new().within(&reservation, 0).anon(0).unwrap(),
    ] {
        anon.advise(.., Advice::Random).unwrap();
        anon.set_fork(Fork::Wiped).unwrap();
        anon.grow(3 * page()).unwrap();
        for at in 0..3 {
            has(anon.as_ptr().wrapping_add(at * page()), &["rr", "wf"]);
        }
    }
}

#[test]
fn a_setting_that_fails_when_the_bytes_come_leaves_the_map_without_bytes() {
    child_succeeds(|| {
        crate::common::become_nobody();
        crate::common::lower_limit(libc::RLIMIT_MEMLOCK, page() as u64);
        let mut anon = Anon::new(0).unwrap();
        anon.lock(..).unwrap();
        let error = anon.resize(4 * page()).unwrap_err();
        assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
        assert_eq!(anon.len(), 0);
        anon.resize(page()).unwrap();
        has(anon.as_ptr(), &["lo"]);
    });
}

#[test]
fn memory_that_is_taken_from_a_region_without_bytes_keeps_its_fork_setting() {
    let mut region = Anon::new(0).unwrap().into_region();
    region.set_fork(Fork::Wiped).unwrap();
    // SAFETY: it has no bytes.
    let mut anon = unsafe { Anon::from_region(region) }.unwrap();
    anon.resize(page()).unwrap();
    has(anon.as_ptr(), &["wf"]);
}
