//! The peer `socket`: a Unix stream socket for each direction, one write(2) and one read(2) a
//! message.

use super::pair::Place;
use super::port::{Inlet, Lane, Outlet, Transport, bytes, bytes_mut};
use anyhow::Result;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

pub(super) struct Socket;

impl<const N: usize> Transport<N> for Socket {
    type Outlet = UnixStream;
    type Inlet = UnixStream;

    fn outlet(place: &Place, lane: Lane) -> Result<UnixStream> {
        let path = place.path(lane.name());
        let mut tries = 0;
        loop {
            match UnixStream::connect(&path) {
                // The other one does not listen yet.
                Err(_) if tries < 10_000 => std::thread::sleep(Duration::from_millis(1)),
                result => return Ok(result?),
            }
            tries += 1;
        }
    }

    fn inlet(place: &Place, lane: Lane) -> Result<UnixStream> {
        Ok(UnixListener::bind(place.path(lane.name()))?.accept()?.0)
    }
}

impl<const N: usize> Outlet<N> for UnixStream {
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        Ok(self.write_all(bytes(message))?)
    }
}

impl<const N: usize> Inlet<N> for UnixStream {
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        Ok(self.read_exact(bytes_mut(message))?)
    }
}
