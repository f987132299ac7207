//! A parent and its forked child talk through shared memory: one text at a time, and a word that
//! holds the turn.
//!
//! Run: `cargo run -p folio --example parent_child_chat -- "How are you?" "Sleep well."`

use folio::SharedMem;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

const PARENT: u32 = 0;
const CHILD: u32 = 1;

/// The memory: the turn, the length of the text, the text.
struct Chat(SharedMem);

impl Chat {
    fn turn(&self) -> folio::Result<&AtomicU32> {
        self.0.atomic(0)
    }

    fn say(&self, text: &str, to: u32) -> Result<(), Box<dyn Error>> {
        self.0.write_at(text.as_bytes(), 8)?;
        self.0.write(4, &u32::try_from(text.len())?)?;
        // Release: a process that sees the turn sees the text.
        self.turn()?.store(to, Ordering::Release);
        Ok(())
    }

    fn hear(&self, me: u32) -> Result<String, Box<dyn Error>> {
        let patience = Instant::now() + Duration::from_secs(10);
        while self.turn()?.load(Ordering::Acquire) != me {
            if Instant::now() > patience {
                return Err("nobody answers".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let length = self.0.read::<u32>(4)? as usize;
        Ok(String::from_utf8(self.0.read_vec(8..8 + length)?)?)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parent_child_chat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let texts: Vec<String> = env::args().skip(1).collect();
    let chat = Chat(SharedMem::anonymous(4096)?);

    // SAFETY: this process has one thread, so no lock is held by another and the child may use
    // everything.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error().into()),
        0 => {
            for _ in &texts {
                let text = chat.hear(CHILD)?;
                println!("child heard: {text}");
                chat.say(&format!("you said {text:?}"), PARENT)?;
            }
        }
        child => {
            for text in &texts {
                chat.say(text, CHILD)?;
                println!("parent heard: {}", chat.hear(PARENT)?);
            }
            let status = waitpid(Pid::from_raw(child), WaitOptions::empty())?.ok_or("no child")?.1;
            if status.exit_status() != Some(0) {
                return Err("the child failed".into());
            }
        }
    }
    Ok(())
}
