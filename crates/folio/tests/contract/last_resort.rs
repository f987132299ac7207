//! A guard that meets a missing page in a process at a limit ends in an error, whichever limit it
//! is, and by whomever it was set; and a guard that ends at a limit leaves no hole.

use super::halves::fill_areas;
use crate::common::{
    End, become_nobody, child_succeeds, disk_dir, file_with, lower_limit, page, pattern,
    spawn_child, wait,
};
use folio::{Errno, Error, FaultCause, FileMap, FileMapMut, FileMapPrivate, MapOptions};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

const LOW: u64 = 1 << 20;

/// Memory in the heap from which an error can be built where no new memory can be had.
fn warm_heap() {
    let blocks: Vec<Box<[u8]>> = (0..1024).map(|_| vec![1; 4096].into_boxed_slice()).collect();
    // The last block keeps the heap from shrinking.
    std::mem::forget(vec![1_u8; 64]);
    drop(blocks);
}

fn raise_limit(resource: libc::__rlimit_resource_t) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for the answer, and is one.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
    }
}

fn truncated(dir: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).open(dir.join("file")).unwrap();
    file.set_len(3 * page() as u64).unwrap();
    file
}

#[track_caller]
fn names_page_file_and_reason(error: &Error, dir: &Path, reason: &str) {
    let fault = error.fault().unwrap_or_else(|| panic!("not a fault: {error}"));
    assert_eq!(
        (fault.range(), fault.cause()),
        (5 * page()..6 * page(), FaultCause::PastEnd),
        "{error}"
    );
    let text = error.to_string();
    for part in [dir.to_str().unwrap(), "given up", reason] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Guards of each kind of map, within which `reach` brings the process to a limit that `leave`
/// takes away.
fn guards_at(reach: impl Fn(), leave: impl Fn(), reason: &str) {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(8));
    let read_only = FileMap::open(&path).unwrap();
    let shared = FileMapMut::open(&path).unwrap();
    let private = FileMapPrivate::open(&path).unwrap();
    let file = truncated(dir.path());
    warm_heap();
    let error = read_only.guard(|view| {
        reach();
        (view.get(5 * page()), view.get(7 * page()))
    });
    leave();
    names_page_file_and_reason(&error.unwrap_err(), dir.path(), reason);
    let store = |view: &folio::ViewMut<'_>| {
        reach();
        assert!(view.set(5 * page(), 1) && view.set(7 * page(), 1));
    };
    let error = shared.guard_mut(store);
    leave();
    names_page_file_and_reason(&error.unwrap_err(), dir.path(), reason);
    let error = private.guard_mut(store);
    leave();
    names_page_file_and_reason(&error.unwrap_err(), dir.path(), reason);
    file.set_len(8 * page() as u64).unwrap();
    assert!(read_only.read::<u8>(0).is_err() && shared.write_at(&[1], 0).is_err());
    assert!(read_only.guard(|_| ()).unwrap_err().fault().is_some());
    drop((read_only, shared, private));
    assert_eq!(FileMap::open(&path).unwrap().read_vec(..page()).unwrap(), pattern(1));
}

#[test]
fn a_guard_ends_in_an_error_when_rlimit_as_falls_below_the_present_use() {
    child_succeeds(|| {
        guards_at(
            || lower_limit(libc::RLIMIT_AS, LOW),
            || raise_limit(libc::RLIMIT_AS),
            "RLIMIT_AS",
        );
    });
}

#[test]
fn a_guard_ends_in_an_error_when_rlimit_data_falls_below_the_present_use() {
    child_succeeds(|| {
        guards_at(
            || lower_limit(libc::RLIMIT_DATA, 1),
            || raise_limit(libc::RLIMIT_DATA),
            "RLIMIT_DATA",
        );
    });
}

#[test]
fn a_guard_ends_in_an_error_when_another_process_lowers_the_limits() {
    for (resource, reason) in [(libc::RLIMIT_AS, "RLIMIT_AS"), (libc::RLIMIT_DATA, "RLIMIT_DATA")] {
        let (inside, tell_inside) = std::io::pipe().unwrap();
        let (lowered, mut tell_lowered) = std::io::pipe().unwrap();
        let (pid, mut message) = spawn_child(|| {
            let reach = || {
                (&tell_inside).write_all(&[1]).unwrap();
                (&lowered).read_exact(&mut [0]).unwrap();
            };
            guards_at(reach, || raise_limit(resource), reason);
        });
        // A child that dies is seen by the ends of the pipes.
        drop((tell_inside, lowered));
        for _ in 0..3 {
            (&inside).read_exact(&mut [0]).unwrap();
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `limit` has room for the answer, and is one.
            unsafe {
                assert_eq!(libc::prlimit(pid, resource, std::ptr::null(), &raw mut limit), 0);
                limit.rlim_cur = 1;
                assert_eq!(libc::prlimit(pid, resource, &raw const limit, std::ptr::null_mut()), 0);
            }
            tell_lowered.write_all(&[1]).unwrap();
        }
        let mut text = String::new();
        message.read_to_string(&mut text).unwrap();
        assert_eq!(wait(pid), End::Exited(0), "{reason}: {text}");
    }
}

#[test]
fn a_guard_ends_in_an_error_when_future_maps_are_locked_beyond_their_limit() {
    child_succeeds(|| {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(8));
        let map = FileMap::open(&path).unwrap();
        let _file = truncated(dir.path());
        become_nobody();
        warm_heap();
        let result = map.guard(|view| {
            // SAFETY: locks memory; changes no byte.
            assert_eq!(unsafe { libc::mlockall(libc::MCL_FUTURE) }, 0);
            lower_limit(libc::RLIMIT_MEMLOCK, page() as u64);
            (view.get(5 * page()), view.get(7 * page()))
        });
        // SAFETY: unlocks memory; changes no byte.
        unsafe { libc::munlockall() };
        names_page_file_and_reason(&result.unwrap_err(), dir.path(), "errno");
        // The directory is root's.
        std::mem::forget(dir);
    });
}

#[test]
fn a_guard_in_the_middle_of_a_merged_area_is_an_error_at_the_limit_of_areas() {
    child_succeeds(|| {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(24));
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let place = MapOptions::new().anon(24 * page()).unwrap();
        let start = place.as_ptr() as usize;
        drop(place);
        let part = |first: usize| {
            let options = MapOptions::new().at(start + first * page());
            options.offset((first * page()) as u64).len(8 * page()).map(&file).unwrap()
        };
        let (_before, map, _behind) = (part(0), part(8), part(16));
        file.set_len(9 * page() as u64).unwrap();
        warm_heap();
        let result = map.guard(|view| {
            fill_areas();
            (view.get(5 * page()), view.get(7 * page()))
        });
        let error = result.unwrap_err();
        assert_eq!(error.fault().unwrap().range(), 5 * page()..6 * page(), "{error}");
        assert!(error.to_string().contains("vm.max_map_count"), "{error}");
    });
}

#[test]
fn a_guard_that_cannot_have_its_spare_addresses_is_refused_and_the_map_stays() {
    child_succeeds(|| {
        let dir = disk_dir();
        let map = FileMap::open(file_with(dir.path(), &pattern(8))).unwrap();
        warm_heap();
        lower_limit(libc::RLIMIT_AS, LOW);
        let error = map.guard(|_| panic!("the guard is open")).unwrap_err();
        assert_eq!(error.errno(), Errno::NOMEM, "{error}");
        for part in ["guard", "spare", "RLIMIT_AS", "read_at"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        assert_eq!(map.read_vec(..page()).unwrap(), pattern(1));
        raise_limit(libc::RLIMIT_AS);
        map.guard(|view| view.get(0)).unwrap();
    });
}

#[test]
fn a_guard_that_ends_at_the_limit_of_addresses_puts_every_page_back() {
    child_succeeds(|| {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(8));
        let shared = FileMap::open(&path).unwrap();
        let private = FileMapPrivate::open(&path).unwrap();
        let file = truncated(dir.path());
        warm_heap();
        let error = shared.guard(|view| {
            assert_eq!((view.get(5 * page()), view.get(7 * page())), (Some(0), Some(0)));
            lower_limit(libc::RLIMIT_AS, LOW);
        });
        raise_limit(libc::RLIMIT_AS);
        assert_eq!(error.unwrap_err().fault().unwrap().range(), 5 * page()..6 * page());
        let error = private.guard(|view| {
            assert_eq!(view.get(5 * page()), Some(0));
            lower_limit(libc::RLIMIT_AS, LOW);
        });
        raise_limit(libc::RLIMIT_AS);
        error.unwrap_err();
        file.set_len(8 * page() as u64).unwrap();
        file.write_all_at(&pattern(8));
        assert_eq!(shared.read_vec(..).unwrap(), pattern(8));
        assert_eq!(private.read_vec(..).unwrap(), pattern(8));
    });
}

trait WriteAllAt {
    fn write_all_at(&self, bytes: &[u8]);
}

impl WriteAllAt for File {
    fn write_all_at(&self, bytes: &[u8]) {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, 0).unwrap();
    }
}

#[test]
fn many_guards_of_one_map_make_their_spare_memory_once() {
    child_succeeds(|| {
        let dir = disk_dir();
        let map = FileMap::open(file_with(dir.path(), &pattern(8))).unwrap();
        let areas = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        map.guard(|view| view.get(0)).unwrap();
        let before = areas();
        for _ in 0..100 {
            map.guard(|view| view.get(0)).unwrap();
        }
        assert!(areas() <= before);
        drop(map);
        assert!(areas() < before, "the spare memory goes with the map");
    });
}

#[test]
fn a_stable_map_has_no_guards_and_the_error_says_why() {
    let dir = disk_dir();
    let map = FileMap::open(file_with(dir.path(), &pattern(2))).unwrap();
    // SAFETY: nobody changes the file.
    let stable = unsafe { map.assume_stable() };
    let error = stable.as_map().guard(|view| view.get(0)).unwrap_err();
    assert_eq!(error.errno(), Errno::PERM, "{error}");
    assert!(error.to_string().contains("read_at"), "{error}");
    // SAFETY: nobody changes the file.
    assert!(unsafe { stable.as_map().guard_slice(<[u8]>::len) }.is_err());
    assert_eq!(stable[..], pattern(2));
    stable.as_map().read_vec(..).unwrap();
    assert_eq!(stable.into_inner().guard(|view| view.get(0)).unwrap(), Some(pattern(1)[0]));
}

/// How much of an alternate stack a fault on this thread uses: the lowest byte that changed.
fn stack_used(fault: impl FnOnce()) -> usize {
    const SIZE: usize = 256 << 10;
    const PAINT: u8 = 0xa5;
    let stack = vec![PAINT; SIZE].leak();
    let fresh = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
    // SAFETY: the stack is leaked, and used for signals of this thread alone.
    assert_eq!(unsafe { libc::sigaltstack(&raw const fresh, std::ptr::null_mut()) }, 0);
    fault();
    let at = stack.as_ptr();
    // SAFETY: the bytes are the leaked stack's, which no handler uses now.
    let low = (0..SIZE).find(|&index| unsafe { at.add(index).read_volatile() } != PAINT);
    SIZE - low.unwrap_or(SIZE)
}

#[test]
fn a_guards_fault_needs_less_than_2_kib_of_the_alternate_stack_for_itself() {
    extern "C" fn nothing(_: i32) {}
    child_succeeds(|| {
        // The kernel's own frame, which depends on the processor's registers.
        let kernel = stack_used(|| {
            // SAFETY: all zeroes is a valid sigaction, and the handler does nothing.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = nothing as *const () as usize;
                action.sa_flags = libc::SA_ONSTACK;
                assert_eq!(
                    libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
                    0
                );
                libc::raise(libc::SIGUSR1);
            }
        });
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(8));
        let map = FileMap::open(&path).unwrap();
        let given_up = FileMap::open(&path).unwrap();
        let _file = truncated(dir.path());
        warm_heap();
        let is_small = |used: usize| {
            let own = used - kernel;
            assert!(own < 2048, "{own} bytes over the kernel's {kernel}");
        };
        is_small(stack_used(|| drop(map.guard(|view| view.get(5 * page())).unwrap_err())));
        is_small(stack_used(|| {
            let result = given_up.guard(|view| {
                lower_limit(libc::RLIMIT_AS, LOW);
                view.get(5 * page())
            });
            raise_limit(libc::RLIMIT_AS);
            result.unwrap_err();
        }));
    });
}
