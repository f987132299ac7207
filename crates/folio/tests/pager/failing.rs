//! Sources that fail, are short, slow, or give other bytes than before: the pager's answer to each.

use crate::common::effort::scaled;
use crate::common::random::Random;
use crate::common::{End, in_child};
use crate::faulty::{Answer, Faulty};
use crate::given::{MIB, is_all, pager, pattern};
use folio::source::{FastPath, Memory, ReadRequest, Source, WritableMemory};
use folio::{Advice, Error, FaultCause, WriteBack};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[track_caller]
pub(crate) fn cause(error: &Error) -> FaultCause {
    error.fault().unwrap_or_else(|| panic!("no fault: {error}")).cause()
}

/// A load is how a program comes to a page; this asks for the same without the signal.
#[track_caller]
fn failure(map: &folio::Paged, at: usize) -> FaultCause {
    cause(&map.read_at(&mut [0], at).unwrap_err())
}

fn memory(len: usize) -> Arc<Faulty<Memory>> {
    Faulty::new(Memory::from(pattern(len)))
}

pub(crate) fn writable(len: usize) -> Arc<Faulty<WritableMemory>> {
    Faulty::new(WritableMemory::new(pattern(len)))
}

#[test]
fn a_read_that_fails_is_an_error_with_the_sources_words_until_it_heals() {
    let source = memory(MIB);
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.reads(Answer::Error);
    for _ in 0..3 {
        let error = map.read_at(&mut [0; 10], 5_000).unwrap_err();
        assert_eq!(cause(&error), FaultCause::SourceFailed);
        assert_eq!(error.fault().unwrap().detail(), Some("the read is refused"));
        assert_eq!(error.fault().unwrap().range(), 5_000..5_010);
        assert_eq!(error.fault().unwrap().object(), "a faulty source");
    }
    source.reads(Answer::Good);
    assert!(map[..] == pattern(MIB)[..]);
}

#[test]
fn a_short_read_is_an_error_and_none_of_its_bytes_are_shown() {
    let source = memory(MIB + 100);
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.reads(Answer::Short);
    assert_eq!(failure(&map, MIB + 50), FaultCause::SourceFailed);
    let error = map.read_at(&mut vec![0; MIB], 0).unwrap_err();
    assert_eq!(cause(&error), FaultCause::SourceFailed, "{error}");
    source.reads(Answer::Good);
    assert!(map[..] == pattern(MIB + 100)[..]);
}

#[test]
fn a_read_that_claims_more_than_there_was_room_for_shows_no_byte_of_it() {
    let source = memory(MIB);
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.reads(Answer::Long);
    let error = map.read_at(&mut [0], 0).unwrap_err();
    assert_eq!(cause(&error), FaultCause::SourceFailed, "{error}");
    source.reads(Answer::Good);
    assert!(map[..] == pattern(MIB)[..]);
}

#[test]
fn a_request_that_is_dropped_is_an_error() {
    let source = memory(MIB);
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.reads(Answer::Dropped);
    let error = map.read_at(&mut [0], 9_000).unwrap_err();
    assert_eq!(cause(&error), FaultCause::SourceFailed);
    assert!(error.to_string().contains("dropped"), "{error}");
    source.reads(Answer::Good);
    assert_eq!(map[9_000], pattern(9_001)[9_000]);
}

#[test]
fn a_source_that_never_answers_is_an_error_within_its_deadline() {
    let source = Faulty::with_deadline(Memory::from(pattern(MIB)), Duration::from_millis(200));
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.reads(Answer::Silence);
    let start = Instant::now();
    assert_eq!(failure(&map, 4_096), FaultCause::Deadline);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(2), "{took:?}");
    // Bytes that come after the deadline are shown to nobody, and harm nobody.
    assert!(source.let_go() > 0);
    source.reads(Answer::Good);
    assert!(map[..] == pattern(MIB)[..]);
}

#[test]
fn a_page_that_comes_before_the_deadline_is_no_error() {
    let source = Faulty::with_deadline(Memory::from(pattern(MIB)), Duration::from_secs(5));
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.reads(Answer::Late(Duration::from_millis(300)));
    let start = Instant::now();
    assert_eq!(map[300_000], pattern(300_001)[300_000]);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_slow_read_does_not_hold_up_other_maps() {
    let slow = memory(MIB);
    let pager = pager(16 * MIB);
    let (waits, goes_on) =
        (pager.map(Arc::clone(&slow)).unwrap(), pager.map(memory(8 * MIB)).unwrap());
    slow.reads(Answer::Late(Duration::from_secs(3)));
    std::thread::scope(|scope| {
        let start = Instant::now();
        let waiting = scope.spawn(|| waits[0]);
        assert!(goes_on[..] == pattern(8 * MIB)[..]);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert!(!waiting.is_finished());
        assert_eq!(waiting.join().unwrap(), pattern(1)[0]);
    });
}

#[test]
fn reads_may_end_in_any_order_from_any_thread() {
    let source = memory(24 * MIB);
    source.reads(Answer::Scrambled);
    let map = pager(4 * MIB).map(Arc::clone(&source)).unwrap();
    let bytes = pattern(24 * MIB);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (map, bytes) = (&map, &bytes);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..scaled(300) {
                    let range = random.range(bytes.len(), 100_000);
                    assert!(map[range.clone()] == bytes[range.clone()], "{range:?}");
                }
            });
        }
    });
    assert!(map[..8 * MIB] == bytes[..8 * MIB]);
}

#[test]
fn writes_may_end_in_any_order_from_any_thread() {
    let source = writable(12 * MIB);
    source.reads(Answer::Scrambled);
    source.writes(Answer::Scrambled);
    let mut map = pager(4 * MIB).map_mut(Arc::clone(&source)).unwrap();
    let (mut want, mut random) = (pattern(12 * MIB), Random(5));
    for _ in 0..scaled(1_500) {
        let range = random.range(want.len(), 50_000);
        random.fill(&mut map[range.clone()]);
        want[range.clone()].copy_from_slice(&map[range.clone()]);
    }
    assert!(map[..] == want[..]);
    map.sync(.., WriteBack::Wait).unwrap();
    assert!(source.inner().contents() == want);
}

#[test]
fn a_page_of_another_version_than_the_maps_is_an_error_and_what_was_read_stays() {
    let source = memory(8 * MIB);
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    map.advise(..4_096, Advice::PopulateRead).unwrap();
    source.change_version();
    assert_eq!(failure(&map, 7 * MIB), FaultCause::Changed);
    assert_eq!(map[0], pattern(1)[0]);
    // A map that is made now shows the new version.
    let pager = pager(16 * MIB);
    assert!(pager.map(source).unwrap()[..] == pattern(8 * MIB)[..]);
}

#[test]
fn a_page_that_is_not_the_same_when_it_is_read_again_is_an_error() {
    let source = memory(MIB);
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    assert!(map[..] == pattern(MIB)[..]);
    map.advise(.., Advice::Cold).unwrap();
    assert_eq!(map.resident().unwrap(), []);
    source.reads(Answer::Forged);
    for at in [0, 500_000, MIB - 1] {
        assert_eq!(failure(&map, at), FaultCause::Changed, "byte {at}");
    }
    // The true bytes are shown again.
    source.reads(Answer::Good);
    assert!(map[..] == pattern(MIB)[..]);
}

#[test]
fn a_private_page_of_another_version_is_an_error_and_stored_ones_stay() {
    let source = memory(8 * MIB);
    let mut map = pager(16 * MIB).map_private(Arc::clone(&source)).unwrap();
    map[10] = 77;
    map.advise(.., Advice::Cold).unwrap();
    source.change_version();
    assert_eq!(cause(&map.read_at(&mut [0], 4 * MIB).unwrap_err()), FaultCause::Changed);
    assert_eq!((map[9], map[10]), (pattern(10)[9], 77));
}

#[test]
fn a_clean_page_of_a_private_map_that_comes_back_other_is_an_error() {
    let source = memory(MIB);
    let map = pager(16 * MIB).map_private(Arc::clone(&source)).unwrap();
    assert_eq!(map[0], pattern(1)[0]);
    map.advise(.., Advice::Cold).unwrap();
    source.reads(Answer::Forged);
    assert_eq!(cause(&map.read_at(&mut [0], 0).unwrap_err()), FaultCause::Changed);
}

#[test]
fn sync_says_that_a_write_fails_every_time_until_it_is_done() {
    // Cold advice waits as long for pages that cannot be written.
    let source = Faulty::with_deadline(WritableMemory::new(pattern(MIB)), Duration::from_secs(1));
    let mut map = pager(16 * MIB).map_mut(Arc::clone(&source)).unwrap();
    let mut want = pattern(MIB);
    for at in [5, 70_000, 70_001, MIB - 1] {
        (map[at], want[at]) = (!want[at], !want[at]);
    }
    source.writes(Answer::Error);
    for _ in 0..4 {
        let error = map.sync(.., WriteBack::Wait).unwrap_err();
        assert_eq!(cause(&error), FaultCause::NotWritten, "{error}");
        assert!(error.to_string().contains("the write is refused"), "{error}");
    }
    assert!(source.inner().contents() == pattern(MIB) && map[..] == want[..]);
    assert!(map.advise(.., Advice::Cold).is_err(), "dirty pages cannot leave");
    assert!(map[..] == want[..]);
    source.writes(Answer::Good);
    map.sync(.., WriteBack::Wait).unwrap();
    assert!(source.inner().contents() == want);
}

#[test]
fn a_write_that_is_dropped_has_failed() {
    let source = writable(MIB);
    let mut map = pager(16 * MIB).map_mut(Arc::clone(&source)).unwrap();
    map[5] = 200;
    source.writes(Answer::Dropped);
    assert_eq!(cause(&map.sync(.., WriteBack::Wait).unwrap_err()), FaultCause::NotWritten);
    source.writes(Answer::Good);
    map.sync(.., WriteBack::Wait).unwrap();
    assert_eq!(source.inner().contents()[5], 200);
}

#[test]
fn a_flush_that_fails_is_an_error_to_sync_until_one_succeeds() {
    let source = writable(MIB);
    let mut map = pager(16 * MIB).map_mut(Arc::clone(&source)).unwrap();
    map[5] = 200;
    source.flushes(Answer::Error);
    for _ in 0..3 {
        let error = map.sync(.., WriteBack::Wait).unwrap_err();
        assert_eq!(cause(&error), FaultCause::NotWritten, "{error}");
    }
    source.flushes(Answer::Good);
    map.sync(.., WriteBack::Wait).unwrap();
    assert_eq!(source.inner().contents()[5], 200);
}

#[test]
fn a_write_that_failed_in_the_background_is_known_to_the_next_sync() {
    let source = writable(MIB);
    let pager = folio::Pager::builder()
        .budget(16 * MIB)
        .write_back_after(Duration::from_millis(20))
        .build()
        .unwrap();
    let mut map = pager.map_mut(Arc::clone(&source)).unwrap();
    source.writes(Answer::Error);
    map[5] = 200;
    let end = Instant::now() + Duration::from_secs(10);
    while pager.stats().unwrap().write_errors == 0 {
        assert!(Instant::now() < end, "nothing was written in the background");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(cause(&map.sync(.., WriteBack::Wait).unwrap_err()), FaultCause::NotWritten);
    source.writes(Answer::Good);
    map.sync(.., WriteBack::Wait).unwrap();
    assert_eq!(source.inner().contents()[5], 200);
}

#[test]
fn close_gives_the_map_back_when_it_cannot_be_written() {
    let source = writable(MIB);
    let mut map = pager(16 * MIB).map_mut(Arc::clone(&source)).unwrap();
    map[123_456] = 9;
    source.writes(Answer::Error);
    let refused = map.close().unwrap_err();
    assert_eq!(cause(&refused.error), FaultCause::NotWritten);
    let map = refused.map;
    assert_eq!(map[123_456], 9);
    source.writes(Answer::Good);
    map.close().unwrap();
    assert_eq!(source.inner().contents()[123_456], 9);
}

#[test]
fn stores_during_a_write_are_written_too() {
    let source = writable(MIB);
    let map = pager(16 * MIB).map_shared(Arc::clone(&source)).unwrap();
    map.write_at(&[1; 4_096], 0).unwrap();
    source.writes(Answer::Late(Duration::from_millis(200)));
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| map.sync(.., WriteBack::Wait));
        std::thread::sleep(Duration::from_millis(80));
        map.write_at(&[2; 100], 50).unwrap();
        sync.join().unwrap().unwrap();
    });
    map.sync(.., WriteBack::Wait).unwrap();
    let mut want = [1; 4_096];
    want[50..150].fill(2);
    assert_eq!(source.inner().contents()[..4_096], want);
}

#[test]
fn a_load_of_a_page_that_cannot_be_supplied_ends_the_process_with_sigbus() {
    for answer in [Answer::Error, Answer::Short, Answer::Dropped] {
        let end = in_child(|| {
            let source = memory(MIB);
            let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
            assert_eq!(map[0], pattern(1)[0]);
            map.advise(.., Advice::Cold).unwrap();
            source.reads(answer);
            std::hint::black_box(map[600_000]);
        });
        assert_eq!(end, End::Killed(libc::SIGBUS), "{answer:?}");
    }
}

#[test]
fn a_load_of_a_page_that_came_back_other_ends_the_process_with_sigbus() {
    let end = in_child(|| {
        let source = memory(MIB);
        let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
        assert_eq!(map[0], pattern(1)[0]);
        map.advise(.., Advice::Cold).unwrap();
        source.reads(Answer::Forged);
        std::hint::black_box(map[0]);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

#[test]
fn a_load_that_waits_in_vain_ends_the_process_at_the_deadline() {
    let start = Instant::now();
    let end = in_child(|| {
        let source = Faulty::with_deadline(Memory::from(pattern(MIB)), Duration::from_millis(300));
        let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
        source.reads(Answer::Silence);
        std::hint::black_box(map[0]);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_load_past_the_end_of_a_resized_map_is_no_byte_of_the_old_one() {
    let source = writable(MIB);
    let mut map = pager(16 * MIB).map_mut(Arc::clone(&source)).unwrap();
    map.fill(9);
    map.resize(100_000).unwrap();
    assert!(map.read_at(&mut [0], 100_000).is_err());
    map.resize(MIB).unwrap();
    assert!(is_all(&map[..100_000], 9) && is_all(&map[100_000..], 0));
    map.close().unwrap();
    assert!(is_all(&source.inner().contents()[100_000..], 0));
}

#[test]
fn a_map_whose_drop_cannot_write_ends_and_says_so() {
    let end = in_child(|| {
        let source = writable(MIB);
        let pager = pager(16 * MIB);
        let mut map = pager.map_mut(Arc::clone(&source)).unwrap();
        map[0] = 1;
        source.writes(Answer::Error);
        drop(map);
        // The pager lives on, with the memory given back.
        let end = Instant::now() + Duration::from_secs(10);
        while pager.stats().unwrap().resident_bytes > 0 {
            assert!(Instant::now() < end, "{:?}", pager.stats());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(pager.map(memory(MIB)).unwrap()[..] == pattern(MIB)[..]);
    });
    assert_eq!(end, End::Exited(0));
}

/// Two memories, of which it shows one or the other.
struct Flip {
    sides: [Memory; 2],
    other: AtomicBool,
}

impl Flip {
    fn side(&self) -> &Memory {
        &self.sides[usize::from(self.other.load(Ordering::SeqCst))]
    }
}

impl Source for Flip {
    fn name(&self) -> String {
        "flip".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.side().len()
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        self.side().read(requests);
    }

    fn fast_path(&self) -> FastPath<'_> {
        self.side().fast_path()
    }
}

#[test]
fn a_source_that_shows_other_bytes_at_hand_later_changes_no_borrowed_byte() {
    let sides = [vec![1; 8 * MIB], vec![2; 8 * MIB]].map(Memory::from);
    let flip = Arc::new(Flip { sides, other: AtomicBool::new(false) });
    let map = pager(4 * MIB).map(Arc::clone(&flip)).unwrap();
    assert!(is_all(&map, 1));
    flip.other.store(true, Ordering::SeqCst);
    map.advise(.., Advice::Cold).unwrap();
    assert!(is_all(&map, 1));
}
