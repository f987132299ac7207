//! The descriptors that the process was started with.
//!
//! Rust's runtime opens `/dev/null` over standard descriptors that are closed, before `main`. A
//! command would then lose its output and end with success. So this file looks before the runtime
//! does.
#![allow(unsafe_code)]

use crate::failure::{Failure, Kind};
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

/// One bit for each of the descriptors 0, 1 and 2 that was closed when the process started.
static CLOSED_AT_START: AtomicU8 = AtomicU8::new(0);

// SAFETY: the C library calls each function of `.init_array` once, before `main`, with the C
// calling convention. `look` takes no arguments, so those that glibc passes are ignored. It calls
// fcntl(2) and stores to an atomic: neither needs Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let is_closed = |fd: RawFd| {
        // SAFETY: F_GETFD takes any number and touches no memory.
        unsafe { libc::fcntl(fd, libc::F_GETFD) == -1 }
    };
    let closed = (0..3).filter(|&fd| is_closed(fd)).fold(0, |bits, fd| bits | 1 << fd);
    CLOSED_AT_START.store(closed, Ordering::Relaxed);
}

/// Another descriptor of the same open file as the inherited descriptor `number`: both share one
/// position. `name` is for the error of a process that was started without that descriptor.
pub(crate) fn inherited(number: RawFd, kind: Kind, name: &str) -> Result<File, Failure> {
    duplicate(number).map_err(|error| {
        let failure = Failure::io(kind, name, &error);
        if error.raw_os_error() == Some(libc::EBADF) {
            let way = if kind == Kind::Source { '<' } else { '>' };
            return failure.remedy(format!(
                "descriptor {number} was closed when the command started: open it, as by `{number}{way}FILE`"
            ));
        }
        failure
    })
}

fn duplicate(number: RawFd) -> io::Result<File> {
    if (0..3).contains(&number) && CLOSED_AT_START.load(Ordering::Relaxed) & (1 << number) != 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: F_DUPFD_CLOEXEC takes any number and touches no memory.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) };
    if copy == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else knows of it.
    Ok(unsafe { File::from_raw_fd(copy) })
}

/// Closes a file, and returns the error that the drop of a `File` hides.
///
/// # Errors
///
/// Those of close(2): a server may refuse only here the bytes that it took before.
pub(crate) fn close(file: File) -> io::Result<()> {
    // SAFETY: `into_raw_fd` gives the only owner's descriptor away, so nothing else uses or closes
    // it.
    let result = unsafe { libc::close(file.into_raw_fd()) };
    let error = io::Error::last_os_error();
    // The descriptor is gone, also when a signal came meanwhile (close(2)).
    if result == 0 || error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}
