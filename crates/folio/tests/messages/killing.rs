//! Children that are killed at a random instruction, and messages that tell whether they are whole.

use crate::common::{End, spawn_child, wait};
use std::fs::File;
use std::time::{Duration, Instant};

/// How many kills a sweep makes: so many times the usual as `FOLIO_KILLS` says.
pub(crate) fn kills(usual: u64) -> u64 {
    let times = std::env::var("FOLIO_KILLS").ok().map(|text| text.parse().expect("FOLIO_KILLS is a number"));
    usual * times.unwrap_or(1)
}

/// A child that is killed when it is dropped, at the latest.
pub(crate) struct Victim {
    pid: i32,
    _messages: File,
}

impl Victim {
    pub(crate) fn new(work: impl FnOnce()) -> Self {
        let (pid, messages) = spawn_child(work);
        Self { pid, _messages: messages }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it, and waits until it has ended. Whether it was the kill that ended it.
    pub(crate) fn kill(mut self) -> bool {
        self.end() == End::Killed(libc::SIGKILL)
    }

    /// Sends the signal, and does not wait: a zombie is dead, too.
    pub(crate) fn shoot(&self) {
        // SAFETY: sends a signal to a child of this process that was not waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    fn end(&mut self) -> End {
        self.shoot();
        wait(std::mem::take(&mut self.pid))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.pid != 0 {
            self.end();
        }
    }
}

/// xorshift64*
pub(crate) struct Random(u64);

impl Random {
    /// From `FOLIO_SEED`, or the clock; prints which. The instant of a kill cannot be replayed, all else is.
    pub(crate) fn new() -> Self {
        let chosen =
            std::env::var("FOLIO_SEED").ok().map(|seed| seed.parse().expect("FOLIO_SEED is a number"));
        let seed = chosen.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        });
        eprintln!("FOLIO_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }

    /// A word as someone might write it over another: all ones, anything, something small, a lone bit.
    pub(crate) fn garbage(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::MAX,
            1 => self.below(u64::MAX),
            2 => self.below(2048),
            _ => 1 << self.below(64),
        }
    }

    /// Lets up to so many microseconds pass, mostly few.
    pub(crate) fn pass(&mut self, most: u64) {
        let most = 1 + self.below(most);
        let time = Duration::from_nanos(1000 * self.below(most) + self.below(1000));
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

/// Message number `number` of `sender`: its length and all of its bytes follow from the two.
pub(crate) fn message(sender: u64, number: u64, most: usize) -> Vec<u8> {
    let mut state = (sender << 40 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let len = next() as usize % (most - 16);
    let mut bytes = [sender.to_ne_bytes(), number.to_ne_bytes()].concat();
    bytes.extend((0..len).map(|_| next() as u8));
    bytes
}

/// Sender and number of a message, which must be whole.
#[track_caller]
pub(crate) fn whole(bytes: &[u8], most: usize) -> (u64, u64) {
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("a message is not whole"));
    let (sender, number) = (word(0), word(8));
    assert!(bytes == message(sender, number, most), "message {number} of sender {sender} is not whole");
    (sender, number)
}

/// Receives so many messages of each of `N` senders, each sender's in its order.
pub(crate) fn receive_all<const N: usize>(receiver: &mut folio::shm::Receiver, of_each: u64, most: usize) {
    let (mut next, mut bytes) = ([0; N], Vec::new());
    while next != [of_each; N] {
        receiver.recv(&mut bytes).unwrap();
        let (sender, number) = whole(&bytes, most);
        assert_eq!(number, next[sender as usize], "sender {sender}");
        next[sender as usize] += 1;
    }
}

/// A channel's error by what it means.
#[track_caller]
pub(crate) fn fails_with<T: std::fmt::Debug>(result: folio::Result<T>, errno: folio::Errno, words: &str) {
    let error = result.expect_err("it should have failed");
    assert!(error.errno() == errno && error.to_string().contains(words), "{error}");
}
