//! The reasons that shared memory's errors state are those of the call and of the object.

use crate::common::segment_dir::World;
use crate::common::{child_succeeds, is_root, says, skip};
use folio::Errno;
use folio::shm::{Channel, Log, Mutex, Segment, SegmentOptions, Start, Wait};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn a_descriptor_that_is_no_segment_is_not_to_be_removed() {
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    says(
        Segment::<u64>::from_fd(&null),
        Errno::INVAL,
        &["regular file", "Segment::file"],
        &["shm rm"],
    );
    let file = tempfile::tempfile().unwrap();
    says(Segment::<u64>::from_fd(&file), Errno::UCLEAN, &["Segment::file"], &["shm rm"]);
}

#[test]
fn only_names_of_the_directory_are_removed_by_the_command() {
    let world = World::new();
    std::fs::write(world.file("bad"), "no segment").unwrap();
    says(Segment::<u64>::open("bad"), Errno::UCLEAN, &["folio shm rm"], &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad");
    std::fs::write(&path, "no segment").unwrap();
    says(SegmentOptions::new().open_file::<u64>(&path), Errno::UCLEAN, &["rm(1)"], &["shm rm"]);
    says(
        SegmentOptions::new().create_file::<u64>(&path),
        Errno::EXIST,
        &["there is a file"],
        &["shm rm"],
    );
}

#[test]
fn a_name_of_no_segment_and_a_name_in_use_give_different_errors() {
    let world = World::new();
    std::fs::create_dir(world.file("dir")).unwrap();
    says(Segment::<u64>::create("dir"), Errno::EXIST, &["no regular file"], &["in use", "shm rm"]);
    let _used = Segment::<u64>::create("used").unwrap();
    says(Segment::<u64>::create("used"), Errno::EXIST, &["the name is in use"], &[]);
}

#[test]
fn a_leftover_of_an_untrusted_user_is_reported_as_one() {
    const STRANGER: u32 = 60_005;
    const OTHER: u32 = 60_006;
    if !is_root() {
        return skip("becoming another user needs root");
    }
    let world = World::new();
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let as_user = |user: u32, work: &dyn Fn()| {
        child_succeeds(|| {
            // SAFETY: changes the user of this process, and no memory.
            unsafe {
                assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
                assert_eq!(libc::setresgid(user, user, user), 0);
                assert_eq!(libc::setresuid(user, user, user), 0);
            }
            work();
        });
    };
    // The child ends without the destructors that would take the name away.
    as_user(STRANGER, &|| {
        std::mem::forget(SegmentOptions::new().mode(0o666).create::<u64>("left").unwrap());
    });
    as_user(OTHER, &|| {
        let made = SegmentOptions::new().mode(0o666).create::<u64>("left");
        says(made, Errno::EXIST, &["stale segment", "user 60005", "folio shm rm"], &["in use"]);
    });
}

#[test]
fn a_wait_that_is_over_names_its_object() {
    let short = Wait::new().timeout(Duration::from_millis(1));
    let channel = Channel::anonymous(1 << 16).unwrap();
    let mut receiver = channel.receiver().unwrap();
    receiver.set_wait(short);
    says(
        receiver.recv(&mut Vec::new()),
        Errno::TIMEDOUT,
        &["a sender sends"],
        &["who has it", "shm ls"],
    );
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, _receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    sender.set_wait(short);
    let full = (0..1000).find_map(|_| sender.send(&[0; 1000]).err()).unwrap();
    says(Err::<(), _>(full), Errno::TIMEDOUT, &["the receiver takes"], &["who has it"]);
    let log = Log::anonymous(1 << 16).unwrap();
    let _writer = log.writer().unwrap();
    let mut reader = log.reader(Start::Oldest).unwrap();
    reader.set_wait(short);
    says(reader.next(&mut Vec::new()), Errno::TIMEDOUT, &["the writer appends"], &["lock"]);
    let world = World::new();
    let mutex = Segment::<Mutex<u64>>::create("locked").unwrap();
    let _guard = mutex.shared_ref().lock().unwrap();
    let late = std::thread::scope(|scope| {
        scope.spawn(|| mutex.shared_ref().lock_with(short).map(drop).unwrap_err()).join().unwrap()
    });
    says(Err::<(), _>(late), Errno::TIMEDOUT, &["holds the lock", "folio shm ls"], &[]);
    drop(world);
}

#[test]
fn without_proc_shared_memory_says_that_proc_is_missing() {
    if !is_root() {
        return skip("hiding /proc needs root");
    }
    let segment = Segment::<u64>::anonymous().unwrap();
    let dir = tempfile::tempdir().unwrap();
    child_succeeds(|| {
        // SAFETY: a mount namespace of this child's own; the strings are constant.
        let hidden = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) == 0
                && libc::mount(
                    c"none".as_ptr(),
                    c"/proc".as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    std::ptr::null(),
                ) == 0
        };
        if !hidden {
            return skip("hiding /proc is not allowed");
        }
        let wrong = ["there is no such file", "does not exist"];
        says(
            Segment::<u64>::from_fd(segment.file()),
            Errno::NOENT,
            &["no /proc is mounted"],
            &wrong,
        );
        says(Segment::<u64>::anonymous(), Errno::NOENT, &["no /proc is mounted"], &wrong);
        let path = dir.path().join("segment");
        says(
            SegmentOptions::new().create_file::<u64>(path),
            Errno::NOENT,
            &["no /proc is mounted"],
            &wrong,
        );
    });
}
