//! Random operations on a pager's map of a file and on the kernel's map of an equal file, both
//! about as mmap(2) has it: memory and files are compared.
//!
//! A failure prints the seed: `FOLIO_SEED=…` runs the same operations again, `FOLIO_EFFORT=1000`
//! ten times as many.

use crate::common::disk_dir;
use crate::common::effort::scaled;
use crate::common::random::{Random, seed};
use crate::given::{MIB, pager, pattern};
use folio::source::LocalFile;
use folio::{Advice, PagedMut, PagedShared, Pager, Result, WriteBack};
use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Several times the budget.
const LEN: usize = 20 * MIB + 1_234;
/// As far as a map may grow.
const MOST: usize = 24 * MIB;
const BUDGET: usize = 4 * MIB;
/// The bytes of one operation: fewer than may be pinned.
const PIECE: usize = MIB;

/// The kernel's map of a file, with addresses for all its growth.
struct Plain {
    file: File,
    start: *mut u8,
    len: usize,
}

impl Plain {
    fn new(path: &Path, private: bool) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let flags = if private { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new map, anywhere.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), MOST, rights, flags, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self { len: file.metadata().unwrap().len() as usize, file, start: start.cast() }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped until drop, backed up to `len`, and nobody else has the file.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn resize(&mut self, len: usize) {
        self.file.set_len(len as u64).unwrap();
        self.len = len;
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // SAFETY: this map's own.
        unsafe { libc::munmap(self.start.cast(), MOST) };
    }
}

/// The pager's side.
enum Paged {
    Mut(PagedMut),
    Shared(PagedShared, PagedShared),
}

/// A call that all handles have.
macro_rules! of {
    ($side:expr, $map:ident => $call:expr) => {
        match $side {
            Paged::Mut($map) => $call,
            Paged::Shared($map, _) => $call,
        }
    };
}

impl Paged {
    fn new(pager: &Pager, kind: Kind, path: &Path) -> Self {
        let open = || LocalFile::open_writable(path).unwrap();
        match kind {
            Kind::Writable => Self::Mut(pager.map_mut(open()).unwrap()),
            Kind::Private => Self::Mut(pager.map_private(open()).unwrap()),
            Kind::Shared => {
                Self::Shared(pager.map_shared(open()).unwrap(), pager.map_shared(open()).unwrap())
            }
        }
    }

    /// By loads.
    fn load(&self, range: Range<usize>) -> Vec<u8> {
        match self {
            Self::Mut(map) => map[range].to_vec(),
            Self::Shared(_, map) => {
                let mut bytes = vec![0; range.len()];
                map.view().unwrap().copy_to(&mut bytes, range.start).unwrap();
                bytes
            }
        }
    }

    /// By stores.
    fn store(&mut self, bytes: &[u8], at: usize) {
        match self {
            Self::Mut(map) => map[at..at + bytes.len()].copy_from_slice(bytes),
            Self::Shared(map, _) => map.view().unwrap().copy_from(bytes, at).unwrap(),
        }
    }

    fn write_at(&mut self, bytes: &[u8], at: usize) -> Result<()> {
        of!(self, map => map.write_at(bytes, at))
    }

    fn read_at(&self, bytes: &mut [u8], at: usize) -> Result<()> {
        of!(self, map => map.read_at(bytes, at))
    }

    fn advise(&self, range: Range<usize>, advice: Advice) -> Result<()> {
        of!(self, map => map.advise(range, advice))
    }

    fn sync(&self, range: Range<usize>, how: WriteBack) -> Result<()> {
        of!(self, map => map.sync(range, how))
    }

    fn prefetch(&self, ranges: &[Range<usize>]) -> Result<()> {
        of!(self, map => map.prefetch(ranges))
    }

    fn resident(&self) -> Result<Vec<Range<usize>>> {
        of!(self, map => map.resident())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Writable,
    Private,
    Shared,
}

/// Says where it was when a comparison failed.
struct Place {
    seed: u64,
    step: u64,
    doing: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FOLIO_SEED={} at operation {}: {}", self.seed, self.step, self.doing);
        }
    }
}

#[track_caller]
fn same(ours: &[u8], plain: &[u8], from: usize) {
    // The whole at once first: byte by byte is slow.
    if ours == plain {
        return;
    }
    assert_eq!(ours.len(), plain.len());
    let at = ours.iter().zip(plain).position(|(a, b)| a != b).unwrap();
    panic!("byte {} is {:#x}, and {:#x} on the kernel's side", from + at, ours[at], plain[at]);
}

fn run(kind: Kind) {
    let dir = disk_dir();
    let (path, twin) = (dir.path().join("pager"), dir.path().join("kernel"));
    let first = pattern(LEN);
    fs::write(&path, &first).unwrap();
    fs::write(&twin, &first).unwrap();
    let seed = seed();
    let operations = scaled(4_000);
    let mut random = Random(seed);
    let mut place = Place { seed, step: 0, doing: String::new() };
    let pager = pager(BUDGET);
    let mut ours = Paged::new(&pager, kind, &path);
    let mut plain = Plain::new(&twin, kind == Kind::Private);
    let file = File::open(&path).unwrap();
    let files_agree = || same(&fs::read(&path).unwrap(), &fs::read(&twin).unwrap(), 0);
    for step in 0..operations {
        let len = plain.len;
        let range = random.range(len, PIECE);
        let (at, count) = (range.start, range.len());
        place.step = step;
        let mut doing = |what: &str| place.doing = format!("{what} of {range:?}");
        match random.below(100) {
            0..30 => {
                doing("a store");
                let mut bytes = vec![0; count];
                random.fill(&mut bytes);
                ours.store(&bytes, at);
                plain.bytes()[range].copy_from_slice(&bytes);
            }
            30..55 => {
                doing("a load");
                same(&ours.load(range.clone()), &plain.bytes()[range], at);
            }
            55..63 => {
                doing("read_at");
                let mut bytes = vec![0; count];
                ours.read_at(&mut bytes, at).unwrap();
                same(&bytes, &plain.bytes()[range], at);
            }
            63..73 => {
                doing("write_at");
                let mut bytes = vec![0; count];
                random.fill(&mut bytes);
                ours.write_at(&bytes, at).unwrap();
                plain.bytes()[range].copy_from_slice(&bytes);
            }
            73..77 => {
                doing("sync");
                ours.sync(range.clone(), WriteBack::Wait).unwrap();
                if kind != Kind::Private {
                    let mut bytes = vec![0; count];
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    same(&bytes, &plain.bytes()[range], at);
                }
            }
            77..79 => {
                doing("the start of a sync");
                ours.sync(range, WriteBack::Start).unwrap();
            }
            79..82 => {
                doing("prefetch");
                ours.prefetch(&[range, random.range(len, PIECE), random.range(len, PIECE)])
                    .unwrap();
            }
            82..85 => {
                doing("pin");
                if let Paged::Mut(map) = &ours {
                    let pinned = map.pin(range.clone()).unwrap();
                    map.advise(.., Advice::Cold).unwrap();
                    same(&pinned, &plain.bytes()[range], at);
                }
            }
            85..96 => {
                let advice = [
                    Advice::Cold,
                    Advice::Cold,
                    Advice::PageOut,
                    Advice::Normal,
                    Advice::Random,
                    Advice::Sequential,
                    Advice::WillNeed,
                    Advice::PopulateRead,
                ][random.below(8)];
                doing(&format!("{advice:?}"));
                ours.advise(range, advice).unwrap();
            }
            96..98 => {
                doing("resident");
                let runs = ours.resident().unwrap();
                assert!(runs.is_sorted_by(|a, b| a.end <= b.start), "{runs:?}");
                assert!(runs.iter().all(|run| run.start < run.end && run.end <= len), "{runs:?}");
            }
            98 => {
                if kind == Kind::Writable && random.below(4) == 0 {
                    let new = if random.below(2) == 0 {
                        // Near the end, where tails are made.
                        (len + random.below(10_000)).saturating_sub(5_000).clamp(1, MOST)
                    } else {
                        LEN / 2 + random.below(MOST - LEN / 2) + 1
                    };
                    // Between two pages, too.
                    let new = if random.below(3) == 0 {
                        new.next_multiple_of(4_096).min(MOST)
                    } else {
                        new
                    };
                    place.doing = format!("resize from {len} to {new}");
                    let Paged::Mut(map) = &mut ours else { unreachable!("a writable map") };
                    map.resize(new).unwrap();
                    plain.resize(new);
                    assert_eq!(fs::metadata(&path).unwrap().len(), new as u64);
                }
            }
            _ => {
                if random.below(10) == 0 {
                    "all of it".clone_into(&mut place.doing);
                    ours.sync(0..len, WriteBack::Wait).unwrap();
                    same(&ours.load(0..len), plain.bytes(), 0);
                    files_agree();
                }
            }
        }
    }
    "the end".clone_into(&mut place.doing);
    same(&ours.load(0..plain.len), plain.bytes(), 0);
    let stats = pager.stats().unwrap();
    assert!(
        stats.pages_evicted > 0 && stats.resident_bytes + stats.record_bytes <= stats.budget,
        "{stats:?}"
    );
    drop(ours);
    files_agree();
    if kind == Kind::Private {
        same(&fs::read(&path).unwrap(), &first, 0);
    }
}

#[test]
fn a_writable_map_and_its_file_equal_the_kernels() {
    run(Kind::Writable);
}

#[test]
fn a_private_map_equals_the_kernels() {
    run(Kind::Private);
}

#[test]
fn shared_maps_and_their_file_equal_the_kernels() {
    run(Kind::Shared);
}
