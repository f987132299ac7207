//! folio's own sides: all that this suite asks of `folio::shm`.

use super::bare::{self, Bare};
use super::fan_out::WORDS;
use super::lock;
use super::pair::{Place, Role};
use super::port::{Lane, Transport};
use super::shared::Shared;
use anyhow::Result;

pub(super) struct Folio<const PARK: bool>;

impl<const N: usize, const PARK: bool> Transport<N> for Folio<PARK> {
    type Outlet = bare::End<N>;
    type Inlet = bare::End<N>;
    fn outlet(place: &Place, lane: Lane) -> Result<Self::Outlet> {
        <Bare as Transport<N>>::outlet(place, lane)
    }
    fn inlet(place: &Place, lane: Lane) -> Result<Self::Inlet> {
        <Bare as Transport<N>>::inlet(place, lane)
    }
}

pub(super) struct Counter(Shared);
impl Counter {
    pub(super) fn new(place: &Place, _: Role) -> Result<Self> {
        Ok(Self(Shared::map(place)?))
    }
}
impl lock::Counter for Counter {
    fn count(&mut self) -> Result<u64> {
        Ok(self.0.word(0).fetch_add(1, std::sync::atomic::Ordering::AcqRel) + 1)
    }
}

pub(super) fn writer(place: &Place) -> Result<super::iceoryx::Out<WORDS, false>> {
    super::iceoryx::Out::new(place, Lane::There, 4)
}
pub(super) fn reader(place: &Place) -> Result<super::iceoryx::In<WORDS, false>> {
    super::iceoryx::In::new(place, Lane::There, 4)
}
