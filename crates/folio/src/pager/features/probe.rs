//! The features that the machine offers: each capability is tried once, and the reason is kept
//! where it fails.

use super::{Delivery, Features};
use crate::pager::sys::uffd::{Progress, Uffd, UffdOpen, feature, watch};
use crate::sys::{Errno, check, memfd, mm, process, size_limit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The result of the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The ways of userfaultfd, best first; in words why one cannot be had.
    pub(super) ways: [(Delivery, Result<(), String>); 3],
    pub(super) offered: Features,
    /// Why a feature is not offered: one entry for each that is not.
    pub(super) lacking: Vec<(Features, String)>,
}

impl Probe {
    /// The result of this process's first call. A child inherits the answer.
    pub(crate) fn machine() -> &'static Self {
        // No lock: a child that is forked while another thread tries the features would wait for
        // that thread for ever.
        static MACHINE: AtomicPtr<Probe> = AtomicPtr::new(std::ptr::null_mut());
        // SAFETY: null, or a probe that was leaked on purpose.
        if let Some(known) = unsafe { MACHINE.load(Ordering::Acquire).as_ref() } {
            return known;
        }
        let fresh = Box::leak(Box::new(Self::new()));
        let fresh_at = std::ptr::from_mut(fresh);
        match MACHINE.compare_exchange(
            std::ptr::null_mut(),
            fresh_at,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => fresh,
            // SAFETY: another thread's, which is leaked as well; this one is forgotten.
            Err(known) => unsafe { &*known },
        }
    }

    /// Tries everything again.
    pub(crate) fn new() -> Self {
        let mut found = Self {
            ways: [Delivery::Syscall, Delivery::Device, Delivery::UserModeOnly]
                .map(|way| (way, Ok(()))),
            offered: Features::empty(),
            lacking: Vec::new(),
        };
        let mut works = None;
        for (delivery, state) in &mut found.ways {
            let Some(way) = delivery.way() else { continue };
            // The kernel answers the handshake itself, once the descriptor is there.
            match Uffd::open(way).and_then(|uffd| uffd.handshake(0)) {
                Ok(bits) => works = works.or(Some((way, bits))),
                Err(errno) => *state = Err(refused(way, errno)),
            }
        }
        found.watched(works);
        found.note(Features::HUGE, huge());
        found.note(Features::IO_URING, io_uring());
        found
    }

    fn note(&mut self, feature: Features, result: Result<(), String>) {
        match result {
            Ok(()) => self.offered |= feature,
            Err(why) => self.lacking.push((feature, why)),
        }
    }

    /// The features of userfaultfd itself.
    fn watched(&mut self, works: Option<(UffdOpen, u64)>) {
        let Some((way, bits)) = works else {
            for feature in Features::OF_USERFAULTFD {
                self.note(feature, Err("there is no userfaultfd to ask".to_owned()));
            }
            return;
        };
        let bit = |wanted: u64, since: &str| {
            if bits & wanted == wanted { Ok(()) } else { Err(older(since)) }
        };
        let shmem = feature::MISSING_SHMEM | feature::MINOR_SHMEM;
        let shmem_wp = shmem | feature::PAGEFAULT_FLAG_WP | feature::WP_HUGETLBFS_SHMEM;
        let wp = feature::PAGEFAULT_FLAG_WP;
        let tried = [
            (Features::WP, bit(wp, "5.7 (arm64: 6.10)").and_then(|()| protects(way))),
            (Features::MOVE, bit(feature::MOVE, "6.8").and_then(|()| moves(way))),
            (Features::POISON, bit(feature::POISON, "6.6").and_then(|()| poisons(way))),
            (Features::MINOR_SHMEM, bit(shmem, "5.14").and_then(|()| continues(way, shmem, false))),
            (
                Features::WP_SHMEM,
                bit(shmem_wp, "5.19").and_then(|()| continues(way, shmem_wp, true)),
            ),
            (
                Features::THREAD_ID,
                bit(feature::THREAD_ID, "4.14").and_then(|()| names_threads(way)),
            ),
        ];
        for (feature, result) in tried {
            self.note(feature, result);
        }
    }
}

fn older(since: &str) -> String {
    let (major, minor) = process::kernel_version();
    format!(
        "this kernel ({major}.{minor}) does not have it: it needs Linux {since} and a kernel built with it"
    )
}

/// An errno with its symbol, where it is one that these calls give.
fn words(errno: Errno) -> String {
    let symbol = match errno {
        Errno::PERM => "EPERM",
        Errno::ACCESS => "EACCES",
        Errno::NOENT => "ENOENT",
        Errno::NOSYS => "ENOSYS",
        Errno::INVAL => "EINVAL",
        Errno::NOMEM => "ENOMEM",
        Errno::MFILE => "EMFILE",
        Errno::BUSY => "EBUSY",
        Errno::EXIST => "EEXIST",
        _ => return std::io::Error::from(errno).to_string(),
    };
    let text = std::io::Error::from(errno).to_string();
    format!("{symbol} ({})", text.split(" (os error").next().unwrap_or_default())
}

/// Why the kernel did not give a userfaultfd.
fn refused(way: UffdOpen, errno: Errno) -> String {
    let said = words(errno);
    let means = match (way, errno) {
        (UffdOpen::Syscall, Errno::PERM)
            if process::sysctl("vm/unprivileged_userfaultfd") == Some(0) && !traces() =>
        {
            "vm.unprivileged_userfaultfd is 0, and the process does not have CAP_SYS_PTRACE"
        }
        (UffdOpen::Syscall | UffdOpen::UserModeOnly, Errno::PERM | Errno::ACCESS) => {
            "a seccomp filter, a security module or a user namespace forbids the call"
        }
        (UffdOpen::UserModeOnly, Errno::INVAL) => "UFFD_USER_MODE_ONLY needs Linux 5.11",
        (UffdOpen::Syscall | UffdOpen::UserModeOnly, Errno::NOSYS) => {
            "the kernel was built without userfaultfd, or a seccomp filter hides it"
        }
        (UffdOpen::Device, Errno::NOENT) => {
            "there is no /dev/userfaultfd: it needs Linux 6.1, and a container that shows it"
        }
        (UffdOpen::Device, Errno::PERM | Errno::ACCESS) => {
            "the rights of /dev/userfaultfd, or the container's rules for devices, forbid to open it"
        }
        _ => "the kernel gave no more than this error",
    };
    format!("{said}: {means}")
}

/// CAP_SYS_PTRACE, which userfaultfd(2) asks for.
fn traces() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return false };
    text.lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .is_some_and(|set| set & (1 << CAP_SYS_PTRACE) != 0)
}

/// One page to try things on, unmapped on drop. Its bytes are never loaded: no fault of the probe
/// can wait for an answer.
struct Page {
    address: usize,
    len: usize,
}

impl Page {
    fn new(fd: Option<&OwnedFd>) -> Result<Self, Errno> {
        let len = rustix::param::page_size();
        let (flags, fd) = match fd {
            Some(fd) => (libc::MAP_SHARED, fd.as_raw_fd()),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new map.
        let address = unsafe { mm::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) }? as usize;
        let page = Self { address, len };
        // mlockall(2) may have supplied the page, which has to be missing.
        mm::munlock(address as *mut u8, len)?;
        // SAFETY: the page is new, and nobody else's; a child that shared it would make moving it
        // EBUSY.
        unsafe {
            mm::madvise(address as *mut u8, len, libc::MADV_DONTFORK)?;
            mm::madvise(address as *mut u8, len, libc::MADV_DONTNEED)?;
        }
        Ok(page)
    }

    fn watch(&self, uffd: &Uffd, mode: u64) -> Result<(), Errno> {
        // SAFETY: the probe's own page, which is never loaded or stored to after this.
        unsafe { uffd.register(self.address, self.len, mode) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the probe's own page.
        let _ = unsafe { mm::munmap(self.address as *mut u8, self.len) };
    }
}

fn open(way: UffdOpen, features: u64) -> Result<Uffd, Errno> {
    let uffd = Uffd::open(way)?;
    uffd.handshake(features)?;
    Ok(uffd)
}

/// Repeats a call that found something busy for a moment.
fn settle(mut step: impl FnMut() -> Progress) -> Result<(), Errno> {
    const TRIES: u32 = 64;
    let mut tries = 0;
    loop {
        match step().stopped {
            None => return Ok(()),
            Some(Errno::AGAIN | Errno::BUSY) if tries < TRIES => tries += 1,
            Some(errno) => return Err(errno),
        }
        std::thread::yield_now();
    }
}

fn said(call: &str, result: Result<(), Errno>) -> Result<(), String> {
    result.map_err(|errno| {
        format!("the kernel names it, but {call} on one page failed with {}", words(errno))
    })
}

fn protects(way: UffdOpen) -> Result<(), String> {
    let tried = || {
        let uffd = open(way, feature::PAGEFAULT_FLAG_WP)?;
        let (to, from) = (Page::new(None)?, Page::new(None)?);
        to.watch(&uffd, watch::MISSING | watch::WP)?;
        // SAFETY: both are the probe's own pages.
        settle(|| unsafe { uffd.copy(to.address, from.address, to.len, true) })?;
        uffd.write_protect(to.address, to.len, false)
    };
    said("UFFDIO_WRITEPROTECT", tried())
}

fn moves(way: UffdOpen) -> Result<(), String> {
    let tried = || {
        let uffd = open(way, feature::MOVE)?;
        let (to, from) = (Page::new(None)?, Page::new(None)?);
        // SAFETY: the probe's own page, which nobody watches.
        unsafe { (from.address as *mut u8).write_volatile(1) };
        to.watch(&uffd, watch::MISSING)?;
        // SAFETY: both are the probe's own pages.
        settle(|| unsafe { uffd.r#move(to.address, from.address, to.len) })
    };
    said("UFFDIO_MOVE", tried())
}

fn poisons(way: UffdOpen) -> Result<(), String> {
    let tried = || {
        let uffd = open(way, feature::POISON)?;
        let page = Page::new(None)?;
        page.watch(&uffd, watch::MISSING)?;
        // SAFETY: the probe's own page, which is never accessed.
        settle(|| unsafe { uffd.poison(page.address, page.len) })
    };
    said("UFFDIO_POISON", tried())
}

fn continues(way: UffdOpen, features: u64, protect: bool) -> Result<(), String> {
    let tried = || {
        let uffd = open(way, features)?;
        let fd = memfd::create("folio-probe", None)?;
        let bytes = vec![1; rustix::param::page_size()];
        size_limit::within(|| rustix::io::pwrite(&fd, &bytes, 0))?;
        let page = Page::new(Some(&fd))?;
        let mode = watch::MISSING | watch::MINOR | if protect { watch::WP } else { 0 };
        page.watch(&uffd, mode)?;
        // SAFETY: the page cache has the page's bytes.
        settle(|| unsafe { uffd.r#continue(page.address, page.len, protect) })?;
        Ok(!protect || is_protected(&page).unwrap_or(true))
    };
    match tried() {
        Ok(true) => Ok(()),
        Ok(false) => Err("UFFDIO_CONTINUE took MODE_WP, and the page was writable".to_owned()),
        // Linux 5.19 to 6.3 protect shared memory, but not in the same step.
        Err(Errno::INVAL) if protect => Err(format!(
            "UFFDIO_CONTINUE with MODE_WP failed with {}: {}",
            words(Errno::INVAL),
            older("6.4")
        )),
        Err(errno) => said("UFFDIO_CONTINUE", Err(errno)),
    }
}

/// Bit 57 of `/proc/self/pagemap`: the page is write-protected by a userfaultfd. `None`: the file
/// cannot be read.
fn is_protected(page: &Page) -> Option<bool> {
    let file = std::fs::File::open("/proc/self/pagemap").ok()?;
    let mut entry = [0; 8];
    let at = (page.address / page.len * entry.len()) as u64;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut entry, at).ok()?;
    Some(u64::from_ne_bytes(entry) >> 57 & 1 == 1)
}

fn names_threads(way: UffdOpen) -> Result<(), String> {
    open(way, feature::THREAD_ID)
        .map(drop)
        .map_err(|errno| format!("UFFDIO_API failed with {}", words(errno)))
}

/// The word in brackets in `/sys/kernel/mm/transparent_hugepage/enabled`.
pub(super) fn huge_mode() -> Result<String, Errno> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text.split(['[', ']']).nth(1).unwrap_or("never").to_owned())
}

fn huge() -> Result<(), String> {
    match huge_mode() {
        Ok(mode) if mode == "always" || mode == "madvise" => Ok(()),
        Ok(mode) => Err(format!("/sys/kernel/mm/transparent_hugepage/enabled is {mode}")),
        Err(errno) => Err(format!("/sys/kernel/mm/transparent_hugepage/enabled: {}", words(errno))),
    }
}

fn io_uring() -> Result<(), String> {
    /// `IORING_FEAT_NODROP`, 5.5.
    const NODROP: u32 = 1 << 1;
    /// Where `struct io_uring_params` (120 bytes) has its features.
    const FEATURES: usize = 5;
    let mut params = [0_u32; 30];
    // SAFETY: the kernel reads and writes one `struct io_uring_params`, for which the array has
    // room.
    let made = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) });
    match made {
        Ok(fd) => {
            // SAFETY: the kernel just made it, for nobody else.
            drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            if params[FEATURES] & NODROP == 0 {
                Err("this kernel's io_uring loses completions: it needs Linux 5.5".to_owned())
            } else {
                Ok(())
            }
        }
        Err(errno) => {
            let means = match (errno, process::sysctl("kernel/io_uring_disabled")) {
                (Errno::PERM, Some(level @ 1..)) => format!("kernel.io_uring_disabled is {level}"),
                (Errno::PERM | Errno::ACCESS, _) => {
                    "a seccomp filter or a security module forbids it".to_owned()
                }
                (Errno::NOSYS, _) => {
                    "the kernel was built without it, or a seccomp filter hides it".to_owned()
                }
                (Errno::NOMEM, _) => "rings may count against RLIMIT_MEMLOCK".to_owned(),
                _ => "the kernel gave no more than this error".to_owned(),
            };
            Err(format!("io_uring_setup failed with {}: {means}", words(errno)))
        }
    }
}
