//! Prints what `chat_writer` said last, twice: unlike with a pipe, reading takes nothing away.
//!
//! Run: `cargo run -p folio --example chat_reader -- FILE`

use folio::FileMap;
use std::env;
use std::error::Error;
use std::fs::File;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chat_reader: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: chat_reader FILE")?;
    let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    let map = FileMap::map(&file)?;
    for reading in ["first", "second"] {
        file.lock_shared()?;
        let length = map.read::<u32>(0)? as usize;
        // Every process that has the file can write any length: one that does not fit is an error
        // here.
        let text = map.read_vec(4..4 + length)?;
        file.unlock()?;
        println!("{reading} reading: {}", String::from_utf8_lossy(&text));
    }
    Ok(())
}
