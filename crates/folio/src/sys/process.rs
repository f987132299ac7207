//! The resources that the process has and that the machine allows: VMAs and their limit, locked
//! memory, address space, huge pages. They are read from `/proc` and `/sys`, so only on cold paths:
//! to explain an error, or to identify a map.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::PathBuf;

/// One line of `/proc/self/maps`.
#[derive(Debug, Clone)]
pub(crate) struct Vma {
    pub(crate) range: Range<usize>,
    /// The permissions as the kernel writes them: `rw-p`.
    pub(crate) rights: String,
    pub(crate) offset: u64,
    /// The device that holds the inode, major and minor.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    /// The mapped object, or `[heap]` and the like; `None` for anonymous memory.
    pub(crate) object: Option<PathBuf>,
    /// The two-letter words of `VmFlags`; empty where only `/proc/self/maps` was read.
    pub(crate) flags: String,
}

impl Vma {
    /// Whether the pages belong to this process alone, and to no file.
    pub(crate) fn is_private_anonymous(&self) -> bool {
        self.rights.ends_with('p') && self.inode == 0
    }

    /// Whether the memory is shared, and has no file except the one that the kernel keeps behind
    /// it.
    pub(crate) fn is_shared_anonymous(&self) -> bool {
        self.rights.ends_with('s')
            && self
                .object
                .as_deref()
                .is_some_and(|path| path == std::path::Path::new("/dev/zero (deleted)"))
    }
}

fn parse_vma(line: &str) -> Option<Vma> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let rights = words.next()?.to_owned();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = words.next()?.parse().ok()?;
    let object = words.next().map(str::trim).filter(|name| !name.is_empty()).map(PathBuf::from);
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    Some(Vma { range, rights, offset, device, inode, object, flags: String::new() })
}

/// A file of `/proc/self`, line by line. A process at the limit of VMAs has megabytes of lines, and
/// no VMA left to map a buffer for the whole list.
fn lines(path: &str) -> impl Iterator<Item = String> {
    let mut file = std::fs::File::open(path).ok().map(BufReader::new);
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        file.as_mut()?.read_until(b'\n', &mut line).ok().filter(|&count| count > 0)?;
        // File names need not be UTF-8. A message with a lost character is better than no message.
        Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned())
    })
}

fn vmas() -> impl Iterator<Item = Vma> {
    lines("/proc/self/maps").filter_map(|line| parse_vma(&line))
}

/// The VMA that contains `addr`.
pub(crate) fn vma_at(addr: usize) -> Option<Vma> {
    vmas().find(|vma| vma.range.contains(&addr))
}

/// The VMAs that share an address with `range`, in order; `None` if `/proc` cannot be read.
pub(crate) fn vmas_in(range: &Range<usize>) -> Option<Vec<Vma>> {
    let mut all = vmas().peekable();
    all.peek()?;
    let before = all.skip_while(|vma| vma.range.end <= range.start);
    Some(before.take_while(|vma| vma.range.start < range.end).collect())
}

/// Whether a VMA in `range` grows down (MAP_GROWSDOWN), as the stack of a main thread does.
pub(crate) fn grows_down(range: &Range<usize>) -> bool {
    has_flag(range, "gd")
}

/// Whether one VMA covers the whole of `range`.
pub(crate) fn is_one_vma(range: &Range<usize>) -> bool {
    vma_at(range.start).is_some_and(|vma| range.end <= vma.range.end)
}

/// The first address of `range` at which nothing is mapped.
pub(crate) fn first_gap(range: Range<usize>) -> Option<usize> {
    let mut next = range.start;
    for vma in vmas() {
        if next >= range.end || vma.range.start > next {
            break;
        }
        next = next.max(vma.range.end);
    }
    (next < range.end).then_some(next)
}

/// Whether the kernel keeps the VMA at an address from forked children (VM_DONTCOPY: `dc` in
/// `/proc/self/smaps`), as some drivers request. The answer is no if `/proc` cannot be read.
pub(crate) fn is_kept_from_children(addr: usize) -> bool {
    has_flag(&(addr..addr + 1), "dc")
}

/// The number of VMAs of the process.
pub(crate) fn vma_count() -> usize {
    lines("/proc/self/maps").count()
}

/// Whether a part of `range` is sealed (mseal).
pub(crate) fn is_sealed(range: &Range<usize>) -> bool {
    has_flag(range, "sl")
}

/// Whether a part of `range` is locked (mlock).
pub(crate) fn is_locked(range: &Range<usize>) -> bool {
    has_flag(range, "lo")
}

/// The VMAs that share an address with `range`, with their flags, in order.
pub(crate) fn vmas_with_flags(range: &Range<usize>) -> Vec<Vma> {
    let mut found: Vec<Vma> = Vec::new();
    let mut inside = false;
    for line in lines("/proc/self/smaps") {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if let Some(vma) = found.last_mut().filter(|_| inside) {
                flags.trim().clone_into(&mut vma.flags);
            }
        } else if let Some(vma) = parse_vma(&line) {
            inside = vma.range.start < range.end && range.start < vma.range.end;
            if inside {
                found.push(vma);
            }
        }
    }
    found
}

/// The end of the addresses that a program can ask for.
pub(crate) fn address_end() -> usize {
    let wide = || std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" la57"));
    let bits = match () {
        () if cfg!(target_arch = "x86_64") && wide() => 56,
        () if cfg!(target_arch = "x86_64") => 47,
        // With 52 bits, on machines that have them, an address beyond this one is free as well.
        () => 48,
    };
    // The last page of x86-64 cannot be mapped.
    (1 << bits) - if cfg!(target_arch = "x86_64") { 4096 } else { 0 }
}

/// Whether a VMA that shares an address with `range` has this flag in `/proc/self/smaps`.
fn has_flag(range: &Range<usize>, wanted: &str) -> bool {
    let mut inside = false;
    for line in lines("/proc/self/smaps") {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if inside && flags.split_whitespace().any(|flag| flag == wanted) {
                return true;
            }
        } else if let Some(vma) = parse_vma(&line) {
            inside = vma.range.start < range.end && range.start < vma.range.end;
        }
    }
    false
}

/// The kernel's major and minor version; zeros if the release text has none.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A number from a file of `/proc/sys`.
pub(crate) fn sysctl(name: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

/// A field of `/proc/self/status` or `/proc/meminfo` that counts KiB, in bytes.
fn kib_field(path: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// Bytes of the process's address space in use (the quantity that RLIMIT_AS limits).
pub(crate) fn address_space() -> Option<u64> {
    kib_field("/proc/self/status", "VmSize")
}

/// Bytes of private writable memory that the process has mapped (the quantity that RLIMIT_DATA
/// limits).
pub(crate) fn private_writable() -> Option<u64> {
    kib_field("/proc/self/status", "VmData")
}

/// Bytes that the process has locked (the quantity that RLIMIT_MEMLOCK limits).
pub(crate) fn locked() -> Option<u64> {
    kib_field("/proc/self/status", "VmLck")
}

/// Whether `more` bytes of addresses would exceed RLIMIT_AS.
pub(crate) fn passes_address_limit(more: usize) -> bool {
    limit(rustix::process::Resource::As)
        .is_some_and(|limit| address_space().unwrap_or(0).saturating_add(more as u64) > limit)
}

/// Whether the kernel can seal VMAs (mseal(2), since 6.10).
pub(crate) fn may_have_seals() -> bool {
    kernel_version() >= (6, 10)
}

/// The machine's default huge page size, in bytes.
pub(crate) fn default_huge_page() -> Option<usize> {
    kib_field("/proc/meminfo", "Hugepagesize").map(|bytes| bytes as usize)
}

/// The numbers of free huge pages and of all huge pages of `bytes` in the pool.
pub(crate) fn huge_pool(bytes: usize) -> Option<(u64, u64)> {
    let read = |name: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/{name}", bytes >> 10);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    Some((read("free_hugepages")?, read("nr_hugepages")?))
}

/// The soft limit of RLIMIT_MEMLOCK, RLIMIT_AS or RLIMIT_DATA, in bytes; `None` for unlimited.
pub(crate) fn limit(resource: rustix::process::Resource) -> Option<u64> {
    rustix::process::getrlimit(resource).current
}

/// Whether this program runs with privileges that the user who started it does not have
/// (set-user-ID, file capabilities). Then the environment must not be trusted.
#[cfg(feature = "shm")]
pub(crate) fn has_more_rights_than_its_starter() -> bool {
    // SAFETY: the call only queries.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// The inode number of this thread's network namespace. Sockets reach each other only within one
/// namespace.
#[cfg(feature = "shm")]
pub(crate) fn network() -> Option<u64> {
    rustix::fs::stat("/proc/thread-self/ns/net").ok().map(|stat| stat.st_ino)
}

/// Whether the kernel treats this process as the owner of every file (CAP_FOWNER).
pub(crate) fn owns_every_file() -> bool {
    const CAP_FOWNER: u32 = 3;
    capable(CAP_FOWNER)
}

/// Whether RLIMIT_MEMLOCK does not bind this process (CAP_IPC_LOCK).
pub(crate) fn locks_without_limit() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    capable(CAP_IPC_LOCK)
}

fn capable(capability: u32) -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return false };
    text.lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|caps| caps & (1 << capability) != 0)
}
/// Whether descriptors can be reopened by their names in `/proc`. Without it, calls by such a name
/// fail with ENOENT although the file exists.
pub(crate) fn has_proc() -> bool {
    rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXISTS).is_ok()
}
