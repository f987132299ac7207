//! A descriptor that becomes readable when another process sends a byte to it by a name in the
//! abstract namespace, when a process ends, or when a timer goes off: the base of a notifier.
//! Nothing of it is left when its process ends, but for the name of a [FIFO](super::fifo), if it
//! has one.
//!
//! Source: unix(7), epoll(7), timerfd_create(2), pidfd_open(2).

use crate::shm::sys::fifo::Fifo;
use crate::sys::check;
use crate::sys::fork_mutex::ForkMutex;
use rustix::event::{PollFd, PollFlags, epoll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The epoll's data for a process, and for all else.
const END: u64 = 1;
const RING: u64 = 0;
/// How many descriptors of the epoll are no processes: socket, timer and FIFO.
const OTHERS: usize = 3;

/// The receiving end.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    /// Readable when any of the others is.
    epoll: OwnedFd,
    socket: UnixDatagram,
    timer: OwnedFd,
    address: SocketAddr,
    /// For those who do not reach the socket.
    fifo: Option<Fifo>,
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl NotifySocket {
    /// A notifier that `name` rings, and that rings by itself once in every `interval`.
    pub(crate) fn new(name: &[u8], interval: Duration) -> Result<Self, Errno> {
        let address = SocketAddr::from_abstract_name(name).map_err(|error| errno(&error))?;
        let socket = UnixDatagram::bind_addr(&address).map_err(|error| errno(&error))?;
        socket.set_nonblocking(true).map_err(|error| errno(&error))?;
        let timer = timer(interval)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let notifier = Self { epoll, socket, timer, address, fifo: None };
        notifier.add(notifier.socket.as_fd(), RING)?;
        notifier.add(notifier.timer.as_fd(), RING)?;
        Ok(notifier)
    }

    fn add(&self, fd: BorrowedFd<'_>, what: u64) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(what), epoll::EventFlags::IN)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Makes it readable when this FIFO is, too.
    pub(crate) fn attach_fifo(&mut self, fifo: Fifo) -> Result<(), Errno> {
        self.add(fifo.as_fd(), RING)?;
        self.fifo = Some(fifo);
        Ok(())
    }

    /// Makes it readable.
    pub(crate) fn signal(&self) {
        // By its own socket, which reaches it wherever this process has gone. If it is full, it has
        // rung.
        let _ = self.socket.send_to_addr(&[1], &self.address);
    }

    /// Makes it unreadable until it rings again.
    pub(crate) fn clear(&self) {
        /// More than a queue of datagrams holds; a process that signals all the time is no reason
        /// to stay here.
        const RINGS: usize = 1024;
        let mut bytes = [0; 16];
        let _ = (0..RINGS).find(|_| self.socket.recv(&mut bytes).is_err());
        // The timer's descriptor does not block: EAGAIN if it did not go off.
        let _ = rustix::io::read(&self.timer, &mut bytes[..8]);
        if let Some(fifo) = &self.fifo {
            fifo.drain();
        }
    }

    /// Makes it readable when the process of this number ends, for as long as the returned
    /// descriptor lives.
    pub(crate) fn watch(&self, pid: u32) -> Result<OwnedFd, Errno> {
        let pid =
            i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        self.add(process.as_fd(), END)?;
        Ok(process)
    }

    /// Whether the end of a process that is watched makes it readable just now.
    pub(crate) fn watches_an_end(&self) -> bool {
        let mut events = Vec::with_capacity(OTHERS + 1);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let heard =
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now));
        heard.is_ok() && events.iter().any(|event: &epoll::Event| event.data.u64() == END)
    }

    /// The end of this process makes it readable no more.
    pub(crate) fn forget(&self, process: &OwnedFd) {
        let _ = epoll::delete(&self.epoll, process);
    }
}

/// Whether the process has ended that [`NotifySocket::watch`] returned this for.
pub(crate) fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)) == Ok(1)
}

/// Rings the notifier of this name, in whatever process it is. Whether it rings; one that has rung
/// already counts. If not, there may be none, or this process cannot reach it: it has no descriptor
/// left, or another network namespace.
pub(crate) fn signal(name: &[u8]) -> bool {
    static SOCKET: ForkMutex<Option<&'static UnixDatagram>> = ForkMutex::with(None);
    let Ok(address) = SocketAddr::from_abstract_name(name) else { return false };
    let known = || {
        let mut socket = SOCKET.lock();
        if socket.is_none() {
            *socket = unbound().ok().map(|fresh| &*Box::leak(Box::new(fresh)));
        }
        *socket
    };
    let Some(socket) = known() else { return false };
    let is_full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    match socket.send_to_addr(&[1], &address) {
        Ok(_) => true,
        // The notifier's queue is full of rings; or this socket's buffer is, of rings that other
        // notifiers have not taken. Or this thread has left the network namespace that the socket
        // was made in.
        Err(_) => match unbound().and_then(|own| own.send_to_addr(&[1], &address)) {
            Ok(_) => true,
            Err(error) => is_full(&error),
        },
    }
}

fn unbound() -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A descriptor that is readable once in every `interval`.
fn timer(interval: Duration) -> Result<OwnedFd, Errno> {
    // SAFETY: a system call without pointers.
    let fd = unsafe {
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK)
    };
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
