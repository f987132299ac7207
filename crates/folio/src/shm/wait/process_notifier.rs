//! A participant's notifier: the one that wakes all futures of a process that wait for locks,
//! conditions and events of a segment, whatever they wait for there. Its word lies in the
//! participant's slot; `notifier_word` tells how waiters and wakers use it.
//!
//! It is made when a future has to wait for the first time. When it is signalled, all wakers are
//! woken, and each future looks again: one of them gets the value, the others arm the notifier anew
//! and announce anew that they wait. So none takes a wake from another, and one that is dropped has
//! taken nothing. It is also signalled when a process ends that holds a lock that one of them waits
//! for, and by a timer every half second: for events without a signal.

use crate::error::{Errno, Result};
use crate::shm::segment::attachment::{Attachment, FutureNotifier};
use crate::shm::segment::header::{ParticipantSlot, SLOTS};
use crate::shm::segment::owner::Owner;
use crate::shm::wait::future::{self, Waiting, refused};
use crate::shm::wait::notifier::{Notifier, NotifyOutcome, notify};
use crate::shm::wait::notifier_word::{ARMED, check_notifiers};
use crate::sys::identity;
use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// Holders whose end rings, at most: each is a descriptor. Of others the notifier learns when it
/// goes off by itself.
const WATCHED: usize = 32;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ProcessNotifier {
    /// The process whose notifier it is: in a forked child it is nobody's.
    process: u64,
    heard: Mutex<ListenedState>,
}

/// The notifier, and the state of its listener.
#[derive(Debug)]
struct ListenedState {
    notifier: Notifier,
    /// The thread of the process that waits for all notifiers.
    waiting: Waiting,
    /// Whether that thread waits for this one.
    is_awaited: bool,
    /// Whether it has rung since the holders were looked at.
    has_rung: bool,
    holders: Vec<Owner>,
    wakers: HashMap<u64, Waker>,
    /// The number of the last who came.
    last: u64,
}

impl ProcessNotifier {
    fn new(attachment: &Attachment) -> Result<Self> {
        let heard = ListenedState {
            notifier: Notifier::new(attachment)?,
            waiting: Waiting::new(),
            is_awaited: false,
            has_rung: false,
            holders: Vec::new(),
            wakers: HashMap::new(),
            last: 0,
        };
        Ok(Self { process: identity::token(), heard: Mutex::new(heard) })
    }

    /// This process's notifier for the segment, made if there is none.
    fn of(attachment: &Attachment) -> Result<Arc<Self>> {
        let found =
            attachment.future_notifier(|attachment| Ok(Arc::new(Self::new(attachment)?)))?;
        Ok(found.into_any().downcast().expect("an attachment's notifier is of this one type"))
    }

    /// Wakers are the callers' code: they are cloned, woken and dropped while this is not held.
    fn heard(&self) -> MutexGuard<'_, ListenedState> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FutureNotifier for ProcessNotifier {
    fn is_mine(&self) -> bool {
        self.process == identity::token()
    }

    fn end(&self) {
        let mut heard = self.heard();
        let ListenedState { notifier, waiting, .. } = &mut *heard;
        let waker = waiting.end(notifier.as_fd());
        let wakers = std::mem::take(&mut heard.wakers);
        drop(heard);
        drop((waker, wakers));
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// By which the thread that waits for all notifiers tells this one that it rings.
impl Wake for ProcessNotifier {
    fn wake(self: Arc<Self>) {
        let mut heard = self.heard();
        (heard.is_awaited, heard.has_rung) = (false, true);
        // First this, then the wakers: a future that comes later arms it anew, and a signal after
        // this is seen.
        heard.notifier.clear();
        let wakers = std::mem::take(&mut heard.wakers);
        drop(heard);
        for waker in wakers.into_values() {
            future::wake(waker);
        }
    }
}

/// One who waits for something in a segment, and is told by its participant's notifier to look
/// again.
#[derive(Debug)]
pub(crate) struct Sleeper<'a> {
    attachment: &'a Attachment,
    /// The notifier, and this one's number there.
    notifier: Option<(Arc<ProcessNotifier>, u64)>,
}

impl<'a> Sleeper<'a> {
    pub(in crate::shm) fn new(attachment: &'a Attachment) -> Self {
        Self { attachment, notifier: None }
    }

    pub(in crate::shm) fn attachment(&self) -> &'a Attachment {
        self.attachment
    }

    /// Whether it has said before that it waits.
    pub(in crate::shm) fn has_waited(&self) -> bool {
        self.notifier.is_some()
    }

    /// From here on `waker` is woken, once, when the notifier rings: when someone changes what
    /// others of the segment wait for, and when the process ends that holds it. Before it waits, it
    /// looks once more, and says where it looks that it waits.
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE, EAGAIN; those of [`Attachment::check_name`].
    pub(in crate::shm) fn prepare_wait(
        &mut self,
        waker: &Waker,
        holder: Option<Owner>,
    ) -> Result<()> {
        let attachment = self.attachment;
        attachment.check_name()?;
        let (notifier, mut number) = match self.notifier.take() {
            Some((notifier, number)) if notifier.is_mine() => (notifier, number),
            other => {
                leave_to_parent(other);
                (ProcessNotifier::of(attachment)?, 0)
            }
        };
        let waker = waker.clone();
        let mut heard = notifier.heard();
        if number == 0 {
            heard.last += 1;
            number = heard.last;
        }
        let before = heard.wakers.insert(number, waker);
        let me = attachment.me();
        heard.watch(attachment, holder.filter(|&holder| holder != me));
        let awaited = heard.await_notification(&notifier);
        let slot = me.slot().filter(|_| awaited.is_ok());
        if let Some(slot) = slot {
            let notifiers = attachment.process_notifiers();
            if notifiers.load(Ordering::Relaxed) <= slot as u32 {
                notifiers.fetch_max(slot as u32 + 1, Ordering::Relaxed);
            }
            heard.notifier.ensure_fifo(attachment);
            heard.notifier.arm_word(&attachment.slots()[slot].notifier);
        }
        drop(heard);
        drop(before);
        self.notifier = Some((notifier, number));
        awaited.map_err(|errno| {
            self.cancel_wait();
            refused(errno)
        })
    }

    /// It waits no more.
    pub(in crate::shm) fn cancel_wait(&mut self) {
        match self.notifier.take() {
            Some((notifier, number)) if notifier.is_mine() => {
                let waker = notifier.heard().wakers.remove(&number);
                drop(waker);
            }
            other => leave_to_parent(other),
        }
    }
}

/// A forked child leaves its copy of a parent's notifier as it is: another thread may have been at
/// it.
fn leave_to_parent(notifier: Option<(Arc<ProcessNotifier>, u64)>) {
    std::mem::forget(notifier);
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.cancel_wait();
    }
}

impl ListenedState {
    /// Has the thread that waits for all notifiers wait for this one.
    fn await_notification(&mut self, this: &Arc<ProcessNotifier>) -> Result<(), Errno> {
        if !self.is_awaited {
            let waker = Waker::from(Arc::clone(this));
            self.waiting.wake_when_readable(self.notifier.as_fd(), &waker)?;
            self.is_awaited = true;
        }
        Ok(())
    }

    /// Has the notifier ring when the holder's process ends, too.
    fn watch(&mut self, attachment: &Attachment, holder: Option<Owner>) {
        // One that has ended would ring without end.
        let gone = std::mem::take(&mut self.has_rung) && !self.holders.is_empty();
        if gone {
            self.holders.retain(|&owner| attachment.is_alive(owner));
        }
        let new = holder.filter(|holder| !self.holders.contains(holder));
        if let Some(holder) = new {
            if self.holders.len() == WATCHED {
                self.holders.remove(0);
            }
            self.holders.push(holder);
        }
        if gone || new.is_some() {
            self.notifier.watch(attachment, self.holders.iter().copied());
        }
    }
}

/// Rings for all futures that wait for anything in the segment. For who has changed what they wait
/// for, and saw that someone does.
pub(in crate::shm) fn notify_all_processes(attachment: &Attachment) {
    check_notifiers();
    let end = attachment.process_notifiers().load(Ordering::Acquire) as usize;
    for (slot, ParticipantSlot { generation, notifier, .. }) in
        attachment.slots().iter().enumerate().take(end.min(SLOTS))
    {
        let number = notifier.load(Ordering::Relaxed);
        if number == 0 {
            continue;
        }
        let owner = Owner::new(slot, generation.load(Ordering::Acquire));
        if notify(attachment, owner.word(), notifier) == NotifyOutcome::Dead {
            // A new participant may have it just now: only the number that was found is cleared.
            let silent = number & !ARMED;
            let _ = notifier.compare_exchange(silent, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Wakes up to `count` threads that parked on the word, and all futures of the segment.
#[cold]
pub(in crate::shm) fn wake_all_kinds(attachment: &Attachment, word: &AtomicU32, count: u32) {
    crate::shm::wait::wake(word, count);
    notify_all_processes(attachment);
}
