//! Random sequences of operations, folio beside plain kernel calls on an equal file or equal
//! memory: after each step the outcomes, the memory and the files are compared.
//!
//! To learn how the kernel answers an access, the test calls process_vm_readv(2) and
//! process_vm_writev(2) on its own process: these calls obey the same protections and ends of
//! files, and answer a fault with EFAULT or a short count.
//!
//! A failure prints the seed; `FOLIO_SEED=… cargo test differential` runs that sequence again.

use crate::common::effort::scaled;
use crate::common::random::{Random, seed};
use crate::common::{End, disk_dir, in_child, memory_dir, page, skip};
use folio::{Discard, Errno, Error, FaultCause, MapOptions, Prot, Region, Resize, WriteBack};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Operations in a thorough run of the test.
const OPERATIONS: u64 = 20_000;
/// Operations on one pair of maps, before the next.
const ROUND: usize = 50;
/// The most pages of a map.
const PAGES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Anonymous,
    Shared,
    Private,
    ReadOnly,
}

/// The other side: a map made, changed and unmapped by plain calls.
struct Plain {
    start: *mut u8,
    len: usize,
}

/// The answer of a plain call.
type Answer = Result<(), Errno>;

fn answer(result: i32) -> Answer {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap())
    }
}

impl Plain {
    fn new(kind: Kind, file: Option<&File>, len: usize) -> Self {
        let (prot, flags) = match kind {
            Kind::Anonymous => {
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            }
            Kind::Shared => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            Kind::Private => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
            Kind::ReadOnly => (libc::PROT_READ, libc::MAP_SHARED),
        };
        let fd = file.map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: a new map, anywhere.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { start: start.cast(), len }
    }

    fn at(&self, offset: usize) -> *mut libc::c_void {
        self.start.wrapping_add(offset).cast()
    }

    fn protect(&self, range: &Range<usize>, prot: Prot) -> Answer {
        // SAFETY: the map is this side's own, and nothing refers to its bytes.
        answer(unsafe { libc::mprotect(self.at(range.start), range.len(), prot.bits()) })
    }

    fn unmap(&self, range: &Range<usize>) -> Answer {
        // SAFETY: the map is this side's own, and nothing refers to its bytes.
        answer(unsafe { libc::munmap(self.at(range.start), range.len()) })
    }

    fn sync(&self, range: &Range<usize>, flags: i32) -> Answer {
        // SAFETY: changes no byte.
        answer(unsafe { libc::msync(self.at(range.start), range.len(), flags) })
    }

    fn discard(&self, range: &Range<usize>, advice: i32) -> Answer {
        // SAFETY: the map is this side's own, and nothing refers to its bytes.
        answer(unsafe { libc::madvise(self.at(range.start), range.len(), advice) })
    }

    fn resize(&mut self, len: usize, flags: i32) -> Answer {
        // SAFETY: the map is this side's own, and nothing refers to its bytes.
        let start = unsafe { libc::mremap(self.start.cast(), self.len, len, flags) };
        if start == libc::MAP_FAILED {
            return answer(-1);
        }
        (self.start, self.len) = (start.cast(), len);
        Ok(())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.unmap(&(0..self.len));
    }
}

/// How many bytes the kernel can copy from `start` before a fault.
fn kernel_reads(start: *const u8, buffer: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: start.cast_mut().cast(), iov_len: buffer.len() };
    // SAFETY: the kernel writes into `buffer` only, and returns an error for memory that cannot be
    // read.
    let count = unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(count).unwrap_or(0)
}

/// How many bytes the kernel can copy to `start` before a fault.
fn kernel_writes(start: *mut u8, bytes: &[u8]) -> usize {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: start.cast(), iov_len: bytes.len() };
    // SAFETY: the target is one of the two maps, to whose bytes nothing refers.
    let count = unsafe {
        libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0)
    };
    usize::try_from(count).unwrap_or(0)
}

/// The bytes of a range of memory, and which of its pages cannot be read (their bytes are zero
/// here).
fn memory(start: *const u8, len: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut bad) = (vec![0; len], Vec::new());
    let mut next = 0;
    while next < len {
        next += kernel_reads(start.wrapping_add(next), &mut bytes[next..]);
        if next < len {
            bad.push(next / page());
            next += page();
        }
    }
    (bytes, bad)
}

fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Both sides, and the operations so far.
struct Pair {
    /// The two files, open for reading and writing: folio's, and the other.
    files: Option<[File; 2]>,
    region: Region,
    plain: Plain,
    random: Random,
    on_disk: bool,
    log: Vec<String>,
}

impl Pair {
    fn new(kind: Kind, dir: &Path, mut random: Random) -> Self {
        let len = (1 + random.below(PAGES)) * page();
        if kind == Kind::Anonymous {
            let region = MapOptions::new().region(len, Prot::READ_WRITE).unwrap();
            let plain = Plain::new(kind, None, len);
            return Self { files: None, region, plain, random, on_disk: false, log: Vec::new() };
        }
        // Often as long as the map, else shorter or longer, and rarely whole pages.
        let size = if random.below(2) == 0 { len } else { random.below(PAGES * page()) };
        let bytes = random.bytes(size);
        let files = ["folio", "plain"].map(|name| {
            std::fs::write(dir.join(name), &bytes).unwrap();
            File::options().read(true).write(true).open(dir.join(name)).unwrap()
        });
        let options = MapOptions::new().len(len);
        let (region, plain) = match kind {
            Kind::Anonymous => unreachable!("done above"),
            Kind::Shared => (options.map_mut(&files[0]).unwrap().into_region(), Some(&files[1])),
            Kind::Private => {
                (options.map_private(&files[0]).unwrap().into_region(), Some(&files[1]))
            }
            Kind::ReadOnly => {
                (options.map(File::open(dir.join("folio")).unwrap()).unwrap().into_region(), None)
            }
        };
        let plain = match plain {
            Some(file) => Plain::new(kind, Some(file), len),
            None => Plain::new(kind, Some(&File::open(dir.join("plain")).unwrap()), len),
        };
        Self {
            files: Some(files),
            region,
            plain,
            random,
            on_disk: false,
            log: vec![format!("{kind:?}, {size} bytes, map {len}")],
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!("{what}, after\n{}", self.log.join("\n"))
    }

    #[track_caller]
    fn check(&self, good: bool, what: std::fmt::Arguments<'_>) {
        if !good {
            self.fail(&what.to_string());
        }
    }

    /// Whether the two sides gave the same answer.
    #[track_caller]
    fn same(&self, ours: &folio::Result<()>, plain: Answer) {
        if ours.as_ref().copied().map_err(Error::errno) != plain {
            self.fail(&format!("folio says {ours:?}, the kernel {plain:?}"));
        }
    }

    /// Whether folio refused this itself, with this errno.
    #[track_caller]
    fn refused<T: std::fmt::Debug>(&self, ours: &folio::Result<T>, errno: Errno) {
        let good = ours.as_ref().is_err_and(|error| {
            error.errno() == errno && error.call_error().is_some_and(|refusal| !refusal.by_kernel())
        });
        self.check(good, format_args!("folio says {ours:?}, and should refuse with {errno:?}"));
    }

    /// Whether a part of the range was unmapped, as the kernel sees it.
    fn has_hole(&self, range: &Range<usize>) -> bool {
        !range.is_empty() && self.plain.sync(&around(range), libc::MS_ASYNC) == Err(Errno::NOMEM)
    }

    /// Mostly whole pages, sometimes any bytes.
    fn pages(&mut self) -> Range<usize> {
        if self.random.below(8) == 0 {
            return self.random.any_range(self.region.len());
        }
        let pages = self.random.any_range(self.region.len() / page());
        pages.start * page()..pages.end * page()
    }

    /// Checks how an access of `range` ended, of which the kernel could copy `good` bytes.
    #[track_caller]
    fn ended(&self, ours: &folio::Result<()>, range: &Range<usize>, good: usize) {
        if good == range.len() {
            return self.check(ours.is_ok(), format_args!("folio says {ours:?}, the kernel can"));
        }
        if self.has_hole(range) {
            return self.refused(ours, Errno::NOMEM);
        }
        let Err(Error::Fault(fault)) = ours else {
            self.fail(&format!("folio says {ours:?}, the kernel faults after {good} bytes"));
        };
        let first = range.start + good;
        self.check(fault.range().start == first, format_args!("{fault:?} should start at {first}"));
        let page_end = (first / page() + 1) * page();
        self.check(
            fault.range().end == page_end.min(range.end),
            format_args!("{fault:?} should end with its page"),
        );
        let inside = self.files.as_ref().is_none_or(|[file, _]| {
            (first / page() * page()) < file.metadata().unwrap().len() as usize
        });
        let cause = fault.cause();
        self.check(
            cause == FaultCause::Protection || cause == FaultCause::PastEnd && !inside,
            format_args!("{fault:?} has the wrong cause"),
        );
    }

    /// The kernel zeroes bytes that were stored behind the end of a file, on its last page, when it
    /// writes the page back to a disk. The test cannot choose that moment, so it writes back at
    /// once.
    fn clear_tail(&self) {
        let Some([file, _]) = self.files.as_ref().filter(|_| self.on_disk) else { return };
        let size = file.metadata().unwrap().len() as usize;
        let zeros =
            vec![0; (size.next_multiple_of(page()) - size) * usize::from(size < self.region.len())];
        let ours = kernel_writes(self.region.as_ptr().wrapping_add(size), &zeros);
        let theirs = kernel_writes(self.plain.at(size).cast(), &zeros);
        self.check(ours == theirs, format_args!("behind the end one side can be written"));
    }

    /// One operation on both sides; `false` if the kernel's own luck set them apart.
    fn step(&mut self) -> bool {
        match self.random.below(20) {
            0..4 => self.read(),
            4..9 => self.write(),
            9..12 => self.protect(),
            12 => self.sync(),
            13 => self.discard(),
            14 => self.split_and_merge(),
            15 => {
                if !self.resize() {
                    return false;
                }
            }
            // Few, since unmapped memory stays unmapped for the rest of the round.
            16 if self.random.below(8) == 0 => self.unmap(),
            16 | 17 => self.truncate(),
            _ => self.write_file(),
        }
        self.compare();
        true
    }

    fn read(&mut self) {
        let range = self.random.any_range(self.region.len());
        self.log.push(format!("read {range:?}"));
        let (mut ours, mut theirs) = (vec![0; range.len()], vec![0; range.len()]);
        let result = self.region.read_at(&mut ours, range.start);
        let good = kernel_reads(self.plain.at(range.start).cast(), &mut theirs);
        self.ended(&result, &range, good);
        self.check(result.is_err() || ours == theirs, format_args!("other bytes were read"));
    }

    fn write(&mut self) {
        let range = self.random.any_range(self.region.len());
        self.log.push(format!("write {range:?}"));
        let bytes = self.random.bytes(range.len());
        let result = self.region.write_at(&bytes, range.start);
        let good = kernel_writes(self.plain.at(range.start).cast(), &bytes);
        self.ended(&result, &range, good);
        if result.is_err() {
            // Nothing promises which bytes a failed write has stored: both sides store page by
            // page.
            let mut next = range.start;
            while next < range.end {
                let end = range.end.min((next / page() + 1) * page());
                let part = &bytes[next - range.start..end - range.start];
                let ours = kernel_writes(self.region.as_ptr().wrapping_add(next), part);
                let theirs = kernel_writes(self.plain.at(next).cast(), part);
                self.check(ours == theirs, format_args!("page at {next}: one side can be written"));
                next = end;
            }
        }
        self.clear_tail();
    }

    fn protect(&mut self) {
        let range = self.pages();
        let prot = self.random.pick(&[Prot::NONE, Prot::READ, Prot::READ_WRITE, Prot::READ_WRITE]);
        self.log.push(format!("protect {range:?} {prot}"));
        let result = self.region.protect(range.clone(), prot);
        if self.has_hole(&range) {
            self.refused(&result, Errno::NOMEM);
        } else if is_whole(&range) {
            self.same(&result, self.plain.protect(&range, prot));
        } else {
            self.refused(&result, Errno::INVAL);
        }
    }

    fn unmap(&mut self) {
        let range = self.pages();
        self.log.push(format!("unmap {range:?}"));
        let result = self.region.unmap_range(range.clone());
        if !is_whole(&range) {
            self.refused(&result, Errno::INVAL);
        } else if range.is_empty() {
            self.same(&result, Ok(()));
        } else {
            self.same(&result, self.plain.unmap(&range));
        }
    }

    fn sync(&mut self) {
        let range = self.random.any_range(self.region.len());
        let (how, flags) = self.random.pick(&[
            (WriteBack::Start, libc::MS_ASYNC),
            (WriteBack::Start, libc::MS_ASYNC),
            (WriteBack::Wait, libc::MS_SYNC),
            (WriteBack::Invalidate, libc::MS_SYNC | libc::MS_INVALIDATE),
        ]);
        self.log.push(format!("sync {range:?} {how:?}"));
        let result = self.region.sync(range.clone(), how);
        let plain = if range.is_empty() { Ok(()) } else { self.plain.sync(&around(&range), flags) };
        self.same(&result, plain);
    }

    fn discard(&mut self) {
        let range = self.pages();
        let (how, advice) = self.random.pick(&[
            (Discard::DontNeed, libc::MADV_DONTNEED),
            (Discard::Remove, libc::MADV_REMOVE),
        ]);
        self.log.push(format!("discard {range:?} {how:?}"));
        let result = self.region.discard(range.clone(), how);
        if self.has_hole(&range) {
            self.refused(&result, Errno::NOMEM);
        } else if !is_whole(&range) {
            self.refused(&result, Errno::INVAL);
        } else if range.is_empty() {
            self.same(&result, Ok(()));
        } else {
            self.same(&result, self.plain.discard(&range, advice));
        }
    }

    fn split_and_merge(&mut self) {
        let at = self.pages().start;
        self.log.push(format!("split and merge at {at}"));
        let rest = self.region.split_off(at);
        if !at.is_multiple_of(page()) {
            return self.refused(&rest, Errno::INVAL);
        }
        let Ok(rest) = rest else { self.fail(&format!("folio says {rest:?}")) };
        self.check(
            rest.as_ptr() == self.region.as_ptr().wrapping_add(at),
            format_args!("the rest lies elsewhere"),
        );
        // Each half reaches its own bytes.
        let bytes = self.random.bytes(page().min(rest.len()));
        let good = kernel_writes(self.plain.at(at).cast(), &bytes);
        let result = rest.write_at(&bytes, 0);
        self.check(
            result.is_ok() == (good == bytes.len()),
            format_args!("the rest is not what it was"),
        );
        let merged = self.region.merge(rest);
        self.check(merged.is_ok(), format_args!("folio says {merged:?}"));
        self.clear_tail();
    }

    fn resize(&mut self) -> bool {
        let length = self.random.below(PAGES * page());
        let how = self.random.pick(&[Resize::InPlace, Resize::MayMove]);
        self.log.push(format!("resize to {length} {how:?}"));
        let (old, new) = (self.region.len(), length.next_multiple_of(page()));
        let holes = self.has_hole(&(0..old));
        let result = self.region.resize(length, how);
        if length == 0 || holes {
            self.refused(&result, Errno::INVAL);
            return true;
        }
        let grows = new > old;
        if how == Resize::InPlace && grows {
            // Whether there is room behind is each side's own luck. Where folio had it, the other
            // side may move.
            if let Err(error) = &result {
                let excused = [Errno::NOMEM, Errno::FAULT].contains(&error.errno());
                self.check(excused, format_args!("folio says {error:?}"));
                return true;
            }
        }
        let flags = if how == Resize::MayMove || grows { libc::MREMAP_MAYMOVE } else { 0 };
        let plain = self.plain.resize(new, flags);
        // A map of several areas does not grow, and whether the kernel merges equal areas again
        // depends on its records of their pages, which differ between the two sides.
        let apart = |answer: Result<(), Errno>| answer == Err(Errno::FAULT);
        let ours = result.as_ref().copied().map_err(Error::errno);
        if grows && apart(ours) != apart(plain) {
            return false;
        }
        self.same(&result, plain);
        true
    }

    fn truncate(&mut self) {
        let size = self.random.below((PAGES + 1) * page());
        if let Some(files) = &self.files {
            self.log.push(format!("truncate to {size}"));
            for file in files {
                file.set_len(size as u64).unwrap();
            }
        }
    }

    fn write_file(&mut self) {
        let range = self.random.any_range(PAGES * page());
        if let Some(files) = &self.files {
            self.log.push(format!("write the file at {range:?}"));
            let bytes = self.random.bytes(range.len());
            for file in files {
                file.write_all_at(&bytes, range.start as u64).unwrap();
            }
        }
    }

    fn compare(&self) {
        self.check(self.region.len() == self.plain.len, format_args!("the lengths differ"));
        let ours = memory(self.region.as_ptr(), self.region.len());
        let theirs = memory(self.plain.start, self.plain.len);
        self.check(
            ours.1 == theirs.1,
            format_args!("unreadable pages: {:?} and {:?}", ours.1, theirs.1),
        );
        if ours.0 != theirs.0 {
            let first = ours.0.iter().zip(&theirs.0).position(|(a, b)| a != b);
            self.fail(&format!("the memory differs at {first:?}"));
        }
        if let Some([ours, theirs]) = &self.files {
            self.check(contents(ours) == contents(theirs), format_args!("the files differ"));
        }
    }
}

fn is_whole(range: &Range<usize>) -> bool {
    range.start.is_multiple_of(page()) && range.end.is_multiple_of(page())
}

/// All pages that hold a byte of a range that is not empty.
fn around(range: &Range<usize>) -> Range<usize> {
    range.start / page() * page()..range.end.next_multiple_of(page())
}

fn run(seed: u64, operations: usize) {
    let disk = disk_dir();
    let memory = memory_dir();
    for round in 0..operations.div_ceil(ROUND) {
        let mut random = Random(seed.wrapping_add(round as u64));
        let kind = random.pick(&[
            Kind::Anonymous,
            Kind::Shared,
            Kind::Shared,
            Kind::Private,
            Kind::ReadOnly,
        ]);
        // A disk has other ways than tmpfs, and takes its time.
        let dir = memory.as_ref().filter(|_| round % 16 != 0).unwrap_or(&disk);
        let mut pair = Pair::new(kind, dir.path(), random);
        pair.on_disk = std::ptr::eq(dir, &raw const disk);
        pair.compare();
        (0..ROUND).all(|_| pair.step());
    }
}

#[test]
fn folio_does_as_the_kernel_does() {
    let mut probe = [0; 4];
    if kernel_reads([1_u8, 2, 3, 4].as_ptr(), &mut probe) != 4 {
        return skip("process_vm_readv is not allowed here");
    }
    let seed = seed();
    let operations = scaled(OPERATIONS) as usize;
    // In a child of its own, where no other thread maps anything into the holes.
    match in_child(|| run(seed, operations)) {
        End::Exited(0) => {}
        End::Panicked(message) => panic!("FOLIO_SEED={seed}: {message}"),
        end => panic!("FOLIO_SEED={seed}: the child ended with {end:?}"),
    }
}

#[test]
fn the_comparison_sees_a_difference() {
    // The test above can fail: a byte, a protection, a file that differs is found.
    let spoil: [fn(&mut Pair); 3] = [
        |pair| assert_eq!(kernel_writes(pair.plain.start, &[0xAA, 0x55]), 2),
        |pair| pair.plain.protect(&(0..page()), Prot::NONE).unwrap(),
        |pair| pair.files.as_ref().unwrap()[1].set_len(1).unwrap(),
    ];
    for spoil in spoil {
        let dir = disk_dir();
        let end = in_child(|| {
            let mut pair = Pair::new(Kind::Shared, dir.path(), Random(1));
            for file in pair.files.as_ref().unwrap() {
                file.set_len((PAGES * page()) as u64).unwrap();
            }
            pair.compare();
            spoil(&mut pair);
            pair.compare();
        });
        assert!(
            matches!(&end, End::Panicked(message) if message.contains("iffer") || message.contains("unreadable")),
            "{end:?}"
        );
    }
}
