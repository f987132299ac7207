//! Maps ten records over a file with room for five, and writes all ten; `people_reader` looks at
//! them meanwhile.
//!
//! Run: `cargo run -p folio --example people_writer -- FILE [SECONDS]`. It waits before it unmaps
//! the file, and again before it has the file written back: for a line on standard input, or that
//! many seconds.

use folio::MapOptions;
use std::error::Error;
use std::fs::OpenOptions;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io, thread};
use zerocopy::{Immutable, IntoBytes};

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Person {
    name: [u8; 4],
    age: i32,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("people_writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let path = args.next().ok_or("usage: people_writer FILE [SECONDS]")?;
    let seconds: Option<u64> = args.next().map(|seconds| seconds.parse()).transpose()?;

    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.map_err(|error| format!("{path}: {error}"))?;
    file.set_len(5 * size_of::<Person>() as u64)?;

    let map = MapOptions::new().len(10 * size_of::<Person>()).map_mut(&file)?;
    for i in 0..10 {
        let person = Person { name: [b'b' + i, 0, 0, 0], age: 20 + i32::from(i) };
        map.write(usize::from(i) * size_of::<Person>(), &person)?;
    }
    println!("initialized");
    wait(seconds)?;

    map.unmap()?;
    println!("unmapped");
    wait(seconds)?;

    // Not the unmap, but this takes the last five away: bytes past the file's end are zeroed on
    // their way to the disk.
    file.sync_all()?;
    println!("written back");
    Ok(())
}

fn wait(seconds: Option<u64>) -> io::Result<()> {
    match seconds {
        Some(seconds) => thread::sleep(Duration::from_secs(seconds)),
        None => drop(io::stdin().read_line(&mut String::new())?),
    }
    Ok(())
}
