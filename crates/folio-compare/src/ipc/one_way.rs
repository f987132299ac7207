//! `one-way-64` and `one-way-64k`: one core sends messages as fast as the other takes them. The
//! receiver times them, in batches of twice the messages that the way holds, so that no batch can
//! come out of messages that lay ready.
//!
//! Both cases copy each message in and out. `memcpy`, the peer of the large ones, is the bare ring:
//! one copy into shared memory, one out of it, and a word that says when.

use super::bare::Bare;
use super::folio_side::Folio;
use super::iceoryx::Iceoryx;
use super::ipc_channel::IpcChannel;
use super::pair::{MEMORY, Place, Role, Work};
use super::pair_side;
use super::pipe::Pipe;
use super::port::{Inlet, Lane, Outlet, Transport, room};
use super::shared::Shared;
use super::socket::Socket;
use super::ticks::Times;
use crate::measure::Cost;
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::hint::black_box;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    Bare,
    /// No other core: the same bytes are copied out of shared memory again and again.
    Still,
    Pipe,
    Socket,
    IpcChannel,
    Iceoryx,
}

/// Words of a large message.
pub(super) const BLOCK: usize = 8192;

/// Messages of a batch.
const fn batch<const N: usize>() -> usize {
    2 * room::<N>()
}

/// Batches of a sample, after some that are not timed.
const BATCHES: usize = 200;
const FIRST: usize = 5;

const fn messages<const N: usize>() -> usize {
    (FIRST + BATCHES) * batch::<N>()
}

pub(super) fn start<const N: usize>(
    how: How,
    role: Role,
    place: &Place,
) -> Result<Box<dyn Sampler>> {
    match how {
        How::Folio => ends::<N, Folio<false>>(role, place),
        How::Bare => ends::<N, Bare>(role, place),
        How::Still => Ok(Box::new(Still::<N> {
            shared: Shared::map(place)?,
            role,
            message: Box::new([0; N]),
            times: Times::new(BATCHES),
        })),
        How::Pipe => ends::<N, Pipe>(role, place),
        How::Socket => ends::<N, Socket>(role, place),
        How::IpcChannel => ends::<N, IpcChannel>(role, place),
        How::Iceoryx => ends::<N, Iceoryx<false>>(role, place),
    }
}

fn ends<const N: usize, T: Transport<N> + 'static>(
    role: Role,
    place: &Place,
) -> Result<Box<dyn Sampler>> {
    let message = Box::new([0; N]);
    Ok(match role {
        Role::First => {
            Box::new(Sending { outlet: T::outlet(place, Lane::There)?, message, number: 0 })
        }
        Role::Second => {
            let times = Times::new(BATCHES);
            Box::new(Taking { inlet: T::inlet(place, Lane::There)?, message, number: 0, times })
        }
    })
}

/// Small messages have each word written, and large ones the first and the last: copied bytes are
/// read and written as a whole.
#[inline]
fn mark<const N: usize>(message: &mut [u64; N], number: u64) {
    if N <= 64 {
        *message = [number; N];
    } else {
        (message[0], message[N - 1]) = (number, number);
    }
}

#[inline]
fn is_marked<const N: usize>(message: &[u64; N], number: u64) -> bool {
    if N <= 64 {
        message.iter().all(|&word| word == number)
    } else {
        message[0] == number && message[N - 1] == number
    }
}

struct Sending<O, const N: usize> {
    outlet: O,
    message: Box<[u64; N]>,
    number: u64,
}

impl<O: Outlet<N>, const N: usize> Sampler for Sending<O, N> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        for _ in 0..messages::<N>() {
            self.number += 1;
            mark(&mut self.message, self.number);
            self.outlet.send(&self.message)?;
        }
        Ok(Cost::default())
    }

    fn note(&self) -> Option<String> {
        self.outlet.note()
    }
}

struct Taking<I, const N: usize> {
    inlet: I,
    message: Box<[u64; N]>,
    number: u64,
    times: Times,
}

impl<I: Inlet<N>, const N: usize> Taking<I, N> {
    fn take(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.number += 1;
            self.inlet.receive(&mut self.message)?;
            ensure!(is_marked(&self.message, self.number), "message {} is another", self.number);
        }
        Ok(())
    }
}

impl<I: Inlet<N>, const N: usize> Sampler for Taking<I, N> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        self.take(FIRST * batch::<N>())?;
        self.times.start();
        for _ in 0..BATCHES {
            self.take(batch::<N>())?;
            self.times.lap();
        }
        Ok(self.times.cost(parts::<N>()))
    }

    fn note(&self) -> Option<String> {
        self.inlet.note()
    }
}

/// The parts of a batch: messages, or thousands of bytes.
fn parts<const N: usize>() -> f64 {
    batch::<N>() as f64 * if N <= 64 { 1.0 } else { N as f64 * 8.0 / 1000.0 }
}

/// Copies out of shared memory that nobody writes to.
struct Still<const N: usize> {
    shared: Shared,
    role: Role,
    message: Box<[u64; N]>,
    times: Times,
}

impl<const N: usize> Sampler for Still<N> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        if self.role == Role::First {
            return Ok(Cost::default());
        }
        for batch in 0..FIRST + BATCHES {
            if batch == FIRST {
                self.times.start();
            }
            for place in 0..self::batch::<N>() {
                let offset = place % room::<N>() * N * 8;
                assert!(offset < MEMORY);
                let from = self.shared.at(offset, N * 8).cast::<u64>();
                // SAFETY: it is inside the map, aligned, and nobody writes to it.
                unsafe { from.copy_to_nonoverlapping(self.message.as_mut_ptr(), N) };
                black_box(&mut self.message);
            }
            if batch >= FIRST {
                self.times.lap();
            }
        }
        Ok(self.times.cost(parts::<N>()))
    }
}

pub(super) fn small() -> Result<Group<'static>> {
    let mut group = Group::new("ns/msg");
    for (name, how) in [
        (FOLIO, How::Folio),
        ("iceoryx2", How::Iceoryx),
        ("bare", How::Bare),
        ("pipe", How::Pipe),
        ("socket", How::Socket),
        ("ipc-channel", How::IpcChannel),
    ] {
        pair_side(&mut group, name, Work::OneWay(how))?;
    }
    let tail = "one-way-64-p99";
    group.pairs = vec![
        Pair::new("one-way-64", "iceoryx2").goal(0.2).tail(tail).beside("bare", "a bare ring").note(
            "iceoryx2: loan_uninit and send, receive is polled; buffers of 256 samples, a full one is retried; \
             each message is copied in and out, as folio's is, though both could work in place",
        ),
        Pair::new("one-way-64", "pipe").tail(tail),
        Pair::new("one-way-64", "socket").tail(tail),
        Pair::new("one-way-64", "ipc-channel").tail(tail),
    ];
    Ok(group)
}

pub(super) fn large() -> Result<Group<'static>> {
    let mut group = Group::new("ns/kB");
    for (name, how) in [
        (FOLIO, How::Folio),
        ("memcpy", How::Bare),
        ("still", How::Still),
        ("iceoryx2", How::Iceoryx),
        ("pipe", How::Pipe),
        ("socket", How::Socket),
        ("ipc-channel", How::IpcChannel),
    ] {
        pair_side(&mut group, name, Work::Block(how))?;
    }
    let tail = "one-way-64k-p99";
    group.pairs = vec![
        Pair::new("one-way-64k", "memcpy")
            .goal(1.2)
            .tail(tail)
            .note(
                "memcpy: the bare ring, which is no lone memcpy(3): one copy into shared memory by one core, one out \
                 of it by the other, and a word that says when",
            )
            .beside("still", "a copy out of memory that no other core writes to"),
        Pair::new("one-way-64k", "iceoryx2")
            .tail(tail)
            .note("iceoryx2: each message is copied in and out, as folio's is, though both could work in place"),
        Pair::new("one-way-64k", "pipe").tail(tail).note("pipe: with room for 1 MiB, where that is allowed"),
        Pair::new("one-way-64k", "socket").tail(tail),
        Pair::new("one-way-64k", "ipc-channel").tail(tail),
    ];
    Ok(group)
}
