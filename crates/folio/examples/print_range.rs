//! Prints a part of a file through a map: the program of mmap(2), and the core of `folio cat`.
//!
//! Run: `cargo run -p folio --example print_range -- FILE OFFSET [LENGTH]`

use folio::MapOptions;
use std::error::Error;
use std::fs::File;
use std::process::ExitCode;
use std::{env, io};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("print_range: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (path, offset, length): (_, u64, Option<u64>) = match args.as_slice() {
        [path, offset] => (path, offset.parse()?, None),
        [path, offset, length] => (path, offset.parse()?, Some(length.parse()?)),
        _ => return Err("usage: print_range FILE OFFSET [LENGTH]".into()),
    };
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let size = file.metadata()?.len();
    if offset >= size {
        return Err(
            format!("{path}: offset {offset} is past the end of the file ({size} bytes)").into()
        );
    }
    let length = length.unwrap_or(u64::MAX).min(size - offset);
    // The offset need not be a page multiple: folio maps from the page below and shows the bytes
    // from here.
    let map = MapOptions::new().offset(offset).len(usize::try_from(length)?).map(&file)?;
    // Checked copies: a file that is truncated meanwhile ends in an error, not in a signal.
    io::copy(&mut map.reader(), &mut io::stdout().lock())?;
    Ok(())
}
