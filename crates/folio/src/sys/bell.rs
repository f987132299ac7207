//! A descriptor that becomes readable when another process sends a byte to it by a name in the abstract namespace, when a process ends, or
//! when a timer goes off: what stands behind a bell. Nothing of it is left when its process ends.
//!
//! Source: unix(7), epoll(7), timerfd_create(2), pidfd_open(2).

use super::check;
use rustix::event::epoll;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;
use std::time::Duration;

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Bell {
    /// Readable when any of the others is.
    epoll: OwnedFd,
    socket: UnixDatagram,
    timer: OwnedFd,
    name: Vec<u8>,
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Bell {
    /// A bell that `name` rings, and that rings by itself once in every `interval`.
    pub(crate) fn new(name: &[u8], interval: Duration) -> Result<Self, Errno> {
        let address = SocketAddr::from_abstract_name(name).map_err(|error| errno(&error))?;
        let socket = UnixDatagram::bind_addr(&address).map_err(|error| errno(&error))?;
        socket.set_nonblocking(true).map_err(|error| errno(&error))?;
        let timer = timer(interval)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Self { epoll, socket, timer, name: name.to_vec() };
        bell.add(bell.socket.as_fd())?;
        bell.add(bell.timer.as_fd())?;
        Ok(bell)
    }

    fn add(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Makes it readable.
    pub(crate) fn ring(&self) {
        ring(&self.name);
    }

    /// Makes it unreadable until it rings again.
    pub(crate) fn hush(&self) {
        /// More than a queue of datagrams holds; whoever rings all the time is no reason to stay here.
        const RINGS: usize = 1024;
        let mut bytes = [0; 16];
        let _ = (0..RINGS).find(|_| self.socket.recv(&mut bytes).is_err());
        // The timer's descriptor does not block: EAGAIN if it did not go off.
        let _ = rustix::io::read(&self.timer, &mut bytes[..8]);
    }

    /// Makes it readable when the process of this number ends, for as long as the returned descriptor lives.
    pub(crate) fn watch(&self, pid: u32) -> Result<OwnedFd, Errno> {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        self.add(process.as_fd())?;
        Ok(process)
    }
}

/// Rings the bell of this name, in whatever process it is. Whether there is one; one that has rung already counts.
pub(crate) fn ring(name: &[u8]) -> bool {
    static SOCKET: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    let socket = SOCKET.get_or_init(|| {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    });
    let (Some(socket), Ok(address)) = (socket, SocketAddr::from_abstract_name(name)) else { return false };
    match socket.send_to_addr(&[1], &address) {
        Ok(_) => true,
        // Its queue is full of rings.
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// A descriptor that is readable once in every `interval`.
fn timer(interval: Duration) -> Result<OwnedFd, Errno> {
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) };
    let fd = i32::try_from(check(fd)?).map_err(|_| Errno::BADF)?;
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(interval.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: interval.subsec_nanos().into(),
    };
    let spec = libc::itimerspec { it_interval: time, it_value: time };
    let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
    // SAFETY: the kernel reads `spec`, and writes nothing.
    check(unsafe { libc::timerfd_settime(number, 0, &raw const spec, std::ptr::null_mut()) })?;
    Ok(fd)
}
