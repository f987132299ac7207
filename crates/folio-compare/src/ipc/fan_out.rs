//! `fan-out-4`: one core writes messages of 64 bytes, and four readers on the other read each of
//! them. The time of a message is that until all four have copied it out.
//!
//! A log does not wait for its readers, and a publisher of iceoryx2 sleeps when it has to. So on
//! both sides the writer looks at a word that says how far the readers are, and lets them fall
//! behind by 128 messages, fewer than either keeps: nothing is lost.

use super::folio_side;
use super::iceoryx;
use super::pair::{Place, Role, Work};
use super::pair_side;
use super::port::{Inlet, Lane, Outlet, room};
use super::shared::Shared;
use super::ticks::Times;
use crate::measure::Cost;
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::hint;
use std::sync::atomic::Ordering;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    Iceoryx,
}

/// Words of a message.
pub(super) const WORDS: usize = 8;
/// How many read.
const READERS: usize = 4;
/// Messages that readers may be behind.
const BEHIND: u64 = room::<WORDS>() as u64 / 2;
/// They say how far they are each time that they have read so many. Each in turn reads so many at a
/// time, too.
const STEP: usize = BEHIND as usize / 8;
/// Messages of a batch: more than can lie ready.
const BATCH: usize = 2 * BEHIND as usize;
const BATCHES: usize = 200;
const FIRST: usize = 5;

pub(super) fn start(how: How, role: Role, place: &Place) -> Result<Box<dyn Sampler>> {
    let shared = Shared::map(place)?;
    Ok(match (how, role) {
        (How::Folio, Role::First) => writing(folio_side::writer(place)?, shared),
        (How::Iceoryx, Role::First) => {
            writing(iceoryx::Out::<WORDS, false>::new(place, Lane::There, READERS)?, shared)
        }
        (How::Folio, Role::Second) => reading(|| folio_side::reader(place), shared)?,
        (How::Iceoryx, Role::Second) => {
            reading(|| iceoryx::In::<WORDS, false>::new(place, Lane::There, READERS), shared)?
        }
    })
}

fn writing(outlet: impl Outlet<WORDS> + 'static, shared: Shared) -> Box<dyn Sampler> {
    Box::new(Writing { outlet, shared, number: 0, read: 0 })
}

fn reading<I: Inlet<WORDS> + 'static>(
    make: impl Fn() -> Result<I>,
    shared: Shared,
) -> Result<Box<dyn Sampler>> {
    let inlets = (0..READERS).map(|_| make()).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(Reading { inlets, shared, number: 0, times: Times::new(BATCHES) }))
}

struct Writing<O> {
    outlet: O,
    shared: Shared,
    number: u64,
    /// The known positions of the readers.
    read: u64,
}

impl<O: Outlet<WORDS>> Sampler for Writing<O> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        let word = self.shared.word(0);
        for _ in 0..(FIRST + BATCHES) * BATCH {
            while self.number - self.read >= BEHIND {
                self.read = word.load(Ordering::Acquire);
                hint::spin_loop();
            }
            self.number += 1;
            self.outlet.send(&[self.number; WORDS])?;
        }
        Ok(Cost::default())
    }

    fn note(&self) -> Option<String> {
        self.outlet.note()
    }
}

struct Reading<I> {
    inlets: Vec<I>,
    shared: Shared,
    number: u64,
    times: Times,
}

impl<I: Inlet<WORDS>> Reading<I> {
    fn batch(&mut self) -> Result<()> {
        for _ in 0..BATCH / STEP {
            for inlet in &mut self.inlets {
                for number in self.number + 1..=self.number + STEP as u64 {
                    let mut message = [0; WORDS];
                    inlet.receive(&mut message)?;
                    ensure!(
                        message.iter().all(|&word| word == number),
                        "message {number} is another"
                    );
                }
            }
            self.number += STEP as u64;
            self.shared.word(0).store(self.number, Ordering::Release);
        }
        Ok(())
    }
}

impl<I: Inlet<WORDS>> Sampler for Reading<I> {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        for _ in 0..FIRST {
            self.batch()?;
        }
        self.times.start();
        for _ in 0..BATCHES {
            self.batch()?;
            self.times.lap();
        }
        Ok(self.times.cost(BATCH as f64))
    }

    fn note(&self) -> Option<String> {
        self.inlets.first().and_then(Inlet::note)
    }
}

pub(super) fn group() -> Result<Group<'static>> {
    let mut group = Group::new("ns/msg");
    for (name, how) in [(FOLIO, How::Folio), ("iceoryx2", How::Iceoryx)] {
        pair_side(&mut group, name, Work::FanOut(how))?;
    }
    group.pairs = vec![
        Pair::new("fan-out-4", "iceoryx2").goal(0.4).tail("fan-out-4-p99").note(
            "iceoryx2: a publisher and four subscribers, which one thread polls in turn, as it does folio's readers",
        ),
    ];
    Ok(group)
}
