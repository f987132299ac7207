//! Ten records that two programs share by a name: `people_writer` and `people_reader` on typed
//! shared memory. A reader sees all ten of one writing, and learns when a writer was killed half
//! way.
//!
//! Run: `cargo run -p folio --example shm_people -- write NAME [SECONDS]`, and meanwhile `... --
//! read NAME`. The writer waits before it leaves: for a line on standard input, or that many
//! seconds.

use folio::shm::{ReadLocked, RwLock, Segment, Share, Torn};
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io, thread};

#[derive(Clone, Copy, Share)]
#[repr(C)]
struct Person {
    name: [u8; 4],
    age: i32,
}

type People = RwLock<[Person; 10]>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_people: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["write", name] => write(name, None),
        ["write", name, seconds] => write(name, Some(seconds.parse()?)),
        ["read", name] => read(name),
        _ => Err("usage: shm_people write NAME [SECONDS], or: shm_people read NAME".into()),
    }
}

fn write(name: &str, seconds: Option<u64>) -> Result<(), Box<dyn Error>> {
    let people = Segment::<People>::open_or_create(name)?;
    // Whatever another writer left half done is written over.
    let guard = people.shared_ref().write()?.or_repair(|_| Ok(()))?;
    for i in 0..10_u8 {
        let person = Person { name: [b'b' + i, 0, 0, 0], age: 20 + i32::from(i) };
        guard.field(|people| &people[usize::from(i)]).store(person)?;
    }
    drop(guard);
    println!("initialized");
    // The name goes with the last who has it open.
    match seconds {
        Some(seconds) => thread::sleep(Duration::from_secs(seconds)),
        None => drop(io::stdin().read_line(&mut String::new())?),
    }
    Ok(())
}

fn read(name: &str) -> Result<(), Box<dyn Error>> {
    let people = Segment::<People>::open(name)?;
    let all = match people.shared_ref().read()? {
        ReadLocked::Clean(guard) => guard.get()?,
        ReadLocked::Torn(torn) => return Err(half(&torn)),
    };
    for Person { name, age } in all {
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        println!("name: {} age: {age}", String::from_utf8_lossy(name));
    }
    Ok(())
}

/// It is for a writer to write them again; a reader leaves them as they are.
fn half(torn: &Torn<'_, [Person; 10], People>) -> Box<dyn Error> {
    let written = torn
        .shared_ref()
        .iter()
        .filter(|person| person.load().is_ok_and(|person| person.age != 0))
        .count();
    format!("the writer was killed when it had written {written} of 10").into()
}
