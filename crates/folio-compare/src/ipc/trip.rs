//! `rtt-spin` and `rtt-park`: a message of 64 bytes goes to the other core, is changed there, and
//! comes back.
//!
//! When both are to sleep, each does something else for 10 µs before it sends, and by then the
//! other one sleeps indeed: else a side that looks a little while before it sleeps would not be
//! asleep in a mere exchange of messages. These 10 µs are taken off what was timed. The look of 2
//! µs that folio takes after it has said that it will sleep lies within the other's 10 µs, and so
//! is in no figure: it costs the processor, and no message waits for it.
//!
//! The slowest hundredth is that of single trips. The median is theirs as well when both sleep;
//! when they spin, a trip takes a dozen of the clock's steps only, and it is the median of tens of
//! trips.
//!
//! The floor is the machine's own: one atomic word that the two cores write in turn. It has no
//! payload, and nobody can be faster.

use super::folio_side::Folio;
use super::iceoryx::Iceoryx;
use super::pair::{Place, Role, Work};
use super::port::{Inlet, Lane, Outlet, Transport};
use super::shared::Shared;
use super::ticks::{self, Times};
use super::{bare, ipc_channel, pair_side, pipe, socket};
use crate::measure::Cost;
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    FolioParked,
    Floor,
    Bare,
    Futex,
    Pipe,
    Socket,
    IpcChannel,
    Iceoryx,
    IceoryxParked,
}

/// Words of a message.
const WORDS: usize = 8;

/// The trips of a sample.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Not timed.
    first: usize,
    /// Timed so many at a time.
    together: usize,
    tens: usize,
    /// Timed one by one.
    singles: usize,
    /// Nanoseconds that each does something else before it sends.
    pause: f64,
}

const SPINNING: Plan =
    Plan { first: 2_000, together: 10, tens: 1_000, singles: 10_000, pause: 0.0 };
const PARKED: Plan = Plan { first: 100, together: 1, tens: 0, singles: 1_000, pause: 10_000.0 };

impl Plan {
    const fn trips(&self) -> usize {
        self.first + self.together * self.tens + self.singles
    }
}

pub(super) fn start(how: How, role: Role, place: &Place) -> Result<Box<dyn Sampler>> {
    match how {
        How::Folio => trips::<Folio<false>>(role, place, SPINNING),
        How::FolioParked => trips::<Folio<true>>(role, place, PARKED),
        How::Floor => {
            let floor = Floor { shared: Shared::map(place)?, word: 0 };
            Ok(match role {
                Role::First => Box::new(Asking::new(floor, SPINNING)),
                Role::Second => Box::new(Answering { answer: floor, plan: SPINNING }),
            })
        }
        How::Bare => trips::<bare::Bare>(role, place, SPINNING),
        How::Futex => trips::<bare::Futex>(role, place, PARKED),
        How::Pipe => trips::<pipe::Pipe>(role, place, PARKED),
        How::Socket => trips::<socket::Socket>(role, place, PARKED),
        How::IpcChannel => trips::<ipc_channel::IpcChannel>(role, place, PARKED),
        How::Iceoryx => trips::<Iceoryx<false>>(role, place, SPINNING),
        How::IceoryxParked => trips::<Iceoryx<true>>(role, place, PARKED),
    }
}

/// The one that goes there and back.
trait Ask {
    fn trip(&mut self) -> Result<()>;

    fn note(&self) -> Option<String> {
        None
    }
}

/// The other one.
trait Answer {
    /// Takes what comes, and sends it back after so many nanoseconds.
    fn answer(&mut self, pause: f64) -> Result<()>;

    fn note(&self) -> Option<String> {
        None
    }
}

struct Asking<A> {
    ask: A,
    plan: Plan,
    tens: Times,
    singles: Times,
}

struct Answering<A> {
    answer: A,
    plan: Plan,
}

impl<A: Ask> Asking<A> {
    fn new(ask: A, plan: Plan) -> Self {
        Self { ask, plan, tens: Times::new(plan.tens), singles: Times::new(plan.singles) }
    }
}

impl<A: Ask> Sampler for Asking<A> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        let Plan { first, together, tens, singles, pause } = self.plan;
        for _ in 0..first {
            ticks::pass(pause);
            self.ask.trip()?;
        }
        self.tens.start();
        for _ in 0..tens {
            for _ in 0..together {
                self.ask.trip()?;
            }
            self.tens.lap();
        }
        self.singles.start();
        for _ in 0..singles {
            if pause > 0.0 {
                ticks::pass(pause);
                self.singles.skip();
            }
            self.ask.trip()?;
            self.singles.lap();
        }
        let mut cost = self.singles.cost(1.0);
        cost.typical -= pause;
        cost.tail = cost.tail.map(|tail| tail - pause);
        if tens > 0 {
            cost.typical = self.tens.at(0.5, together as f64);
        }
        Ok(cost)
    }

    fn note(&self) -> Option<String> {
        self.ask.note()
    }
}

impl<A: Answer> Sampler for Answering<A> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        for _ in 0..self.plan.trips() {
            self.answer.answer(self.plan.pause)?;
        }
        Ok(Cost::default())
    }

    fn note(&self) -> Option<String> {
        self.answer.note()
    }
}

/// One word that the two write in turn.
struct Floor {
    shared: Shared,
    word: u64,
}

impl Ask for Floor {
    #[inline]
    fn trip(&mut self) -> Result<()> {
        let word = self.shared.word(0);
        word.store(self.word + 1, Ordering::Release);
        self.word += 2;
        while word.load(Ordering::Acquire) != self.word {}
        Ok(())
    }
}

impl Answer for Floor {
    #[inline]
    fn answer(&mut self, _: f64) -> Result<()> {
        let word = self.shared.word(0);
        while word.load(Ordering::Acquire) != self.word + 1 {}
        self.word += 2;
        word.store(self.word, Ordering::Release);
        Ok(())
    }
}

/// The first one's ends.
struct Near<O, I> {
    there: O,
    back: I,
    number: u64,
}

/// The second one's ends.
struct Far<I, O> {
    there: I,
    back: O,
}

fn trips<T: Transport<WORDS> + 'static>(
    role: Role,
    place: &Place,
    plan: Plan,
) -> Result<Box<dyn Sampler>> {
    // The ends of a lane are made at the same time, one lane after the other: some wait for the
    // other end.
    Ok(match role {
        Role::First => {
            let there = T::outlet(place, Lane::There)?;
            Box::new(Asking::new(
                Near { there, back: T::inlet(place, Lane::Back)?, number: 0 },
                plan,
            ))
        }
        Role::Second => {
            let there = T::inlet(place, Lane::There)?;
            Box::new(Answering { answer: Far { there, back: T::outlet(place, Lane::Back)? }, plan })
        }
    })
}

impl<O: Outlet<WORDS>, I: Inlet<WORDS>> Ask for Near<O, I> {
    #[inline]
    fn trip(&mut self) -> Result<()> {
        self.number += 1;
        let mut message = [self.number; WORDS];
        self.there.send(&message)?;
        self.back.receive(&mut message)?;
        ensure!(
            message.iter().all(|&word| word == self.number + 1),
            "another answer than was expected"
        );
        Ok(())
    }

    fn note(&self) -> Option<String> {
        self.back.note()
    }
}

impl<I: Inlet<WORDS>, O: Outlet<WORDS>> Answer for Far<I, O> {
    #[inline]
    fn answer(&mut self, pause: f64) -> Result<()> {
        let mut message = [0; WORDS];
        self.there.receive(&mut message)?;
        for word in &mut message {
            *word += 1;
        }
        ticks::pass(pause);
        self.back.send(&message)
    }

    fn note(&self) -> Option<String> {
        self.there.note()
    }
}

pub(super) fn spinning() -> Result<Group<'static>> {
    let mut group = Group::new("ns/trip");
    for (name, how) in [
        (FOLIO, How::Folio),
        ("floor", How::Floor),
        ("bare", How::Bare),
        ("iceoryx2", How::Iceoryx),
    ] {
        pair_side(&mut group, name, Work::Trip(how))?;
    }
    group.pairs = vec![
        Pair::new("rtt-spin", "floor")
            .goal(2.0)
            .tail("rtt-spin-p99")
            .note("floor: one word that both cores write in turn, without a payload")
            .beside("bare", "a bare ring"),
        Pair::new("rtt-spin", "iceoryx2").goal(0.4).tail("rtt-spin-p99").note(
            "iceoryx2: publish-subscribe each way; loan_uninit and send, receive is polled without a pause; each \
             message is copied in and out, as folio's is",
        ),
    ];
    Ok(group)
}

pub(super) fn parked() -> Result<Group<'static>> {
    let mut group = Group::new("ns/trip");
    for (name, how) in [
        (FOLIO, How::FolioParked),
        ("pipe", How::Pipe),
        ("futex", How::Futex),
        ("socket", How::Socket),
        ("ipc-channel", How::IpcChannel),
        ("iceoryx2", How::IceoryxParked),
    ] {
        pair_side(&mut group, name, Work::Trip(how))?;
    }
    let tail = "rtt-park-p99";
    group.pairs = vec![
        Pair::new("rtt-park", "pipe").goal(1.0).tail(tail).beside("futex", "a bare ring and a futex without a timeout").note("pipe: a FIFO each way, a write and a read a message; folio's look of 2 µs before it sleeps is hidden in the other side's pause of 10 µs, which is taken off"),
        Pair::new("rtt-park", "socket").tail(tail).note("socket: a Unix stream socket each way"),
        Pair::new("rtt-park", "ipc-channel").tail(tail).note("ipc-channel: bytes_channel, which serializes nothing"),
        Pair::new("rtt-park", "iceoryx2")
            .tail(tail)
            .note("iceoryx2: each sample is copied in and out, and followed by a notification; receive, and blocking_wait if there is none"),
    ];
    Ok(group)
}
