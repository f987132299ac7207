//! The peer `iceoryx2`, version 0.10: its publish-subscribe between processes (`ipc::Service`).
//!
//! It could write and read in place, as folio could. Here neither does: both sides copy each
//! message as a whole, the one from an array of its own into shared memory, the other out of it
//! into an array of its own. So all peers do the same work, and the cost of a message's bytes is in
//! all figures alike.
//!
//! A publisher loans a sample that is not initialized, copies the message into it, and sends it; a
//! subscriber polls, as in the project's own benchmark of latency. Where it sleeps instead, each
//! sample is followed by a notification, and the other side waits for it. Buffers hold what folio's
//! do, nothing overflows, and a publisher that finds no room retries, so that nothing is lost.

use super::pair::{Place, wait_for};
use super::port::{Inlet, Lane, Outlet, Transport, room};
use anyhow::{Result, anyhow, ensure};
use iceoryx2::config::Config;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::{
    BackpressureStrategy, FileName, LogLevel, Node, NodeBuilder, Path, PortFactory, SemanticString,
    SignalHandlingMode, ipc, set_log_level,
};
use iceoryx2::service::port_factory::{event, publish_subscribe};
use std::fmt::Debug;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// With or without sleeping.
pub(super) struct Iceoryx<const PARK: bool>;

/// The sent type.
type Payload<const N: usize> = [u64; N];

#[derive(Debug)]
pub(super) struct Out<const N: usize, const PARK: bool> {
    publisher: Publisher<ipc::Service, Payload<N>, ()>,
    bell: Option<Notifier<ipc::Service>>,
    readers: usize,
    _node: Node<ipc::Service>,
}

#[derive(Debug)]
pub(super) struct In<const N: usize, const PARK: bool> {
    subscriber: Subscriber<ipc::Service, Payload<N>, ()>,
    bell: Option<Listener<ipc::Service>>,
    _node: Node<ipc::Service>,
}

/// Its errors are of many types, and describe themselves.
fn told(error: impl Debug) -> anyhow::Error {
    anyhow!("iceoryx2: {error:?}")
}

fn node(place: &Place) -> Result<Node<ipc::Service>> {
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    // It looks for dead nodes there, and finds those of this pair only. Files with the prefix are
    // the pair's to remove.
    config.global.set_root_path(&Path::new(place.dir.as_os_str().as_bytes()).map_err(told)?);
    config.global.prefix = FileName::new(place.name.as_bytes()).map_err(told)?;
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<ipc::Service>()
        .map_err(told)
}

type Messages<const N: usize> = publish_subscribe::PortFactory<ipc::Service, Payload<N>, ()>;

fn messages<const N: usize>(
    node: &Node<ipc::Service>,
    name: &str,
    readers: usize,
) -> Result<Messages<N>> {
    node.service_builder(&name.try_into().map_err(told)?)
        .publish_subscribe::<Payload<N>>()
        .max_publishers(1)
        .max_subscribers(readers)
        .history_size(0)
        .subscriber_max_buffer_size(room::<N>())
        .subscriber_max_borrowed_samples(1)
        .enable_safe_overflow(false)
        .open_or_create()
        .map_err(told)
}

fn bells(node: &Node<ipc::Service>, name: &str) -> Result<event::PortFactory<ipc::Service>> {
    node.service_builder(&name.try_into().map_err(told)?)
        .event()
        .max_notifiers(1)
        .max_listeners(1)
        .open_or_create()
        .map_err(told)
}

fn wait_until(mut there: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !there() {
        ensure!(Instant::now() < end, "the other side did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The name of a service that nobody else has.
fn name(place: &Place, lane: Lane) -> String {
    format!("{}-{}", place.name, lane.name())
}

/// The file that says that one of the subscribers has connected.
fn connected(place: &Place, lane: Lane, reader: usize) -> PathBuf {
    place.path(&format!("{}-{reader}", lane.name()))
}

impl<const N: usize, const PARK: bool> Out<N, PARK> {
    /// A publisher that has `readers` subscribers.
    pub(super) fn new(place: &Place, lane: Lane, readers: usize) -> Result<Self> {
        let (node, name) = (node(place)?, name(place, lane));
        let messages = messages::<N>(&node, &name, readers)?;
        let publisher = messages
            .publisher_builder()
            .max_loaned_samples(1)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .map_err(told)?;
        let bell = if PARK {
            let bells = bells(&node, &name)?;
            wait_until(|| bells.dynamic_config().number_of_listeners() == 1)?;
            Some(bells.notifier_builder().create().map_err(told)?)
        } else {
            None
        };
        // Readers may not get a message that is sent before they have connected.
        for reader in 0..readers {
            wait_for(&connected(place, lane, reader))?;
        }
        Ok(Self { publisher, bell, readers, _node: node })
    }
}

impl<const N: usize, const PARK: bool> In<N, PARK> {
    /// One of `readers` subscribers.
    pub(super) fn new(place: &Place, lane: Lane, readers: usize) -> Result<Self> {
        let (node, name) = (node(place)?, name(place, lane));
        let bell = if PARK {
            Some(bells(&node, &name)?.listener_builder().create().map_err(told)?)
        } else {
            None
        };
        let messages = messages::<N>(&node, &name, readers)?;
        let subscriber = messages.subscriber_builder().create().map_err(told)?;
        wait_until(|| messages.dynamic_config().number_of_publishers() == 1)?;
        // It connects to publishers that are new whenever it looks for samples.
        ensure!(
            subscriber.receive().map_err(told)?.is_none(),
            "a sample before all have connected"
        );
        let mut places =
            (0..readers).map(|reader| File::create_new(connected(place, lane, reader)));
        ensure!(places.any(|made| made.is_ok()), "there are {readers} readers already");
        Ok(Self { subscriber, bell, _node: node })
    }
}

impl<const N: usize, const PARK: bool> Transport<N> for Iceoryx<PARK> {
    type Outlet = Out<N, PARK>;
    type Inlet = In<N, PARK>;

    fn outlet(place: &Place, lane: Lane) -> Result<Out<N, PARK>> {
        Out::new(place, lane, 1)
    }

    fn inlet(place: &Place, lane: Lane) -> Result<In<N, PARK>> {
        In::new(place, lane, 1)
    }
}

impl<const N: usize, const PARK: bool> Outlet<N> for Out<N, PARK> {
    #[inline]
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        let mut sample = self.publisher.loan_uninit().map_err(told)?;
        let to = sample.payload_mut().as_mut_ptr();
        // SAFETY: the sample has room for the message, which lies elsewhere.
        unsafe { to.copy_from_nonoverlapping(message, 1) };
        // SAFETY: just written.
        let reached = unsafe { sample.assume_init() }.send().map_err(told)?;
        ensure!(reached == self.readers, "{reached} of {} subscribers reached", self.readers);
        if let Some(bell) = &self.bell {
            bell.notify().map_err(told)?;
        }
        Ok(())
    }
}

impl<const N: usize, const PARK: bool> Inlet<N> for In<N, PARK> {
    #[inline]
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        loop {
            if let Some(sample) = self.subscriber.receive().map_err(told)? {
                *message = *sample.payload();
                return Ok(());
            }
            if let Some(bell) = &self.bell {
                bell.blocking_wait(|_| {}).map_err(told)?;
            }
        }
    }
}
