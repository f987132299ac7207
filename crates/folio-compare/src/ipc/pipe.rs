//! The peer `pipe`: a FIFO, one write(2) and one read(2) a message.

use super::pair::{Place, wait_for};
use super::port::{Inlet, Lane, Outlet, Transport, bytes, bytes_mut};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

pub(super) struct Pipe;

/// Bytes that a pipe holds, where the machine allows it: of the largest messages several.
const ROOM: libc::c_int = 1 << 20;

impl<const N: usize> Transport<N> for Pipe {
    type Outlet = File;
    type Inlet = File;

    fn outlet(place: &Place, lane: Lane) -> Result<File> {
        let path = place.path(lane.name());
        wait_for(&path)?;
        let file = File::options().write(true).open(path)?;
        if N * 8 > 4096 {
            // SAFETY: this call changes the pipe alone. If it fails the pipe keeps its size.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM) };
        }
        Ok(file)
    }

    fn inlet(place: &Place, lane: Lane) -> Result<File> {
        let path = place.path(lane.name());
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the name is a string that ends.
        if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0 {
            return Err(io::Error::last_os_error()).context("mkfifo");
        }
        Ok(File::open(path)?)
    }
}

impl<const N: usize> Outlet<N> for File {
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        Ok(self.write_all(bytes(message))?)
    }
}

impl<const N: usize> Inlet<N> for File {
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        Ok(self.read_exact(bytes_mut(message))?)
    }
}
