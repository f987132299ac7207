//! A FUSE file system with one file, whose answers can be slow, stuck, or untrue.
//!
//! A child process serves it. A thread that waits for a FUSE server cannot be killed, so a server
//! in the same process could keep that process for ever. The child ends when the [`FuseServer`] is
//! dropped, and by itself after five minutes: its end closes `/dev/fuse`, and the kernel then fails
//! all requests that wait.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    Session, SessionACL, WriteFlags,
};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Seconds after which the child ends by itself.
const LIFE: u32 = 300;
const FILE: INodeNo = INodeNo(2);
/// The kernel keeps no attribute: each fstat(2) asks the server.
const NO_TIME: Duration = Duration::ZERO;

/// The file that a server serves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    pub(crate) bytes: Vec<u8>,
    /// Reads go around the page cache, and shared maps are refused (`FOPEN_DIRECT_IO`).
    pub(crate) direct_io: bool,
    /// The size that attributes state, where it is not the number of bytes.
    pub(crate) said_size: Option<u64>,
    /// Each read gives other bytes, and changes the time of the last change.
    pub(crate) restless: bool,
}

/// A mounted file system, and the child that serves it.
pub(crate) struct FuseServer {
    dir: tempfile::TempDir,
    control: &'static Control,
    child: libc::pid_t,
}

/// How the child answers: memory that it shares with the test.
#[derive(Default)]
struct Control {
    /// Microseconds that each read takes.
    delay: AtomicU64,
    reads_stick: AtomicBool,
    writes_stick: AtomicBool,
    attributes_stick: AtomicBool,
    opens_stick: AtomicBool,
    lookups_stick: AtomicBool,
    /// Reads that have reached the server.
    reads: AtomicU64,
    /// Requests that are stuck now.
    stuck: AtomicU64,
    /// Nanoseconds since 1970.
    modified: AtomicU64,
}

impl FuseServer {
    /// Mounts a file; an error says why this machine cannot.
    pub(crate) fn start(served: Served) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
        let device =
            OwnedFd::from(device.map_err(|error| format!("/dev/fuse cannot be opened: {error}"))?);
        let control = Control::shared();
        control.modified.store(1_000_000_000_000_000_000, Ordering::Relaxed);
        let target = CString::new(dir.path().as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: asks for this process's ids.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let fd = device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40000,user_id={user},group_id={group},allow_other");
        let options = CString::new(options).unwrap();
        let kind = c"fuse.folio-test".as_ptr();
        // SAFETY: all are strings that live until the call returns.
        let mounted = unsafe {
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            libc::mount(
                c"folio-test".as_ptr(),
                target.as_ptr(),
                kind,
                flags,
                options.as_ptr().cast(),
            )
        };
        if mounted != 0 {
            return Err(format!(
                "a FUSE file system cannot be mounted: {}",
                std::io::Error::last_os_error()
            ));
        }
        // SAFETY: the child runs on this thread's copy alone; glibc's heap works after a fork, and
        // the child ends with `_exit`.
        let child = match unsafe { libc::fork() } {
            0 => serve(device, served, control),
            child => child,
        };
        let server = Self { dir, control, child };
        assert!(server.child > 0, "fork: {}", std::io::Error::last_os_error());
        Ok(server)
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("file")
    }

    /// From now on each read takes this long.
    pub(crate) fn delay_reads(&self, time: Duration) {
        self.control.delay.store(time.as_micros() as u64, Ordering::SeqCst);
    }

    /// Whether reads wait until this is called again with `false`.
    pub(crate) fn stick_reads(&self, stick: bool) {
        self.control.reads_stick.store(stick, Ordering::SeqCst);
    }

    /// Whether writes wait.
    pub(crate) fn stick_writes(&self, stick: bool) {
        self.control.writes_stick.store(stick, Ordering::SeqCst);
    }

    /// Whether fstat(2) waits.
    pub(crate) fn stick_attributes(&self, stick: bool) {
        self.control.attributes_stick.store(stick, Ordering::SeqCst);
    }

    /// Whether open(2) waits.
    pub(crate) fn stick_opens(&self, stick: bool) {
        self.control.opens_stick.store(stick, Ordering::SeqCst);
    }

    /// Whether the search for names other than the file's waits.
    pub(crate) fn stick_lookups(&self, stick: bool) {
        self.control.lookups_stick.store(stick, Ordering::SeqCst);
    }

    /// Lets all that is stuck go when it is dropped: a test that panics must not wait for its own
    /// threads.
    pub(crate) fn lets_go(&self) -> LetsGo<'_> {
        LetsGo(self)
    }

    /// From now on the file has another time of its last change.
    pub(crate) fn touch(&self) {
        self.control.modified.fetch_add(1_000_000_000, Ordering::SeqCst);
    }

    /// How many reads have reached the server.
    pub(crate) fn reads(&self) -> u64 {
        self.control.reads.load(Ordering::SeqCst)
    }

    /// How many requests are stuck now.
    pub(crate) fn stuck(&self) -> u64 {
        self.control.stuck.load(Ordering::SeqCst)
    }
}

/// Made by [`FuseServer::lets_go`].
pub(crate) struct LetsGo<'a>(&'a FuseServer);

impl Drop for LetsGo<'_> {
    fn drop(&mut self) {
        self.0.stick_reads(false);
        self.0.stick_writes(false);
        self.0.stick_attributes(false);
        self.0.stick_opens(false);
    }
}

impl Drop for FuseServer {
    fn drop(&mut self) {
        let target = CString::new(self.dir.path().as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: `child` is a child that nobody has waited for. MNT_FORCE fails all requests that
        // wait.
        unsafe {
            libc::umount2(target.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH);
            if self.child > 0 {
                libc::kill(self.child, libc::SIGKILL);
                libc::waitpid(self.child, std::ptr::null_mut(), 0);
            }
        }
    }
}

impl Control {
    /// One that children share. It is never freed: a thread of the test may still look at it.
    fn shared() -> &'static Self {
        let (len, access) = (size_of::<Self>(), libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: new memory of zeros, which is a valid value of these atomics, aligned to a page.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            &*start.cast::<Self>()
        }
    }

    /// Waits for as long as `stick` says so.
    fn wait(&self, stick: &AtomicBool) {
        if stick.load(Ordering::SeqCst) {
            self.stuck.fetch_add(1, Ordering::SeqCst);
            while stick.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.stuck.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The child's whole life.
fn serve(device: OwnedFd, served: Served, control: &'static Control) -> ! {
    // The child has copies of the test's descriptors: files, locks and pipes that other tests may
    // want to see closed.
    // SAFETY: the only descriptor that is used from here on is moved to number 3 first.
    let device = unsafe {
        libc::alarm(LIFE);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for standard in 0..3 {
            libc::dup2(null, standard);
        }
        let fd = if device.as_raw_fd() == 3 { 3 } else { libc::dup2(device.as_raw_fd(), 3) };
        std::mem::forget(device);
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        OwnedFd::from_raw_fd(fd)
    };
    let files = OneFile { served: Arc::new(Mutex::new(served)), control };
    let session = Session::from_fd(files, device, SessionACL::All, Config::default());
    let _ = session.and_then(Session::run);
    // SAFETY: ends the child, without the destructors of the test's threads.
    unsafe { libc::_exit(0) }
}

struct OneFile {
    served: Arc<Mutex<Served>>,
    control: &'static Control,
}

fn lock(served: &Mutex<Served>) -> std::sync::MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OneFile {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let directory = ino == INodeNo::ROOT;
        let served = lock(&self.served);
        let size =
            if directory { 0 } else { served.said_size.unwrap_or(served.bytes.len() as u64) };
        let time = SystemTime::UNIX_EPOCH
            + Duration::from_nanos(self.control.modified.load(Ordering::SeqCst));
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if directory { FileType::Directory } else { FileType::RegularFile },
            perm: if directory { 0o777 } else { 0o666 },
            nlink: 1,
            // SAFETY: asks for this process's ids.
            uid: unsafe { libc::geteuid() },
            // SAFETY: asks for this process's ids.
            gid: unsafe { libc::getegid() },
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for OneFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "file" {
            return reply.entry(&NO_TIME, &self.attributes(FILE), Generation(0));
        }
        let control = self.control;
        std::thread::spawn(move || {
            control.wait(&control.lookups_stick);
            reply.error(Errno::ENOENT);
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (control, attributes) = (self.control, self.attributes(ino));
        std::thread::spawn(move || {
            control.wait(&control.attributes_stick);
            reply.attr(&NO_TIME, &attributes);
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let direct = lock(&self.served).direct_io;
        let flags = if direct { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
        let control = self.control;
        std::thread::spawn(move || {
            control.wait(&control.opens_stick);
            reply.opened(FileHandle(0), flags);
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (control, served) = (self.control, Arc::clone(&self.served));
        let number = control.reads.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            control.wait(&control.reads_stick);
            std::thread::sleep(Duration::from_micros(control.delay.load(Ordering::SeqCst)));
            let served = lock(&served);
            let start = (offset as usize).min(served.bytes.len());
            let end = (start + size as usize).min(served.bytes.len());
            if served.restless {
                control.modified.fetch_add(1_000_000_000, Ordering::SeqCst);
                return reply.data(&vec![number as u8; end - start]);
            }
            reply.data(&served.bytes[start..end]);
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (control, served, bytes) = (self.control, Arc::clone(&self.served), bytes.to_vec());
        std::thread::spawn(move || {
            control.wait(&control.writes_stick);
            let mut served = lock(&served);
            let end = offset as usize + bytes.len();
            if served.bytes.len() < end {
                served.bytes.resize(end, 0);
            }
            served.bytes[offset as usize..end].copy_from_slice(&bytes);
            reply.written(bytes.len() as u32);
        });
    }
}
