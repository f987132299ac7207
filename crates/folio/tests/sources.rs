//! Each source's own rules, asked through the trait as any user could: no pager.

mod common;

use common::{disk_dir, memory_dir, skip};
use folio::source::{
    Blocking, Direct, FlushRequest, Function, LocalFile, Memory, ReadAt, ReadRequest, Source,
    Version, WritableMemory, WriteRequest, Zeros,
};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// One read: the buffer afterwards, and the result.
fn read(source: &impl Source, offset: u64, len: usize) -> (Vec<u8>, io::Result<usize>) {
    let (send, receive) = mpsc::channel();
    let buffer = vec![0xCC; len].into_boxed_slice();
    let request = ReadRequest::into_buffer(offset, buffer, move |bytes, result| {
        send.send((bytes.into_vec(), result)).unwrap();
    });
    source.read(vec![request]);
    receive.recv_timeout(PATIENCE).expect("an answer")
}

/// The bytes of a read that gave all that was asked for.
#[track_caller]
fn whole(source: &impl Source, offset: u64, len: usize) -> Vec<u8> {
    let (bytes, result) = read(source, offset, len);
    assert_eq!(result.unwrap(), len);
    bytes
}

fn write(source: &impl Source, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let (send, receive) = mpsc::channel();
    let request = WriteRequest::of_buffer(offset, bytes.into(), move |_, result| {
        send.send(result).unwrap();
    });
    source.write(vec![request]);
    receive.recv_timeout(PATIENCE).expect("an answer").map(drop)
}

fn flush(source: &impl Source) -> io::Result<()> {
    let (send, receive) = mpsc::channel();
    source.flush(FlushRequest::then(move |result| send.send(result).unwrap()));
    receive.recv_timeout(PATIENCE).expect("an answer")
}

fn file_with(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("file");
    fs::write(&path, bytes).unwrap();
    path
}

/// Reads that start and end everywhere around pages and the end give the right bytes.
fn reads_anywhere(source: &impl Source, bytes: &[u8]) {
    let len = bytes.len();
    assert_eq!(source.len().unwrap(), len as u64);
    for offset in [0, 1, 511, 512, 4_095, 4_096, 4_097, 65_536, len - 4_097, len - 1] {
        for count in [1, 511, 512, 513, 4_096, 5_000, 100_000] {
            let count = count.min(len - offset);
            assert!(
                whole(source, offset as u64, count) == bytes[offset..offset + count],
                "{count} at {offset}"
            );
        }
    }
}

/// Past the end there is nothing, and that is said.
fn ends_short(source: &impl Source, bytes: &[u8]) {
    let len = bytes.len();
    let (got, result) = read(source, len as u64 - 100, 4_096);
    assert_eq!(result.unwrap(), 100);
    assert_eq!(got[..100], bytes[len - 100..]);
    for offset in [len as u64, len as u64 + 1, 1 << 40, u64::MAX >> 1] {
        let (_, result) = read(source, offset, 4_096);
        // An offset that no file can have may be an error instead.
        assert!(
            result.as_ref().map_or(offset > len as u64 + 1, |&count| count == 0),
            "{offset}: {result:?}"
        );
    }
}

// Memory, zeros.

#[test]
fn memory_is_read_at_any_offset_and_ends_short() {
    let bytes = pattern(200_777);
    let shared: Arc<[u8]> = bytes.clone().into();
    for source in
        [Memory::from(bytes.clone()), Memory::from(bytes.clone().into_boxed_slice()), shared.into()]
    {
        reads_anywhere(&source, &bytes);
        ends_short(&source, &bytes);
        assert_eq!(source.version().unwrap(), Version::CONSTANT);
    }
}

#[test]
fn memory_refuses_writes_and_lengths() {
    let source = Memory::from(pattern(100));
    assert!(!source.is_writable());
    assert_eq!(write(&source, 0, &[9]).unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(source.resize(5).unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert_eq!(whole(&source, 0, 100), pattern(100));
}

#[test]
fn zeros_are_zeros_to_their_end() {
    let source = Zeros::new(1 << 40);
    assert_eq!(whole(&source, (1 << 40) - 5_000, 5_000), vec![0; 5_000]);
    let (got, result) = read(&source, (1 << 40) - 10, 20);
    assert_eq!((result.unwrap(), &got[..10]), (10, &[0; 10][..]));
    assert_eq!(read(&source, 1 << 40, 1).1.unwrap(), 0);
    assert!(write(&source, 0, &[1]).is_err());
    assert!(Zeros::new(0).is_empty().unwrap());
}

#[test]
fn writable_memory_is_written_in_place_and_says_a_new_version_each_time() {
    let source = WritableMemory::new(pattern(10_000));
    assert!(source.is_writable());
    reads_anywhere(&WritableMemory::new(pattern(200_777)), &pattern(200_777));
    let first = source.version().unwrap();
    assert_eq!(source.version().unwrap(), first);
    write(&source, 5_000, &[7; 100]).unwrap();
    let second = source.version().unwrap();
    assert_ne!(first, second);
    let mut want = pattern(10_000);
    want[5_000..5_100].fill(7);
    assert_eq!(source.contents(), want);
    source.resize(10_001).unwrap();
    assert_ne!(source.version().unwrap(), second);
    flush(&source).unwrap();
}

#[test]
fn a_write_past_the_end_of_writable_memory_writes_nothing() {
    let source = WritableMemory::new(pattern(1_000));
    for offset in [999, 1_000, u64::MAX - 1] {
        assert_eq!(
            write(&source, offset, &[1, 2]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput,
            "{offset}"
        );
    }
    assert_eq!(source.contents(), pattern(1_000));
}

#[test]
fn writable_memory_grows_by_zeros_and_shrinks() {
    let source = WritableMemory::new(vec![9; 100]);
    source.resize(50).unwrap();
    source.resize(200).unwrap();
    assert_eq!(source.contents(), [vec![9; 50], vec![0; 150]].concat());
    assert!(source.resize(u64::MAX).is_err());
    assert_eq!(source.len().unwrap(), 200);
}

// Functions.

fn offsets(len: u64) -> Function {
    Function::new("offsets", len, |offset, buffer: &mut [u8]| {
        for (at, byte) in (offset..).zip(buffer) {
            *byte = (at ^ (at >> 8) ^ (at >> 16)) as u8;
        }
        Ok(())
    })
}

#[test]
fn a_function_makes_bytes_at_any_offset_and_ends_short() {
    reads_anywhere(&offsets(200_777), &pattern(200_777));
    ends_short(&offsets(200_777), &pattern(200_777));
}

#[test]
fn a_function_is_never_asked_past_its_end() {
    let source = Function::new("checks", 10_000, |offset, buffer: &mut [u8]| {
        assert!(
            !buffer.is_empty() && offset + buffer.len() as u64 <= 10_000,
            "{} at {offset}",
            buffer.len()
        );
        Ok(())
    });
    assert_eq!(read(&source, 9_000, 4_096).1.unwrap(), 1_000);
    assert_eq!(read(&source, 10_000, 4_096).1.unwrap(), 0);
    assert_eq!(read(&source, u64::MAX, 4_096).1.unwrap(), 0);
}

#[test]
fn bytes_that_a_function_leaves_out_are_zero() {
    let source = Function::new("nothing", 10_000, |_, _: &mut [u8]| Ok(()));
    assert_eq!(whole(&source, 100, 500), vec![0; 500]);
}

#[test]
fn a_function_that_fails_is_an_error_with_its_words() {
    let source = Function::new("fails", 100, |_, _: &mut [u8]| Err(io::Error::other("no more")));
    assert_eq!(read(&source, 0, 100).1.unwrap_err().to_string(), "no more");
}

#[test]
fn a_function_that_panics_is_an_error_and_serves_the_next_read() {
    let calls = AtomicUsize::new(0);
    let source = Function::new("panics", 100, move |_, buffer: &mut [u8]| {
        assert!(calls.fetch_add(1, Ordering::SeqCst) >= 20, "not ready");
        buffer.fill(3);
        Ok(())
    });
    // More panics than it has threads.
    for _ in 0..20 {
        let error = read(&source, 0, 100).1.unwrap_err();
        assert!(error.to_string().contains("not ready"), "{error}");
    }
    assert_eq!(whole(&source, 0, 100), [3; 100]);
}

#[test]
fn a_slow_function_holds_up_no_other_request() {
    let source = Function::new("slow", 1 << 20, |_, buffer: &mut [u8]| {
        std::thread::sleep(Duration::from_millis(300));
        buffer.fill(1);
        Ok(())
    });
    let (send, receive) = mpsc::channel();
    let start = std::time::Instant::now();
    let requests = (0..4).map(|n| {
        let send = send.clone();
        ReadRequest::into_buffer(n * 4_096, vec![0; 4_096].into(), move |bytes, result| {
            send.send((bytes[0], result.unwrap())).unwrap();
        })
    });
    source.read(requests.collect());
    assert!(start.elapsed() < Duration::from_millis(250), "read() waited");
    for _ in 0..4 {
        assert_eq!(receive.recv_timeout(PATIENCE).unwrap(), (1, 4_096));
    }
    assert!(
        start.elapsed() < Duration::from_millis(1_100),
        "one after the other: {:?}",
        start.elapsed()
    );
}

#[test]
fn a_function_has_the_options_that_it_states() {
    let source = offsets(100).block(5_000).deadline(Duration::from_secs(2));
    assert_eq!(
        (Source::block(&source), Source::deadline(&source)),
        (8_192, Duration::from_secs(2))
    );
    assert_eq!((source.name().as_str(), Source::block(&offsets(1))), ("offsets", 4_096));
}

// Requests.

#[test]
fn a_request_that_is_dropped_has_failed() {
    let (send, receive) = mpsc::channel();
    let kept = send.clone();
    drop(ReadRequest::into_buffer(0, vec![0; 10].into(), move |_, result| {
        kept.send(result).unwrap();
    }));
    let kept = send.clone();
    drop(WriteRequest::of_buffer(0, vec![0; 10].into(), move |_, result| {
        kept.send(result).unwrap();
    }));
    drop(FlushRequest::then(move |result| send.send(result.map(|()| 0)).unwrap()));
    for _ in 0..3 {
        let error = receive.try_recv().unwrap().unwrap_err();
        assert!(error.to_string().contains("dropped"), "{error}");
    }
    assert!(receive.try_recv().is_err(), "each ends once");
}

#[test]
fn a_request_that_is_completed_ends_once_with_its_buffer() {
    let (send, receive) = mpsc::channel();
    let mut request = ReadRequest::into_buffer(70, vec![0; 10].into(), move |bytes, result| {
        send.send((bytes, result)).unwrap();
    });
    assert_eq!((request.offset(), request.len(), request.is_empty()), (70, 10, false));
    request.buffer().fill(5);
    request.complete(Ok(10));
    let (bytes, result) = receive.try_recv().unwrap();
    assert_eq!((&bytes[..], result.unwrap()), (&[5; 10][..], 10));
    assert!(receive.try_recv().is_err());
}

#[test]
fn a_request_may_be_completed_by_another_thread() {
    let (send, receive) = mpsc::channel();
    let request = WriteRequest::of_buffer(3, pattern(10).into(), move |bytes, result| {
        send.send((bytes, result)).unwrap();
    });
    std::thread::spawn(move || {
        assert_eq!((request.offset(), request.bytes()), (3, &pattern(10)[..]));
        request.complete(Ok(()));
    });
    let (bytes, result) = receive.recv_timeout(PATIENCE).unwrap();
    assert_eq!((bytes.into_vec(), result.unwrap()), (pattern(10), 10));
}

// Blocking readers.

/// Gives a few bytes at a time.
struct Dribble(Vec<u8>);

impl ReadAt for Dribble {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or(&[]);
        let count = rest.len().min(buffer.len()).min(777);
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

#[test]
fn a_blocking_reader_that_gives_little_at_a_time_is_read_whole() {
    let source = Blocking::new("dribble", Dribble(pattern(200_777)));
    reads_anywhere(&source, &pattern(200_777));
    ends_short(&source, &pattern(200_777));
}

#[test]
fn a_reader_that_seeks_is_a_source() {
    let source = Blocking::seekable("cursor", io::Cursor::new(pattern(200_777))).unwrap();
    reads_anywhere(&source, &pattern(200_777));
    ends_short(&source, &pattern(200_777));
}

#[test]
fn a_blocking_files_version_is_that_of_its_bytes_and_not_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, [1; 5_000]).unwrap();
    let source = Blocking::new("file", File::open(&path).unwrap());
    let before = source.version().unwrap();
    // The clock of the file's times has to go on.
    std::thread::sleep(Duration::from_millis(20));
    std::fs::hard_link(&path, dir.path().join("link")).unwrap();
    std::fs::rename(&path, dir.path().join("renamed")).unwrap();
    assert_eq!(source.version().unwrap(), before);
    std::fs::remove_file(dir.path().join("renamed")).unwrap();
    assert_eq!(source.version().unwrap(), before);
}

#[test]
fn a_file_is_a_blocking_reader_with_a_version() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(200_777));
    let source = Blocking::new("file", File::open(&path).unwrap());
    reads_anywhere(&source, &pattern(200_777));
    let before = source.version().unwrap();
    fs::write(&path, b"other").unwrap();
    assert_ne!(source.version().unwrap(), before);
}

/// Fails as its number says.
struct Bad(usize);

impl ReadAt for Bad {
    fn len(&self) -> io::Result<u64> {
        Ok(10_000)
    }

    fn read_at(&self, buffer: &mut [u8], _: u64) -> io::Result<usize> {
        match self.0 {
            0 => Err(io::Error::other("broken")),
            1 => panic!("at once"),
            _ => Ok(buffer.len() + 1),
        }
    }
}

#[test]
fn a_reader_that_fails_panics_or_lies_is_an_error() {
    for (bad, says) in [(0, "broken"), (1, "at once"), (2, "more bytes than there was room for")] {
        let source = Blocking::new("bad", Bad(bad)).threads(1);
        for _ in 0..3 {
            let error = read(&source, 0, 100).1.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

/// Interrupted by a signal at every second call.
struct Interrupted(AtomicUsize);

impl ReadAt for Interrupted {
    fn len(&self) -> io::Result<u64> {
        Ok(1_000)
    }

    fn read_at(&self, buffer: &mut [u8], _: u64) -> io::Result<usize> {
        if self.0.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        buffer[0] = 4;
        Ok(1)
    }
}

#[test]
fn a_reader_that_is_interrupted_is_read_on() {
    assert_eq!(
        whole(&Blocking::new("interrupted", Interrupted(AtomicUsize::new(0))), 0, 50),
        [4; 50]
    );
}

// Local files.

/// A file opened in every way, with its tail anywhere in a block.
fn files(dir: &Path, len: usize) -> [(LocalFile, &'static str); 4] {
    let path = file_with(dir, &pattern(len));
    let plain = File::options().read(true).write(true).open(&path).unwrap();
    [
        (LocalFile::open(&path).unwrap(), "read-only"),
        (LocalFile::open_writable(&path).unwrap(), "writable"),
        (LocalFile::open_writable(&path).unwrap().direct(Direct::Never), "buffered"),
        (LocalFile::from_file(plain).unwrap(), "from a descriptor"),
    ]
}

#[test]
fn a_file_is_read_at_any_offset_whatever_its_length() {
    let dir = disk_dir();
    for len in [200_704, 200_705, 200_777, 201_215, 204_799] {
        for (source, how) in files(dir.path(), len) {
            println!("{how}, {len} bytes, direct: {}", source.is_direct());
            reads_anywhere(&source, &pattern(len));
            ends_short(&source, &pattern(len));
        }
    }
}

#[test]
fn many_reads_at_once_give_each_its_own_bytes() {
    let dir = disk_dir();
    let bytes = pattern(1 << 20);
    let source = LocalFile::open(file_with(dir.path(), &bytes)).unwrap();
    let (send, receive) = mpsc::channel();
    let requests = (0..256_u64).map(|n| {
        let send = send.clone();
        ReadRequest::into_buffer(n * 4_096, vec![0; 4_096].into(), move |bytes, result| {
            send.send((n, bytes, result.unwrap())).unwrap();
        })
    });
    source.read(requests.collect());
    for _ in 0..256 {
        let (n, got, count) = receive.recv_timeout(PATIENCE).unwrap();
        let at = n as usize * 4_096;
        assert!(count == 4_096 && got[..] == bytes[at..at + 4_096], "page {n}");
    }
}

#[test]
fn writes_anywhere_in_a_file_are_seen_by_every_reader_and_never_make_it_longer() {
    let dir = disk_dir();
    for len in [8_192, 8_193, 9_000, 12_287] {
        for (source, how) in files(dir.path(), len).into_iter().skip(1) {
            let mut want = pattern(len);
            fs::write(dir.path().join("file"), &want).unwrap();
            for (round, (offset, count)) in [
                (0, len),
                (0, 4_096),
                (1, 10),
                (4_000, 4_000),
                (4_096, len - 4_096),
                (len - 1, 1),
                (0, len),
            ]
            .into_iter()
            .enumerate()
            {
                let bytes = vec![round as u8 + 100; count];
                write(&source, offset as u64, &bytes).unwrap();
                want[offset..offset + count].copy_from_slice(&bytes);
                assert!(
                    fs::read(dir.path().join("file")).unwrap() == want,
                    "{how}: {count} at {offset} of {len}"
                );
                assert!(
                    whole(&source, 0, len) == want,
                    "{how}: {count} at {offset} of {len}, read back"
                );
            }
            flush(&source).unwrap();
        }
    }
}

#[test]
fn a_write_past_the_end_of_a_file_is_refused_and_writes_nothing() {
    let dir = disk_dir();
    for (source, how) in files(dir.path(), 5_000).into_iter().skip(1) {
        for offset in [904, 4_096, 5_000, 1 << 30, u64::MAX - 5] {
            assert!(write(&source, offset, &[1; 4_097]).is_err(), "{how} at {offset}");
        }
        assert!(fs::read(dir.path().join("file")).unwrap() == pattern(5_000), "{how}");
    }
}

#[test]
fn a_file_that_is_open_for_reading_refuses_writes_and_lengths() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(8_192));
    let source = LocalFile::open(&path).unwrap();
    assert!(!source.is_writable());
    assert!(write(&source, 0, &[1; 4_096]).is_err());
    assert!(source.resize(1).is_err());
    flush(&source).unwrap();
    assert!(fs::read(&path).unwrap() == pattern(8_192));
}

#[test]
fn a_files_version_changes_when_it_is_written_or_resized() {
    let dir = disk_dir();
    for (source, how) in files(dir.path(), 10_000).into_iter().skip(1) {
        // Longer than the tick of the file system's clock.
        let tick = || std::thread::sleep(Duration::from_millis(20));
        let mut versions = vec![source.version().unwrap()];
        assert_eq!(source.version().unwrap(), versions[0], "{how}");
        tick();
        write(&source, 0, &[1; 4_096]).unwrap();
        versions.push(source.version().unwrap());
        tick();
        File::options()
            .write(true)
            .open(dir.path().join("file"))
            .unwrap()
            .write_all_at(&[2], 0)
            .unwrap();
        versions.push(source.version().unwrap());
        tick();
        source.resize(20_000).unwrap();
        versions.push(source.version().unwrap());
        versions.dedup();
        assert_eq!(versions.len(), 4, "{how}: {versions:?}");
        source.resize(10_000).unwrap();
    }
}

#[test]
fn two_opens_of_one_file_have_one_identity_and_two_files_two() {
    let dir = disk_dir();
    let ways = files(dir.path(), 100);
    fs::hard_link(dir.path().join("file"), dir.path().join("link")).unwrap();
    fs::write(dir.path().join("other"), pattern(100)).unwrap();
    let identity = ways[0].0.identity();
    assert!(identity.is_some());
    assert!(ways.iter().all(|(source, _)| source.identity() == identity));
    assert_eq!(LocalFile::open(dir.path().join("link")).unwrap().identity(), identity);
    assert_ne!(LocalFile::open(dir.path().join("other")).unwrap().identity(), identity);
}

#[test]
fn a_shared_source_has_an_identity_and_others_have_none() {
    let source = Arc::new(WritableMemory::new(vec![1]));
    assert_eq!(Source::identity(&source), Source::identity(&Arc::clone(&source)));
    assert!(Source::identity(&source).is_some());
    assert_ne!(
        Source::identity(&source),
        Source::identity(&Arc::new(WritableMemory::new(vec![1])))
    );
    assert_eq!(Zeros::new(1).identity(), None);
    assert_eq!(Memory::from(vec![1]).identity(), None);
}

#[test]
fn a_file_grows_by_zeros_and_shrinks() {
    let dir = disk_dir();
    for (source, how) in files(dir.path(), 5_000).into_iter().skip(1) {
        fs::write(dir.path().join("file"), pattern(5_000)).unwrap();
        source.resize(4_500).unwrap();
        source.resize(100_000).unwrap();
        assert_eq!(source.len().unwrap(), 100_000, "{how}");
        let want = [&pattern(4_500)[..], &vec![0; 95_500]].concat();
        assert!(whole(&source, 0, 100_000) == want, "{how}");
        write(&source, 98_304, &[5; 1_696]).unwrap();
        assert_eq!(fs::metadata(dir.path().join("file")).unwrap().len(), 100_000, "{how}");
    }
}

#[test]
fn a_file_that_others_made_longer_or_shorter_says_its_present_length() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(9_000));
    let source = LocalFile::open(&path).unwrap();
    let other = File::options().write(true).open(&path).unwrap();
    other.set_len(4_200).unwrap();
    assert_eq!(source.len().unwrap(), 4_200);
    assert_eq!(read(&source, 4_096, 4_096).1.unwrap(), 104);
    other.set_len(50_000).unwrap();
    assert_eq!(whole(&source, 40_960, 4_096), vec![0; 4_096]);
}

#[test]
fn a_file_in_memory_is_a_source_without_direct_io() {
    let Some(dir) = memory_dir() else { return skip("there is no /dev/shm") };
    let path = file_with(dir.path(), &pattern(200_777));
    let source = LocalFile::open_writable(&path).unwrap();
    assert!(!source.is_direct());
    reads_anywhere(&source, &pattern(200_777));
    ends_short(&source, &pattern(200_777));
    write(&source, 200_700, &[9; 77]).unwrap();
    assert_eq!(fs::read(&path).unwrap()[200_700..], [9; 77]);
    flush(&source).unwrap();
}

#[test]
fn create_makes_a_file_of_zeros_and_empties_one_that_was_there() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(9_000));
    let source = LocalFile::create(&path, 5_000).unwrap();
    assert!(source.is_writable());
    assert_eq!(whole(&source, 0, 5_000), vec![0; 5_000]);
    assert_eq!(fs::read(&path).unwrap(), vec![0; 5_000]);
}

#[test]
fn objects_that_are_no_files_are_refused_with_their_name() {
    let dir = disk_dir();
    let pipe = dir.path().join("pipe");
    let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
    // SAFETY: the name ends with a zero.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let missing = dir.path().join("missing");
    for path in [dir.path(), &pipe, Path::new("/dev/null"), &missing] {
        let error = LocalFile::open(path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(LocalFile::open(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn descriptors_that_cannot_be_read_or_written_in_place_are_refused() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(5_000));
    let mut options = File::options();
    let refused = |file: File| LocalFile::from_file(file).unwrap_err().kind();
    assert_eq!(
        refused(File::options().write(true).open(&path).unwrap()),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        refused(File::options().read(true).append(true).open(&path).unwrap()),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        refused(options.read(true).custom_flags(libc::O_PATH).open(&path).unwrap()),
        io::ErrorKind::InvalidInput
    );
}

#[test]
fn a_descriptor_for_direct_io_is_read_at_any_offset_too() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(200_777));
    let direct = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path);
    let Ok(direct) = direct else { return skip("the disk takes no direct I/O") };
    let source = LocalFile::from_file(direct).unwrap();
    reads_anywhere(&source, &pattern(200_777));
    write(&source, 3, &[1; 5]).unwrap();
    assert_eq!(fs::read(&path).unwrap()[3..8], [1; 5]);
}

#[test]
fn a_file_is_read_whose_name_is_gone() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(200_777));
    let source = LocalFile::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    reads_anywhere(&source, &pattern(200_777));
}

#[test]
fn reads_that_are_under_way_outlive_their_source() {
    let dir = disk_dir();
    let source = LocalFile::open(file_with(dir.path(), &pattern(1 << 20))).unwrap();
    let (send, receive) = mpsc::channel();
    let requests = (0..64_u64).map(|n| {
        let send = send.clone();
        ReadRequest::into_buffer(n * 4_096, vec![0; 4_096].into(), move |_, result| {
            send.send(result).unwrap();
        })
    });
    source.read(requests.collect());
    drop(source);
    for _ in 0..64 {
        // Read, or a failure: never silence.
        let result = receive.recv_timeout(PATIENCE).expect("an answer");
        assert!(result.as_ref().map_or(true, |&count| count == 4_096), "{result:?}");
    }
}
