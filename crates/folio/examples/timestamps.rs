//! When st_atime, st_mtime and st_ctime of a mapped file move: a table for each directory's file
//! system.
//!
//! Run: `cargo run -p folio --example timestamps -- [DIRECTORY]...` (without one: here, and on the
//! tmpfs `/dev/shm`)

use folio::{FileMapMut, FileMapPrivate, MapOptions, WriteBack};
use std::error::Error;
use std::fs::{File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use std::{env, thread};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("timestamps: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut directories: Vec<String> = env::args().skip(1).collect();
    if directories.is_empty() {
        directories = vec![".".into(), "/dev/shm".into()];
    }
    for directory in directories {
        table(&directory).map_err(|error| format!("{directory}: {error}"))?;
    }
    Ok(())
}

fn table(directory: &str) -> Result<()> {
    let file = tempfile::tempfile_in(directory)?;
    file.write_all_at(&[1; 4096], 0)?;
    file.sync_all()?;

    println!("{directory:<32}atime   mtime   ctime");
    let map = row(&file, "mmap, shared", || FileMapMut::map(&file))?;
    row(&file, "first load", || map.read::<u8>(0))?;
    row(&file, "first store, after that load", || map.write(0, &2_u8))?;
    row(&file, "second store to the page", || map.write(1, &2_u8))?;
    row(&file, "msync", || map.sync(.., WriteBack::Wait))?;
    row(&file, "store after msync", || map.write(0, &3_u8))?;
    row(&file, "munmap", || map.unmap())?;
    let map = FileMapMut::map(&file)?;
    row(&file, "first store, before any load", || map.write(0, &3_u8))?;
    map.unmap()?;
    let map = row(&file, "mmap, private", || FileMapPrivate::map(&file))?;
    row(&file, "store to the private map", || map.write(0, &4_u8))?;
    row(&file, "mmap, reserved, no hole", || MapOptions::new().preallocate().map_mut(&file))?;
    row(&file, "read(2)", || file.read_at(&mut [0], 0))?;
    row(&file, "write(2)", || file.write_at(&[5], 0))?;
    println!();
    Ok(())
}

/// Makes a step, and prints which of the file's times it moved.
fn row<T, E: Into<Box<dyn Error>>>(
    file: &File,
    what: &str,
    step: impl FnOnce() -> Result<T, E>,
) -> Result<T> {
    // With `relatime` an atime that is older than a day moves, one that is younger than mtime and a
    // day does not.
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_times(FileTimes::new().set_accessed(old).set_modified(old))?;
    let before = times(file)?;
    // The kernel's coarse clock, from which files get their times, ticks every 1 to 10 ms.
    thread::sleep(Duration::from_millis(20));
    let result = step().map_err(Into::into)?;
    let after = times(file)?;
    let words = [0, 1, 2].map(|i| if before[i] == after[i] { "-" } else { "moves" });
    println!("{what:<32}{:<8}{:<8}{}", words[0], words[1], words[2]);
    Ok(result)
}

/// st_atime, st_mtime and st_ctime.
fn times(file: &File) -> Result<[(i64, i64); 3]> {
    let status = file.metadata()?;
    Ok([
        (status.atime(), status.atime_nsec()),
        (status.mtime(), status.mtime_nsec()),
        (status.ctime(), status.ctime_nsec()),
    ])
}
