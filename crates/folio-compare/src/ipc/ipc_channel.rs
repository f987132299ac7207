//! The peer `ipc-channel`: its channel of bytes, which serializes nothing.

use super::pair::{Place, wait_for};
use super::port::{Inlet, Lane, Outlet, Transport, bytes, bytes_mut};
use anyhow::{Context, Result, anyhow, ensure};
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

pub(super) struct IpcChannel;

impl<const N: usize> Transport<N> for IpcChannel {
    type Outlet = IpcBytesSender;
    type Inlet = IpcBytesReceiver;

    fn outlet(place: &Place, lane: Lane) -> Result<IpcBytesSender> {
        let path = place.path(lane.name());
        wait_for(&path)?;
        let sender = IpcSender::connect(std::fs::read_to_string(path)?)?;
        let (outlet, inlet) = ipc::bytes_channel()?;
        // The receiving end goes to where it is needed.
        sender.send(inlet).map_err(|error| anyhow!("{error}"))?;
        Ok(outlet)
    }

    fn inlet(place: &Place, lane: Lane) -> Result<IpcBytesReceiver> {
        let (server, name) = IpcOneShotServer::<IpcBytesReceiver>::new()?;
        let path = place.path(lane.name());
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, name)?;
        std::fs::rename(unfinished, path)?;
        let (_, inlet) = server.accept().map_err(|error| anyhow!("{error}"))?;
        Ok(inlet)
    }
}

impl<const N: usize> Outlet<N> for IpcBytesSender {
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        Self::send(self, bytes(message)).context("ipc-channel cannot send")
    }
}

impl<const N: usize> Inlet<N> for IpcBytesReceiver {
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        let found = self.recv().map_err(|error| anyhow!("ipc-channel cannot receive: {error}"))?;
        let bytes = bytes_mut(message);
        ensure!(found.len() == bytes.len(), "a message of {} bytes", found.len());
        bytes.copy_from_slice(&found);
        Ok(())
    }
}
