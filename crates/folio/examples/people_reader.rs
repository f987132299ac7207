//! Maps ten records over a file that has five, and prints what it sees: run it while
//! `people_writer` waits, and after.
//!
//! Run: `cargo run -p folio --example people_reader -- FILE`

use folio::MapOptions;
use std::env;
use std::error::Error;
use std::fs::File;
use std::process::ExitCode;
use zerocopy::FromBytes;

#[derive(FromBytes)]
#[repr(C)]
struct Person {
    name: [u8; 4],
    age: i32,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("people_reader: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: people_reader FILE")?;
    let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
    // A length past the end is allowed; bytes up to the end of the file's last page can be read.
    let map = MapOptions::new().len(10 * size_of::<Person>()).map(&file)?;
    for i in 0..10 {
        let Person { name, age } = map.read(i * size_of::<Person>())?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        println!("name: {} age: {age}", String::from_utf8_lossy(name));
    }
    Ok(())
}
