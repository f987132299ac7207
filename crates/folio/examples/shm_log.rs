//! A chat with history in a file: one process writes, any number read, from any point, again and
//! again, also after a restart. `chat_writer` and `chat_reader` do so with a map and a lock, for
//! the last text only.
//!
//! Run: `cargo run -p folio --example shm_log -- FILE write` with lines on standard input, and, as
//! often as you like, `cargo run -p folio --example shm_log -- FILE read [FROM]`

use folio::Errno;
use folio::shm::{Log, Read, Start};
use std::error::Error;
use std::process::ExitCode;
use std::{env, io};

/// Bytes of the file's ring: the newest entries push out the oldest.
const SIZE: usize = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [path, "write"] => write(&Log::open_or_create_file(path, SIZE)?),
        [path, "read"] => read(&Log::open_or_create_file(path, SIZE)?, Start::Oldest),
        [path, "read", from] => {
            read(&Log::open_or_create_file(path, SIZE)?, Start::At(from.parse()?))
        }
        _ => Err("usage: shm_log FILE write|read [FROM]".into()),
    }
}

fn write(log: &Log) -> Result<(), Box<dyn Error>> {
    let mut writer = log.writer()?;
    for line in io::stdin().lines() {
        let line = line?;
        let seq = writer.append(line.as_bytes())?;
        println!("{seq} written: {line}");
    }
    Ok(())
}

fn read(log: &Log, start: Start) -> Result<(), Box<dyn Error>> {
    let mut reader = log.reader(start)?;
    let mut text = Vec::new();
    loop {
        match reader.next(&mut text) {
            Ok(Read::Entry(seq)) => println!("{seq}: {}", String::from_utf8_lossy(&text)),
            Ok(Read::Missed { first, count }) => println!("{count} from {first} on are gone"),
            // All was read, and nobody writes any more.
            Err(error) if error.errno() == Errno::PIPE => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
