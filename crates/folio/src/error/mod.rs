//! The one error type. A call error names the call, the object, the range, the broken rule and the
//! remedy. A fault names the bytes that could not be supplied, and the cause.

mod explain;
mod fault;
mod subject;

pub use fault::{Fault, FaultCause};
pub use rustix::io::Errno;
pub use subject::Subject;

use crate::sys;
use std::borrow::Cow;
use std::fmt;

/// Why folio could not do what it was asked. Nothing was changed, unless the call's own
/// documentation says otherwise.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a call, or folio refused it first because it breaks a rule.
    Call(Box<CallError>),
    /// A page could not be supplied. Without folio this is a SIGBUS or a SIGSEGV.
    Fault(Box<Fault>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

// The message is the inner error's own, so the inner error is no source of this one.
impl std::error::Error for Error {}

/// A result whose error is folio's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A call that was refused: by the kernel, or by folio before the kernel was asked.
#[derive(Debug, Clone)]
pub struct CallError {
    call: &'static str,
    subject: Subject,
    errno: Errno,
    by_kernel: bool,
    rule: Cow<'static, str>,
    remedy: Cow<'static, str>,
}

impl std::error::Error for CallError {}

impl CallError {
    /// The system call, or folio's own operation, that was refused.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// The subject of the call: object, range, protection, flags.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The rule that was broken.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// How to mend it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Whether the kernel was asked. If not, folio knew the answer and no call was made.
    pub fn by_kernel(&self) -> bool {
        self.by_kernel
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, subject, errno, rule, remedy, .. } = self;
        write!(f, "{call} of {subject}: ")?;
        if self.by_kernel {
            write!(f, "{} ({}): ", explain::words(*errno), explain::symbol(*errno))?;
        }
        write!(f, "{rule}; {remedy}")
    }
}

impl Error {
    /// The kernel refused `call` with `errno`; the rule and the remedy are looked up.
    pub(crate) fn kernel(call: &'static str, errno: Errno, subject: Subject) -> Self {
        if errno == Errno::INVAL && subject.object.contains('\0') {
            // No such path reaches the kernel: the string would end at the NUL.
            return Self::nul(call, subject);
        }
        let (rule, remedy) = explain::explain(call, errno, &subject);
        let rule = sys::into_plain(rule);
        Self::Call(Box::new(CallError { call, subject, errno, by_kernel: true, rule, remedy }))
    }

    /// A file in memory that is not given the bytes that it lacks, since there is too little memory
    /// or space.
    #[cold]
    pub(crate) fn short(subject: Subject, short: crate::sys::memory_room::Shortfall) -> Self {
        let crate::sys::memory_room::Shortfall { errno, bytes, free, limit } = short;
        Self::rule_as(
            errno,
            "fallocate",
            subject,
            match errno {
                Errno::NOSPC => {
                    format!("the file system has no room for the {bytes} bytes: {free} are free")
                }
                _ => format!("there is no memory for the {bytes} bytes: {limit} leaves {free}"),
            },
            "ask for less, free some, or do without the reservation of space where the call has that option",
        )
    }

    /// The process's own memory cannot have the bytes that `call` needs.
    pub(crate) fn no_memory(
        call: &'static str,
        subject: Subject,
        short: crate::sys::memory_room::Shortfall,
    ) -> Self {
        let crate::sys::memory_room::Shortfall { errno, bytes, free, limit } = short;
        let rule = format!("{bytes} bytes of memory are needed, and {limit} leaves {free}");
        Self::rule_as(
            errno,
            call,
            subject,
            rule,
            "take the range in smaller pieces, or free memory",
        )
    }

    /// The program's allocator refuses the bytes that `call` needs.
    pub(crate) fn no_heap(call: &'static str, subject: Subject) -> Self {
        let rule = "the program's allocator has no block for the answer";
        Self::rule_as(
            Errno::NOMEM,
            call,
            subject,
            rule,
            "take the range in smaller pieces, or free memory",
        )
    }

    /// A path or a name that holds a NUL byte.
    pub(crate) fn nul(call: &'static str, mut subject: Subject) -> Self {
        subject.object = subject.object.replace('\0', "\\0");
        Self::rule(
            call,
            subject,
            "a path or a name holds no NUL byte, and this one does",
            "take the byte out",
        )
    }

    /// folio refuses `call`: it knows that `rule` is broken, or does not allow it to be.
    pub(crate) fn rule(
        call: &'static str,
        subject: Subject,
        rule: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::rule_as(Errno::INVAL, call, subject, rule, remedy)
    }

    /// As [`rule`](Self::rule), with the errno that says it best.
    pub(crate) fn rule_as(
        errno: Errno,
        call: &'static str,
        subject: Subject,
        rule: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        // Names of a peer's types may be in it.
        let (rule, remedy) = (sys::into_plain(rule.into()), sys::into_plain(remedy.into()));
        Self::Call(Box::new(CallError { call, subject, errno, by_kernel: false, rule, remedy }))
    }

    /// The errno: the kernel's answer, or the best name for a rule that folio checked itself.
    /// EFAULT for a fault.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Call(refusal) => refusal.errno,
            Self::Fault(_) => Errno::FAULT,
        }
    }

    /// The errno's number, as [`std::io::Error::raw_os_error`] has it: [`errno`](Self::errno) for
    /// code without rustix.
    pub fn raw_os_error(&self) -> i32 {
        self.errno().raw_os_error()
    }

    /// The refusal, if this is one.
    pub fn call_error(&self) -> Option<&CallError> {
        match self {
            Self::Call(refusal) => Some(refusal),
            Self::Fault(_) => None,
        }
    }

    /// The fault, if this is one.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::Call(_) => None,
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

/// Keeps folio's message, and takes the kind from the errno.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Fault(fault) if fault.cause() == FaultCause::PastEnd => {
                std::io::ErrorKind::UnexpectedEof
            }
            _ => std::io::Error::from(error.errno()).kind(),
        };
        Self::new(kind, error)
    }
}

/// A conversion that was refused, with the map it would have consumed, unchanged.
pub struct ConversionError<M> {
    /// The map, as it was.
    pub map: M,
    /// Why.
    pub error: Error,
}

impl<M> ConversionError<M> {
    pub(crate) fn new(map: M, error: Error) -> Self {
        Self { map, error }
    }
}

impl<M> fmt::Debug for ConversionError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for ConversionError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M> std::error::Error for ConversionError<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Lets `?` drop the map and keep the error.
impl<M> From<ConversionError<M>> for Error {
    fn from(refused: ConversionError<M>) -> Self {
        refused.error
    }
}
