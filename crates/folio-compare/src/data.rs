//! The files that are read. They have no name from the start, so that nothing is left behind
//! however the run ends.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The large file's length.
pub(crate) const LARGE: usize = 1 << 30;

/// The machine's page size.
pub(crate) fn page() -> usize {
    folio::PageSize::system().bytes()
}

/// Numbers that look random and are the same in every run (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// The numbers below `count`, each once, in random order.
    pub(crate) fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            all.swap(last, self.below(last + 1));
        }
        all
    }
}

/// The first eight bytes of a page, by its number: a reader of a page can see that it is the right
/// one.
pub(crate) const fn stamp(page: usize) -> u64 {
    Numbers(page as u64).next()
}

/// Fills whole pages that start at `offset` of the data.
pub(crate) fn fill(bytes: &mut [u8], offset: usize) {
    let first = offset / page();
    for (number, page) in bytes.chunks_exact_mut(page()).enumerate() {
        let mut numbers = Numbers((first + number) as u64);
        for word in page.as_chunks_mut().0 {
            *word = numbers.next().to_ne_bytes();
        }
    }
}

/// A file without a name, on a disk.
#[derive(Debug)]
pub(crate) struct Data {
    file: File,
    len: usize,
}

impl Data {
    /// Writes `len` bytes that look random, and brings them to the disk. They stay in the page
    /// cache. Each page starts with its [`stamp`].
    pub(crate) fn create(dir: Option<&Path>, len: usize) -> Result<Self> {
        let dir = directory(dir, len as u64)?;
        let mut file = tempfile::tempfile_in(&dir)
            .with_context(|| format!("cannot make a test file in {}", dir.display()))?;
        let mut block = vec![0; 1 << 20];
        for offset in (0..len).step_by(block.len()) {
            fill(&mut block, offset);
            file.write_all(&block[..(len - offset).min(block.len())])?;
        }
        file.sync_all()?;
        Ok(Self { file, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn pages(&self) -> usize {
        self.len / page()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The same file opened anew: its readahead has no history.
    pub(crate) fn reopen(&self) -> Result<File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        File::open(path).context("cannot open the test file again")
    }

    /// A path by which this process's children can open the file, too.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Makes sure that all of the file is in the page cache.
    pub(crate) fn warm(&self) -> Result<()> {
        if self.resident()? < self.pages() {
            use std::os::unix::fs::FileExt;
            let mut block = vec![0; 1 << 20];
            for offset in (0..self.len).step_by(block.len()) {
                self.file.read_at(&mut block, offset as u64)?;
            }
        }
        let (resident, pages) = (self.resident()?, self.pages());
        ensure!(
            resident == pages,
            "only {resident} of the test file's {pages} pages stay in the page cache: too little free memory"
        );
        Ok(())
    }

    /// Makes sure that none of the file is in the page cache, but for a page in a thousand.
    pub(crate) fn evict(&self) -> Result<()> {
        evict(&self.file, self.len)
    }

    fn resident(&self) -> Result<usize> {
        resident(&self.file, self.len)
    }

    /// The readahead of the file's device, in KiB.
    pub(crate) fn read_ahead_kb(&self) -> Option<u64> {
        let device = self.file.metadata().ok()?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let text = std::fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"))
            .ok()?;
        text.trim().parse().ok()
    }
}

/// Makes sure that none of a file is in the page cache, but for a page in a thousand. The written
/// bytes must be on the disk.
pub(crate) fn evict(file: &File, len: usize) -> Result<()> {
    for _ in 0..10 {
        // SAFETY: the call changes no byte of the file, nor of this process's memory.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if resident(file, len)? * 1000 <= len / page() {
            return Ok(());
        }
        // Pages that readahead is still bringing in cannot be let go.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!(
        "the test file cannot be evicted from the page cache: another process uses it, or its disk is memory"
    )
}

/// How many pages of a file are in the page cache, by mincore(2): it needs no new kernel, and this
/// process owns the file.
fn resident(file: &File, len: usize) -> Result<usize> {
    let map = plain::Map::new(file, len)?;
    let mut pages = vec![0_u8; len.div_ceil(page())];
    // SAFETY: the range is the map's; `pages` has a byte for each of its pages.
    let done = unsafe { libc::mincore(map.start().cast(), len, pages.as_mut_ptr()) };
    ensure!(done == 0, "mincore: {}", std::io::Error::last_os_error());
    Ok(pages.into_iter().filter(|page| page & 1 == 1).count())
}

/// The asked directory, or the first that is on a disk with room enough: this crate's target
/// directory, or where temporary files go.
pub(crate) fn directory(asked: Option<&Path>, room: u64) -> Result<PathBuf> {
    if let Some(dir) = asked {
        fits(dir, room)?;
        return Ok(dir.to_owned());
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut reasons = Vec::new();
    for dir in [target, std::env::temp_dir()] {
        match fits(&dir, room) {
            Ok(()) => return Ok(dir),
            Err(error) => reasons.push(format!("\n  {error:#}")),
        }
    }
    bail!(
        "no place for a test file of {} MiB; name one with --dir:{}",
        room >> 20,
        reasons.concat()
    )
}

fn fits(dir: &Path, room: u64) -> Result<()> {
    let name = dir.display();
    let file = File::open(dir).with_context(|| format!("cannot open {name}"))?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and `stat` has room for the answer.
    let done = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    ensure!(done == 0, "statfs of {name}: {}", std::io::Error::last_os_error());
    // SAFETY: the call succeeded, so it filled `stat` in.
    let stat = unsafe { stat.assume_init() };
    ensure!(
        stat.f_type != libc::TMPFS_MAGIC && stat.f_type != 0x8584_58f6,
        "{name} is in memory, and its files cannot be cold"
    );
    let free = stat.f_bavail * stat.f_bsize as u64;
    // A disk that a test file fills to the last block would disturb everyone else.
    ensure!(free >= room + room / 4, "{name} has {} MiB free", free >> 20);
    Ok(())
}

/// mmap(2) without any library: the least that a map can cost.
pub(crate) mod plain {
    use super::{AsRawFd, BorrowedFd, File};
    use anyhow::{Result, ensure};
    use std::os::fd::AsFd;

    /// A file mapped read-only and shared, until it is dropped.
    #[derive(Debug)]
    pub(crate) struct Map {
        start: *mut u8,
        len: usize,
    }

    impl Map {
        pub(crate) fn new(file: &File, len: usize) -> Result<Self> {
            let fd: BorrowedFd<'_> = file.as_fd();
            let (prot, flags) = (libc::PROT_READ, libc::MAP_SHARED);
            // SAFETY: a new map, without FIXED.
            let start =
                unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), 0) };
            ensure!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            Ok(Self { start: start.cast(), len })
        }

        pub(crate) fn start(&self) -> *mut u8 {
            self.start
        }

        /// # Safety
        ///
        /// Nobody changes the file while the slice is in use.
        pub(crate) unsafe fn slice(&self) -> &[u8] {
            // SAFETY: mapped for as long as `self` lives; the caller promises that the bytes stay.
            unsafe { std::slice::from_raw_parts(self.start, self.len) }
        }
    }

    impl Drop for Map {
        fn drop(&mut self) {
            // SAFETY: the map is this value's own, and nothing borrows it any more.
            unsafe { libc::munmap(self.start.cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Numbers, fill, page, stamp};

    #[test]
    fn a_page_starts_with_its_stamp_wherever_the_block_starts() {
        let mut block = vec![0; 3 * page()];
        fill(&mut block, 5 * page());
        for (number, page) in block.chunks_exact(page()).enumerate() {
            assert_eq!(page[..8], stamp(5 + number).to_ne_bytes());
        }
        assert_ne!(stamp(5), stamp(6));
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut shuffled = Numbers(7).shuffled(1000);
        assert_ne!(shuffled, (0..1000).collect::<Vec<_>>(), "nothing moved");
        shuffled.sort_unstable();
        assert_eq!(shuffled, (0..1000).collect::<Vec<_>>());
    }
}
