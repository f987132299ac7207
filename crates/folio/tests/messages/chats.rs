//! The documents' chats on channels and logs: each example runs with real processes, and prints the
//! expected text.

use crate::common::kill_sweep::Victim;
use crate::common::segment_dir::World;
use crate::common::{disk_dir, example};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// An example's command. Cargo builds examples with all tests, and not with `--test messages`
/// alone.
fn command(name: &str) -> Command {
    let command = example(name);
    let path = std::path::Path::new(command.get_program());
    assert!(path.exists(), "{} is missing: run `cargo build -p folio --examples`", path.display());
    command
}

/// The output of an example that must succeed.
#[track_caller]
fn prints(name: &str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        command(name).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(status.success(), "{name}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The message of an example that must end with an error and no signal.
#[track_caller]
fn fails(name: &str, arguments: &[&str]) -> String {
    let output = command(name).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{name}: {}", output.status);
    String::from_utf8(output.stderr).unwrap()
}

/// An example that runs beside the test. It is killed if the test ends before it.
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = command(name);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    fn enter(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line it prints.
    #[track_caller]
    fn says(&mut self) -> String {
        self.output.next().expect("the example ended").unwrap()
    }

    /// Ends its input, and waits for it.
    #[track_caller]
    fn ends(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
        assert!(self.output.next().is_none());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn parent_and_child_take_turns() {
    let printed = prints("shm_parent_child_chat", &["How are you?", "Sleep well."]);
    let mut lines: Vec<&str> = printed.lines().collect();
    // Both write to the same place; each in its order.
    lines.sort_by_key(|line| line.starts_with("parent"));
    assert_eq!(
        lines,
        [
            "child heard: How are you?",
            "child heard: Sleep well.",
            "parent heard: you said \"How are you?\"",
            "parent heard: you said \"Sleep well.\"",
        ]
    );
}

#[test]
fn two_programs_that_know_a_name_chat_and_notice_when_the_other_ends() {
    let world = World::new();
    let mut listener = Running::start("shm_chat", &["room", "hear"]);
    let mut speaker = Running::start("shm_chat", &["room", "say"]);
    for text in ["good morning", "", "good night"] {
        speaker.enter(text);
        assert_eq!(speaker.says(), format!("said: {text}"));
        assert_eq!(listener.says(), format!("heard: {text}"));
    }
    assert!(fails("shm_chat", &["room", "say"]).contains("the channel has a sender: process"));
    speaker.ends();
    assert_eq!(listener.says(), "the end: the sender has left");
    listener.ends();
    assert!(world.files().is_empty(), "the channel ends with the last who has it open");

    let mut speaker = Running::start("shm_chat", &["room", "say"]);
    speaker.enter("anyone?");
    assert_eq!(speaker.says(), "said: anyone?");
    let mut listener = Running::start("shm_chat", &["room", "hear"]);
    assert_eq!(listener.says(), "heard: anyone?");
    drop(speaker);
    assert_eq!(listener.says(), "the end: the sender has died");
    listener.ends();
}

#[test]
fn a_chat_with_history_is_read_again_and_again() {
    let dir = disk_dir();
    let path = dir.path().join("history");
    let path = path.to_str().unwrap();
    let mut writer = Running::start("shm_log", &[path, "write"]);
    writer.enter("good morning");
    assert_eq!(writer.says(), "0 written: good morning");
    let mut follower = Running::start("shm_log", &[path, "read"]);
    assert_eq!(follower.says(), "0: good morning");
    writer.enter("good night");
    assert_eq!(writer.says(), "1 written: good night");
    assert_eq!(follower.says(), "1: good night");
    assert!(fails("shm_log", &[path, "write"]).contains("the log has a writer: process"));
    writer.ends();
    follower.ends();
    for _ in 0..2 {
        assert_eq!(prints("shm_log", &[path, "read"]), "0: good morning\n1: good night\n");
    }
    // Another run, and a reader that begins later.
    let mut writer = Running::start("shm_log", &[path, "write"]);
    writer.enter("good morning again");
    assert_eq!(writer.says(), "2 written: good morning again");
    drop(writer);
    assert_eq!(prints("shm_log", &[path, "read", "1"]), "1: good night\n2: good morning again\n");
    let mut writer = Running::start("shm_log", &[path, "write"]);
    for number in 3..300 {
        writer.enter("and so on");
        assert_eq!(writer.says(), format!("{number} written: and so on"));
    }
    writer.ends();
    let printed = prints("shm_log", &[path, "read"]);
    assert!(!printed.contains("are gone") && printed.ends_with("299: and so on\n"), "{printed}");
    let printed = prints("shm_log", &[path, "read", "0"]);
    let (gone, rest) = printed.split_once(" from 0 on are gone\n").expect("what is missed is said");
    assert!(rest.starts_with(&format!("{gone}: and so on\n")), "{printed}");
}

#[test]
fn a_listener_in_a_chat_is_replaced_when_it_is_killed() {
    let _world = World::new();
    let mut speaker = Running::start("shm_chat", &["room", "say"]);
    speaker.enter("one");
    assert_eq!(speaker.says(), "said: one");
    let victim = Victim::new(|| {
        let channel = folio::shm::Channel::open("room").unwrap();
        // The test asks for it as well, to see whether it is taken.
        let mut receiver = loop {
            if let Ok(receiver) = channel.receiver() {
                break receiver;
            }
        };
        // Looked at, and not taken.
        assert_eq!(receiver.peek().unwrap().to_vec().unwrap(), b"one");
        loop {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    });
    // A request is refused once the victim is there.
    while let Ok(early) = folio::shm::Channel::open("room").unwrap().receiver() {
        drop(early);
    }
    victim.kill();
    let mut listener = Running::start("shm_chat", &["room", "hear"]);
    assert_eq!(listener.says(), "heard: one");
    speaker.ends();
    assert_eq!(listener.says(), "the end: the sender has left");
}
