//! Segments: made, opened, passed, grown, refused.

use crate::common::segment_dir::World;
use crate::common::{End, child_succeeds, in_child, lower_limit};
use folio::shm::{
    self, Lifetime, Locked, Mutex, ReadLocked, RwLock, Segment, SegmentOptions, Share, field,
};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Share)]
#[repr(C)]
struct Board {
    visits: AtomicU64,
    title: [u8; 16],
    nested: Inner,
}

#[derive(Clone, Copy, Debug, PartialEq, Share)]
#[repr(C)]
struct Inner {
    a: u32,
    b: [u16; 2],
}

#[test]
fn two_processes_that_know_a_name_share_a_value() {
    let _world = World::new();
    let board = Segment::<Board>::create("board").unwrap();
    field!(board.visits).fetch_add(1, Ordering::SeqCst);
    let end = in_child(|| {
        drop(board.clone());
        let mine = Segment::<Board>::open("board").unwrap();
        field!(mine.visits).fetch_add(1, Ordering::SeqCst);
        field!(mine.title).store(*b"0123456789abcdef").unwrap();
        field!(mine.nested.b[1]).store(7).unwrap();
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!(field!(board.visits).load(Ordering::SeqCst), 2);
    assert_eq!(field!(board.title).load().unwrap(), *b"0123456789abcdef");
    assert_eq!(field!(board.nested).load().unwrap(), Inner { a: 0, b: [0, 7] });
}

#[test]
fn growth_is_seen_by_all_and_moves_nothing() {
    let _world = World::new();
    let numbers =
        SegmentOptions::new().count(10).capacity(1 << 20).create::<[u64]>("numbers").unwrap();
    let first = numbers.get(0).unwrap().as_ptr();
    let end = in_child(|| {
        numbers.grow(100_000).unwrap();
        numbers.get(99_999).unwrap().store(5).unwrap();
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!((numbers.len(), numbers.generation()), (100_000, 1));
    assert_eq!(numbers.get(99_999).unwrap().load().unwrap(), 5);
    assert_eq!(numbers.get(0).unwrap().as_ptr(), first);
    assert!(numbers.get(100_000).is_none());
    assert!(numbers.grow((1 << 20) + 1).is_err());
}

#[test]
fn the_last_one_takes_the_name_along() {
    let world = World::new();
    let one = Segment::<u64>::create("last").unwrap();
    let two = Segment::<u64>::open("last").unwrap();
    assert_eq!(Segment::<u64>::create("last").unwrap_err().errno(), folio::Errno::EXIST);
    drop(one);
    assert_eq!(world.files(), ["folio.last"]);
    drop(two);
    assert_eq!(world.files(), [""; 0]);
    assert_eq!(Segment::<u64>::open("last").unwrap_err().errno(), folio::Errno::NOENT);
}

#[test]
fn the_last_one_takes_the_name_along_wherever_it_works_by_then() {
    let world = World::new();
    child_succeeds(|| {
        std::env::set_current_dir(world.path().parent().unwrap()).unwrap();
        // SAFETY: this child has one thread.
        unsafe { std::env::set_var("FOLIO_SHM_DIR", world.path().file_name().unwrap()) };
        let segment = Segment::<u64>::create("last").unwrap();
        assert_eq!(world.files(), ["folio.last"]);
        std::env::set_current_dir("/").unwrap();
        drop(segment);
    });
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn the_last_one_takes_the_name_along_without_a_descriptor_to_spare() {
    let world = World::new();
    child_succeeds(|| {
        let segment = Segment::<u64>::create("last").unwrap();
        lower_limit(libc::RLIMIT_NOFILE, 100);
        let mut all = Vec::new();
        let errno = loop {
            match rustix::io::dup(segment.file()) {
                Ok(fd) => all.push(fd),
                Err(errno) => break errno,
            }
        };
        assert_eq!(errno, rustix::io::Errno::MFILE);
        // Nobody can make or open one now, and nothing is left of the attempts.
        assert_eq!(Segment::<u64>::create("other").unwrap_err().errno(), folio::Errno::MFILE);
        assert_eq!(Segment::<u64>::open("last").unwrap_err().errno(), folio::Errno::MFILE);
        drop(segment);
    });
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn a_kept_segment_stays_until_it_is_removed() {
    let world = World::new();
    let kept = SegmentOptions::new().lifetime(Lifetime::Kept);
    let segment = kept.create_with("kept", |segment: &Segment<u64>| segment.store(9)).unwrap();
    drop(segment);
    assert_eq!(world.files(), ["folio.kept"]);
    assert_eq!(Segment::<u64>::open("kept").unwrap().load().unwrap(), 9);
    shm::remove("kept").unwrap();
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn an_initializer_that_fails_leaves_nothing() {
    let world = World::new();
    let options = SegmentOptions::new();
    let failing = |_: &Segment<u64>| Err(folio::FileMap::open("/nowhere").unwrap_err());
    assert_eq!(options.create_with("none", failing).unwrap_err().errno(), folio::Errno::NOENT);
    assert_eq!(
        options.open_or_create_with("none", failing).unwrap_err().errno(),
        folio::Errno::NOENT
    );
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn handles_in_one_process_are_one_party() {
    let _world = World::new();
    let one = Segment::<u64>::create("one").unwrap();
    let threads: Vec<_> =
        (0..4).map(|_| std::thread::spawn(|| Segment::<u64>::open("one").unwrap())).collect();
    let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let again = Segment::<u64>::from_fd(one.file()).unwrap();
    assert_eq!(shm::list().unwrap()[0].users.len(), 1);
    one.store(3).unwrap();
    assert!(all.iter().chain([&again]).all(|other| other.load().unwrap() == 3));
}

#[test]
fn a_forked_child_is_a_party_of_its_own_from_its_first_use_on() {
    let _world = World::new();
    let segment = Segment::<AtomicU64>::create("forked").unwrap();
    let users = || shm::list().unwrap()[0].users.iter().map(|user| user.pid).collect::<Vec<_>>();
    let me = std::process::id();
    let end = in_child(|| {
        assert_eq!(users(), [me]);
        segment.check().unwrap();
        let mut both = users();
        both.sort_unstable();
        let mut wanted = [me, std::process::id()];
        wanted.sort_unstable();
        assert_eq!(both, wanted);
        drop(segment.clone());
        segment.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!((users(), segment.load(Ordering::SeqCst)), (vec![me], 1));
    // A child that never uses it, and drops its copy, takes nothing along.
    let copy = segment.clone();
    assert_eq!(in_child(move || drop(copy)), End::Exited(0));
    assert_eq!(users(), [me]);
    segment.check().unwrap();
}

#[test]
fn a_segment_without_a_name_goes_to_children_and_over_sockets() {
    let segment = Segment::<AtomicU64>::anonymous().unwrap();
    let (mine, theirs) = UnixStream::pair().unwrap();
    segment.send_to(&mine).unwrap();
    let end = in_child(|| {
        let received = Segment::<AtomicU64>::receive_from(&theirs).unwrap();
        received.fetch_add(2, Ordering::SeqCst);
        let fresh = Segment::<AtomicU64>::anonymous().unwrap();
        fresh.store(40, Ordering::SeqCst);
        fresh.send_to(&theirs).unwrap();
    });
    assert_eq!(end, End::Exited(0));
    let theirs = Segment::<AtomicU64>::receive_from(&mine).unwrap();
    assert_eq!((segment.load(Ordering::SeqCst), theirs.load(Ordering::SeqCst)), (2, 40));
}

#[test]
fn a_segment_that_is_a_file_survives_its_processes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let end = in_child(|| {
        let options = SegmentOptions::new().count(4);
        let segment = options.open_or_create_file::<[u64]>(&path).unwrap();
        segment.get(3).unwrap().store(8).unwrap();
        segment.sync().unwrap();
    });
    assert_eq!(end, End::Exited(0));
    let again = SegmentOptions::new().open_file::<[u64]>(&path).unwrap();
    assert_eq!((again.len(), again.get(3).unwrap().load().unwrap()), (4, 8));
    assert_eq!(again.path(), Some(&*path));
    assert!(SegmentOptions::new().create_file::<[u64]>(&path).is_err());
}

#[test]
fn many_processes_that_start_at_once_make_one_segment() {
    let world = World::new();
    for round in 0..20 {
        let name = format!("race{round}");
        let gate = Segment::<AtomicU64>::anonymous().unwrap();
        let children: Vec<_> = (0..4)
            .map(|_| {
                crate::common::spawn_child(|| {
                    while gate.load(Ordering::SeqCst) == 0 {
                        std::hint::spin_loop();
                    }
                    let made = |segment: &Segment<[u64; 2]>| {
                        gate.fetch_add(0x100, Ordering::SeqCst);
                        segment.store([5, 5])
                    };
                    let options = SegmentOptions::new();
                    let segment = options.open_or_create_with::<[u64; 2]>(&name, made).unwrap();
                    assert_eq!(segment.load().unwrap(), [5, 5]);
                    gate.fetch_add(0x1_0000, Ordering::SeqCst);
                    // Nobody leaves before all have come.
                    while gate.load(Ordering::SeqCst) >> 16 != 4 {
                        std::thread::yield_now();
                    }
                })
                .0
            })
            .collect();
        gate.store(1, Ordering::SeqCst);
        for child in children {
            assert_eq!(crate::common::wait(child), End::Exited(0));
        }
        assert_eq!(world.files(), [""; 0]);
    }
}

#[test]
fn a_field_is_a_part_of_its_value() {
    let board = Segment::<Board>::anonymous().unwrap();
    let base = board.shared_ref().as_ptr() as usize;
    assert_eq!(
        field!(board.title).shared_ref().as_ptr() as usize - base,
        std::mem::offset_of!(Board, title)
    );
    let large = SegmentOptions::new().anonymous::<[[u64; 1000]; 10]>().unwrap();
    let one = large.shared_ref().field(|rows| &rows[3][7]);
    assert_eq!(one.as_ptr() as usize - large.shared_ref().as_ptr() as usize, 3007 * 8);
    assert_eq!(large.shared_ref().get(3).unwrap().get(7).unwrap().as_ptr(), one.as_ptr());
    assert!(large.shared_ref().get(10).is_none());
    let elsewhere = std::panic::catch_unwind(|| large.shared_ref().field(|_| &7_u64));
    assert!(elsewhere.is_err());
}

/// Types with parameters, whose fields are made of them.
mod generic {
    use folio::shm::{Mutex, Share};
    use std::sync::atomic::AtomicU64;

    #[derive(Share)]
    #[repr(C)]
    pub(super) struct Locked<T: Copy, const N: usize> {
        pub(super) lock: Mutex<[T; N]>,
        pub(super) count: AtomicU64,
    }

    #[derive(Clone, Copy, Share)]
    #[repr(C)]
    pub(super) struct Rows<T> {
        pub(super) rows: [[T; 2]; 3],
    }

    #[derive(Share)]
    #[repr(C)]
    pub(super) struct Counts<T> {
        pub(super) counts: [T; 3],
    }

    /// Of one layout, and not of one meaning.
    #[derive(Clone, Copy, Share)]
    #[repr(C)]
    pub(super) struct Fixed<const SHIFT: i8, const SIGNED: bool> {
        pub(super) bits: u64,
    }

    #[derive(Clone, Copy, Share)]
    #[repr(C)]
    pub(super) struct Raw<T: Unit> {
        pub(super) raw: T::Raw,
    }

    pub(super) trait Unit {
        type Raw: Share + Copy;
    }

    impl Unit for u16 {
        type Raw = u32;
    }

    impl Unit for i16 {
        type Raw = u32;
    }

    #[derive(Clone, Copy, Share)]
    #[repr(C)]
    pub(super) struct Own {
        pub(super) bytes: [u8; Self::LEN],
    }

    impl Own {
        const LEN: usize = 4;
    }
}

#[test]
fn types_with_parameters_are_shared_as_their_fields_allow() {
    let locked = Segment::<generic::Locked<u32, 2>>::anonymous().unwrap();
    field!(locked.lock).lock().unwrap().clean().unwrap().set([1, 2]).unwrap();
    assert_eq!(field!(locked.count).fetch_add(1, Ordering::SeqCst), 0);
    // Plain data is copied, atomics are used where they lie.
    let rows = Segment::<generic::Rows<u16>>::anonymous().unwrap();
    rows.store(generic::Rows { rows: [[1, 2], [3, 4], [5, 6]] }).unwrap();
    assert_eq!(rows.load().unwrap().rows[2], [5, 6]);
    let counts = Segment::<generic::Counts<AtomicU64>>::anonymous().unwrap();
    assert_eq!(counts.counts[2].fetch_add(1, Ordering::SeqCst), 0);
    let own = Segment::<generic::Own>::anonymous().unwrap();
    assert_eq!(own.load().unwrap().bytes, [0; 4]);
    // With other parameters it is another type.
    assert!(Segment::<generic::Rows<u16>>::from_fd(rows.file()).is_ok());
    let others = [
        Segment::<generic::Rows<i16>>::from_fd(rows.file()).map(drop),
        {
            let fixed = Segment::<generic::Fixed<-8, true>>::anonymous().unwrap();
            assert!(Segment::<generic::Fixed<-8, true>>::from_fd(fixed.file()).is_ok());
            fixed.load().unwrap();
            Segment::<generic::Fixed<8, true>>::from_fd(fixed.file()).map(drop)
        },
        {
            let fixed = Segment::<generic::Fixed<8, true>>::anonymous().unwrap();
            Segment::<generic::Fixed<8, false>>::from_fd(fixed.file()).map(drop)
        },
        {
            let raw = Segment::<generic::Raw<u16>>::anonymous().unwrap();
            Segment::<generic::Raw<i16>>::from_fd(raw.file()).map(drop)
        },
    ];
    for (number, other) in others.into_iter().enumerate() {
        assert_eq!(other.expect_err(&number.to_string()).errno(), folio::Errno::INVAL);
    }
}

#[test]
fn a_user_keeps_the_name_however_others_come_leave_and_collect() {
    use std::os::unix::fs::MetadataExt;
    const ROUNDS: usize = 2000;
    let world = World::new();
    let path = world.file("busy");
    let children: Vec<_> = (0..3)
        .map(|_| {
            crate::common::spawn_child(|| {
                for _ in 0..ROUNDS {
                    let segment = Segment::<[u64; 2]>::open_or_create("busy").unwrap();
                    // The file behind the name is this one, from the first moment to the last.
                    let mine = rustix::fs::fstat(segment.file()).unwrap().st_ino;
                    for _ in 0..3 {
                        let named = std::fs::metadata(&path)
                            .expect("the name was taken away under a party");
                        assert_eq!(named.ino(), mine, "two segments have one name");
                        std::thread::yield_now();
                    }
                }
            })
            .0
        })
        .collect();
    for _ in 0..ROUNDS {
        let _ = shm::remove_stale(false).unwrap();
        let _ = shm::remove("busy");
        let _ = shm::list().unwrap();
    }
    for child in children {
        assert_eq!(crate::common::wait(child), End::Exited(0));
    }
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn a_segment_can_be_opened_at_any_moment_while_it_grows() {
    const COUNT: usize = 200_000;
    let _world = World::new();
    let numbers = SegmentOptions::new().capacity(COUNT).create::<[u64]>("growing").unwrap();
    let (child, _messages) = crate::common::spawn_child(|| {
        for count in (0..COUNT).step_by(10) {
            numbers.grow(count).unwrap();
        }
        numbers.grow(COUNT).unwrap();
    });
    while numbers.len() < COUNT {
        let again = Segment::<[u64]>::open("growing").unwrap();
        assert!(again.len() <= COUNT);
    }
    assert_eq!(crate::common::wait(child), End::Exited(0));
}

#[test]
fn a_removal_takes_one_segment_however_fast_the_next_has_its_name() {
    const SEGMENTS: u32 = 1000;
    let world = World::new();
    let kept = || SegmentOptions::new().lifetime(Lifetime::Kept);
    let (child, _messages) = crate::common::spawn_child(|| {
        let mut made = 0;
        while made < SEGMENTS {
            made += u32::from(kept().create::<u64>("again").is_ok());
        }
    });
    let mut removed = 0;
    let start = std::time::Instant::now();
    while removed < SEGMENTS && start.elapsed().as_secs() < 60 {
        removed += u32::from(shm::remove("again").is_ok());
    }
    assert_eq!(crate::common::wait(child), End::Exited(0));
    assert_eq!((removed, world.files()), (SEGMENTS, vec![]));
}

#[test]
fn a_type_may_have_a_long_name() {
    type Nested<T> = [[[[[[[[[[T; 1]; 1]; 1]; 1]; 1]; 1]; 1]; 1]; 1]; 1];
    type Long = Nested<Nested<Nested<Nested<Nested<Nested<u64>>>>>>;
    let _world = World::new();
    assert!(std::any::type_name::<Long>().len() > 256);
    let one = Segment::<Long>::create("long").unwrap();
    let other = Segment::<Long>::open("long").unwrap();
    assert_eq!(one.shared_ref().as_ptr(), other.shared_ref().as_ptr());
    assert_eq!(Segment::<[Long; 1]>::open("long").unwrap_err().errno(), folio::Errno::INVAL);
}

#[test]
fn a_child_whose_first_use_comes_after_the_name_has_gone_gets_an_error() {
    let world = World::new();
    let segment = Segment::<AtomicU64>::create("gone").unwrap();
    let (child, _messages) = crate::common::spawn_child(|| {
        while !world.files().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(segment.check().unwrap_err().errno(), folio::Errno::NOENT);
        let fresh = Segment::<AtomicU64>::create("gone").unwrap();
        assert_ne!(fresh.id(), segment.id());
        drop(fresh);
    });
    drop(segment);
    assert_eq!(crate::common::wait(child), End::Exited(0));
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn a_user_by_descriptor_that_opens_the_name_later_takes_it_along() {
    let world = World::new();
    let (mine, theirs) = UnixStream::pair().unwrap();
    let (child, _messages) = crate::common::spawn_child(|| {
        let segment = Segment::<AtomicU64>::create("passed").unwrap();
        segment.send_to(&theirs).unwrap();
        while segment.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    });
    let received = Segment::<AtomicU64>::receive_from(&mine).unwrap();
    assert_eq!(received.path(), None);
    let named = Segment::<AtomicU64>::open("passed").unwrap();
    assert_eq!(received.path(), Some(&*world.file("passed")));
    received.store(1, Ordering::SeqCst);
    assert_eq!(crate::common::wait(child), End::Exited(0));
    drop(named);
    assert_eq!(world.files(), ["folio.passed"]);
    drop(received);
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn a_file_is_kept_whatever_it_was_made_as() {
    let world = World::new();
    let path = world.path().join("copy");
    let segment = Segment::<u64>::create("original").unwrap();
    segment.store(4).unwrap();
    std::fs::copy(world.file("original"), &path).unwrap();
    drop(segment);
    let options = SegmentOptions::new();
    assert!(options.create_file::<u64>(&path).is_err());
    for _ in 0..2 {
        assert_eq!(options.open_file::<u64>(&path).unwrap().load().unwrap(), 4);
        assert_eq!(options.open_or_create_file::<u64>(&path).unwrap().load().unwrap(), 4);
    }
    assert_eq!(world.files(), ["copy"]);
}

#[test]
fn a_file_gets_its_first_values_before_anyone_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let options = SegmentOptions::new().count(3);
    let failing = |_: &Segment<[u64]>| Err(folio::FileMap::open("/nowhere").unwrap_err());
    assert_eq!(options.create_file_with(&path, failing).unwrap_err().errno(), folio::Errno::NOENT);
    assert!(!path.exists());
    let init = |segment: &Segment<[u64]>| {
        assert!(!path.exists());
        segment.get(2).unwrap().store(8)
    };
    drop(options.create_file_with(&path, init).unwrap());
    // It is there: nothing is stored again.
    let again = options.open_or_create_file_with(&path, failing).unwrap();
    assert_eq!(again.get(2).unwrap().load().unwrap(), 8);
    drop(again);
    std::fs::remove_file(&path).unwrap();
    let fresh = options.open_or_create_file_with(&path, init).unwrap();
    assert_eq!(fresh.get(2).unwrap().load().unwrap(), 8);
    let _world = World::new();
    let named = Segment::<u64>::create_with("short", |segment| segment.store(1)).unwrap();
    let other = Segment::<u64>::open_or_create_with("short", |segment| segment.store(2)).unwrap();
    assert_eq!((named.load().unwrap(), other.load().unwrap()), (1, 1));
}

#[test]
fn plain_data_is_viewed_where_it_lies() {
    let _world = World::new();
    let board = Segment::<Board>::create("viewed").unwrap();
    let title = field!(board.title);
    title.view_mut().unwrap().copy_from(b"abc", 13).unwrap();
    child_succeeds(|| {
        let board = Segment::<Board>::open("viewed").unwrap();
        let title = field!(board.title);
        assert!(title.view().unwrap().bytes().eq(*b"\0\0\0\0\0\0\0\0\0\0\0\0\0abc"));
        assert!(title.view_mut().unwrap().set(0, b'x'));
        // No further than the value: its neighbours are others'.
        let view = title.view_mut().unwrap();
        assert_eq!((view.len(), view.set(16, 1)), (16, false));
        assert_eq!(view.copy_from(b"abc", 14).unwrap_err().errno(), folio::Errno::INVAL);
        field!(board.nested).view_mut().unwrap().write(4, &[1_u16, 2]).unwrap();
    });
    assert_eq!(title.load().unwrap()[0], b'x');
    assert_eq!(field!(board.nested).load().unwrap(), Inner { a: 0, b: [1, 2] });
    assert_eq!(field!(board.nested).shared_ref().view().unwrap().read::<u16>(6).unwrap(), 2);
    let numbers = SegmentOptions::new().count(5).create::<[u64]>("numbers").unwrap();
    numbers.view_mut().unwrap().write(32, &9_u64).unwrap();
    assert_eq!(numbers.get(4).unwrap().view().unwrap().read::<u64>(0).unwrap(), 9);
    assert_eq!((numbers.view().unwrap().len(), numbers.view_range(32..).unwrap().len()), (40, 8));
    let one = Segment::<Inner>::create("one").unwrap();
    one.view_mut().unwrap().write(0, &5_u32).unwrap();
    assert_eq!((one.load().unwrap().a, one.view().unwrap().len()), (5, 8));
    // Missing bytes are an error, and no signal to the holder of a view.
    let view = numbers.view().unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(numbers.path().unwrap())
        .unwrap()
        .set_len(8192)
        .unwrap();
    assert_eq!(view.get(32), Some(0));
    assert_eq!(numbers.view().unwrap_err().errno(), folio::Errno::IO);
    assert!(numbers.get(0).unwrap().view_mut().is_err());
}

/// Larger than the stacks below.
const ROWS: usize = 3 << 20;

#[derive(Clone, Copy, Share)]
#[repr(C)]
struct Wide {
    number: u64,
    rows: [u8; ROWS],
}

/// Runs on a stack that holds no `Wide`.
fn on_a_small_stack(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(512 << 10);
        thread.spawn_scoped(scope, work).unwrap().join().unwrap();
    });
}

#[test]
fn a_part_of_a_struct_that_is_larger_than_the_stack_is_reached() {
    let segment = Segment::<Wide>::anonymous().unwrap();
    on_a_small_stack(|| {
        let shared = segment.value();
        field!(segment.number).store(1).unwrap();
        assert_eq!(field!(shared.number).load().unwrap(), 1);
        shared.shared_ref().field(|wide| &wide.rows[ROWS - 1]).store(2).unwrap();
        assert_eq!(field!(segment.rows).get(ROWS - 1).unwrap().load().unwrap(), 2);
        assert_eq!(segment.view().unwrap().read::<u64>(0).unwrap(), 1);
        // The closure may use its argument, and name parts of other values meanwhile.
        let inner = shared.shared_ref().field(|wide| {
            assert_eq!(shared.shared_ref().field(|other| &other.number).load().unwrap(), 1);
            &wide.number
        });
        assert_eq!(inner.load().unwrap(), 1);
    });
}

#[test]
fn guards_of_a_struct_that_is_larger_than_the_stack_reach_its_parts() {
    let lock = Segment::<Mutex<Wide>>::anonymous().unwrap();
    let table = Segment::<RwLock<Wide>>::anonymous().unwrap();
    on_a_small_stack(|| {
        let mut guard = lock.shared_ref().lock().unwrap().clean().unwrap();
        field!(guard.number).store(1).unwrap();
        guard.view_mut().unwrap().copy_from(&[7; 4], 8).unwrap();
        assert_eq!(guard.view().unwrap().read::<u32>(8).unwrap(), 0x0707_0707);
        let mut guard = table.shared_ref().write().unwrap().clean().unwrap();
        guard.view_mut().unwrap().copy_from(&[9; 4], 8).unwrap();
        field!(guard.number).store(2).unwrap();
        drop(guard);
        let ReadLocked::Clean(guard) = table.shared_ref().read().unwrap() else {
            panic!("nobody died")
        };
        assert_eq!(field!(guard.number).load().unwrap(), 2);
        assert_eq!(guard.get_field(|wide| &wide.number).unwrap(), 2);
        assert_eq!(field!(guard.rows).get(3).unwrap().load().unwrap(), 9);
        assert_eq!(guard.view().unwrap().read::<u32>(8).unwrap(), 0x0909_0909);
        assert_eq!(field!(guard.rows).view().unwrap().read::<u32>(0).unwrap(), 0x0909_0909);
        assert_eq!(field!(guard.rows).iter().len(), ROWS);
    });
    // A thread that panics leaves a value that may be torn.
    let panicked = std::thread::scope(|scope| {
        let held = scope.spawn(|| {
            let _guard = lock.shared_ref().lock().unwrap();
            panic!("on purpose");
        });
        held.join().is_err()
    });
    assert!(panicked);
    on_a_small_stack(|| {
        let Locked::Torn(torn) = lock.shared_ref().lock().unwrap() else { panic!("it is torn") };
        assert_eq!(field!(torn.number).load().unwrap(), 1);
        assert_eq!(torn.shared_ref().view().unwrap().read::<u64>(0).unwrap(), 1);
    });
}

#[test]
fn atomics_under_a_lock_held_for_reading_are_used_in_place() {
    let counts = Segment::<RwLock<[AtomicU64; 2]>>::anonymous().unwrap();
    let ReadLocked::Clean(guard) = counts.shared_ref().read().unwrap() else {
        panic!("nobody died")
    };
    guard.read_ref().get(1).unwrap().fetch_add(5, Ordering::SeqCst);
    assert_eq!(guard.field(|counts| &counts[1]).load(Ordering::SeqCst), 5);
}

#[test]
fn stores_of_a_closure_into_the_part_that_it_names_reach_no_value() {
    let counts = Segment::<[AtomicU64; 1024]>::anonymous().unwrap();
    let named = counts.value().field(|counts| {
        counts[7].store(1, Ordering::SeqCst);
        &counts[7]
    });
    assert_eq!(named.load(Ordering::SeqCst), 0);
}
