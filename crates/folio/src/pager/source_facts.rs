//! The answers of a source, asked once, on the thread of the caller that maps it. A driver asks a
//! source nothing: it might wait for the answer, or take the source's panic for its own.

use crate::error::{Errno, Error, Result, Subject};
use crate::source::function::caught;
use crate::source::{FastPathKind, Identity, LocalFile, Source, Version};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The purpose of a map of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
    Private,
    Shared,
}

/// Which of its source's bytes a map may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionRule {
    /// Those of this version.
    Version(Version),
    /// Each page as the file is when that page is read first.
    Pages,
    /// Any: its own stores change the source.
    Any,
}

/// How the bytes of a source are reached.
#[derive(Debug, Clone)]
pub(crate) enum SourceAccess {
    /// By requests.
    Requests,
    /// By requests; the source never has another version.
    Constant,
    Zeros,
    /// In memory: start and length of bytes that stay, and stay the same, for as long as the source
    /// lives.
    Bytes(usize, usize),
    /// By the driver's own reads and writes, which end whatever other processes do.
    File(Arc<LocalFile>),
    /// By a file's own threads: its file system may keep a call waiting.
    SlowFile(Arc<LocalFile>),
}

impl SourceAccess {
    fn of(source: &dyn Source) -> Self {
        match source.fast_path().0 {
            FastPathKind::No => Self::Requests,
            FastPathKind::Constant => Self::Constant,
            FastPathKind::Zeros => Self::Zeros,
            FastPathKind::Bytes(bytes) => Self::Bytes(bytes.as_ptr() as usize, bytes.len()),
            FastPathKind::File(file) if file.is_local() => Self::File(Arc::clone(file)),
            FastPathKind::File(file) => Self::SlowFile(Arc::clone(file)),
        }
    }

    /// The file that the source is, if it is one.
    pub(super) fn file(&self) -> Option<&Arc<LocalFile>> {
        match self {
            Self::File(file) | Self::SlowFile(file) => Some(file),
            _ => None,
        }
    }
}

pub(crate) struct SourceFacts {
    pub(crate) name: String,
    pub(crate) len: u64,
    pub(crate) identity: Option<Identity>,
    /// When it was asked, of a source that is mapped to be read.
    pub(crate) version: Option<Version>,
    pub(crate) shows: VersionRule,
    pub(crate) block: usize,
    pub(crate) deadline: Duration,
    pub(crate) reach: SourceAccess,
}

impl SourceFacts {
    pub(crate) fn ask(source: &dyn Source, purpose: Purpose) -> Result<Self> {
        let nameless = |error: io::Error| failed(Subject::named("a source"), &error);
        let name = caught(|| Ok(source.name())).map_err(nameless)?;
        let subject = || Subject::named(name.clone());
        let failed = |error: io::Error| failed(subject(), &error);
        let writes = matches!(purpose, Purpose::Write | Purpose::Shared);
        if writes && !caught(|| Ok(source.is_writable())).map_err(failed)? {
            let rule = "the source was opened read-only";
            let remedy = "open it writable, or map it privately";
            return Err(Error::rule_as(Errno::ACCESS, "map", subject(), rule, remedy));
        }
        let ask_version = || caught(|| source.version()).map_err(failed);
        // Its own writes change the version.
        let version = if writes { None } else { Some(ask_version()?) };
        let (block, deadline) =
            caught(|| Ok((source.block(), source.deadline()))).map_err(failed)?;
        let identity = caught(|| Ok(source.identity())).map_err(failed)?;
        let identity = identity.filter(|_| purpose != Purpose::Private);
        let len = caught(|| source.len()).map_err(failed)?;
        let reach = caught(|| Ok(SourceAccess::of(source))).map_err(failed)?;
        let shows = match version {
            None => VersionRule::Any,
            Some(_) if reach.file().is_some_and(|file| !file.has_one_version()) => {
                VersionRule::Pages
            }
            Some(version) => {
                if ask_version()? != version {
                    let rule = "the source's version changed while the map was made";
                    return Err(Error::rule_as(
                        Errno::AGAIN,
                        "map",
                        subject(),
                        rule,
                        "map it again",
                    ));
                }
                VersionRule::Version(version)
            }
        };
        Ok(Self { name, len, identity, version, shows, block, deadline, reach })
    }
}

fn failed(subject: Subject, error: &io::Error) -> Error {
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    Error::rule_as(errno, "map", subject, error.to_string(), "see whether the source can be read")
}
