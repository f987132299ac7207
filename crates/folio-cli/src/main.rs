//! The command `folio`: memory-mapped files from the shell.
#![deny(unsafe_code)]

mod attributes;
mod cat;
mod descriptors;
mod doctor;
mod failure;
mod holes;
mod name;
mod output;
mod paging;
mod progress;
mod shm;
mod size;
mod source;
mod stdout;
mod unfinished;

use clap::{Parser, Subcommand};
use failure::{Failure, Kind, say};
use std::io::{self, IsTerminal};
use std::process::ExitCode;

/// Memory-mapped files from the shell
#[derive(Debug, Parser)]
#[command(name = "folio", version, arg_required_else_help = true, after_help = cat::EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cat(cat::Args),
    Doctor(doctor::Args),
    Shm(shm::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Cat(args) => cat::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Shm(args) => shm::run(&args),
    }
}

/// Help, the version, or the error in the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && wants_json {
        let text = error.render().to_string();
        let text = text.trim();
        let (message, rest) = text.split_once("\n\n").unwrap_or((text, "see `folio --help`"));
        let message = message.strip_prefix("error: ").unwrap_or(message);
        let failure = Failure::new(Kind::Usage, message).remedy(rest);
        say(format_args!("{}", failure.json(serde_json::Map::new())));
        return failure.exit_code();
    }
    if error.use_stderr() {
        let _ = error.print();
    } else {
        let text = error.render();
        let text =
            if io::stdout().is_terminal() { text.ansi().to_string() } else { text.to_string() };
        if let Err(failure) = stdout::print(&text) {
            say(format_args!("{failure}"));
            return failure.exit_code();
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
