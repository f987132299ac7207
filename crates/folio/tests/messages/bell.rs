//! Bells: a descriptor to poll, and futures without a runtime.

use crate::common::kill_sweep::Victim;
use crate::common::{End, Heir, child_succeeds, lower_limit, spawn_child, wait};
use crate::payload::fails_with;
use folio::Errno;
use folio::shm::{Channel, ChannelOptions, Log, Read, Receiver, Start, Wait};
use std::future::Future;
use std::io::{Read as _, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the descriptor becomes readable in time.
pub(crate) fn is_readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as it says.
    let count = unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as i32) };
    count == 1 && poll.revents & libc::POLLIN != 0
}

/// Runs a future on this thread, and counts how often it was polled: an executor made by hand.
pub(crate) fn block_on<F: Future>(future: F) -> (F::Output, u64) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let started = Instant::now();
    let mut polls = 0;
    loop {
        polls += 1;
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return (output, polls);
        }
        std::thread::park_timeout(PATIENCE);
        assert!(started.elapsed() < PATIENCE, "the future is never ready");
    }
}

#[test]
fn a_bell_is_readable_when_there_is_a_message() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut bytes = Vec::new();
    sender.send(b"before the bell").unwrap();
    assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE));
    for round in 0..100 {
        while receiver.try_recv(&mut bytes).unwrap().is_some() {}
        let quiet = is_readable(receiver.poll_fd().unwrap(), Duration::ZERO);
        // The backstop may have gone off just now, but not each time.
        assert!(!quiet || round % 10 != 0 || receiver.try_recv(&mut bytes).unwrap().is_none());
        sender.send(b"one").unwrap();
        sender.send(b"two").unwrap();
        assert!(
            is_readable(receiver.poll_fd().unwrap(), Duration::from_millis(100)),
            "round {round}"
        );
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(3));
        // One of two was received: it is still readable.
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO), "round {round}");
    }
}

#[test]
fn a_bell_is_quiet_while_there_is_nothing() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut bytes = Vec::new();
    receiver.poll_fd().unwrap();
    let mut quiet = 0;
    for _ in 0..50 {
        sender.send(b"a message").unwrap();
        while receiver.try_recv(&mut bytes).unwrap().is_some() {}
        quiet += u32::from(!is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
    }
    assert!(quiet > 25, "quiet {quiet} times of 50");
}

#[test]
fn a_process_that_polls_is_woken_for_each_message() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let back = Channel::anonymous(1 << 12).unwrap();
    let (pid, _messages) = spawn_child(|| {
        let mut sender = channel.sender().unwrap();
        let mut answers = back.receiver().unwrap();
        let mut bytes = Vec::new();
        for number in 0..500_u64 {
            sender.send(&number.to_ne_bytes()).unwrap();
            answers.recv(&mut bytes).unwrap();
            assert_eq!(bytes, number.to_ne_bytes());
        }
    });
    let mut receiver = channel.receiver().unwrap();
    let mut answers = back.sender().unwrap();
    let (mut bytes, mut next) = (Vec::new(), 0_u64);
    let started = Instant::now();
    while next < 500 {
        assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE));
        while receiver.try_recv(&mut bytes).unwrap_or(None).is_some() {
            assert_eq!(bytes, next.to_ne_bytes());
            answers.send(&bytes).unwrap();
            next += 1;
        }
    }
    // Each waits for the answer to the last: if the bell were silent, the backstop would take half
    // a second for each.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(wait(pid), End::Exited(0));
}

#[test]
fn a_bell_rings_when_the_sender_is_killed_or_leaves() {
    for killed in [true, false] {
        let channel = Channel::anonymous(1 << 12).unwrap();
        let mut receiver = channel.receiver().unwrap();
        let mut bytes = Vec::new();
        let victim = Victim::new(|| {
            let mut sender = channel.sender().unwrap();
            sender.send(b"I live").unwrap();
            std::thread::sleep(if killed { PATIENCE } else { Duration::from_millis(100) });
        });
        let mut seen = 0;
        let started = Instant::now();
        let error = loop {
            assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE), "it never rings");
            match receiver.try_recv(&mut bytes) {
                Ok(Some(_)) => {
                    seen += 1;
                    if killed {
                        victim.shoot();
                    }
                }
                Ok(None) => {}
                Err(error) => break error,
            }
            assert!(started.elapsed() < PATIENCE);
        };
        assert_eq!((seen, error.errno()), (1, Errno::PIPE), "{error}");
        // It stays readable: a second poll does not wait.
        assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE));
    }
}

#[test]
fn the_end_of_a_process_has_rung_when_it_is_known() {
    let channel = Channel::anonymous(256).unwrap();
    let back = Channel::anonymous(64).unwrap();
    let log = Log::anonymous(1 << 12).unwrap();
    let mut bytes = Vec::new();
    // The timers go off now and then, but not each time.
    for _ in 0..10 {
        let (mut out, mut told) = std::io::pipe().unwrap();
        let victim = Victim::new(|| {
            let _sides =
                (channel.sender().unwrap(), back.receiver().unwrap(), log.writer().unwrap());
            told.write_all(&[1]).unwrap();
            std::thread::sleep(PATIENCE);
        });
        out.read_exact(&mut [0]).unwrap();
        let (mut receiver, mut sender) = (channel.receiver().unwrap(), back.sender().unwrap());
        let mut reader = log.reader(Start::Newest).unwrap();
        receiver.poll_fd().unwrap();
        sender.poll_fd().unwrap();
        reader.poll_fd().unwrap();
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
        while sender.try_send(b"a message of 24 bytes...").unwrap() {}
        assert_eq!(reader.try_next(&mut bytes).unwrap(), None);
        assert!(victim.kill());
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
        assert!(is_readable(sender.poll_fd().unwrap(), Duration::ZERO));
        assert!(is_readable(reader.poll_fd().unwrap(), Duration::ZERO));
    }
}

#[test]
fn a_bell_that_had_no_descriptor_for_a_process_watches_it_when_it_has_one() {
    let channel = Channel::anonymous(256).unwrap();
    for _ in 0..5 {
        // Limits are for a process of its own.
        child_succeeds(|| {
            let mut receiver = channel.receiver().unwrap();
            let mut bytes = Vec::new();
            receiver.poll_fd().unwrap();
            let (mut out, mut told) = std::io::pipe().unwrap();
            let victim = Victim::new(|| {
                let _sender = channel.sender().unwrap();
                told.write_all(&[1]).unwrap();
                std::thread::sleep(PATIENCE);
            });
            out.read_exact(&mut [0]).unwrap();
            lower_limit(libc::RLIMIT_NOFILE, 0);
            assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
            lower_limit(libc::RLIMIT_NOFILE, 500);
            assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
            assert!(victim.kill());
            assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
        });
    }
}

#[test]
fn a_bell_is_quiet_when_a_process_has_ended_and_its_party_has_not() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let mut receiver = channel.receiver().unwrap();
    receiver.poll_fd().unwrap();
    let mut bytes = Vec::new();
    let mut heir = Heir::of(|| channel.sender().unwrap());
    // From here on its end rings.
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    heir.inherits();
    // Nothing comes, and the holder of the sender's lock lives. (The same holds where the sender's
    // process number is another process's number here.)
    let is_quiet = |receiver: &mut Receiver| {
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        !is_readable(receiver.poll_fd().unwrap(), Duration::ZERO)
    };
    assert!((0..100).any(|_| is_quiet(&mut receiver)), "it is readable for ever");
    drop(heir);
    let (end, _) = block_on(receiver.recv_async(&mut bytes));
    fails_with(end, Errno::PIPE, "the sender has died");
}

#[test]
fn the_senders_of_one_process_cost_a_bell_one_descriptor() {
    let channel = ChannelOptions::new().bytes(1 << 12).many_senders().anonymous().unwrap();
    let (mut out, mut told) = std::io::pipe().unwrap();
    let _victim = Victim::new(|| {
        let _senders: Vec<_> = (0..100).map(|_| channel.sender().unwrap()).collect();
        told.write_all(&[1]).unwrap();
        std::thread::sleep(PATIENCE);
    });
    out.read_exact(&mut [0]).unwrap();
    // In a process of its own: no other test opens anything there.
    child_succeeds(|| {
        let mut receiver = channel.receiver().unwrap();
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = count();
        receiver.poll_fd().unwrap();
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        // An epoll, a socket, a timer and the process.
        assert!(count() - before <= 4, "{} descriptors", count() - before);
    });
}

#[test]
fn a_future_is_ready_when_a_message_comes() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let mut receiver = channel.receiver().unwrap();
    let (pid, _messages) = spawn_child(|| {
        let mut sender = channel.sender().unwrap();
        for number in 0..50_u64 {
            std::thread::sleep(Duration::from_millis(2));
            sender.send(&number.to_ne_bytes()).unwrap();
        }
    });
    let mut bytes = Vec::new();
    for number in 0..50_u64 {
        let (len, polls) = block_on(receiver.recv_async(&mut bytes));
        assert_eq!((len.unwrap(), bytes.as_slice()), (8, &number.to_ne_bytes()[..]));
        assert!(polls < 1000, "{polls} polls for one message");
    }
    let (end, _) = block_on(receiver.recv_async(&mut bytes));
    fails_with(end, Errno::PIPE, "the sender has left");
    assert_eq!(wait(pid), End::Exited(0));
}

#[test]
fn a_future_that_is_dropped_loses_no_message() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut bytes = Vec::new();
    for number in 0..20_u64 {
        let mut future = receiver.recv_async(&mut bytes);
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(&mut future).poll(&mut context).is_pending());
        sender.send(&number.to_ne_bytes()).unwrap();
        drop(future);
        assert_eq!(block_on(receiver.recv_async(&mut bytes)).0.unwrap(), 8);
        assert_eq!(bytes, number.to_ne_bytes());
    }
}

#[test]
fn futures_of_several_receivers_are_woken_by_one_thread() {
    let channels: Vec<_> = (0..20).map(|_| Channel::anonymous(256).unwrap()).collect();
    let mut senders: Vec<_> = channels.iter().map(|channel| channel.sender().unwrap()).collect();
    let received = Arc::new(AtomicU64::new(0));
    std::thread::scope(|scope| {
        for channel in &channels {
            let received = Arc::clone(&received);
            scope.spawn(move || {
                let (mut receiver, mut bytes) = (channel.receiver().unwrap(), Vec::new());
                for _ in 0..10 {
                    block_on(receiver.recv_async(&mut bytes)).0.unwrap();
                    received.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..10_u8 {
            for sender in &mut senders {
                sender.set_wait(Wait::new().timeout(PATIENCE));
                // A receiver that has all its messages has left.
                sender.send(&[round]).unwrap();
            }
        }
    });
    assert_eq!(received.load(Ordering::Relaxed), 200);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let name =
            std::fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap_or_default();
        name.trim_end() == "folio-notifiers"
    });
    assert_eq!(threads.count(), 1);
}

/// In this process, a future is ready when this message comes from another thread.
fn a_future_receives(message: &'static [u8]) {
    let channel = Channel::anonymous(256).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut bytes = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            sender.send(message).unwrap();
        });
        assert_eq!(block_on(receiver.recv_async(&mut bytes)).0.unwrap(), message.len());
    });
}

#[test]
fn futures_work_in_a_forked_child() {
    // The parent's thread is not in the child.
    a_future_receives(b"parent");
    child_succeeds(|| a_future_receives(b"child"));
}

#[test]
fn readers_of_a_log_have_bells_and_futures_too() {
    let log = Log::anonymous(1 << 12).unwrap();
    let mut readers: Vec<_> = (0..3).map(|_| log.reader(Start::Newest).unwrap()).collect();
    let mut bytes = Vec::new();
    for reader in &mut readers {
        reader.poll_fd().unwrap();
        assert_eq!(reader.try_next(&mut bytes).unwrap(), None);
    }
    let (pid, _messages) = spawn_child(|| {
        let mut writer = log.writer().unwrap();
        for number in 0..100_u64 {
            std::thread::sleep(Duration::from_millis(1));
            writer.append(&number.to_ne_bytes()).unwrap();
        }
    });
    let mut next = 0;
    while next < 50 {
        assert!(is_readable(readers[0].poll_fd().unwrap(), PATIENCE));
        while let Some(read) = readers[0].try_next(&mut bytes).unwrap() {
            assert_eq!(read, Read::Entry(next));
            next += 1;
        }
    }
    for number in 0..100 {
        assert_eq!(block_on(readers[1].next_async(&mut bytes)).0.unwrap(), Read::Entry(number));
        assert_eq!(bytes, number.to_ne_bytes());
    }
    let (end, _) = block_on(readers[1].next_async(&mut bytes));
    fails_with(end, Errno::PIPE, "the writer has left");
    assert!(is_readable(readers[2].poll_fd().unwrap(), PATIENCE));
    assert_eq!(wait(pid), End::Exited(0));
}

/// A waker that does something of its own when it wakes and when it is dropped.
struct Odd<T: Send + Sync>(bool, T);

impl<T: Send + Sync> Wake for Odd<T> {
    fn wake(self: Arc<Self>) {
        assert!(!self.0, "a waker that panics, on purpose");
    }
}

#[test]
fn a_waker_that_panics_keeps_no_other_future_asleep() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for _ in 0..3 {
        let mut bytes = Vec::new();
        let waker = Arc::new(Odd(true, ()));
        let mut future = pin!(receiver.recv_async(&mut bytes));
        let polled =
            future.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waker))));
        assert!(polled.is_pending());
        sender.send(b"wakes").unwrap();
        let started = Instant::now();
        // The reactor has it until it has called it.
        while Arc::strong_count(&waker) > 1 {
            assert!(started.elapsed() < PATIENCE, "the waker is never called");
            std::thread::yield_now();
        }
        assert_eq!(block_on(future).0.unwrap(), 5);
    }
}

/// Panics when it is dropped, but not while another panic is under way.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "what a waker panicked with panics, on purpose");
    }
}

/// A waker that ends the thread that calls it, if that lets it.
struct Deadly;

impl Wake for Deadly {
    fn wake(self: Arc<Self>) {
        std::panic::panic_any(PanicsAgain);
    }
}

/// A waker whose thread there is twice afterwards.
struct Forking(AtomicI32);

impl Wake for Forking {
    fn wake(self: Arc<Self>) {
        // SAFETY: the child goes on in the thread that has called this.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: sets a timer.
                unsafe { libc::alarm(20) };
            }
            child => self.0.store(child, Ordering::SeqCst),
        }
    }
}

#[test]
fn whatever_a_waker_panics_with_the_others_are_woken() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut bytes = Vec::new();
    let mut future = pin!(receiver.recv_async(&mut bytes));
    let mut wait_with = |waker: Waker| {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
    };
    let (deadly, other) = (Arc::new(Deadly), Arc::new(Odd(false, ())));
    // The reactor has one until it has called it.
    let is_called = |count: &dyn Fn() -> usize| {
        let started = Instant::now();
        while count() > 1 {
            assert!(started.elapsed() < PATIENCE, "the waker is never called");
            std::thread::yield_now();
        }
    };
    wait_with(Waker::from(Arc::clone(&deadly)));
    is_called(&|| Arc::strong_count(&deadly));
    wait_with(Waker::from(Arc::clone(&other)));
    sender.send(b"wakes").unwrap();
    is_called(&|| Arc::strong_count(&other));
}

#[test]
fn a_waker_that_forks_gives_nothing_of_its_parents_to_the_child() {
    // In a process of its own, for there all futures could wait for ever.
    child_succeeds(|| {
        let channel = Channel::anonymous(1 << 12).unwrap();
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        let mut bytes = Vec::new();
        let forking = Arc::new(Forking(AtomicI32::new(0)));
        let polled = pin!(receiver.recv_async(&mut bytes))
            .poll(&mut Context::from_waker(&Waker::from(Arc::clone(&forking))));
        assert!(polled.is_pending());
        let started = Instant::now();
        while forking.0.load(Ordering::SeqCst) == 0 {
            assert!(started.elapsed() < PATIENCE, "the waker is never called");
            std::thread::yield_now();
        }
        // The child is left with nothing to do. Else it would now and then take its parent's
        // messages.
        assert_eq!(wait(forking.0.load(Ordering::SeqCst)), End::Exited(0));
        sender.send(b"wakes").unwrap();
        assert_eq!(block_on(receiver.recv_async(&mut bytes)).0.unwrap(), 5);
    });
}

#[test]
fn a_waker_that_owns_another_receiver_is_dropped_without_a_deadlock() {
    let (one, other) = (Channel::anonymous(1 << 12).unwrap(), Channel::anonymous(1 << 12).unwrap());
    let mut receiver = one.receiver().unwrap();
    let (mut bytes, mut others) = (Vec::new(), Vec::new());
    let mut owned = other.receiver().unwrap();
    let quiet = Waker::from(Arc::new(Odd(false, ())));
    assert!(
        pin!(owned.recv_async(&mut others)).poll(&mut Context::from_waker(&quiet)).is_pending()
    );
    let owner = Waker::from(Arc::new(Odd(false, owned)));
    let mut future = pin!(receiver.recv_async(&mut bytes));
    assert!(future.as_mut().poll(&mut Context::from_waker(&owner)).is_pending());
    drop(owner);
    // This replaces the last owner of the other receiver.
    assert!(future.as_mut().poll(&mut Context::from_waker(&quiet)).is_pending());
    // The thread that wakes futures may hold a copy of the waker for a moment.
    let started = Instant::now();
    while let Err(error) = other.receiver() {
        assert!(started.elapsed() < PATIENCE, "the other receiver was not dropped: {error}");
        std::thread::yield_now();
    }
}

#[test]
fn a_bell_that_one_process_cannot_reach_is_rung_by_others() {
    let channel = Channel::anonymous(1 << 12).unwrap();
    let mut receiver = channel.receiver().unwrap();
    let mut bytes = Vec::new();
    receiver.poll_fd().unwrap();
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    let (pid, _messages) = spawn_child(|| {
        let mut sender = channel.sender().unwrap();
        // It has no socket, and gets none: as in another network namespace, which not everyone may
        // have.
        for entry in std::fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap) {
            let is_socket = std::fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            if is_socket {
                let fd = entry.file_name().to_str().unwrap().parse().unwrap();
                // SAFETY: nothing in this child drops its owner.
                unsafe { libc::close(fd) };
            }
        }
        lower_limit(libc::RLIMIT_NOFILE, 0);
        sender.send(b"from afar").unwrap();
    });
    assert_eq!(wait(pid), End::Exited(0));
    let mut sender = channel.sender().unwrap();
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(9));
    for _ in 0..20 {
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
        sender.send(b"from here").unwrap();
        // It has rung before the call returned.
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(9));
    }
}

#[test]
fn a_bell_that_nobody_hears_keeps_no_other_silent() {
    // More rings than a socket's buffer holds, for bells whose owner takes none.
    let logs = [Log::anonymous(1 << 12).unwrap(), Log::anonymous(1 << 12).unwrap()];
    let mut deaf: Vec<_> =
        logs.iter().flat_map(|log| (0..90).map(|_| log.reader(Start::Newest).unwrap())).collect();
    for reader in &mut deaf {
        reader.poll_fd().unwrap();
    }
    for log in &logs {
        log.writer().unwrap().append(b"rings").unwrap();
    }
    let channel = Channel::anonymous(1 << 12).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    receiver.poll_fd().unwrap();
    for _ in 0..20 {
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        sender.send(b"heard").unwrap();
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), Some(5));
    }
}
