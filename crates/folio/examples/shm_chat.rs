//! Two unrelated processes talk through a channel: all that they share is its name. Start them in
//! any order.
//!
//! Run: `cargo run -p folio --example shm_chat -- NAME hear` and, with lines on standard input,
//! `cargo run -p folio --example shm_chat -- NAME say`

use folio::Errno;
use folio::shm::Channel;
use std::error::Error;
use std::process::ExitCode;
use std::{env, io};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_chat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [name, "say"] => say(&Channel::open_or_create(name, 1 << 16)?),
        [name, "hear"] => hear(&Channel::open_or_create(name, 1 << 16)?),
        _ => Err("usage: shm_chat NAME say|hear".into()),
    }
}

fn say(channel: &Channel) -> Result<(), Box<dyn Error>> {
    // One at a time: a second one is told which process it is.
    let mut sender = channel.sender()?;
    for line in io::stdin().lines() {
        let line = line?;
        sender.send(line.as_bytes())?;
        println!("said: {line}");
    }
    Ok(())
}

fn hear(channel: &Channel) -> Result<(), Box<dyn Error>> {
    let mut receiver = channel.receiver()?;
    let mut text = Vec::new();
    loop {
        match receiver.recv(&mut text) {
            Ok(_) => println!("heard: {}", String::from_utf8_lossy(&text)),
            // All was heard, and the other side has left, or was killed.
            Err(error) if error.errno() == Errno::PIPE => {
                println!("the end: {}", error.call_error().map_or("", folio::CallError::rule));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
