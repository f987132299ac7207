//! Fork: the child's view of its parent's pager. Every child is a real one, whose end is checked.

use crate::common::{End, child_succeeds, in_child};
use crate::given::{MIB, pager, pattern};
use folio::source::{Memory, WritableMemory, Zeros};
use folio::{Advice, Errno, Error, Paged, PagedMut, PagedShared, Pager, WriteBack};
use std::sync::Arc;

struct Maps {
    pager: Pager,
    read: Paged,
    write: PagedMut,
    private: PagedMut,
    shared: PagedShared,
    written: Arc<WritableMemory>,
}

/// A pager with a map of each kind, all of whose pages are in memory.
fn maps() -> Maps {
    let pager = pager(16 * MIB);
    let written = Arc::new(WritableMemory::new(pattern(MIB)));
    let maps = Maps {
        read: pager.map(Memory::from(pattern(MIB))).unwrap(),
        write: pager.map_mut(Arc::clone(&written)).unwrap(),
        private: pager.map_private(Memory::from(pattern(MIB))).unwrap(),
        shared: pager.map_shared(WritableMemory::new(pattern(MIB))).unwrap(),
        pager,
        written,
    };
    maps.read.advise(.., Advice::PopulateRead).unwrap();
    maps.write.advise(.., Advice::PopulateRead).unwrap();
    maps.private.advise(.., Advice::PopulateRead).unwrap();
    maps.shared.advise(.., Advice::PopulateRead).unwrap();
    maps
}

/// Requests that all handles answer.
macro_rules! calls {
    ($map:expr) => {
        [
            ("read_at", $map.read_at(&mut [0], 0).err()),
            ("prefetch", $map.prefetch(std::slice::from_ref(&(0..10))).err()),
            ("advise Cold", $map.advise(.., Advice::Cold).err()),
            ("advise Random", $map.advise(.., Advice::Random).err()),
            ("advise WillNeed", $map.advise(.., Advice::WillNeed).err()),
            ("advise PopulateRead", $map.advise(.., Advice::PopulateRead).err()),
            ("record", $map.record(true).err()),
            ("recorded", $map.recorded().err()),
            ("resident", $map.resident().err()),
        ]
    };
}

fn are_refused(calls: impl IntoIterator<Item = (&'static str, Option<Error>)>) {
    for (call, error) in calls {
        let error = error.unwrap_or_else(|| panic!("{call} succeeded"));
        assert_eq!(error.errno(), Errno::CHILD, "{call}: {error}");
    }
}

#[test]
fn a_childs_calls_on_its_parents_maps_are_echild() {
    let mut maps = maps();
    child_succeeds(|| {
        let Maps { read, write, private, shared, .. } = &mut maps;
        are_refused(calls!(read));
        are_refused(calls!(write));
        are_refused(calls!(private));
        are_refused(calls!(shared));
        are_refused([
            ("pin", read.pin(..).err()),
            ("pin of a writable map", write.pin(..).err()),
            ("write_at", write.write_at(&[1], 0).err()),
            ("write_at, private", private.write_at(&[1], 0).err()),
            ("write_at, shared", shared.write_at(&[1], 0).err()),
            ("sync", write.sync(.., WriteBack::Wait).err()),
            ("the start of a sync", write.sync(.., WriteBack::Start).err()),
            ("sync, shared", shared.sync(.., WriteBack::Wait).err()),
            ("resize", write.resize(5).err()),
            ("view", shared.view().err()),
        ]);
        assert_eq!(maps.written.contents(), pattern(MIB), "the refused resize changed the source");
        let refused = maps.write.close().unwrap_err();
        assert_eq!(refused.error.errno(), Errno::CHILD);
    });
}

#[test]
fn a_childs_calls_on_its_parents_pager_are_echild() {
    let maps = maps();
    child_succeeds(|| {
        let pager = &maps.pager;
        are_refused([
            ("map", pager.map(Zeros::new(10)).err()),
            ("map_mut", pager.map_mut(WritableMemory::new(vec![1])).err()),
            ("map_private", pager.map_private(Zeros::new(10)).err()),
            ("map_shared", pager.map_shared(WritableMemory::new(vec![1])).err()),
            ("stats", pager.stats().err()),
            ("set_budget", pager.set_budget(32 * MIB).err()),
        ]);
    });
    assert_eq!(maps.pager.budget(), 16 * MIB);
}

#[test]
fn a_childs_load_from_its_parents_map_ends_it_with_sigbus() {
    let maps = maps();
    let loads: [(&str, &dyn Fn() -> u8); 3] = [
        ("read", &|| maps.read[5]),
        ("write", &|| maps.write[5]),
        ("private", &|| maps.private[5]),
    ];
    for (name, load) in loads {
        let end = in_child(|| {
            std::hint::black_box(load());
        });
        assert_eq!(end, End::Killed(libc::SIGBUS), "{name}");
    }
}

#[test]
fn a_childs_store_to_its_parents_map_ends_it_with_sigbus_and_changes_nothing() {
    let mut maps = maps();
    assert_eq!(in_child(|| maps.write[5] = 99), End::Killed(libc::SIGBUS));
    assert_eq!(in_child(|| maps.private[5] = 99), End::Killed(libc::SIGBUS));
    assert_eq!((maps.write[5], maps.private[5]), (pattern(6)[5], pattern(6)[5]));
}

#[test]
fn a_childs_use_of_a_view_of_its_parents_ends_it_with_sigbus() {
    let maps = maps();
    let view = maps.shared.view().unwrap();
    let end = in_child(|| {
        view.set(5, 99);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
    assert_eq!(view.get(5), Some(pattern(6)[5]));
}

#[test]
fn a_map_that_a_child_drops_is_the_parents_still() {
    let mut slot = Some(maps());
    slot.as_mut().unwrap().write[7] = 123;
    slot.as_mut().unwrap().private[7] = 124;
    child_succeeds(|| {
        let maps = slot.take().unwrap();
        let written = Arc::clone(&maps.written);
        drop(maps);
        assert_eq!(written.contents(), pattern(MIB), "the child wrote what the parent had stored");
    });
    let mut maps = slot.unwrap();
    // All go on: resident pages, pages that have to be read again, and stores.
    assert_eq!((maps.write[7], maps.private[7], maps.read[7]), (123, 124, pattern(8)[7]));
    maps.read.advise(.., Advice::Cold).unwrap();
    maps.private.advise(.., Advice::Cold).unwrap();
    assert!(maps.read[..] == pattern(MIB)[..]);
    assert_eq!((maps.private[7], maps.private[8]), (124, pattern(9)[8]));
    maps.write[8] = 125;
    maps.write.sync(.., WriteBack::Wait).unwrap();
    assert_eq!(maps.written.contents()[7..9], [123, 125]);
    maps.shared.view().unwrap().set(1, 50);
    assert_eq!(maps.shared.view().unwrap().get(1), Some(50));
    maps.pager.map(Memory::from(pattern(MIB))).unwrap();
}

#[test]
fn pins_that_a_child_drops_stay_pinned_in_the_parent() {
    let maps = maps();
    let mut pinned = Some(maps.read.pin(..100_000).unwrap());
    let before = maps.pager.stats().unwrap().pinned_bytes;
    child_succeeds(|| drop(pinned.take()));
    assert_eq!(maps.pager.stats().unwrap().pinned_bytes, before);
    maps.read.advise(.., Advice::Cold).unwrap();
    let resident = maps.read.resident().unwrap();
    assert!(
        resident
            .iter()
            .map(|range| range.end.min(100_000).saturating_sub(range.start))
            .sum::<usize>()
            == 100_000,
        "{resident:?}"
    );
}

#[test]
fn a_child_makes_a_pager_of_its_own() {
    let maps = maps();
    child_succeeds(|| {
        let pager = pager(4 * MIB);
        let map = pager.map(Memory::from(pattern(12 * MIB))).unwrap();
        assert!(map[..] == pattern(12 * MIB)[..]);
    });
    assert!(maps.read[..] == pattern(MIB)[..]);
}

#[test]
fn a_parent_that_forks_again_and_again_loses_nothing() {
    let source = Arc::new(WritableMemory::new(vec![0; 12 * MIB]));
    let mut map = pager(4 * MIB).map_mut(Arc::clone(&source)).unwrap();
    let mut want = vec![0; 12 * MIB];
    let mut random = crate::common::random::Random(9);
    for _ in 0..30 {
        for _ in 0..40 {
            let range = random.range(want.len(), 60_000);
            random.fill(&mut want[range.clone()]);
            map[range.clone()].copy_from_slice(&want[range]);
        }
        child_succeeds(|| ());
        let range = random.range(want.len(), MIB);
        assert!(map[range.clone()] == want[range.clone()], "{range:?}");
    }
    map.close().unwrap();
    assert!(source.contents() == want);
}
