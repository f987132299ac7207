//! Why the command ends without success: a message, how to mend it, and the exit code.

use serde_json::{Map, Value};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::process::ExitCode;

/// The failed part. It decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The source could not be opened, or does not have the bytes.
    Source,
    /// The bytes could not be written.
    Output,
    /// The arguments make no sense.
    Usage,
    /// The pager cannot run on this machine.
    Pager,
    /// Bytes of the source went away, or could not be supplied, while they were printed.
    Fault,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Output => "output",
            Self::Usage => "usage",
            Self::Pager => "pager",
            Self::Fault => "fault",
        }
    }

    /// The exit codes that the help documents.
    fn code(self) -> u8 {
        match self {
            Self::Source | Self::Output | Self::Pager => 1,
            Self::Usage => 2,
            Self::Fault => 3,
        }
    }
}

/// The end of a command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    remedy: Option<String>,
    at: Option<u64>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), remedy: None, at: None }
    }

    /// A system call on `name` failed.
    pub(crate) fn io(kind: Kind, name: impl fmt::Display, error: &io::Error) -> Self {
        let failure = Self::new(kind, format!("{name}: {}", words(error)));
        match remedy(kind, error) {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Adds the numbers behind the error.
    pub(crate) fn because(mut self, numbers: impl fmt::Display) -> Self {
        let _ = write!(self.message, ": {numbers}");
        self
    }

    /// Where in the source it happened.
    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.at = Some(offset);
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }

    /// One JSON object, with the command's own fields.
    pub(crate) fn json(&self, mut fields: Map<String, Value>) -> Value {
        fields.insert("error".into(), self.message.as_str().into());
        fields.insert("kind".into(), self.kind.name().into());
        fields.insert("exit_code".into(), self.kind.code().into());
        if let Some(remedy) = &self.remedy {
            fields.insert("remedy".into(), remedy.as_str().into());
        }
        if let Some(at) = self.at {
            fields.insert("error_offset".into(), at.into());
        }
        Value::Object(fields)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folio: {}", self.message)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "\n  remedy: {remedy}"))
    }
}

/// A line to stderr. If nobody can read it any more, there is nobody to tell.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The error's own words, without the number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn remedy(kind: Kind, error: &io::Error) -> Option<&'static str> {
    use io::ErrorKind as E;
    Some(match (error.kind(), kind) {
        (E::NotFound, Kind::Source) => "check the path",
        (E::NotFound, _) => "make the directory first",

        (E::PermissionDenied, Kind::Source) => {
            "check the file's rights, and its directories' (ls -ld)"
        }
        (E::PermissionDenied, _) => {
            "check the rights of the file and its directory, or write to another place"
        }
        (E::IsADirectory, _) => "name a file in it",
        (E::StorageFull | E::QuotaExceeded, _) => "free space there, or write to another place",
        (E::ReadOnlyFilesystem, _) => "write to another place",
        (E::FileTooLarge, _) => "print less, or raise the limit (ulimit -f)",
        _ => return None,
    })
}
