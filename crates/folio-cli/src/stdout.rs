//! Texts on standard output: reports, help and the version.

use crate::descriptors;
use crate::failure::{Failure, Kind};
use std::io::{self, Write};

/// Prints a text. A reader that went away does not miss it; any other loss is an error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    const NAME: &str = "standard output";
    // Not by `io::stdout`, which takes a closed descriptor for a success and drops the errors of
    // its last flush.
    let mut file = descriptors::inherited(1, Kind::Output, NAME)?;
    match file.write_all(text.as_bytes()).and_then(|()| descriptors::close(file)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io(Kind::Output, NAME, &error))
        }
        _ => Ok(()),
    }
}
