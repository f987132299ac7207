//! A descriptor over a Unix socket (SCM_RIGHTS), with one byte of data, since a message without
//! data may be lost.

use crate::error::{Errno, Error, Result, Subject};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

fn subject() -> Subject {
    Subject::named("a descriptor over a Unix socket")
}

pub(crate) fn send(socket: &UnixStream, fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Error::kernel("sendmsg", Errno::NOBUFS, subject()));
    }
    let data = [IoSlice::new(&[0])];
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(socket.as_fd(), &data, &mut control, SendFlags::NOSIGNAL)
    });
    sent.map(drop).map_err(|errno| Error::kernel("sendmsg", errno, subject()))
}

pub(crate) fn receive(socket: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket.as_fd(), &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(|errno| Error::kernel("recvmsg", errno, subject()))?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    match fds.next().and_then(|mut fds| fds.next()) {
        Some(fd) if !received.flags.contains(ReturnFlags::CTRUNC) => Ok(fd),
        _ => Err(Error::rule(
            "recvmsg",
            subject(),
            match received.bytes {
                0 => "the other end closed the socket",
                _ => "the message carried no descriptor, or more than one",
            },
            "send it with `send` or `pass`, and nothing else before it",
        )),
    }
}
