//! Fork: the child's view of each kind of map, and the effect of dropping a handle there. Every
//! child is a real one, whose exit status is checked.

use crate::common::{End, child_succeeds, disk_dir, in_child, page, pattern, spawn_child, wait};
use folio::{
    Advice, Anon, Device, Errno, Error, FileMap, FileMapMut, FileMapPrivate, Fork, MapOptions,
    Populate, Prot, Region, Result, Sealed, SharedMem,
};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A handle of any kind, for rules that hold for all.
trait Handle: Sized {
    /// Two pages, a one in the first byte, made with this option.
    fn make(dir: &Path, fork: Fork) -> Result<Self>;

    fn address(&self) -> usize;

    /// The first byte, by a checked access; `None` for handles that have none, since they have
    /// slices.
    fn first(&self) -> Option<Result<u8>>;

    fn change_fork(&mut self, fork: Fork) -> Result<()>;

    /// Every checked call of the handle that would touch, move or change something where the map
    /// lies.
    fn calls(self) -> Vec<(&'static str, Option<Error>)>;
}

fn file(dir: &Path) -> std::fs::File {
    let path = dir.join("file");
    if !path.exists() {
        std::fs::write(&path, [&[1][..], &vec![0; 2 * page() - 1]].concat()).unwrap();
    }
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

fn read_through(mut reader: impl std::io::Read) -> Result<usize> {
    reader.read(&mut [0]).map_err(|error| error.downcast().expect("folio's error"))
}

fn first_byte(read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<u8> {
    let mut byte = [0];
    read(&mut byte).map(|()| byte[0])
}

/// [`Handle`] for a handle: the calls that all have, and its own. (A macro, since the calls are the
/// handles' own.)
macro_rules! handle {
    ($type:ident, |$dir:ident, $options:ident| $make:expr, |$handle:ident| $first:expr,
        |$own:ident| [$($name:literal: $call:expr),*]) => {
        impl Handle for $type {
            fn make($dir: &Path, fork: Fork) -> Result<Self> {
                let $options = MapOptions::new().fork(fork);
                $make
            }

            fn address(&self) -> usize {
                self.as_ptr() as usize
            }

            fn first(&self) -> Option<Result<u8>> {
                let $handle = self;
                $first
            }

            fn change_fork(&mut self, fork: Fork) -> Result<()> {
                self.set_fork(fork)
            }

            fn calls(self) -> Vec<(&'static str, Option<Error>)> {
                let mut $own = self;
                let mut calls = vec![
                    $(($name, $call.err()),)*
                    ("advise", $own.advise(.., Advice::DontDump).err()),
                    ("lock", $own.lock(..).err()),
                    ("lock_on_fault", $own.lock_on_fault(..).err()),
                    ("unlock", $own.unlock(..).err()),
                    ("name_area", $own.name_area("stolen").err()),
                    (
                        "populate",
                        $own.populate(.., Populate::Read, 1, |_, _| ControlFlow::Continue(())).err(),
                    ),
                    ("set_fork", $own.set_fork(Fork::Inherit).err()),
                ];
                let mut region = Region::from($own);
                calls.extend([
                    ("Region::read_at", region.read_at(&mut [0], 0).err()),
                    ("Region::write_at", region.write_at(&[9], 0).err()),
                    ("Region::protect", region.protect(.., Prot::NONE).err()),
                    ("Region::resize", region.resize(page(), folio::Resize::MayMove).err()),
                    ("Region::sync", region.sync(.., folio::WriteBack::Wait).err()),
                    ("Region::discard", region.discard(.., folio::Discard::DontNeed).err()),
                    ("Region::unmap_range", region.unmap_range(..page()).err()),
                ]);
                // The handle is dropped here, too.
                calls
            }
        }
    };
}

handle!(
    Anon,
    |_dir, options| options.anon(2 * page()).map(|mut anon| {
        anon[0] = 1;
        anon
    }),
    |_anon| None,
    |anon| [
        "grow": anon.grow(3 * page()),
        "resize to fewer bytes of the same page": anon.resize(2 * page() - 1),
        "resize to nothing": anon.resize(0),
        "discard": anon.discard(..),
        "residency": anon.residency(..)
    ]
);
handle!(
    Sealed,
    |_dir, options| options.sealed(2 * page(), |bytes| bytes[0] = 1),
    |_sealed| None,
    |sealed| ["residency": sealed.residency(..)]
);
handle!(FileMap, |dir, options| options.map(file(dir)), |map| Some(map.read(0)), |map| [
    "read_at": map.read_at(&mut [0], 0),
    "read_at_verified": map.read_at_verified(&mut [0], 0),
    "read": map.read::<u64>(0),
    "reader": read_through(map.reader()),
    "guard": map.guard(|view| view.get(0)),
    "protect": map.protect(.., Prot::NONE),
    "resize": map.resize(page()),
    "resize to nothing": map.resize(0),
    "residency": map.residency(..)
]);
handle!(FileMapMut, |dir, options| options.map_mut(file(dir)), |map| Some(map.read(0)), |map| [
    "write_at": map.write_at(&[9], 0),
    "write": map.write(0, &9_u64),
    "guard_mut": map.guard_mut(|view| view.set(0, 9)),
    "sync": map.sync(.., folio::WriteBack::Wait),
    "punch": map.punch(..),
    "punch a part": map.punch(2 * page() - 1..)
]);
handle!(FileMapPrivate, |dir, options| options.map_private(file(dir)), |map| Some(map.read(0)), |map| [
    "write_at": map.write_at(&[9], 0),
    "revert": map.revert(..)
]);
handle!(
    Device,
    |_dir, options| {
        let zero = std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap();
        let device = options.len(2 * page()).device(&zero)?;
        device.store(0, 1_u8)?;
        Ok(device)
    },
    |device| Some(device.load(0)),
    |device| [
        "load": device.load::<u32>(0),
        "store": device.store(0, 9_u32),
        "read_at": device.read_at(&mut [0], 0),
        "write_at": device.write_at(&[9], 0)
    ]
);

/// The three kinds of shared memory are one type: each a handle of its own here.
macro_rules! shared {
    ($($kind:ident: $make:ident;)*) => {$(
        struct $kind(SharedMem);

        impl $kind {
            fn as_ptr(&self) -> *const u8 {
                self.0.as_ptr()
            }
        }

        impl std::ops::Deref for $kind {
            type Target = SharedMem;

            fn deref(&self) -> &SharedMem {
                &self.0
            }
        }

        impl std::ops::DerefMut for $kind {
            fn deref_mut(&mut self) -> &mut SharedMem {
                &mut self.0
            }
        }

        impl From<$kind> for Region {
            fn from(kind: $kind) -> Self {
                kind.0.into()
            }
        }

        handle!(
            $kind,
            |_dir, options| options.$make(2 * page()).and_then(|shared| {
                shared.write_at(&[1], 0)?;
                Ok($kind(shared))
            }),
            |shared| Some(first_byte(|byte| shared.read_at(byte, 0))),
            |shared| [
                "read_at": shared.read_at(&mut [0], 0),
                "write_at": shared.write_at(&[9], 0),
                "view": shared.view().map(|view| view.get(0)),
                "view_range": shared.view_range(..1).map(|view| view.get(0)),
                "atomic": shared.atomic::<AtomicU32>(0),
                "residency": shared.residency(..)
            ]
        );
    )*};
}

shared! {
    Anonymous: shared_anonymous;
    DevZero: shared_dev_zero;
    Memfd: shared_memfd;
}

/// Maps something of the child's own where the parent has a map: it succeeds only if nothing is
/// there.
fn occupy(address: usize) -> Anon {
    let mut own = MapOptions::new().at(address).anon(2 * page()).expect("nothing is mapped there");
    own.fill(0x5a);
    own
}

/// Whether the child's own map is still there, as it was.
fn intact(own: &mut Anon) {
    assert!(own.iter().all(|&byte| byte == 0x5a));
    own.fill(0xa5);
}

/// The handle's checked accesses show the map as it was made.
fn still_there(handle: &impl Handle) {
    if let Some(first) = handle.first() {
        assert_eq!(first.unwrap(), 1);
    }
}

fn a_childs_drop_leaves_the_parents_map<H: Handle>() {
    let dir = disk_dir();
    let mut handle = Some(H::make(dir.path(), Fork::Inherit).unwrap());
    let address = handle.as_ref().unwrap().address();
    child_succeeds(|| {
        let handle = handle.take().unwrap();
        // SAFETY: inherited, mapped readable.
        assert_eq!(unsafe { (address as *const u8).read_volatile() }, 1);
        still_there(&handle);
        drop(handle);
        drop(occupy(address));
    });
    let handle = handle.unwrap();
    // SAFETY: the handle still has it.
    assert_eq!(unsafe { (address as *const u8).read_volatile() }, 1);
    still_there(&handle);
}

fn an_absent_handle_dropped_in_a_child_unmaps_nothing<H: Handle>() {
    let dir = disk_dir();
    let mut handle = Some(H::make(dir.path(), Fork::Absent).unwrap());
    let address = handle.as_ref().unwrap().address();
    child_succeeds(|| {
        let mut own = occupy(address);
        drop(handle.take());
        intact(&mut own);
        let error = MapOptions::new().at(address).anon(1).unwrap_err();
        assert_eq!(error.errno(), Errno::EXIST, "it is still mapped");
    });
    still_there(handle.as_ref().unwrap());
}

fn every_checked_call_on_an_absent_map_is_an_error_and_touches_nothing<H: Handle>() {
    let dir = disk_dir();
    let mut handle = Some(H::make(dir.path(), Fork::Absent).unwrap());
    let address = handle.as_ref().unwrap().address();
    // With nothing there, and with something else there.
    for occupied in [false, true] {
        child_succeeds(|| {
            let mut own = occupied.then(|| occupy(address));
            let handle = handle.take().unwrap();
            if let Some(first) = handle.first() {
                assert_eq!(first.unwrap_err().errno(), Errno::NOMEM);
            }
            let areas = || {
                let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
                let ours =
                    maps.split_once(&format!("{address:x}-")).map(|(_, rest)| rest.to_owned());
                let lines = ours.unwrap_or_default();
                lines.lines().filter(|line| line.starts_with("VmFlags")).take(1).collect::<String>()
            };
            let before = areas();
            for (call, error) in handle.calls() {
                let error = error.unwrap_or_else(|| panic!("{call} succeeded"));
                assert_eq!(error.errno(), Errno::NOMEM, "{call}: {error}");
                assert!(error.to_string().contains("child"), "{call}: {error}");
            }
            assert_eq!(areas(), before, "locked, or advised");
            if let Some(own) = &mut own {
                intact(own);
            }
        });
    }
}

fn a_handle_that_a_child_makes_absent_is_the_childs<H: Handle>() {
    let dir = disk_dir();
    // The parent has a number of its own, which the child must not take for its own.
    let _parents = MapOptions::new().fork(Fork::Absent).anon(1).unwrap();
    child_succeeds(|| {
        let mut handle = Some(H::make(dir.path(), Fork::Absent).unwrap());
        let address = handle.as_ref().unwrap().address();
        still_there(handle.as_ref().unwrap());
        child_succeeds(|| {
            let mut own = occupy(address);
            drop(handle.take());
            intact(&mut own);
        });
        // In the child itself, the drop unmaps.
        drop(handle.take());
        drop(occupy(address));
    });
}

fn what_children_get_can_be_changed_back<H: Handle>() {
    let dir = disk_dir();
    let mut handle = H::make(dir.path(), Fork::Absent).unwrap();
    let address = handle.address();
    handle.change_fork(Fork::Inherit).unwrap();
    child_succeeds(|| {
        // SAFETY: inherited, mapped readable.
        assert_eq!(unsafe { (address as *const u8).read_volatile() }, 1);
        still_there(&handle);
    });
    handle.change_fork(Fork::Absent).unwrap();
    child_succeeds(|| drop(occupy(address)));
}

fn only_private_anonymous_memory_can_be_wiped<H: Handle>() {
    let dir = disk_dir();
    assert_eq!(H::make(dir.path(), Fork::Wiped).err().expect("it was made").errno(), Errno::INVAL);
    let mut handle = H::make(dir.path(), Fork::Inherit).unwrap();
    assert_eq!(handle.change_fork(Fork::Wiped).unwrap_err().errno(), Errno::INVAL);
    still_there(&handle);
}

macro_rules! every_kind {
    ($($module:ident: $kind:ident [$($rule:ident)*];)*) => {$(
        mod $module {
            $(#[test]
            fn $rule() {
                super::$rule::<super::$kind>();
            })*
        }
    )*};
    (all: $($module:ident: $kind:ident [$($more:ident)*];)*) => {
        every_kind! {$(
            $module: $kind [
                a_childs_drop_leaves_the_parents_map
                an_absent_handle_dropped_in_a_child_unmaps_nothing
                every_checked_call_on_an_absent_map_is_an_error_and_touches_nothing
                a_handle_that_a_child_makes_absent_is_the_childs
                what_children_get_can_be_changed_back
                $($more)*
            ];
        )*}
    };
}

every_kind! { all:
    anon: Anon [];
    sealed: Sealed [only_private_anonymous_memory_can_be_wiped];
    file_map: FileMap [only_private_anonymous_memory_can_be_wiped];
    file_map_mut: FileMapMut [only_private_anonymous_memory_can_be_wiped];
    file_map_private: FileMapPrivate [only_private_anonymous_memory_can_be_wiped];
    anonymous: Anonymous [only_private_anonymous_memory_can_be_wiped];
    dev_zero: DevZero [only_private_anonymous_memory_can_be_wiped];
    memfd: Memfd [only_private_anonymous_memory_can_be_wiped];
    device: Device [only_private_anonymous_memory_can_be_wiped];
}

#[test]
fn touching_an_absent_map_without_a_check_ends_the_child_and_not_the_parent() {
    let anon = MapOptions::new().fork(Fork::Absent).anon(page()).unwrap();
    let end = in_child(|| {
        // SAFETY: none: it shows the purpose of the checks, in a process of its own.
        unsafe { anon.as_ptr().read_volatile() };
    });
    assert_eq!(end, End::Killed(libc::SIGSEGV));
    assert_eq!(anon[0], 0);
}

#[test]
fn a_wiped_map_is_zero_in_the_child_and_stays_in_the_parent() {
    let mut anon = MapOptions::new().fork(Fork::Wiped).anon(2 * page()).unwrap();
    anon.fill(7);
    child_succeeds(|| {
        assert!(anon.iter().all(|&byte| byte == 0));
        anon.fill(8);
        // A grandchild is a child too.
        child_succeeds(|| assert!(anon.iter().all(|&byte| byte == 0)));
        assert!(anon.iter().all(|&byte| byte == 8));
    });
    assert!(anon.iter().all(|&byte| byte == 7));
}

#[test]
fn a_map_that_was_absent_and_then_is_wiped_is_there_for_children_and_zero() {
    let mut anon = MapOptions::new().fork(Fork::Absent).anon(page()).unwrap();
    anon.fill(7);
    anon.set_fork(Fork::Wiped).unwrap();
    child_succeeds(|| {
        assert!(anon.iter().all(|&byte| byte == 0));
        anon.discard(..).unwrap();
    });
    anon.set_fork(Fork::Inherit).unwrap();
    child_succeeds(|| assert!(anon.iter().all(|&byte| byte == 7)));
}

#[test]
fn bytes_by_which_a_map_grows_come_to_children_as_the_rest_does() {
    let grown = |fork| {
        let mut anon = MapOptions::new().capacity(3 * page()).fork(fork).anon(page()).unwrap();
        anon.grow(3 * page()).unwrap();
        anon.fill(7);
        anon
    };
    let (inherited, wiped, absent) =
        (grown(Fork::Inherit), grown(Fork::Wiped), grown(Fork::Absent));
    child_succeeds(|| {
        assert!(inherited.iter().all(|&byte| byte == 7));
        assert!(wiped.iter().all(|&byte| byte == 0));
        let own = MapOptions::new().at(absent.as_ptr() as usize).anon(3 * page());
        drop(own.expect("nothing is mapped there"));
    });
}

#[test]
fn an_absent_map_with_capacity_does_not_grow_over_the_childs_own_maps() {
    let mut anon = MapOptions::new().capacity(3 * page()).fork(Fork::Absent).anon(page()).unwrap();
    let address = anon.as_ptr() as usize;
    child_succeeds(|| {
        let mut own = occupy(address + page());
        assert_eq!(anon.grow(3 * page()).unwrap_err().errno(), Errno::NOMEM);
        assert_eq!(anon.resize(3 * page()).unwrap_err().errno(), Errno::NOMEM);
        intact(&mut own);
        // Back again for children, but not in this one, which never had it.
        assert_eq!(anon.set_fork(Fork::Inherit).unwrap_err().errno(), Errno::NOMEM);
    });
    anon.set_fork(Fork::Inherit).unwrap();
    child_succeeds(|| {
        assert_eq!(anon[0], 0);
        // The room behind it was kept from children once: it may be somebody else's.
        if let Ok(mut own) = MapOptions::new().at(address + page()).anon(2 * page()) {
            own.fill(0x5a);
            anon.grow(3 * page()).unwrap_err();
            intact(&mut own);
        }
    });
    anon.grow(3 * page()).unwrap();
}

#[test]
fn private_memory_is_copied_on_write_both_ways() {
    let dir = disk_dir();
    let turn = SharedMem::anonymous(8).unwrap();
    let turn = turn.atomic::<AtomicU32>(0).unwrap();
    let mut anon = Anon::new(2 * page()).unwrap();
    let map = FileMapPrivate::map(file(dir.path())).unwrap();
    anon.fill(1);
    map.write_at(&[1; 100], page()).unwrap();
    let await_turn = |wanted| {
        while turn.load(Ordering::Acquire) < wanted {
            std::thread::yield_now();
        }
    };
    let (child, _) = spawn_child(|| {
        await_turn(1);
        assert!(anon.iter().all(|&byte| byte == 1), "the parent's stores stay there");
        assert_eq!(map.read_vec(page()..page() + 100).unwrap(), [1; 100]);
        anon.fill(3);
        map.write_at(&[3; 100], page()).unwrap();
        turn.store(2, Ordering::Release);
    });
    anon.fill(2);
    map.write_at(&[2; 100], page()).unwrap();
    turn.store(1, Ordering::Release);
    assert_eq!(wait(child), End::Exited(0));
    assert_eq!(turn.load(Ordering::Acquire), 2);
    assert!(anon.iter().all(|&byte| byte == 2), "the child's stores stay there");
    assert_eq!(map.read_vec(page()..page() + 100).unwrap(), [2; 100]);
    assert_eq!(FileMap::map(file(dir.path())).unwrap().read::<u8>(page()).unwrap(), 0);
}

#[test]
fn a_shared_file_map_is_one_memory_in_parent_and_child() {
    let dir = disk_dir();
    let mut map = Some(FileMapMut::map(file(dir.path())).unwrap());
    child_succeeds(|| {
        let map = map.take().unwrap();
        map.write_at(b"from the child", page() - 5).unwrap();
        map.unmap().unwrap();
    });
    assert_eq!(map.unwrap().read_vec(page() - 5..page() + 9).unwrap(), b"from the child");
}

#[test]
fn counters_in_shared_memory_lose_no_count_across_forks() {
    const CHILDREN: u64 = 4;
    const COUNTS: u64 = 20_000;
    let kinds =
        [SharedMem::anonymous(64), SharedMem::dev_zero(64), SharedMem::memfd("counter", 64)];
    for shared in kinds.map(Result::unwrap) {
        let counter = shared.atomic::<AtomicU64>(8).unwrap();
        let children: Vec<_> = (0..CHILDREN)
            .map(|_| {
                spawn_child(|| {
                    for _ in 0..COUNTS {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for (child, _) in children {
            assert_eq!(wait(child), End::Exited(0));
        }
        assert_eq!(counter.load(Ordering::Relaxed), CHILDREN * COUNTS);
    }
}

#[test]
fn grandchildren_share_maps_that_children_shared_and_lack_those_they_kept() {
    let counter = SharedMem::anonymous(8).unwrap();
    let counter = counter.atomic::<AtomicU64>(0).unwrap();
    let mut parents = Some(MapOptions::new().fork(Fork::Absent).anon(2 * page()).unwrap());
    let (address, mut inherited) =
        (parents.as_ref().unwrap().as_ptr() as usize, Anon::new(2 * page()).unwrap());
    inherited.fill(1);
    child_succeeds(|| {
        counter.fetch_add(1, Ordering::Relaxed);
        // The child can keep an inherited map from its own children.
        inherited.set_fork(Fork::Absent).unwrap();
        let kept = inherited.as_ptr() as usize;
        let mut inherited = Some(inherited);
        child_succeeds(|| {
            counter.fetch_add(1, Ordering::Relaxed);
            let (mut first, mut second) = (occupy(address), occupy(kept));
            drop(parents.take());
            drop(inherited.take());
            intact(&mut first);
            intact(&mut second);
            child_succeeds(|| {
                counter.fetch_add(1, Ordering::Relaxed);
                assert!(first.iter().all(|&byte| byte == 0xa5));
            });
        });
        drop(inherited.take());
        drop(occupy(kept));
    });
    assert_eq!(counter.load(Ordering::Relaxed), 3);
    assert_eq!(parents.unwrap()[0], 0);
}

#[test]
fn siblings_do_not_take_each_others_maps_for_their_own() {
    // Each child gets a number when it first asks; none is the parent's, whose map they must leave
    // alone.
    let mut parents = Some(MapOptions::new().fork(Fork::Absent).anon(2 * page()).unwrap());
    let address = parents.as_ref().unwrap().as_ptr() as usize;
    for _ in 0..5 {
        child_succeeds(|| {
            let mut own = occupy(address);
            own.set_fork(Fork::Absent).unwrap();
            drop(parents.take());
            intact(&mut own);
            // And its own map, at the very same place, is its own.
            drop(own);
            drop(occupy(address));
        });
    }
    assert_eq!(parents.unwrap()[0], 0);
}

#[test]
fn a_split_absent_map_is_absent_in_both_parts() {
    let anon = MapOptions::new().fork(Fork::Absent).anon(2 * page()).unwrap();
    let address = anon.as_ptr() as usize;
    let mut first = anon.into_region();
    let mut second = Some(first.split_off(page()).unwrap());
    let mut first = Some(first);
    child_succeeds(|| {
        let mut own = occupy(address);
        assert_eq!(second.as_ref().unwrap().write_at(&[1], 0).unwrap_err().errno(), Errno::NOMEM);
        drop(second.take());
        first.take().unwrap().unmap().unwrap();
        intact(&mut own);
    });
    assert!(first.unwrap().read_at(&mut [1], page() - 1).is_ok());
    assert!(second.unwrap().write_at(&[1], 0).is_ok());
}

#[test]
fn a_childs_drop_of_sealed_memory_closes_only_the_childs_descriptor() {
    let mut sealed = Some(Sealed::copy_of(&pattern(1)).unwrap());
    child_succeeds(|| {
        let fd = std::os::fd::OwnedFd::from(sealed.take().unwrap());
        assert_eq!(Sealed::from_fd(fd).unwrap()[..], pattern(1));
    });
    let sealed = sealed.unwrap();
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    sealed.send_to(&here).unwrap();
    assert_eq!(Sealed::receive_from(&there).unwrap(), sealed);
}

#[test]
fn a_map_that_had_no_bytes_for_a_while_is_absent_as_before() {
    let dir = disk_dir();
    let shows = |map: &FileMap| {
        assert_eq!(map.read::<u8>(0).unwrap(), 1);
        child_succeeds(|| assert_eq!(map.read::<u8>(0).unwrap_err().errno(), Errno::NOMEM));
    };
    let file = std::sync::Arc::new(file(dir.path()));
    let mut cut = MapOptions::new().fork(Fork::Absent).map(&file).unwrap();
    cut.resize(0).unwrap();
    cut.resize(2 * page()).unwrap();
    shows(&cut);
    // Settings that were made later hold too; and without a descriptor.
    let mut set = FileMap::map(&*file).unwrap();
    set.set_fork(Fork::Absent).unwrap();
    set.resize(0).unwrap();
    set.resize(2 * page()).unwrap();
    shows(&set);
    file.set_len(0).unwrap();
    let mut empty = MapOptions::new().fork(Fork::Absent).map(&file).unwrap();
    assert_eq!((cut.resize_to_file().unwrap(), empty.resize_to_file().unwrap()), (0, 0));
    std::os::unix::fs::FileExt::write_all_at(&*file, &[1; 10], 0).unwrap();
    for map in [&mut cut, &mut empty] {
        assert_eq!(map.resize_to_file().unwrap(), 10);
        shows(map);
    }
}

#[test]
fn a_map_in_a_reservation_of_one_owner_can_be_kept_from_children() {
    let reservation = folio::Reservation::new(2 * page()).unwrap();
    let mut anon = MapOptions::new().within(&reservation, 0).anon(page()).unwrap();
    assert_eq!(anon.set_fork(Fork::Absent).unwrap_err().errno(), Errno::INVAL);
    drop(reservation);
    anon.set_fork(Fork::Absent).unwrap();
    anon.grow(2 * page()).unwrap();
    let address = anon.as_ptr() as usize;
    child_succeeds(|| drop(occupy(address)));
}
