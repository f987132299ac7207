//! The documents' programs: each example runs with real processes, and prints the expected text.

use super::documents::{mount_flags, sees};
use crate::common::is_in_memory;
use crate::common::{self, page, skip};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

/// An example's command. Cargo builds examples with all tests, and not with `--test contract`
/// alone.
fn example(name: &str) -> Command {
    let command = common::example(name);
    let path = Path::new(command.get_program());
    assert!(path.exists(), "{} is missing: run `cargo build -p folio --examples`", path.display());
    command
}

fn run<S: AsRef<std::ffi::OsStr>>(name: &str, args: &[S]) -> Output {
    example(name).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The output of an example that must succeed.
#[track_caller]
fn prints<S: AsRef<std::ffi::OsStr>>(name: &str, args: &[S]) -> String {
    let output = run(name, args);
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{out}{err}", output.status);
    assert_eq!(err, "", "{name}");
    out
}

/// The message of an example that must fail: with status 1, and no signal.
#[track_caller]
fn fails<S: AsRef<std::ffi::OsStr>>(name: &str, args: &[S]) -> String {
    let output = run(name, args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{name}: {}\n{message}", output.status);
    assert!(message.starts_with(&format!("{name}: ")), "{message}");
    message
}

/// An example that waits for lines on its input between steps.
struct Steps {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Steps {
    fn start(name: &str, path: &str) -> Self {
        let mut command = example(name);
        command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    /// The next line it prints.
    fn says(&mut self) -> String {
        self.output.next().expect("the example ended").unwrap()
    }

    fn enter(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Ends its input, and waits for it.
    fn ends(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success());
        assert!(self.output.next().is_none());
    }
}

#[test]
fn print_range_prints_a_part_of_a_file() {
    let dir = common::disk_dir();
    let bytes: Vec<u8> = (0..3 * page()).map(|i| b"0123456789abcdefghijk"[i % 21]).collect();
    let path = common::file_with(dir.path(), &bytes);
    let path = path.to_str().unwrap();
    let part =
        |offset: usize, length: usize| std::str::from_utf8(&bytes[offset..][..length]).unwrap();

    // Neither the offset nor the length is whole pages; without a length, and with one past the
    // end, all to the end.
    let (offset, rest) = (page() + 7, 2 * page() - 7);
    assert_eq!(prints("print_range", &[path, &offset.to_string(), "100"]), part(offset, 100));
    assert_eq!(prints("print_range", &[path, &offset.to_string()]), part(offset, rest));
    assert_eq!(prints("print_range", &[path, &offset.to_string(), "9999999"]), part(offset, rest));
    assert!(
        fails("print_range", &[path, &bytes.len().to_string()])
            .contains("past the end of the file")
    );
    assert!(fails("print_range", &["/no/such/file", "0"]).contains("/no/such/file"));
}

/// The records that `people_reader` prints if it sees this many, and zeros in place of the others.
fn records(count: u8) -> String {
    let line = |i| {
        let (name, age) =
            if i < count { (char::from(b'b' + i).to_string(), 20 + i) } else { (String::new(), 0) };
        format!("name: {name} age: {age}\n")
    };
    (0..10).map(line).collect()
}

/// The bytes that an unrelated reader sees while the writer has the file mapped, after it unmapped
/// it, and after the file was written back.
fn people(dir: &Path) -> [String; 3] {
    let path = dir.join("people");
    let path = path.to_str().unwrap();
    let read = || prints("people_reader", &[path]);
    let mut writer = Steps::start("people_writer", path);
    assert_eq!(writer.says(), "initialized");
    let mapped = read();
    writer.enter("");
    assert_eq!(writer.says(), "unmapped");
    let unmapped = read();
    writer.enter("");
    assert_eq!(writer.says(), "written back");
    writer.ends();
    let size = std::fs::metadata(path).unwrap().len();
    assert_eq!(size, 5 * 8, "a map does not change the file's length");
    [mapped, unmapped, read()]
}

/// The documents say: ten records while the writer has the file mapped, five and zeros once it has
/// unmapped it. The first is right. All maps of the file show one page of the page cache, whose
/// bytes past the file's end can be stored to as well. The second is so for another reason:
/// unmapping changes nothing in the page, which stays in the cache, dirty. Its bytes past the end
/// are zeroed when it is written back, be it before the unmap or after: by a sync, or after half a
/// minute.
#[test]
fn people_past_the_end_of_a_file_on_disk_are_seen_until_write_back() {
    let dir = common::disk_dir();
    if is_in_memory(dir.path()) {
        return skip("the build lies on tmpfs");
    }
    sees(&[records(10), records(10), records(5)], || people(dir.path()));
}

/// A file on tmpfs has no other home than that page: nothing is ever written back, and nothing
/// zeroed.
#[test]
fn people_past_the_end_of_a_file_on_tmpfs_stay() {
    let Some(dir) = common::memory_dir() else { return skip("no /dev/shm") };
    assert_eq!(people(dir.path()), [records(10), records(10), records(10)]);
}

#[test]
fn people_writer_waits_as_many_seconds_as_given() {
    let dir = common::disk_dir();
    let path = dir.path().join("people");
    let path = path.to_str().unwrap();
    assert_eq!(prints("people_writer", &[path, "0"]), "initialized\nunmapped\nwritten back\n");
    assert!(fails("people_writer", &[path, "soon"]).contains("invalid digit"));
}

#[test]
fn people_reader_of_an_empty_file_ends_in_an_error_and_not_in_a_signal() {
    let dir = common::disk_dir();
    let path = common::file_with(dir.path(), b"");
    assert!(fails("people_reader", &[&path]).contains("past the end of the file"));
}

#[test]
fn child_counter_counts_for_parent_and_child() {
    for kind in ["anonymous", "dev-zero"] {
        let printed = prints("child_counter", &[kind]);
        assert_eq!(printed, "child started, value = 1\nin parent, value = 2\n", "{kind}");
    }
    assert!(fails("child_counter", &["file"]).contains("usage"));
}

#[test]
fn parent_child_chat_takes_turns() {
    let printed = prints("parent_child_chat", &["How are you?", "Sleep well."]);
    assert_eq!(
        printed,
        "child heard: How are you?\nparent heard: you said \"How are you?\"\n\
         child heard: Sleep well.\nparent heard: you said \"Sleep well.\"\n"
    );
}

#[test]
fn chat_readers_see_the_data_as_often_as_they_look() {
    let dir = common::disk_dir();
    let path = dir.path().join("chat");
    let path = path.to_str().unwrap();
    let twice = |text: &str| format!("first reading: {text}\nsecond reading: {text}\n");

    let mut writer = Steps::start("chat_writer", path);
    writer.enter("good morning");
    assert_eq!(writer.says(), "said: good morning");
    assert_eq!(prints("chat_reader", &[path]), twice("good morning"));
    // Not even another reader has taken it away.
    assert_eq!(prints("chat_reader", &[path]), twice("good morning"));
    writer.enter("good night");
    assert_eq!(writer.says(), "said: good night");
    assert_eq!(prints("chat_reader", &[path]), twice("good night"));
    writer.ends();
    assert_eq!(prints("chat_reader", &[path]), twice("good night"));

    // Each user of the file can write a length into it that no text has.
    std::fs::write(path, [0xff; 4096]).unwrap();
    assert!(fails("chat_reader", &[path]).contains("must lie inside the map"));
}

#[test]
fn copy_region_changes_the_file_through_the_map() {
    let dir = common::disk_dir();
    let path = common::file_with(dir.path(), b"0123456789");
    let name = path.to_str().unwrap();
    assert_eq!(prints("copy_region", &[name, "0", "5", "3"]), "copied 3 bytes from 0 to 5\n");
    assert_eq!(std::fs::read(&path).unwrap(), b"0123401289");
    // Regions that overlap.
    prints("copy_region", &[name, "0", "1", "5"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"0012341289");
    // A map cannot make its file grow.
    for args in [["0", "8", "3"], ["8", "0", "3"]] {
        assert!(
            fails("copy_region", &[&[name][..], &args].concat())
                .contains("must lie inside the map")
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"0012341289");
    }
}

#[test]
fn frame_buffer_draws_a_picture() {
    let dir = common::disk_dir();
    let png = dir.path().join("picture.png");
    let no_device = dir.path().join("fb0");
    let printed = prints("frame_buffer", &[&no_device, &png]);
    assert!(
        printed.contains("drawing to memory") && printed.contains("800 x 500 pixels"),
        "{printed}"
    );

    let file = BufReader::new(std::fs::File::open(png).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (800, 500, png::ColorType::Rgb));
    let pixel =
        |x: usize, y: usize| -> [u8; 3] { bytes[3 * (y * 800 + x)..][..3].try_into().unwrap() };
    let colours: std::collections::HashSet<[u8; 3]> =
        (0..800).flat_map(|x| (0..500).map(move |y| (x, y))).map(|(x, y)| pixel(x, y)).collect();
    assert!(colours.len() > 1000, "{} colours are no picture", colours.len());
    // Colour channels are where they belong, and rows too: a blue sky, a warm sun, dark hills.
    let ([sky, sun, hill], dark) = ([pixel(5, 5), pixel(500, 200), pixel(400, 335)], 70);
    assert!(sky[2] > 2 * sky[0], "sky {sky:?}");
    assert!(sun[0] > 240 && sun[0] > sun[2], "sun {sun:?}");
    assert!(hill.iter().all(|&part| part < dark), "hill {hill:?}");

    // A device that is no frame buffer.
    let png = dir.path().join("other.png");
    assert!(fails("frame_buffer", &[Path::new("/dev/zero"), &png]).contains("not a frame buffer"));
}

#[test]
fn frame_buffer_device() {
    // It would overwrite the user's console, so it runs only on request.
    let Ok(device) = std::env::var("FOLIO_FRAME_BUFFER") else {
        return skip(
            "set FOLIO_FRAME_BUFFER to a frame buffer device that may be drawn to (/dev/fb0)",
        );
    };
    let dir = common::disk_dir();
    let png = dir.path().join("picture.png");
    prints("frame_buffer", &[Path::new(&device), &png]);
    assert!(std::fs::metadata(png).unwrap().len() > 1000);
}

#[test]
fn big_block_is_resident_only_while_it_is_touched() {
    let printed = prints("big_block", &["128"]);
    let kib = |when: &str, field: &str| -> usize {
        let line = printed.lines().find(|line| line.starts_with(when)).unwrap();
        line.split_once(field).unwrap().1.split_ascii_whitespace().next().unwrap().parse().unwrap()
    };
    // The kernel counts pages per CPU and adds up now and then: the numbers are near.
    let near = 8 << 10;
    for field in ["VmRSS", "RssAnon"] {
        let before = kib("before", field);
        assert!(kib("taken", field) < before + near, "{printed}");
        assert!(kib("touched", field) + near > before + (128 << 10), "{printed}");
        assert!(kib("after", field) < before + near, "{printed}");
    }
}

/// The table that `timestamps` prints for a directory: the operation, and whether atime, mtime and
/// ctime move.
fn timestamps(dir: &Path) -> Vec<(String, [bool; 3])> {
    let row = |line: &str| {
        let (what, words) = line.split_at(32);
        let mut words = words.split_ascii_whitespace().map(|word| match word {
            "moves" => true,
            "-" => false,
            other => panic!("{other}"),
        });
        let moves = [(); 3].map(|()| words.next().unwrap());
        (what.trim_end().to_owned(), moves)
    };
    prints("timestamps", &[dir]).lines().skip(1).filter(|line| !line.is_empty()).map(row).collect()
}

#[test]
fn timestamps_prints_when_times_move_on_disk_and_on_tmpfs() {
    for dir in [Some(common::disk_dir()), common::memory_dir()].into_iter().flatten() {
        // On a disk each first store to a clean page moves mtime and ctime, on tmpfs only the one
        // that faults its page in.
        let store = !is_in_memory(dir.path());
        let atime = mount_flags(dir.path()) & libc::ST_NOATIME == 0;
        let expected = [
            ("mmap, shared", [atime, false, false]),
            ("first load", [false, false, false]),
            ("first store, after that load", [false, store, store]),
            ("second store to the page", [false, false, false]),
            ("msync", [false, false, false]),
            ("store after msync", [false, store, store]),
            ("munmap", [false, false, false]),
            ("first store, before any load", [false, true, true]),
            ("mmap, private", [atime, false, false]),
            ("store to the private map", [false, false, false]),
            ("mmap, reserved, no hole", [atime, false, false]),
            ("read(2)", [atime, false, false]),
            ("write(2)", [false, true, true]),
        ];
        sees(&expected.map(|(what, moves)| (what.to_owned(), moves)).to_vec(), || {
            timestamps(dir.path())
        });
    }
}
