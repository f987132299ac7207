//! The work of every way of passing messages: the loops of the cases are written once, and compiled
//! for each.

use super::pair::Place;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The end that messages of `N` words go into.
pub(super) trait Outlet<const N: usize> {
    /// Passes a message on, and waits for room first if there is none.
    fn send(&mut self, message: &[u64; N]) -> Result<()>;

    /// A note that helps to understand the costs.
    fn note(&self) -> Option<String> {
        None
    }
}

/// The end that they come out of.
pub(super) trait Inlet<const N: usize> {
    /// Waits for a message, and copies it out.
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()>;

    /// A note that helps to understand the costs.
    fn note(&self) -> Option<String> {
        None
    }
}

/// A way of passing messages. The two ends are made at about the same time, in two processes.
pub(super) trait Transport<const N: usize> {
    type Outlet: Outlet<N> + 'static;
    type Inlet: Inlet<N> + 'static;

    fn outlet(place: &Place, lane: Lane) -> Result<Self::Outlet>;
    fn inlet(place: &Place, lane: Lane) -> Result<Self::Inlet>;
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lane {
    There,
    Back,
}

impl Lane {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::There => "there",
            Self::Back => "back",
        }
    }
}

/// How many messages of `N` words a way holds: 16 KiB or, of large ones, 512 KiB, which a core's
/// own cache still holds. More made no peer faster, and samples so long that a busy machine
/// disturbs them.
pub(super) const fn room<const N: usize>() -> usize {
    if N <= 64 { 256 } else { 8 }
}

/// The bytes of a message.
pub(super) fn bytes<const N: usize>(message: &[u64; N]) -> &[u8] {
    // SAFETY: words have no padding, and any address of one is one of a byte.
    unsafe { std::slice::from_raw_parts(message.as_ptr().cast(), size_of_val(message)) }
}

/// The bytes of a message, to be written.
pub(super) fn bytes_mut<const N: usize>(message: &mut [u64; N]) -> &mut [u8] {
    // SAFETY: as in `bytes`, and any bytes make words.
    unsafe { std::slice::from_raw_parts_mut(message.as_mut_ptr().cast(), size_of_val(message)) }
}
