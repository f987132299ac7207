//! Copies one region of a file over another, through a shared map: the file changes, without a
//! write(2).
//!
//! Run: `cargo run -p folio --example copy_region -- FILE FROM TO LENGTH`

use folio::{FileMapMut, WriteBack};
use std::env;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("copy_region: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [path, from, to, length] = args.as_slice() else {
        return Err("usage: copy_region FILE FROM TO LENGTH".into());
    };
    let (from, to, length): (usize, usize, usize) = (from.parse()?, to.parse()?, length.parse()?);
    let map = FileMapMut::open(path)?;
    // Copied out first, so the regions may overlap. A region past the end of the file is an error:
    // a map cannot grow it.
    let bytes = map.read_vec(from..from.saturating_add(length))?;
    map.write_at(&bytes, to)?;
    // All who read the file see it by now; this waits until the disk has it, too.
    map.sync(to..to + length, WriteBack::Wait)?;
    println!("copied {length} bytes from {from} to {to}");
    Ok(())
}
