//! Says each line of standard input to every process that maps the same file: run `chat_reader` on
//! it at any time.
//!
//! Run: `cargo run -p folio --example chat_writer -- FILE`

use folio::FileMapMut;
use std::error::Error;
use std::fs::OpenOptions;
use std::process::ExitCode;
use std::{env, io};

/// The file: the text's length as four bytes, then the text.
const SIZE: usize = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat_writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: chat_writer FILE")?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|error| format!("{path}: {error}"))?;
    file.set_len(SIZE as u64)?;
    let map = FileMapMut::map(&file)?;
    for line in io::stdin().lines() {
        let line = line?;
        // A store of many bytes can be seen half done; the lock keeps readers out until it is
        // whole.
        file.lock()?;
        map.write_at(line.as_bytes(), 4)?;
        map.write(0, &u32::try_from(line.len())?)?;
        file.unlock()?;
        println!("said: {line}");
    }
    Ok(())
}
