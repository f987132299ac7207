//! folio's own sides: all that this suite asks of `folio::shm`.

use super::fan_out::WORDS;
use super::lock;
use super::pair::{Place, wait_for};
use super::port::{Inlet, Lane, Outlet, Transport, bytes, bytes_mut, room};
use anyhow::{Result, bail, ensure};
use folio::shm::{
    Channel, ChannelOptions, Log, LogReader, LogWriter, Mutex, Read, Receiver, Segment,
    SegmentOptions, Sender, Share, Start, Wait,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// Channels. Both sides either look until something comes, or sleep at once.
pub(super) struct Folio<const PARK: bool>;

/// A file in memory, which the pair removes in the end.
fn memory(place: &Place, what: &str) -> String {
    format!("/dev/shm/{}-{what}", place.name)
}

/// As much as fits into the memory that the peers get.
const fn size<const N: usize>() -> usize {
    room::<N>() * N * 8
}

fn channel<const N: usize>(place: &Place, lane: Lane) -> Result<Channel> {
    Ok(ChannelOptions::new().bytes(size::<N>()).open_or_create_file(memory(place, lane.name()))?)
}

/// Looks until something comes, or sleeps at once.
fn wait<const PARK: bool>() -> Wait {
    if PARK { Wait::new().spin(0) } else { Wait::new().always_spin() }
}

/// Either end of a channel.
#[derive(Debug)]
pub(super) struct End<E> {
    end: E,
    messages: u64,
}

impl<const N: usize, const PARK: bool> Transport<N> for Folio<PARK> {
    type Outlet = End<Sender>;
    type Inlet = End<Receiver>;

    fn outlet(place: &Place, lane: Lane) -> Result<End<Sender>> {
        let channel = channel::<N>(place, lane)?;
        wait_for(&place.path(lane.name()))?;
        let mut end = channel.sender()?;
        end.set_wait(wait::<PARK>());
        Ok(End { end, messages: 0 })
    }

    fn inlet(place: &Place, lane: Lane) -> Result<End<Receiver>> {
        let channel = channel::<N>(place, lane)?;
        let mut end = channel.receiver()?;
        end.set_wait(wait::<PARK>());
        std::fs::write(place.path(lane.name()), "")?;
        Ok(End { end, messages: 0 })
    }
}

impl<const N: usize> Outlet<N> for End<Sender> {
    #[inline]
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        Ok(self.end.send(bytes(message))?)
    }
}

impl<const N: usize> Inlet<N> for End<Receiver> {
    #[inline]
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        self.messages += 1;
        let len = self.end.recv_into(bytes_mut(message))?;
        ensure!(len == N * 8, "a message of {len} bytes");
        Ok(())
    }

    fn note(&self) -> Option<String> {
        Some(format!("slept {} times for {} messages", self.end.parks(), self.messages))
    }
}

/// A count under a mutex of folio's, which is counted up where it lies.
pub(super) struct Counter(Segment<Mutex<AtomicU64>>);

/// One that is plain data, and so is copied out and in.
pub(super) struct PlainCounter(Segment<Mutex<u64>>);

/// A segment that both processes have.
fn segment<T: Share>(place: &Place) -> Result<Segment<T>> {
    Ok(SegmentOptions::new().open_or_create_file(memory(place, "count"))?)
}

impl Counter {
    pub(super) fn new(place: &Place) -> Result<Self> {
        Ok(Self(segment(place)?))
    }
}

impl PlainCounter {
    pub(super) fn new(place: &Place) -> Result<Self> {
        Ok(Self(segment(place)?))
    }
}

impl lock::Counter for Counter {
    #[inline]
    fn count(&mut self) -> Result<u64> {
        let guard = self.0.shared_ref().lock()?.clean()?;
        let count = guard.load(Ordering::Relaxed) + 1;
        guard.store(count, Ordering::Relaxed);
        Ok(count)
    }
}

impl lock::Counter for PlainCounter {
    #[inline]
    fn count(&mut self) -> Result<u64> {
        let mut guard = self.0.shared_ref().lock()?.clean()?;
        Ok(guard.update(|count| {
            *count += 1;
            *count
        })?)
    }
}

fn log(place: &Place) -> Result<Log> {
    Ok(Log::open_or_create_file(memory(place, "log"), size::<WORDS>())?)
}

/// The writer of a log.
pub(super) fn writer(place: &Place) -> Result<LogWriter> {
    Ok(log(place)?.writer()?)
}

impl Outlet<WORDS> for LogWriter {
    #[inline]
    fn send(&mut self, message: &[u64; WORDS]) -> Result<()> {
        self.append(bytes(message))?;
        Ok(())
    }
}

/// One of its readers.
#[derive(Debug)]
pub(super) struct Following {
    reader: LogReader,
    entry: Vec<u8>,
}

/// A reader that begins with the first entry.
pub(super) fn reader(place: &Place) -> Result<Following> {
    let mut reader = log(place)?.reader(Start::At(0))?;
    reader.set_wait(wait::<false>());
    Ok(Following { reader, entry: Vec::new() })
}

impl Inlet<WORDS> for Following {
    #[inline]
    fn receive(&mut self, message: &mut [u64; WORDS]) -> Result<()> {
        match self.reader.next(&mut self.entry)? {
            Read::Entry(_) => {
                bytes_mut(message).copy_from_slice(&self.entry);
                Ok(())
            }
            Read::Missed { first, count } => bail!("missed {count} entries from {first} on"),
        }
    }
}
