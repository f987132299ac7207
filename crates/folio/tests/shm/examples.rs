//! The example programs, as somebody runs them.

use crate::common::example;
use crate::common::segment_dir::World;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

fn shm_people(args: &[&str]) -> std::process::Command {
    let mut command = example("shm_people");
    let program = command.get_program().to_owned();
    assert!(
        std::path::Path::new(&program).exists(),
        "{} is missing: run `cargo build -p folio --examples`",
        program.display()
    );
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn people_are_seen_by_name_while_somebody_has_them() {
    let world = World::new();
    let read = || shm_people(&["read", "people"]).output().unwrap();
    let none = read();
    assert!(
        !none.status.success() && String::from_utf8_lossy(&none.stderr).contains("no such segment")
    );
    let mut writer = shm_people(&["write", "people"]).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(writer.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "initialized\n");
    let line = |i: u8| format!("name: {} age: {}\n", char::from(b'b' + i), 20 + i);
    let people = (0..10).map(line).collect::<Vec<_>>().concat();
    for _ in 0..2 {
        assert_eq!(String::from_utf8_lossy(&read().stdout), people);
    }
    writer.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(writer.wait().unwrap().success());
    assert_eq!(world.files(), [""; 0]);
    // Killed, it leaves a name that stands for nothing.
    let mut writer = shm_people(&["write", "people"]).spawn().unwrap();
    BufReader::new(writer.stdout.take().unwrap()).read_line(&mut said).unwrap();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(world.files(), ["folio.people"]);
    assert!(!read().status.success());
    assert_eq!(world.files(), [""; 0]);
}
