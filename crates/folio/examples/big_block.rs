//! Takes a large block of zeroed memory from the kernel and gives it back, as malloc(3) does, and
//! prints what the process holds meanwhile.
//!
//! Run: `cargo run -p folio --example big_block -- [MIB]`

use folio::Anon;
use std::error::Error;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("big_block: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mib: usize = env::args().nth(1).map_or(Ok(256), |mib| mib.parse())?;
    let length = mib.checked_mul(1 << 20).ok_or("so much cannot be counted")?;
    report("before")?;

    let mut block = Anon::new(length)?;
    report("taken")?; // addresses only: a page comes when it is touched

    let page = block.page_size().bytes();
    for byte in block.iter_mut().step_by(page) {
        *byte = byte.checked_add(1).ok_or("the block was not zero")?;
    }
    report("touched")?;

    drop(block);
    report("after")
}

/// Prints what `/proc/self/status` says is resident, in all and of anonymous memory.
fn report(when: &str) -> Result<(), Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field =
        |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
    println!("{when:<8} VmRSS {:>12}  RssAnon {:>12}", field("VmRSS:"), field("RssAnon:"));
    Ok(())
}
