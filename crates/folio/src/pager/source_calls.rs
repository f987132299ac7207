//! How requests reach a source that is not read by the driver itself: on threads of a pool that no
//! stuck source of another map exhausts, with a look at its version before and after each read.

use super::command::{Command, CommandQueue};
use super::core::ObjectId;
use super::source_facts::{SourceAccess, VersionRule};
use crate::source::file::stamp::Stamp;
use crate::source::function::caught;
use crate::source::request::{FlushRequest, ReadRequest, Sink, WriteRequest};
use crate::source::workers::Workers;
use crate::source::{ChangedVersion, LocalFile, Source, Version};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests to one source that are handed over together.
#[derive(Default)]
pub(super) struct SourceBatch {
    pub(super) reads: Vec<ReadRequest>,
    pub(super) writes: Vec<WriteRequest>,
    pub(super) flush: Option<FlushRequest>,
}

/// One object's source, and the threads that call it.
pub(super) struct SourceCaller {
    source: Arc<dyn Source>,
    threads: Arc<Workers>,
    shows: VersionRule,
    /// The source, if it is a file whose reads are made again when it changes meanwhile.
    settled: Option<Arc<LocalFile>>,
    /// Where reads end.
    reads: Arc<dyn Sink>,
    inbox: Arc<CommandQueue>,
}

impl SourceCaller {
    /// At most so many threads call the source at once.
    pub(super) fn new(
        source: Arc<dyn Source>,
        reach: &SourceAccess,
        shows: VersionRule,
        most: usize,
        inbox: &Arc<CommandQueue>,
    ) -> Self {
        let threads = Arc::new(Workers::new(most));
        let shows = if matches!(reach, SourceAccess::Constant) { VersionRule::Any } else { shows };
        let settled = match reach {
            SourceAccess::SlowFile(file) if shows == VersionRule::Pages => Some(Arc::clone(file)),
            _ => None,
        };
        let reads: Arc<dyn Sink> = match shows {
            VersionRule::Version(version) => Arc::new(CheckedRead(Arc::new(VersionCheck {
                source: Arc::clone(&source),
                version,
                threads: Arc::clone(&threads),
                inbox: Arc::clone(inbox),
                ended: Mutex::default(),
            }))),
            VersionRule::Pages | VersionRule::Any => Arc::clone(inbox) as Arc<dyn Sink>,
        };
        Self { source, threads, shows, settled, reads, inbox: Arc::clone(inbox) }
    }

    /// The receiver of the end of reads.
    pub(super) fn reads(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.reads)
    }

    /// The receiver of the end of writes and flushes.
    pub(super) fn writes(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.inbox) as Arc<dyn Sink>
    }

    /// Gives requests to the source.
    pub(super) fn give(&self, batch: SourceBatch) {
        let (source, shows, settled) = (Arc::clone(&self.source), self.shows, self.settled.clone());
        self.threads.post(move |thread| {
            let SourceBatch { reads, writes, flush } = batch;
            if let Err(error) = thread {
                refuse(reads, &error);
                for request in writes {
                    request.complete(Err(again(&error)));
                }
                if let Some(request) = flush {
                    request.complete(Err(error));
                }
                return;
            }
            if !reads.is_empty() {
                match (shows, settled) {
                    (VersionRule::Version(version), _) => match is_version(&*source, version) {
                        Ok(()) => source.read(reads),
                        Err(error) => refuse(reads, &error),
                    },
                    (VersionRule::Pages, Some(file)) => file.read_settled(reads),
                    (VersionRule::Pages | VersionRule::Any, _) => source.read(reads),
                }
            }
            if !writes.is_empty() {
                source.write(writes);
            }
            if let Some(flush) = flush {
                source.flush(flush);
            }
        });
    }

    /// Makes a file for the object's private pages, and tells the driver: to open it may block.
    pub(super) fn make_spill(
        &self,
        object: ObjectId,
        make: impl FnOnce() -> io::Result<LocalFile> + Send + 'static,
    ) {
        let inbox = Arc::clone(&self.inbox);
        self.threads.post(move |thread| {
            let file = thread.and_then(|()| make());
            inbox.send(Command::SpillMade { object, file });
        });
    }

    /// Asks for the version of a source that is written, or the stamp of the file that it is, and
    /// tells the driver.
    pub(super) fn ask_version(&self, object: ObjectId, file: Option<Arc<LocalFile>>) {
        let (source, inbox) = (Arc::clone(&self.source), Arc::clone(&self.inbox));
        self.threads.post(move |thread| {
            let version = thread.and_then(|()| match file {
                Some(file) => file.stamp().map(Stamp::content),
                None => caught(|| source.version()),
            });
            inbox.send(Command::Looked { object, version });
        });
    }

    /// Drops the claim that keeps others from the source, then the source, and all else that may
    /// take its time when it is dropped. A source may do anything then, such as closing another
    /// map.
    pub(super) fn drop_all(self, held: impl Send + 'static, others: impl Send + 'static) {
        let threads = Arc::clone(&self.threads);
        let all = (self, others);
        threads.post(move |thread| {
            drop(held);
            match thread {
                Ok(()) => drop(all),
                // They are never dropped: on this thread that could stop all maps.
                Err(_) => mem::forget(all),
            }
        });
    }
}

/// Whether the source has this version now. It may block.
fn is_version(source: &dyn Source, version: Version) -> io::Result<()> {
    match caught(|| source.version()) {
        Ok(now) if now == version => Ok(()),
        Ok(_) => Err(io::Error::other(ChangedVersion)),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("its version cannot be told: {error}")))
        }
    }
}

/// The same error once more.
fn again(error: &io::Error) -> io::Error {
    match error.get_ref() {
        Some(inner) if inner.is::<ChangedVersion>() => io::Error::other(ChangedVersion),
        _ => io::Error::new(error.kind(), error.to_string()),
    }
}

fn refuse(reads: Vec<ReadRequest>, error: &io::Error) {
    for request in reads {
        request.complete(Err(again(error)));
    }
}

/// Is told of the end of reads, and tells the driver when the version has been asked for after
/// them.
struct CheckedRead(Arc<VersionCheck>);

struct VersionCheck {
    source: Arc<dyn Source>,
    version: Version,
    threads: Arc<Workers>,
    inbox: Arc<CommandQueue>,
    ended: Mutex<CallEnded>,
}

#[derive(Default)]
struct CallEnded {
    reads: Vec<(u64, usize)>,
    /// A job is queued that will take them.
    posted: bool,
}

impl Sink for CheckedRead {
    /// The version is not asked for here: the source may hold a lock that it needs to answer.
    fn ended(&self, id: u64, result: io::Result<usize>) {
        let count = match result {
            Ok(count) => count,
            Err(error) => return self.0.inbox.ended(id, Err(error)),
        };
        let mut ended = self.0.ended();
        ended.reads.push((id, count));
        if mem::replace(&mut ended.posted, true) {
            return;
        }
        drop(ended);
        let check = Arc::clone(&self.0);
        self.0.threads.post(move |thread| {
            // Reads that end after this need another look.
            let reads = check.take();
            check.tell(reads, &thread.and_then(|()| is_version(&*check.source, check.version)));
        });
    }
}

impl VersionCheck {
    fn ended(&self) -> MutexGuard<'_, CallEnded> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<(u64, usize)> {
        mem::take(&mut *self.ended()).reads
    }

    fn tell(&self, reads: Vec<(u64, usize)>, outcome: &io::Result<()>) {
        for (id, count) in reads {
            self.inbox.ended(id, outcome.as_ref().map(|()| count).map_err(again));
        }
    }
}
