//! A parent and its forked child talk through two channels. `parent_child_chat` does so by hand,
//! with a word and a sleep.
//!
//! Run: `cargo run -p folio --example shm_parent_child_chat -- "How are you?" "Sleep well."`

use folio::shm::{Channel, Receiver};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::error::Error;
use std::process::ExitCode;
use std::{env, io};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_parent_child_chat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hear(receiver: &mut Receiver) -> Result<String, Box<dyn Error>> {
    let mut text = Vec::new();
    receiver.recv(&mut text)?;
    Ok(String::from_utf8(text)?)
}

fn run() -> Result<(), Box<dyn Error>> {
    let texts: Vec<String> = env::args().skip(1).collect();
    // Shared by the child, since it is forked; a name would do for any other process.
    let (there, back) = (Channel::anonymous(4096)?, Channel::anonymous(4096)?);

    // SAFETY: this process has one thread, so no lock is held by another and the child may use
    // everything.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error().into()),
        0 => {
            let (mut receiver, mut sender) = (there.receiver()?, back.sender()?);
            for _ in &texts {
                let text = hear(&mut receiver)?;
                println!("child heard: {text}");
                sender.send(format!("you said {text:?}").as_bytes())?;
            }
        }
        child => {
            let (mut receiver, mut sender) = (back.receiver()?, there.sender()?);
            for text in &texts {
                sender.send(text.as_bytes())?;
                // Once the child sends, its death is an error here and no endless wait.
                println!("parent heard: {}", hear(&mut receiver)?);
            }
            let status = waitpid(Pid::from_raw(child), WaitOptions::empty())?.ok_or("no child")?.1;
            if status.exit_status() != Some(0) {
                return Err("the child failed".into());
            }
        }
    }
    Ok(())
}
