//! Which rule an errno means, for each call, and how to mend it. Numbers that tell how far one is
//! from a limit are read here, when the error is made.

mod advice;
mod files;

use super::Subject;
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::sys::process;
use rustix::io::Errno;
use rustix::process::Resource;
use std::borrow::Cow;
use std::ops::Range;

type Text = Cow<'static, str>;

/// The rule that `call` says was broken with `errno`, and the remedy.
pub(super) fn explain(call: &'static str, errno: Errno, subject: &Subject) -> (Text, Text) {
    match call {
        "mmap" => mmap(errno, subject),
        "munmap" => munmap(errno, subject),
        "mprotect" => mprotect(errno, subject),
        "mremap" => mremap(errno, subject),
        "msync" => msync(errno, subject),
        "madvise" => advice::explain(errno, subject),
        "mlock" => mlock(errno, subject),
        "munlock" => munlock(errno, subject),
        "mseal" => mseal(errno, subject),
        _ => files::explain(call, errno, subject),
    }
}

/// An errno that a call of the mmap(2) family does not name in its manual page.
fn file(errno: Errno, subject: &Subject) -> (Text, Text) {
    files::explain("", errno, subject)
}

fn fixed(rule: &'static str, remedy: &'static str) -> (Text, Text) {
    (rule.into(), remedy.into())
}

fn mmap(errno: Errno, subject: &Subject) -> (Text, Text) {
    let flags = subject.flags.unwrap_or_default();
    let prot = subject.prot.unwrap_or_default();
    let shared = flags.contains(MapFlags::SHARED);
    match errno {
        Errno::ACCESS if shared && prot.contains(Prot::WRITE) => fixed(
            "a shared writable map needs a descriptor that is open for reading and writing, and a file that is not \
             append-only",
            "open the file with read(true).write(true) (and clear the file's `a` attribute), or map it privately",
        ),
        Errno::ACCESS if shared => fixed(
            "a map needs a descriptor that is open for reading; and a shared map of an append-only file, one \
             that is open for nothing else",
            "open the file with read(true) and nothing else, or map it privately",
        ),
        Errno::ACCESS => fixed(
            "a map needs a descriptor that is open for reading, whatever the protection",
            "open the file with read(true)",
        ),
        Errno::AGAIN if flags.contains(MapFlags::LOCKED) => {
            memlock("the pages of a locked map count against RLIMIT_MEMLOCK", subject)
        }
        Errno::AGAIN => memlock(
            "the process locks each new map (mlockall with MCL_FUTURE), and its pages count against RLIMIT_MEMLOCK",
            subject,
        ),
        Errno::BADF => fixed(
            "the descriptor is not open (or is open with O_PATH), and the map is not anonymous",
            "pass an open descriptor, or ask for anonymous memory",
        ),
        Errno::INVAL => mmap_invalid(subject, flags),
        Errno::NFILE => fixed(
            "the machine has as many open files as fs.file-max allows, and a shared map of anonymous memory needs one",
            "close files, or raise fs.file-max",
        ),
        Errno::NODEV if shared && is_fuse(subject) => fixed(
            "the file's FUSE server asks for direct reads and writes (direct_io), so the file has no shared page cache \
             and no shared map",
            "map the file privately (FileMapPrivate), or read it (Anon::read_from)",
        ),
        // Those files of /proc that have no such call answer EIO.
        Errno::NODEV | Errno::IO => fixed(
            "the object cannot be mapped: a pipe, a socket, a directory, most of /proc and /sys, some devices and file \
             systems",
            "read it instead, if it can be read: Anon::read_from takes whatever there is into memory",
        ),
        Errno::NOMEM if flags.contains(MapFlags::HUGETLB) => {
            areas().unwrap_or_else(|| huge_pool(subject, flags))
        }
        // A map of a file in hugetlbfs takes its pages from the pool too.
        Errno::NOMEM if subject.huge.is_some() => {
            areas().unwrap_or_else(|| huge_pool_of(subject.huge, subject))
        }
        Errno::NOMEM => passes_the_addresses(subject, flags).unwrap_or_else(|| {
            let space = subject.length.unwrap_or(0) as u64;
            let private = if !shared && prot.contains(Prot::WRITE) { space } else { 0 };
            let accounted = private > 0 || shared && flags.contains(MapFlags::ANONYMOUS);
            no_memory(&Need { space, private, accounted })
        }),
        Errno::OVERFLOW => fixed(
            "offset and length together pass the end of what the kernel can count (a file has at most 2^63 - 1 bytes)",
            "map less, or nearer to the start",
        ),
        Errno::PERM => mmap_forbidden(subject, flags, prot, shared),
        Errno::TXTBSY => fixed(
            "the file is in use as swap space, and must not be written to",
            "map it read-only or privately, or take it out of use (swapoff)",
        ),
        Errno::EXIST => fixed(
            "something is mapped in the range already, and the map must not replace it",
            "choose another address, or reserve the range first (Reservation)",
        ),
        Errno::OPNOTSUPP => fixed(
            "with SHARED_VALIDATE a flag that the file or the kernel does not support is refused; SYNC needs a file \
             on a DAX device",
            "leave the flag out",
        ),
        _ => file(errno, subject),
    }
}

/// The reasons of EPERM, the certain ones first.
fn mmap_forbidden(subject: &Subject, flags: MapFlags, prot: Prot, shared: bool) -> (Text, Text) {
    if flags.contains(MapFlags::LOCKED) && process::limit(Resource::Memlock) == Some(0) {
        return memlock("the process may not lock memory at all", subject);
    }
    let placed = flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
    let lowest = process::sysctl("vm/mmap_min_addr").unwrap_or(0);
    if placed && (subject.address.unwrap_or(0) as u64) < lowest {
        return (
            format!("addresses below vm.mmap_min_addr ({lowest}) are kept free, so that null pointers fault")
                .into(),
            format!("use an address from {lowest:#x} on, or none").into(),
        );
    }
    if flags.contains(MapFlags::FIXED) && process::is_sealed(&addresses(subject)) {
        let (rule, _) = sealed();
        return (rule, "choose another address".into());
    }
    if flags.contains(MapFlags::ANONYMOUS) {
        return fixed(
            "a security policy forbids it; huge pages may be for the group of vm.hugetlb_shm_group only",
            "look at the system's policy, or leave out what is special (EXEC, HUGETLB)",
        );
    }
    if prot.contains(Prot::EXEC) {
        return fixed(
            "the file lies on a file system that is mounted noexec, so it cannot be mapped executable",
            "map it without EXEC, or move it to a file system mounted with exec",
        );
    }
    if shared && prot.contains(Prot::WRITE) {
        return fixed(
            "the file is a memfd that is sealed against writing (F_SEAL_WRITE or F_SEAL_FUTURE_WRITE)",
            "map it read-only or privately; F_GET_SEALS shows the seals",
        );
    }
    fixed(
        "a seal or a security policy forbids it",
        "look at the seals (F_GET_SEALS) and at the system's policy",
    )
}

fn mmap_invalid(subject: &Subject, flags: MapFlags) -> (Text, Text) {
    let page = PageSize::system();
    if subject.length == Some(0) {
        return fixed("the length must not be zero", "ask for at least one byte");
    }
    if let Some(offset) = subject.offset.filter(|&n| !page.divides(n as usize)) {
        let below = page.floor(offset as usize);
        return (
            format!("the offset must be a multiple of the page size ({page})").into(),
            format!("use {below} or {}", below.saturating_add(page.bytes())).into(),
        );
    }
    let placed = MapFlags::FIXED | MapFlags::FIXED_NOREPLACE;
    if let Some(address) = subject.address.filter(|&a| !page.divides(a) && flags.intersects(placed))
    {
        let below = page.floor(address);
        return (
            format!("the address must be a multiple of the page size ({page})").into(),
            format!("use {below:#x} or {:#x}", below.saturating_add(page.bytes())).into(),
        );
    }
    let sharing = MapFlags::SHARED | MapFlags::PRIVATE;
    if !flags.intersects(sharing) {
        return fixed("a map is either SHARED or PRIVATE", "pass one of the two");
    }
    if flags.contains(MapFlags::ANONYMOUS) && flags.contains(sharing) {
        return fixed(
            "for anonymous memory SHARED and PRIVATE exclude each other (for a file the two together are \
             SHARED_VALIDATE)",
            "pass one of the two",
        );
    }
    if flags.contains(MapFlags::HUGETLB) && !flags.contains(MapFlags::ANONYMOUS) {
        return fixed(
            "HUGETLB is for anonymous memory and for files in hugetlbfs: other files have the pages of their file \
             system",
            "leave the flag out, or pass ANONYMOUS",
        );
    }
    if flags.contains(MapFlags::HUGETLB) {
        return fixed(
            "this machine has no huge pages of that size, or offset and address are not multiples of it",
            "look into /sys/kernel/mm/hugepages for the sizes there are",
        );
    }
    fixed(
        "the kernel does not take this address, length, offset or combination of flags",
        "compare the values above with mmap(2)",
    )
}

/// The resources of which a call needs more, if it succeeds: for ENOMEM.
#[derive(Default)]
struct Need {
    /// Bytes of address space.
    space: u64,
    /// Bytes of private writable memory.
    private: u64,
    /// Whether the kernel promises the memory when the call succeeds (overcommit). Pages of files
    /// need no promise.
    accounted: bool,
}

/// The limit of areas, if the process is near it: a call can need a few at once.
fn areas() -> Option<(Text, Text)> {
    let areas = process::vma_count() as u64;
    let limit = process::sysctl("vm/max_map_count").filter(|&limit| areas + 8 >= limit)?;
    Some((
        format!(
            "the process has {areas} mapped areas, and vm.max_map_count allows {limit} (a change to a part of an \
             area splits it)"
        )
        .into(),
        "unmap some, use fewer and larger ranges, or raise vm.max_map_count".into(),
    ))
}

/// The reason of ENOMEM of a map that asks for huge pages.
fn huge_pool(subject: &Subject, flags: MapFlags) -> (Text, Text) {
    let shift = (flags.bits() >> libc::MAP_HUGE_SHIFT) & libc::MAP_HUGE_MASK;
    let size = if shift == 0 { process::default_huge_page() } else { Some(1 << shift) };
    huge_pool_of(size.and_then(PageSize::new), subject)
}

/// The pool of huge pages of one size, and how many of them the call asked for.
fn huge_pool_of(size: Option<PageSize>, subject: &Subject) -> (Text, Text) {
    let length = subject.length.unwrap_or(0);
    let (free, all) = size.and_then(|size| process::huge_pool(size.bytes())).unwrap_or((0, 0));
    let size = size.unwrap_or_else(PageSize::system);
    let pages = length.div_ceil(size.bytes());
    (
        format!(
            "the pool of huge pages of {size} has {free} of {all} pages free, and {pages} were asked for"
        )
        .into(),
        if subject.huge.is_some() {
            "enlarge the pool (/sys/kernel/mm/hugepages/*/nr_hugepages), or use a file outside hugetlbfs"
                .into()
        } else {
            "enlarge the pool (/sys/kernel/mm/hugepages/*/nr_hugepages), or ask for transparent huge pages \
             (Advice::HugePage)"
                .into()
        },
    )
}

/// Whether the object is a file of a FUSE file system.
fn is_fuse(subject: &Subject) -> bool {
    const FUSE: rustix::fs::FsWord = 0x6573_5546;
    rustix::fs::statfs(subject.object.as_str()).is_ok_and(|found| found.f_type == FUSE)
}

/// The rule on the end of the addresses, if the place that was asked for passes it.
fn passes_the_addresses(subject: &Subject, flags: MapFlags) -> Option<(Text, Text)> {
    let placed = flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
    let start = subject.address.filter(|_| placed)?;
    let highest = process::address_end();
    let end = start.checked_add(subject.length.unwrap_or(0));
    end.is_none_or(|end| end > highest).then(|| {
        (
            format!(
                "the range passes the end of the process's addresses, which lies at {highest:#x}"
            )
            .into(),
            "choose a lower address, or none".into(),
        )
    })
}

/// The limits behind ENOMEM that can be seen to be reached: areas, address space, private memory.
fn limits(need: &Need) -> Option<(Text, Text)> {
    if let Some(full) = areas() {
        return Some(full);
    }
    let reached = |resource, used: Option<u64>, asked: u64| {
        let used = used.unwrap_or(0);
        let limit = process::limit(resource)
            .filter(|&limit| asked > 0 && used.saturating_add(asked) > limit)?;
        Some((limit, used))
    };
    if let Some((limit, used)) = reached(Resource::As, process::address_space(), need.space) {
        let asked = need.space;
        return Some((
            format!(
                "RLIMIT_AS allows {limit} bytes of address space; {used} are in use, {asked} were asked for"
            )
            .into(),
            "map less, or raise the limit (ulimit -v)".into(),
        ));
    }
    if let Some((limit, used)) = reached(Resource::Data, process::private_writable(), need.private)
    {
        let asked = need.private;
        return Some((
            format!(
                "RLIMIT_DATA allows {limit} bytes of private writable memory; {used} are in use, {asked} were \
                 asked for"
            )
            .into(),
            "map less, or raise the limit (ulimit -d)".into(),
        ));
    }
    (need.space > 1 << 46).then(|| fixed("no range of free addresses is that long", "ask for less"))
}

/// The reasons of ENOMEM, tried in the order in which they can be seen: the limits; else memory
/// itself.
fn no_memory(need: &Need) -> (Text, Text) {
    limits(need).unwrap_or_else(|| {
        if !need.accounted {
            return fixed(
                "the kernel has no memory for its own records of the call",
                "free memory, and try again",
            );
        }
        let policy = match process::sysctl("vm/overcommit_memory") {
            Some(2) => "strict accounting: CommitLimit in /proc/meminfo",
            Some(1) => "no accounting",
            _ => "heuristic: refuses what is obviously more than the machine has",
        };
        (
            format!(
                "the kernel does not promise that much memory (vm.overcommit_memory: {policy})"
            )
            .into(),
            "ask for less, or pass NORESERVE for memory that will mostly stay untouched".into(),
        )
    })
}

fn memlock(rule: &'static str, subject: &Subject) -> (Text, Text) {
    let limit = process::limit(Resource::Memlock);
    let limit = limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
    let locked = process::locked().unwrap_or(0);
    let asked =
        subject.length.map_or_else(String::new, |bytes| format!(", {bytes} were asked for"));
    (
        format!("{rule}: the limit is {limit}, {locked} bytes are locked{asked}").into(),
        "lock less, or raise the limit (ulimit -l, LimitMEMLOCK=, or CAP_IPC_LOCK)".into(),
    )
}

/// The rule on aligned addresses, with the nearest ones; for the calls on ranges that are mapped
/// already.
fn aligned(subject: &Subject) -> Option<(Text, Text)> {
    let page = PageSize::system();
    let address = subject.address.filter(|&address| !page.divides(address))?;
    let below = page.floor(address);
    Some((
        format!("the address must be a multiple of the page size ({page})").into(),
        format!("use {below:#x} or {:#x}", below.saturating_add(page.bytes())).into(),
    ))
}

/// The addresses that the call was about; none if it was not about any.
fn addresses(subject: &Subject) -> Range<usize> {
    let start = subject.address.unwrap_or(0);
    start..start.saturating_add(subject.address.and(subject.length).unwrap_or(0))
}

/// The rule on unmapped ranges, if a part of this one is unmapped.
fn not_mapped(subject: &Subject) -> Option<(Text, Text)> {
    let gap = process::first_gap(addresses(subject))?;
    Some((
        format!("the range, or a part of it, is not mapped: nothing lies at {gap:#x}").into(),
        "keep to ranges that are mapped; /proc/self/maps shows which are".into(),
    ))
}

/// Whether the pages at the subject's address count against RLIMIT_DATA: private and writable.
fn counts_as_data(subject: &Subject) -> bool {
    let area = subject.address.and_then(process::vma_at);
    area.is_some_and(|area| area.rights.starts_with("rw") && area.rights.ends_with('p'))
}

fn munmap(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::INVAL => aligned(subject).unwrap_or_else(|| {
            fixed(
                "the length must not be zero, the range must lie in the process's address space, and huge pages are \
                 unmapped whole",
                "unmap whole pages of the mapping's own size",
            )
        }),
        Errno::NOMEM => no_memory(&Need::default()),
        Errno::PERM => sealed(),
        _ => file(errno, subject),
    }
}

fn sealed() -> (Text, Text) {
    fixed(
        "the range, or a part of it, is sealed (mseal): it can never be unmapped, moved or protected otherwise",
        "keep the memory for the life of the process",
    )
}

fn mprotect(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::ACCESS if subject.prot.is_some_and(|prot| !prot.contains(Prot::WRITE) && prot.contains(Prot::EXEC)) => {
            fixed(
                "a map never gets a right that its file cannot give: EXEC on a file system mounted noexec",
                "leave out EXEC, or move the file to a file system mounted with exec",
            )
        }
        Errno::ACCESS if subject.prot.is_some_and(|prot| prot.contains(Prot::EXEC)) => fixed(
            "a map never gets a right that its file cannot give: EXEC on a file system mounted noexec, WRITE where a \
             shared file was opened read-only",
            "leave out EXEC, or move the file to a file system mounted with exec; open it for writing and map it again",
        ),
        Errno::ACCESS => fixed(
            "a map never gets a right that its file was not opened with, or that a seal or a policy forbids",
            "open the file for writing and map it again, or map it privately",
        ),
        Errno::INVAL => aligned(subject).unwrap_or_else(|| {
            fixed(
                "GROWSDOWN goes with a map that grows down, GROWSUP with one that grows up, never both; other bits \
                 must be known to the kernel",
                "pass READ, WRITE and EXEC only",
            )
        }),
        Errno::NOMEM => not_mapped(subject).unwrap_or_else(|| {
            let writable = subject.prot.is_some_and(|prot| prot.contains(Prot::WRITE));
            let area = subject.address.and_then(process::vma_at);
            let own = area.is_some_and(|area| area.rights.ends_with('p'));
            let private = if writable && own { subject.length.unwrap_or(0) as u64 } else { 0 };
            no_memory(&Need { space: 0, private, accounted: private > 0 })
        }),
        Errno::PERM => sealed(),
        _ => file(errno, subject),
    }
}

fn mremap(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::AGAIN => memlock(
            "the map is locked, and its growth counts against RLIMIT_MEMLOCK",
            &subject.clone().with_length(growth(subject)),
        ),
        Errno::FAULT => not_mapped(subject).unwrap_or_else(|| several_areas(subject)),
        Errno::INVAL => aligned(subject).unwrap_or_else(|| mremap_invalid(subject)),
        Errno::NOMEM if subject.huge.is_some() && growth(subject) > 0 => {
            areas().unwrap_or_else(|| {
                huge_pool_of(subject.huge, &subject.clone().with_length(growth(subject)))
            })
        }
        Errno::NOMEM => {
            let space = growth(subject) as u64;
            let private = if counts_as_data(subject) { space } else { 0 };
            let need = Need { space, private, accounted: private > 0 };
            if subject.may_move == Some(true) || space == 0 {
                return no_memory(&need);
            }
            limits(&need).unwrap_or_else(|| {
                fixed(
                    "the map cannot grow where it is, since something else is mapped behind it (or there is not enough \
                     memory), and it was not allowed to move",
                    "allow the move, or reserve room to grow when the map is made (capacity, Reservation)",
                )
            })
        }
        Errno::PERM => sealed(),
        _ => file(errno, subject),
    }
}

/// EFAULT of mremap(2): the parts of the range are not one area to the kernel. The remedy names the
/// difference.
fn several_areas(subject: &Subject) -> (Text, Text) {
    const RULE: &str = "the range consists of several areas, and the call takes one";
    let areas = process::vmas_with_flags(&addresses(subject));
    let differ = |test: &dyn Fn(&process::Vma, &process::Vma) -> bool| {
        areas.windows(2).any(|pair| test(&pair[0], &pair[1]))
    };
    let has =
        |area: &process::Vma, flag: &str| area.flags.split_whitespace().any(|known| known == flag);
    let (part, remedy) = if differ(&|one, other| one.rights != other.rights) {
        (
            "its parts have different protections",
            "give all parts one protection first, or resize or move each part by itself",
        )
    } else if differ(&|one, other| has(one, "lo") != has(other, "lo")) {
        (
            "a part of it is locked and another part is not",
            "lock all of it, or unlock all of it, first",
        )
    } else if differ(&|one, other| one.inode != other.inode || one.device != other.device) {
        ("its parts are of different objects", "resize or move each part by itself")
    } else if differ(&|one, other| one.object != other.object) {
        ("its parts have different names", "give all parts one name first (name_area)")
    } else {
        (
            "its parts have different advice, or do not follow each other in the object",
            "give all parts the same advice first, or resize or move each part by itself",
        )
    };
    (format!("{RULE}: {part}").into(), remedy.into())
}

/// How many bytes a changed length adds.
fn growth(subject: &Subject) -> usize {
    subject.new_length.unwrap_or(0).saturating_sub(subject.length.unwrap_or(0))
}

fn mremap_invalid(subject: &Subject) -> (Text, Text) {
    if subject.new_length.is_some_and(|length| length as u64 > 1 << 46) {
        return fixed("no range of addresses is that long", "ask for less");
    }
    if subject.new_length == Some(0) {
        return fixed("the new length must not be zero", "ask for at least one byte, or unmap it");
    }
    if subject.length == Some(0) {
        return fixed(
            "an old length of zero duplicates a shared map, with MREMAP_MAYMOVE; a private map cannot be duplicated",
            "map the file, or the memfd, a second time",
        );
    }
    fixed(
        "the flags are not known or not complete (FIXED and DONTUNMAP need MAYMOVE), or the target is not aligned, or \
         overlaps the old range",
        "pass MREMAP_MAYMOVE too, and an aligned target apart from the old range",
    )
}

fn msync(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::BUSY => fixed(
            "a locked range cannot be invalidated",
            "unlock it first; on Linux all maps of a file show the same pages, so there is no need to invalidate",
        ),
        Errno::INVAL => aligned(subject).unwrap_or_else(|| {
            fixed(
                "ASYNC and SYNC exclude each other, and INVALIDATE is the only other flag",
                "pass one of the two",
            )
        }),
        Errno::IO => fixed(
            "the device failed to store a page: what was written to the map may be lost",
            "write the range again, or treat the file as damaged",
        ),
        Errno::NOMEM => not_mapped(subject).unwrap_or_else(|| file(errno, subject)),
        _ => file(errno, subject),
    }
}

fn mlock(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::AGAIN => fixed("some of the pages could not be faulted in", "free memory, or lock less"),
        Errno::INVAL => fixed("the range passes the end of the address space", "lock less, or unlock less"),
        Errno::PERM => memlock("the process may not lock memory at all", subject),
        Errno::NOMEM => not_mapped(subject).or_else(areas).unwrap_or_else(|| {
            let wanted = process::locked().unwrap_or(0).saturating_add(subject.length.unwrap_or(0) as u64);
            let over = process::limit(Resource::Memlock).is_some_and(|limit| wanted > limit);
            if over && !process::locks_without_limit() {
                return memlock("locked pages count against RLIMIT_MEMLOCK", subject);
            }
            fixed(
                "a page of the range cannot be supplied: it lies past the end of the file, or its protection forbids \
                 every access",
                "lock only pages that can be read, or lock on fault",
            )
        }),
        _ => file(errno, subject),
    }
}

/// Unlocking needs no page and no limit: only the areas can be in the way.
fn munlock(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::INVAL => fixed("the range passes the end of the address space", "unlock less"),
        Errno::NOMEM => not_mapped(subject).unwrap_or_else(|| no_memory(&Need::default())),
        _ => file(errno, subject),
    }
}

fn mseal(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::NOSYS | Errno::PERM => {
            fixed("mseal needs Linux 6.10 on a 64-bit machine", "keep the map in a static instead")
        }
        Errno::NOMEM => not_mapped(subject).unwrap_or_else(|| no_memory(&Need::default())),
        _ => file(errno, subject),
    }
}

/// The errno's own words, as strerror(3) has them.
pub(super) fn words(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The errno's symbol.
pub(super) fn symbol(errno: Errno) -> Text {
    let known = [
        (Errno::ACCESS, "EACCES"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::BADF, "EBADF"),
        (Errno::BUSY, "EBUSY"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::EXIST, "EEXIST"),
        (Errno::FAULT, "EFAULT"),
        (Errno::FBIG, "EFBIG"),
        (Errno::HWPOISON, "EHWPOISON"),
        (Errno::INTR, "EINTR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NXIO, "ENXIO"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::PERM, "EPERM"),
        (Errno::ROFS, "EROFS"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::CHILD, "ECHILD"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::LOOP, "ELOOP"),
        (Errno::MSGSIZE, "EMSGSIZE"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NOLCK, "ENOLCK"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::NOTSOCK, "ENOTSOCK"),
        (Errno::PIPE, "EPIPE"),
        (Errno::SPIPE, "ESPIPE"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::TOOMANYREFS, "ETOOMANYREFS"),
        (Errno::UCLEAN, "EUCLEAN"),
        (Errno::USERS, "EUSERS"),
    ];
    match known.into_iter().find(|(known, _)| *known == errno) {
        Some((_, symbol)) => symbol.into(),
        None => format!("errno {}", errno.raw_os_error()).into(),
    }
}
