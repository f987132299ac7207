//! A notifier: a descriptor for poll(2) and epoll(7) that is readable when there is something to
//! receive, or room to send. It costs the other side a system call, and only when it was asked for.
//!
//! It is a socket in the abstract namespace, named after the segment, its owner and a number drawn
//! when it is made. A sender needs no descriptor of it, and it vanishes with its process. A process
//! of another network namespace reaches no such name. So once a segment has participants of several
//! namespaces, its notifiers are FIFOs as well, in the directory of its file and named after the
//! same numbers. The FIFOs of killed processes are removed with the segment's name, by a process
//! that would signal one, or by [`remove_stale`](crate::shm::remove_stale). Beside it a timer goes
//! off once in a while, for events without a signal: a process that reaches neither, since the
//! segment has no directory (it is anonymous), or one in which it may make or see no FIFO. The end
//! of processes that were named makes it readable too.

use crate::error::{Errno, Error, Result, Subject};
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::owner::Owner;
use crate::shm::segment::{dead_fifos, name};
use crate::shm::wait::notifier_word::{self, ARMED};
use crate::sys;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often it rings by itself.
const BACKSTOP: Duration = Duration::from_millis(500);

/// By what a notifier is rung, in shared memory: zero if nobody has one.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct NotifierSlot {
    owner: AtomicU64,
    /// The notifier's number, and whether it is [`ARMED`].
    number: AtomicU64,
}

/// The name of a notifier's socket.
fn socket_name(segment: u64, owner: u64, number: u64) -> Vec<u8> {
    format!("folio/{segment:016x}/{owner:016x}/{number:016x}").into_bytes()
}

/// The path of a notifier's FIFO, if the segment has a directory.
fn fifo_path(attachment: &Attachment, owner: u64, number: u64) -> Result<Option<PathBuf>, Errno> {
    let directory = attachment.directory()?;
    Ok(directory
        .map(|directory| directory.join(name::notifier_fifo(attachment.id(), owner, number))))
}

/// Rings the notifier of these numbers, which may be any. Whether it rings.
fn signal(attachment: &Attachment, owner: u64, number: u64) -> bool {
    if crate::shm::sys::notify_socket::signal(&socket_name(attachment.id(), owner, number)) {
        return true;
    }
    // If it is this process that has gone elsewhere the notifier has a FIFO from its next arming
    // on.
    if !attachment.is_mixed_with_this_thread() {
        return false;
    }
    let Ok(Some(path)) = fifo_path(attachment, owner, number) else { return false };
    let rung = crate::shm::sys::fifo::signal(&path);
    // Of one whose owner lives nobody reads it yet.
    let is_alive = || Owner::in_word(owner).is_some_and(|owner| attachment.is_alive(owner));
    if rung == Err(Errno::NXIO) && !is_alive() {
        let _ = crate::shm::sys::fifo::remove_unread(&path);
    }
    rung.is_ok()
}

impl NotifierSlot {
    /// Rings, if it is armed. Any numbers may be found in shared memory: at worst a byte goes
    /// nowhere.
    pub(crate) fn notify(&self, attachment: &Attachment) {
        let owner = self.owner.load(Ordering::Acquire);
        if owner != 0 {
            self.notify_owner(attachment, owner);
        }
    }

    /// The same, for a caller that has found this owner there.
    fn notify_owner(&self, attachment: &Attachment, owner: u64) {
        if notify(attachment, owner, &self.number) == NotifyOutcome::Dead
            && let Err(heir) =
                self.owner.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Acquire)
            && heir != 0
        {
            // A new owner registered just now: the disarmed notifier may have been its own, and is
            // signalled after all.
            signal(attachment, heir, self.number.load(Ordering::Acquire) & !ARMED);
        }
    }
}

/// The outcome of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotifyOutcome {
    /// It is alive, or nothing was to be done.
    Delivered,
    /// Its owner has died.
    Dead,
}

/// Rings the notifier of this owner whose number a word holds, if it is armed.
pub(crate) fn notify(attachment: &Attachment, owner: u64, word: &AtomicU64) -> NotifyOutcome {
    let Some(number) = notifier_word::disarm(word) else { return NotifyOutcome::Delivered };
    if signal(attachment, owner, number) {
        return NotifyOutcome::Delivered;
    }
    if Owner::in_word(owner).is_some_and(|owner| attachment.is_alive(owner)) {
        // This process cannot reach it, or cannot now: others may, and this one later. (On a slot
        // they look when it was announced anew.)
        notifier_word::arm_again(word, number);
        return NotifyOutcome::Delivered;
    }
    NotifyOutcome::Dead
}

/// The notifier itself, in the process that hears it.
#[derive(Debug)]
pub(crate) struct Notifier {
    inner: crate::shm::sys::notify_socket::NotifySocket,
    owner: u64,
    number: u64,
    /// Whether it has a FIFO, or cannot have one.
    reaches: bool,
    /// Processes whose end rings.
    watched: Vec<(Owner, Option<OwnedFd>)>,
}

impl Notifier {
    /// Makes a notifier.
    pub(crate) fn new(attachment: &Attachment) -> Result<Self> {
        let number = crate::shm::random() & !ARMED;
        let refused = |errno| Error::kernel("bind", errno, Subject::named("a notifier"));
        let owner = attachment.me().word();
        let name = socket_name(attachment.id(), owner, number);
        let inner =
            crate::shm::sys::notify_socket::NotifySocket::new(&name, BACKSTOP).map_err(refused)?;
        let mut notifier = Self { inner, owner, number, reaches: false, watched: Vec::new() };
        // It may have changed its network namespace since it has become a participant.
        if attachment.is_mixed_with_this_thread() {
            notifier.ensure_fifo(attachment);
        }
        Ok(notifier)
    }

    /// Gives it a FIFO, once the segment has participants of several network namespaces. To be
    /// asked before it is armed.
    pub(crate) fn ensure_fifo(&mut self, attachment: &Attachment) {
        if self.reaches || !attachment.is_mixed() {
            return;
        }
        let made = self.make_fifo(attachment);
        // Where there can be none, or another has taken its name, the timer is left. A process that
        // has no descriptor to spare may have one the next time.
        self.reaches = !matches!(made, Err(errno) if sys::file::is_exhausted(errno));
    }

    fn make_fifo(&mut self, attachment: &Attachment) -> Result<(), Errno> {
        let Some(path) = fifo_path(attachment, self.owner, self.number)? else { return Ok(()) };
        // So that those who die again and again leave one, and not one each time.
        dead_fifos::remove(name::parent(&path), attachment.id(), |owner| {
            attachment.is_alive(owner)
        });
        self.inner.attach_fifo(crate::shm::sys::fifo::Fifo::make(&path, attachment.file())?)
    }

    /// Ties it to a slot, which is this participant's alone or nobody's.
    pub(crate) fn register(&self, notifier_slot: &NotifierSlot, attachment: &Attachment) {
        notifier_slot.owner.store(0, Ordering::Relaxed);
        notifier_slot.number.store(self.number, Ordering::Relaxed);
        notifier_slot.owner.store(attachment.me().word(), Ordering::Release);
    }

    /// Ties it to a slot that others might take as well. Whether it did.
    pub(crate) fn try_register(
        &self,
        notifier_slot: &NotifierSlot,
        attachment: &Attachment,
    ) -> bool {
        let (me, found) = (attachment.me().word(), notifier_slot.owner.load(Ordering::Relaxed));
        let free = Owner::in_word(found).is_none_or(|owner| !attachment.is_alive(owner));
        if free
            && notifier_slot
                .owner
                .compare_exchange(found, me, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            notifier_slot.number.store(self.number, Ordering::Release);
            return true;
        }
        false
    }

    /// Whether it is still registered in a slot: other processes can write to shared memory.
    pub(crate) fn is_registered(
        &self,
        notifier_slot: &NotifierSlot,
        attachment: &Attachment,
    ) -> bool {
        notifier_slot.owner.load(Ordering::Relaxed) == attachment.me().word()
            && notifier_slot.number.load(Ordering::Relaxed) & !ARMED == self.number
    }

    /// Has it ring, once, when the slot that it is tied to is pulled. To be announced afterwards.
    pub(crate) fn arm(&self, notifier_slot: &NotifierSlot) {
        notifier_slot.number.store(self.number | ARMED, Ordering::Release);
    }

    /// As [`arm`](Self::arm), for a word that is its owner's alone.
    pub(crate) fn arm_word(&self, word: &AtomicU64) {
        notifier_word::arm(word, self.number);
    }

    /// Unties it.
    pub(crate) fn unregister(&self, notifier_slot: &NotifierSlot, attachment: &Attachment) {
        if notifier_slot.number.load(Ordering::Relaxed) & !ARMED == self.number {
            let me = attachment.me().word();
            let _ =
                notifier_slot.owner.compare_exchange(me, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    /// Makes it readable.
    pub(crate) fn signal(&self) {
        self.inner.signal();
    }

    /// Makes it unreadable, until it rings anew or a watched process has ended.
    pub(crate) fn clear(&self) {
        self.inner.clear();
    }

    /// Has it ring when one of these participants ends, and no others. Those that were named before
    /// are taken to be alive.
    pub(crate) fn watch(
        &mut self,
        attachment: &Attachment,
        participants: impl Iterator<Item = Owner>,
    ) {
        let mut before = std::mem::take(&mut self.watched);
        let hears_an_end =
            before.iter().any(|(_, process)| process.is_some()) && self.inner.watches_an_end();
        for participant in participants {
            // One process may be several senders.
            if self.watched.iter().any(|(owner, _)| *owner == participant) {
                continue;
            }
            let watched =
                if let Some(at) = before.iter().position(|(owner, _)| *owner == participant) {
                    before.swap_remove(at).1
                } else {
                    let process = attachment.pid_of(participant).map(|pid| self.inner.watch(pid));
                    self.signal_for_the_dead(attachment, participant);
                    match process {
                        // There may be a descriptor for it the next time.
                        Some(Err(errno)) if sys::file::is_exhausted(errno) => continue,
                        process => process.and_then(Result::ok),
                    }
                };
            // The participant itself stored the number, and it may be another process's here: of
            // another pid namespace. Or the participant has outlived its process, in a child that
            // has its lock. Such an end would signal for ever.
            let (ended, process) = match watched {
                Some(process)
                    if hears_an_end && crate::shm::sys::notify_socket::has_ended(&process) =>
                {
                    (Some(process), None)
                }
                process => (None, process),
            };
            self.watched.push((participant, process));
            if let Some(ended) = ended {
                self.inner.forget(&ended);
                // If it was the participant's own end it is heard by this.
                self.signal_for_the_dead(attachment, participant);
            }
        }
        // A forked child may have copies, which would keep a dead one's descriptor in the notifier.
        before
            .iter()
            .filter_map(|(_, process)| process.as_ref())
            .for_each(|fd| self.inner.forget(fd));
    }

    /// Signals if this participant has ended: another process may have had its number by then, and
    /// nobody signals.
    fn signal_for_the_dead(&self, attachment: &Attachment, participant: Owner) {
        if !attachment.is_alive(participant) {
            self.inner.signal();
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{Notifier, NotifierSlot};
    use crate::shm::Segment;
    use crate::shm::segment::owner::Owner;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn who_found_a_dead_one_at_a_cord_rings_for_its_heir() {
        let segment = Segment::<u64>::anonymous().unwrap();
        let place = segment.shared_ref();
        let attachment = place.attachment();
        let dead = Owner::new(200, 7).word();
        let notifier_slot = NotifierSlot { owner: AtomicU64::new(dead), number: AtomicU64::new(1) };
        let notifier = Notifier::new(attachment).unwrap();
        let is_readable = || {
            let mut fds = [rustix::event::PollFd::new(&notifier, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
        };
        assert!(notifier.try_register(&notifier_slot, attachment) && !is_readable());
        notifier.arm(&notifier_slot);
        // It looked before the slot was tied anew, and comes to it now.
        notifier_slot.notify_owner(attachment, dead);
        assert!(is_readable(), "the arming was taken away, and nobody rings");
        assert!(notifier.is_registered(&notifier_slot, attachment));
    }
}
