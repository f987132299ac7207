//! `folio cat` as a stranger runs it: real processes, files, pipes and devices.

mod outputs;
#[path = "../../../folio/tests/common/skip.rs"]
mod skip;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, mknodat};
use skip::skip;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const FOLIO: &str = env!("CARGO_BIN_EXE_folio");

fn command(args: &[&dyn AsRef<OsStr>]) -> Command {
    let mut command = Command::new(FOLIO);
    command.arg("cat").args(args.iter().map(AsRef::as_ref)).stdin(Stdio::null());
    command
}

fn cat(args: &[&dyn AsRef<OsStr>]) -> Output {
    command(args).output().expect("folio starts")
}

/// Takes root's right to open any file (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) from a command.
fn without_privileges(command: &mut Command) -> &mut Command {
    let drop_rights = || {
        for capability in [1, 2] {
            // SAFETY: takes a number, and changes no memory. Another user than root may not, and
            // has neither right.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(drop_rights) }
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("folio starts")
}

/// Runs a line of shell with `$FOLIO`, and `$1`, `$2` … as given.
fn shell(line: &str, args: &[&dyn AsRef<OsStr>]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", line, "sh"]).args(args.iter().map(AsRef::as_ref)).env("FOLIO", FOLIO);
    command.stdin(Stdio::null()).output().expect("sh starts")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    let text = err(output);
    assert_eq!(text.lines().count(), 1, "one line, one object: {text}");
    serde_json::from_str(&text).expect("JSON on stderr")
}

#[track_caller]
fn printed(output: &Output, bytes: &[u8]) {
    assert_eq!(output.status.code(), Some(0), "{}", err(output));
    assert!(
        output.stdout == bytes,
        "{} bytes came, {} were expected",
        output.stdout.len(),
        bytes.len()
    );
}

#[track_caller]
fn failed(output: &Output, code: i32, words: &[&str]) {
    let text = err(output);
    // A signal has no code.
    assert_eq!(output.status.code(), Some(code), "{:?}: {text}", output.status);
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// Bytes of which no two ranges look alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len.div_ceil(4) as u32)
        .flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes())
        .take(len)
        .collect()
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        path
    }

    fn names(&self) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

/// Feeds bytes to a child's standard input, and takes its output.
fn fed(command: &mut Command, bytes: &[u8]) -> Output {
    let mut child = start(command.stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // The child may want less than all.
        scope.spawn(move || stdin.write_all(bytes));
        child.wait_with_output().unwrap()
    })
}

#[test]
fn a_whole_file_and_any_range_of_it() {
    let place = Place::new();
    let bytes = pattern(3 * 4096 + 123);
    let file = place.file("data", &bytes);
    printed(&cat(&[&file]), &bytes);
    for offset in [0, 1, 7, 4095, 4096, 4097, 8191, 12_288, 12_410] {
        printed(&cat(&[&file, &"--offset", &offset.to_string()]), &bytes[offset..]);
        for length in [0, 1, 2, 4096, 4097, 9000] {
            let end = bytes.len().min(offset + length);
            let output =
                cat(&[&file, &"--offset", &offset.to_string(), &"--length", &length.to_string()]);
            printed(&output, &bytes[offset..end]);
            assert_eq!(err(&output), "", "nothing to say");
        }
    }
}

#[test]
fn a_file_of_more_than_one_window() {
    let place = Place::new();
    let bytes = pattern((64 << 20) + 300_000);
    let file = place.file("data", &bytes);
    for offset in [1, 64 << 20] {
        printed(&cat(&[&file, &"--offset", &offset.to_string()]), &bytes[offset..]);
    }
    // Where there is no room for a window, a smaller one will do.
    let output = shell("ulimit -v 50000; exec \"$FOLIO\" cat \"$1\" --json", &[&file]);
    printed(&output, &bytes);
    assert_eq!(json(&output)["engine"], "map");
}

#[test]
fn a_hole_of_a_terabyte_is_no_trouble() {
    let place = Place::new();
    let path = place.path("holes");
    if let Err(error) = File::create(&path).and_then(|file| file.set_len(1 << 40)) {
        return skip(&format!("the file system has no files of a terabyte ({error})"));
    }
    printed(&cat(&[&path, &"--offset", &"1023G", &"--length", &"100"]), &[0; 100]);
}

#[test]
fn every_notation_of_a_size() {
    let place = Place::new();
    let bytes = pattern(3 << 20);
    let file = place.file("data", &bytes);
    for (text, offset) in [
        ("4096", 4096),
        ("4K", 4096),
        ("4k", 4096),
        ("4KiB", 4096),
        ("0x1000", 4096),
        ("1.5M", 3 << 19),
        ("1M", 1 << 20),
    ] {
        printed(
            &cat(&[&file, &"--offset", &text, &"--length", &"0x10"]),
            &bytes[offset..offset + 16],
        );
        printed(&cat(&[&file, &format!("--length={text}")]), &bytes[..offset]);
    }
    for (text, why) in [
        ("abc", "unknown unit"),
        ("4X", "unknown unit"),
        ("4KB", "write K or KiB"),
        ("-1", "negative"),
        ("1.3", "whole number"),
        ("0xG", "hexadecimal"),
        ("", "number"),
        ("99999999999999999999", "64 bits"),
        ("16E", "64 bits"),
    ] {
        for option in ["--offset", "--length"] {
            failed(&cat(&[&file, &option, &text]), 2, &[why, option]);
        }
    }
    let garbled = OsStr::from_bytes(b"4\xff");
    failed(&cat(&[&file, &"--offset", &garbled]), 2, &["UTF-8"]);
}

#[test]
fn past_the_end() {
    let place = Place::new();
    let file = place.file("data", &pattern(5000));
    for offset in ["5000", "5001", "8192", "1T", "0xffffffffffffffff"] {
        let output = cat(&[&file, &"--offset", &offset]);
        failed(&output, 1, &["past the end", "5000 bytes", "data"]);
        assert!(output.stdout.is_empty());
        let nothing = cat(&[&file, &"--offset", &offset, &"--length", &"0"]);
        if offset == "5000" {
            printed(&nothing, b"");
        } else {
            failed(&nothing, 1, &["past the end"]);
        }
    }
    // A length past the end is cut.
    for length in ["5000", "5001", "1T", "0xffffffffffffffff"] {
        printed(&cat(&[&file, &"--offset", &"10", &"--length", &length]), &pattern(5000)[10..]);
    }
}

/// Runs the command on the same bytes as a file, by the pager, through a pipe, and as a file that
/// is read from where it stands.
fn each_way(bytes: &[u8], args: &[&dyn AsRef<OsStr>], check: impl Fn(&Output)) {
    let place = Place::new();
    let file = place.file("data", bytes);
    let with = |source: &dyn AsRef<OsStr>| {
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![source];
        all.extend(args);
        command(&all)
    };
    check(&with(&file).output().unwrap());
    if pager_runs() {
        check(&with(&file).args(["--engine", "pager"]).output().unwrap());
    }
    check(&fed(&mut with(&"-"), bytes));
    check(&with(&"-").stdin(File::open(&file).unwrap()).output().unwrap());
}

#[test]
fn the_start_of_an_empty_source_exists() {
    each_way(b"", &[&"--offset", &"0"], |output| printed(output, b""));
    each_way(b"", &[&"--offset", &"0", &"--length", &"5"], |output| printed(output, b""));
    each_way(b"", &[&"--offset", &"1"], |output| failed(output, 1, &["past the end"]));
    // /proc/self/environ is empty without an environment.
    printed(
        &command(&[&"/proc/self/environ", &"--offset", &"0"]).env_clear().output().unwrap(),
        b"",
    );
}

#[test]
fn the_end_of_a_source_is_a_place_to_print_nothing_from() {
    each_way(b"0123456789", &[&"--offset", &"10", &"--length", &"0"], |output| {
        printed(output, b"");
    });
    each_way(b"0123456789", &[&"--offset", &"10"], |output| failed(output, 1, &["past the end"]));
    let past: [&dyn AsRef<OsStr>; 4] = [&"--offset", &"11", &"--length", &"0"];
    each_way(b"0123456789", &past, |output| failed(output, 1, &["past the end"]));
    // Files of /proc behave alike.
    let size = fs::read("/proc/version").unwrap().len();
    let nothing_at =
        |at: usize| cat(&[&"/proc/version", &"--offset", &at.to_string(), &"--length", &"0"]);
    printed(&nothing_at(size), b"");
    failed(&nothing_at(size + 1), 1, &["past the end"]);
    failed(&cat(&[&"/proc/version", &"--offset", &size.to_string()]), 1, &["past the end"]);
}

#[test]
fn a_read_error_is_not_an_empty_file() {
    // The kernel gives entries of 8 bytes of this file, and refuses a single byte.
    let file = "/proc/self/pagemap";
    if File::open(file).is_err() {
        return skip(&format!("no {file}"));
    }
    for engine in ["kernel", "pager"] {
        if engine == "pager" && !pager_runs() {
            continue;
        }
        let output = cat(&[&file, &"--length", &"16", &"--engine", &engine]);
        printed(&output, &[0; 16]);
        failed(&cat(&[&file, &"--length", &"3", &"--engine", &engine]), 1, &["Invalid argument"]);
    }
}

#[test]
fn standard_input_is_read() {
    let bytes = pattern(3_000_000);
    printed(&fed(&mut command(&[&"-"]), &bytes), &bytes);
    let range = fed(&mut command(&[&"-", &"--offset", &"1M", &"--length", &"1M", &"-v"]), &bytes);
    printed(&range, &bytes[1 << 20..2 << 20]);
    assert!(
        err(&range).contains("cannot be mapped") && err(&range).contains("read instead"),
        "{}",
        err(&range)
    );
    printed(
        &fed(&mut command(&[&"-", &"--offset", &"5", &"--length", &"1T"]), &bytes),
        &bytes[5..],
    );
    printed(&fed(&mut command(&[&"-"]), b""), b"");
    failed(&fed(&mut command(&[&"-", &"--offset", &"10"]), b"0123456789"), 1, &["past the end"]);
    failed(
        &fed(&mut command(&[&"-", &"--offset", &"0xffffffffffffffff"]), b"0123456789"),
        1,
        &["past the end", "10 bytes"],
    );
}

#[test]
fn standard_input_from_a_file_starts_where_it_stands() {
    let place = Place::new();
    let file = place.file("data", b"0123456789");
    let line =
        "(\"$FOLIO\" cat - --length 2 && \"$FOLIO\" cat - --offset 3 --length 2 && cat) <\"$1\"";
    printed(
        &shell(line, &[&file]),
        b"01".iter().chain(b"56").chain(b"789").copied().collect::<Vec<_>>().as_slice(),
    );
    failed(&shell("\"$FOLIO\" cat - --offset 11 <\"$1\"", &[&file]), 1, &["past the end"]);
}

#[test]
fn no_more_is_taken_from_a_pipe_than_was_asked_for() {
    let line = "printf 0123456789 | (\"$FOLIO\" cat - --offset 1 --length 3; echo; cat)";
    printed(&shell(line, &[]), b"123\n456789");
}

#[test]
fn a_stream_is_passed_on_as_it_comes() {
    let mut child = start(command(&[&"-"]).stdin(Stdio::piped()));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for line in [b"first\n", b"later\n"] {
        stdin.write_all(line).unwrap();
        let mut got = [0; 6];
        // Hangs if the bytes wait for more.
        stdout.read_exact(&mut got).unwrap();
        assert_eq!(&got, line);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_fifo_is_read() {
    let place = Place::new();
    let fifo = place.fifo("fifo");
    let bytes = pattern(200_000);
    let child = start(&mut command(&[&fifo, &"--offset", &"70001", &"-v"]));
    File::options().write(true).open(&fifo).unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    printed(&output, &bytes[70_001..]);
    assert!(err(&output).contains("it is a pipe"), "{}", err(&output));
}

#[test]
fn files_of_proc_and_sys_are_read() {
    let version = fs::read("/proc/version").unwrap();
    let output = cat(&[&"/proc/version", &"-v"]);
    printed(&output, &version);
    assert!(err(&output).contains("/proc/version: cannot be mapped ("), "{}", err(&output));
    printed(&cat(&[&"/proc/version", &"--offset", &"6", &"--length", &"7"]), &version[6..13]);
    failed(&cat(&[&"/proc/version", &"--offset", &"1M"]), 1, &["past the end"]);
    // Its status is another file of /proc, made another way.
    printed(&cat(&[&"/proc/self/status", &"--length", &"5"]), b"Name:");

    // It says 4096 bytes and has a few.
    let sys = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if let Ok(bytes) = fs::read(sys) {
        printed(&cat(&[&sys]), &bytes);
        printed(&cat(&[&sys, &"--offset", &"3"]), &bytes[3..]);
        failed(&cat(&[&sys, &"--offset", &"3000"]), 1, &["past the end"]);
    } else {
        skip(&format!("no {}", sys.display()));
    }
}

#[test]
fn character_devices_are_read() {
    let output = cat(&[&"/dev/zero", &"--offset", &"3M", &"--length", &"2000001", &"-v"]);
    printed(&output, &vec![0; 2_000_001]);
    assert!(err(&output).contains("character device"), "{}", err(&output));
    printed(&cat(&[&"/dev/null"]), b"");
    failed(&cat(&[&"/dev/null", &"--offset", &"1"]), 1, &["past the end"]);
}

#[test]
fn a_block_device_is_mapped() {
    let place = Place::new();
    let bytes = pattern(1 << 20);
    let image = place.file("image", &bytes);
    let line = "device=$(losetup --show -rf \"$1\") || exit 77
        \"$FOLIO\" cat \"$device\" --offset 4097 --length 100000 --json; status=$?
        \"$FOLIO\" cat \"$device\" --offset 1M 2>/dev/null && status=9
        losetup -d \"$device\"; exit $status";
    let output = shell(line, &[&image]);
    if matches!(output.status.code(), Some(77 | 127)) {
        return skip(&format!("no loop device ({})", err(&output)));
    }
    printed(&output, &bytes[4097..104_097]);
    assert_eq!(json(&output)["engine"], "map");
}

#[test]
fn a_device_that_fails_is_an_error() {
    let place = Place::new();
    let bytes = pattern(4 << 20);
    let image = place.file("image", &bytes);
    // Bytes that the device has and its file has not are an I/O error.
    let line = "device=$(losetup --show -rf \"$1\") || exit 77
        truncate -s 2M \"$1\"; \"$FOLIO\" cat \"$device\"; status=$?
        losetup -d \"$device\"; exit $status";
    let output = shell(line, &[&image]);
    if matches!(output.status.code(), Some(77 | 127)) {
        return skip(&format!("no loop device ({})", err(&output)));
    }
    failed(&output, 3, &["offset 2097152 could not be supplied", "remedy: "]);
    assert!(output.stdout == bytes[..2 << 20]);
}

#[test]
fn a_closed_pipe_is_quiet() {
    let place = Place::new();
    let file = place.file("data", &pattern(4 << 20));
    for source in [file.as_path(), Path::new("/dev/zero")] {
        for json_too in [false, true] {
            let mut command = command(&[&source]);
            if json_too {
                command.arg("--json");
            }
            let mut child = start(&mut command);
            child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", err(&output));
            if json_too {
                assert_eq!(json(&output)["output_closed"], true);
            } else {
                assert_eq!(err(&output), "");
            }
        }
    }
}

#[test]
fn nobody_to_tell_is_no_panic() {
    // 101 would be a panic.
    for line in [
        "exec \"$FOLIO\" cat nothing 2>&-",
        "\"$FOLIO\" cat nothing 2>&1 >/dev/null | true; exec \"$FOLIO\" cat nothing",
    ] {
        assert_eq!(shell(line, &[]).status.code(), Some(1));
    }
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(command(&[&"nothing"]).stderr(writer).status().unwrap().code(), Some(1));
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(command(&[&"--help"]).stdout(writer).status().unwrap().code(), Some(0));
}

/// Truncates a file of 8 MiB to `left` bytes while the command waits for the reader of its output.
fn truncated(left: u64, json_too: bool) -> Output {
    let place = Place::new();
    let bytes = pattern(8 << 20);
    let file = place.file("data", &bytes);
    let mut command = command(&[&file]);
    if json_too {
        command.arg("--json");
    }
    let mut child = start(&mut command);
    let mut stdout = child.stdout.take().unwrap();
    let mut got = vec![0; 100];
    // It has begun, and cannot go on: a pipe holds less than one copy.
    stdout.read_exact(&mut got).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(left).unwrap();
    stdout.read_to_end(&mut got).unwrap();
    let mut output = child.wait_with_output().unwrap();
    assert!(bytes.starts_with(&got), "what is printed is what the file had");
    output.stdout = got;
    output
}

#[test]
fn truncation_in_mid_print_is_an_error() {
    // Inside a page, where the kernel shows zeros; at a page's end; and before the bytes that were
    // copied already.
    for left in [(3 << 20) + 100, (3 << 20) + 4096, 3 << 20, (1 << 20) + 1] {
        let output = truncated(left, false);
        failed(
            &output,
            3,
            &["data", "truncated", &format!("offset {left} "), &format!("has {left} bytes now")],
        );
        assert_eq!(output.stdout.len() as u64, left);
    }
    let output = truncated(0, false);
    failed(&output, 3, &["data", "truncated", "offset 1048576 ", "has 0 bytes now"]);
    assert_eq!(output.stdout.len(), 1 << 20);
}

#[test]
fn truncation_in_mid_print_as_json() {
    let output = truncated((2 << 20) + 5, true);
    assert_eq!(output.status.code(), Some(3));
    let json = json(&output);
    assert_eq!((&json["kind"], &json["exit_code"]), (&"fault".into(), &3.into()));
    assert_eq!((&json["bytes"], &json["error_offset"]), (&2_097_157.into(), &2_097_157.into()));
}

#[test]
fn files_that_cannot_be_opened_are_errors_with_a_remedy() {
    let place = Place::new();
    failed(&cat(&[&place.path("missing")]), 1, &["folio: ", "missing", "No such file", "remedy: "]);
    failed(&cat(&[&place.0.path()]), 1, &["is a directory"]);
    failed(&cat(&[&place.file("a", b"x").join("b")]), 1, &["Not a directory"]);
    failed(&cat(&[&""]), 2, &["value"]);
    failed(&cat(&[&"x".repeat(5000)]), 1, &["too long"]);
    symlink("loop", place.path("loop")).unwrap();
    failed(&cat(&[&place.path("loop")]), 1, &["symbolic link"]);
    let secret = place.file("secret", b"x");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let output = without_privileges(&mut command(&[&secret])).output().unwrap();
    failed(&output, 1, &["Permission denied", "remedy: "]);
}

#[test]
fn names_may_be_any_bytes() {
    let place = Place::new();
    let name = OsStr::from_bytes(b"na\xff\nme\x1b[31m");
    let file = place.file(name, b"0123456789");
    let out = place.path(OsStr::from_bytes(b"out\xfe"));
    let output = cat(&[&file, &"--offset", &"4", &"-v", &"-o", &out]);
    printed(&output, b"");
    assert_eq!(fs::read(out).unwrap(), b"456789");
    assert!(!err(&output).contains('\x1b'), "a name does not colour the terminal");
    failed(&cat(&[&file, &"--offset", &"10"]), 1, &["na\u{fffd}\\nme", "past the end"]);
    assert_eq!(json(&cat(&[&file, &"--json"]))["bytes"], 10);
}

#[test]
fn to_a_file() {
    let place = Place::new();
    let bytes = pattern(3_000_000);
    let file = place.file("data", &bytes);
    let out = place.path("out");
    printed(&cat(&[&file, &"--offset", &"1000", &"-o", &out]), b"");
    assert_eq!(fs::read(&out).unwrap(), &bytes[1000..]);
    assert_eq!(place.names(), ["data", "out"], "nothing is left beside it");
    // Replaced: the mode stays, a link stays a link, and a process with the old file open keeps it.
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    let link = place.path("link");
    symlink("out", &link).unwrap();
    let mut old = File::open(&out).unwrap();
    printed(&cat(&[&file, &"--length", &"5", &"--output", &link]), b"");
    assert_eq!(fs::read(&out).unwrap(), &bytes[..5]);
    assert_eq!(out.metadata().unwrap().mode() & 0o7777, 0o640);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    let mut kept = Vec::new();
    old.read_to_end(&mut kept).unwrap();
    assert_eq!(kept, &bytes[1000..]);
    // Writing to a link whose target is missing makes the target.
    symlink("new", place.path("dangling")).unwrap();
    printed(&cat(&[&file, &"--length", &"6", &"-o", &place.path("dangling")]), b"");
    assert_eq!(fs::read(place.path("new")).unwrap(), &bytes[..6]);
    // As elsewhere, `-` is standard output.
    printed(&cat(&[&file, &"--length", &"7", &"-o", &"-"]), &bytes[..7]);
    assert_eq!(place.names(), ["dangling", "data", "link", "new", "out"]);
}

#[test]
fn a_new_file_has_the_usual_mode() {
    let place = Place::new();
    let file = place.file("data", b"x");
    let output =
        shell("umask 027; exec \"$FOLIO\" cat \"$1\" -o \"$2\"", &[&file, &place.path("out")]);
    printed(&output, b"");
    assert_eq!(place.path("out").metadata().unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn a_failure_leaves_the_output_as_it_was() {
    let place = Place::new();
    let file = place.file("data", &pattern(10_000));
    let out = place.file("out", b"before");
    failed(&cat(&[&file, &"--offset", &"1M", &"-o", &out]), 1, &["past the end"]);
    // Here it fails after the output was opened.
    failed(&cat(&[&"/proc/version", &"--offset", &"1M", &"-o", &out]), 1, &["past the end"]);
    failed(
        &cat(&[&"/proc/version", &"--offset", &"1M", &"-o", &place.path("new")]),
        1,
        &["past the end"],
    );
    assert_eq!(fs::read(&out).unwrap(), b"before");
    assert_eq!(place.names(), ["data", "out"]);
}

#[test]
fn a_killed_command_leaves_nothing_behind() {
    let place = Place::new();
    let mut child = start(command(&[&"-", &"-o", &place.path("out")]).stdin(Stdio::piped()));
    child.stdin.as_mut().unwrap().write_all(&pattern(200_000)).unwrap();
    if !place.names().is_empty() {
        skip("the file system has no files without a name");
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.names().is_empty());
}

#[test]
fn the_source_is_not_overwritten() {
    let place = Place::new();
    let bytes = pattern(5000);
    let file = place.file("data", &bytes);
    fs::hard_link(&file, place.path("hard")).unwrap();
    symlink("data", place.path("soft")).unwrap();
    for name in ["data", "./data", "hard", "soft"] {
        let output = cat(&[&file, &"--offset", &"1", &"-o", &place.path(name)]);
        failed(&output, 1, &["is the source itself"]);
        failed(&cat(&[&place.path(name), &"-o", &file]), 1, &["is the source itself"]);
    }
    // Nor does a file grow after itself for ever.
    failed(&shell("exec \"$FOLIO\" cat \"$1\" >>\"$1\"", &[&file]), 1, &["is the source itself"]);
    failed(
        &shell("exec \"$FOLIO\" cat - <\"$1\" >>\"$1\"", &[&file]),
        1,
        &["is the source itself"],
    );
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(file.metadata().unwrap().nlink(), 2);
}

#[test]
fn outputs_that_cannot_be() {
    let place = Place::new();
    let file = place.file("data", b"x");
    failed(&cat(&[&file, &"-o", &place.0.path()]), 1, &["is a directory"]);
    failed(
        &cat(&[&file, &"-o", &place.path("none/out")]),
        1,
        &["none/out", "No such file", "remedy: "],
    );
    failed(&cat(&[&file, &"-o", &place.path("none/")]), 1, &["is a directory"]);
    failed(&cat(&[&file, &"-o", &place.path("data/out")]), 1, &["Not a directory"]);
    let read_only = place.file("read-only", b"before");
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
    let output = without_privileges(&mut command(&[&file, &"-o", &read_only])).output().unwrap();
    failed(&output, 1, &["Permission denied"]);
    assert_eq!(fs::read(&read_only).unwrap(), b"before");
}

#[test]
fn devices_and_pipes_are_written_to_directly() {
    let place = Place::new();
    let bytes = pattern(300_000);
    let file = place.file("data", &bytes);
    printed(&cat(&[&file, &"-o", &"/dev/null"]), b"");
    printed(&cat(&[&"/dev/null", &"-o", &"/dev/null"]), b"");
    printed(&cat(&[&file, &"-o", &"/dev/stdout"]), &bytes);
    assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
    failed(&cat(&[&file, &"-o", &"/dev/full"]), 1, &["/dev/full", "No space left", "remedy: "]);
    failed(
        &shell("exec \"$FOLIO\" cat \"$1\" >/dev/full", &[&file]),
        1,
        &["standard output", "No space left"],
    );

    let fifo = place.fifo("fifo");
    let child = start(&mut command(&[&file, &"-o", &fifo]));
    assert_eq!(fs::read(&fifo).unwrap(), bytes);
    printed(&child.wait_with_output().unwrap(), b"");
    failed(&cat(&[&file, &"--length", &"4KB", &"-o", &fifo]), 2, &["KiB"]);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    let place = Place::new();
    let bytes = pattern(100_000);
    let file = place.file("data", &bytes);
    let out = place.file("out", b"before");
    // Units of 512 or 1024 bytes, as the shell likes.
    let limited = |line: &str| shell(&format!("ulimit -f 8; {line}"), &[&file, &out]);
    failed(&limited("exec \"$FOLIO\" cat \"$1\" -o \"$2\""), 1, &["out", "too large", "ulimit"]);
    assert_eq!(fs::read(&out).unwrap(), b"before");
    assert_eq!(place.names(), ["data", "out"]);
    // The bytes that fit are written.
    printed(&limited("exec \"$FOLIO\" cat \"$1\" --length 4K -o \"$2\""), b"");
    assert_eq!(fs::read(&out).unwrap(), &bytes[..4096]);
    failed(&limited("exec \"$FOLIO\" cat \"$1\" >\"$2\""), 1, &["standard output", "too large"]);
    failed(&limited("exec \"$FOLIO\" cat \"$1\" >>\"$2\""), 1, &["standard output", "too large"]);
    let got = fs::read(&out).unwrap();
    assert!(!got.is_empty() && bytes.starts_with(&got));
    printed(&limited("\"$FOLIO\" cat \"$1\" | cat"), &bytes);
}

#[test]
fn a_full_file_system_is_an_error() {
    let place = Place::new();
    let file = place.file("data", &pattern(2 << 20));
    fs::create_dir(place.path("full")).unwrap();
    // The mount vanishes with its name space.
    let line = "mount -t tmpfs -o size=1m none \"$2\" || exit 77
        echo before >\"$2/out\"
        \"$FOLIO\" cat \"$1\" -o \"$2/out\"; status=$?
        ls -A \"$2\"; cat \"$2/out\"; exit $status";
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "sh", "-c", line, "sh"])
        .arg(&file)
        .arg(place.path("full"))
        .env("FOLIO", FOLIO);
    match command.output() {
        Ok(output) if output.status.code() == Some(1) && err(&output).contains("folio: ") => {
            failed(&output, 1, &["No space left", "remedy: free space"]);
            assert_eq!(output.stdout, b"out\nbefore\n");
        }
        Ok(output) if err(&output).contains("folio: ") || output.status.success() => {
            panic!("{:?}: {}", output.status, err(&output));
        }
        other => skip(&format!("not allowed to mount ({other:?})")),
    }
}

#[test]
fn descriptors_that_do_not_block_are_waited_for() {
    let bytes = pattern(500_000);
    let (from_us, mut to_child) = io::pipe().unwrap();
    let (mut from_child, to_us) = io::pipe().unwrap();
    for end in [from_us.as_fd(), to_us.as_fd()] {
        fcntl_setfl(end, fcntl_getfl(end).unwrap() | OFlags::NONBLOCK).unwrap();
    }
    let mut command = command(&[&"-"]);
    let mut child = command.stdin(from_us).stdout(to_us).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            to_child.write_all(&bytes).unwrap();
            drop(to_child);
        });
        std::thread::sleep(Duration::from_millis(200));
        from_child.read_to_end(&mut got).unwrap();
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(got == bytes);
}

#[test]
fn the_shape_of_json() {
    let place = Place::new();
    let file = place.file("data", &pattern(5000));
    let output = cat(&[&file, &"--offset", &"1K", &"--length", &"1T", &"--json", &"-v"]);
    printed(&output, &pattern(5000)[1024..]);
    let expected = serde_json::json!({
        "source": file.to_str().unwrap(), "offset": 1024, "length": 1_u64 << 40, "bytes": 3976, "engine": "map",
    });
    assert_eq!(json(&output), expected);

    let read = json(&cat(&[&"/proc/version", &"--json", &"-v"]));
    assert_eq!((&read["engine"], &read["length"]), (&"read".into(), &serde_json::Value::Null));
    assert!(read["reason"].is_string());

    let output = cat(&[&file, &"--offset", &"5000", &"--json"]);
    assert_eq!(output.status.code(), Some(1));
    let error = json(&output);
    assert!(error["error"].as_str().unwrap().contains("past the end"), "{error}");
    assert_eq!((&error["kind"], &error["exit_code"]), (&"source".into(), &1.into()));
    assert_eq!((&error["engine"], &error["bytes"]), (&"map".into(), &0.into()));
    assert!(error["remedy"].is_string());

    let error = json(&cat(&[&place.path("missing"), &"--json"]));
    assert_eq!((&error["engine"], &error["kind"]), (&serde_json::Value::Null, &"source".into()));
    let error = json(&cat(&[&file, &"--json", &"-o", &place.path("none/out")]));
    assert_eq!(error["kind"], "output");

    let output = cat(&[&file, &"--offset", &"4KB", &"--json"]);
    assert_eq!(output.status.code(), Some(2));
    let error = json(&output);
    assert_eq!((&error["kind"], &error["exit_code"]), (&"usage".into(), &2.into()));
}

#[test]
fn verbose_says_how_the_bytes_were_read() {
    let place = Place::new();
    let file = place.file("data", &pattern(5000));
    let output = cat(&[&file, &"--offset", &"10", &"-v"]);
    assert!(err(&output).contains("4990 bytes from offset 10 (mapped"), "{}", err(&output));
    assert_eq!(err(&output).lines().count(), 1);
}

#[test]
fn bad_usage() {
    failed(&cat(&[]), 2, &["SOURCE"]);
    failed(&cat(&[&"a", &"b"]), 2, &["unexpected argument"]);
    failed(&cat(&[&"a", &"--ofset", &"1"]), 2, &["--offset"]);
    for args in [&[][..], &["dog"][..]] {
        let output = Command::new(FOLIO).args(args).output().unwrap();
        failed(&output, 2, &["Usage"]);
        assert!(!err(&output).contains('\x1b'), "colours are for terminals");
    }
}

#[test]
fn help_shows_examples_and_exit_codes() {
    for args in [&["-h"][..], &["cat", "-h"], &["cat", "--help"], &["help", "cat"]] {
        let output = Command::new(FOLIO).args(args).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        for word in
            ["Examples:", "folio cat disk.img --offset 1M --length 512", "Exit codes:", "  3  "]
        {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
    let version = Command::new(FOLIO).arg("--version").output().unwrap();
    assert_eq!(version.stdout, format!("folio {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
}

/// Runs a line of shell on a terminal, and returns the text that appears there.
fn on_a_terminal(line: &str) -> Option<String> {
    let mut command = Command::new("script");
    command.args(["-qec", line, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    let output = command.stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_bar_is_for_long_work_on_a_terminal() {
    let place = Place::new();
    let path = place.path("data");
    File::create(&path).unwrap().set_len(200 << 20).unwrap();
    let source = path.display();
    let Some(seen) = on_a_terminal(&format!("{FOLIO} cat {source} >/dev/null")) else {
        return skip("there is no script(1) to make a terminal");
    };
    assert!(seen.contains(" of 200.00 MiB"), "{seen:?}");
    let out = place.path("out");
    let seen =
        on_a_terminal(&format!("{FOLIO} cat {source} --length 65M -o {}", out.display())).unwrap();
    assert!(seen.contains(" of 65.00 MiB"), "{seen:?}");
    for line in [
        // Short work; the program behind the pipe may use the terminal; a program listens; nobody
        // is at the terminal.
        format!("{FOLIO} cat {source} --length 1M >/dev/null"),
        format!("{FOLIO} cat {source} | tail -c 10"),
        format!("{FOLIO} cat {source} --json >/dev/null"),
        format!("{FOLIO} cat {source} 2>&1 >/dev/null | cat"),
    ] {
        let seen = on_a_terminal(&line).unwrap();
        assert!(!seen.contains("MiB of"), "{line}: {seen:?}");
    }
    let seen = on_a_terminal(&format!("{FOLIO} cat {source} --length 65M")).unwrap();
    assert!(!seen.contains("MiB of"), "no bar between the bytes");
}

/// Whether the pager can run on this machine.
fn pager_runs() -> bool {
    let runs = Command::new(FOLIO).arg("doctor").stdout(Stdio::null()).status().unwrap().success();
    if !runs {
        skip("the pager cannot run here (see `folio doctor`)");
    }
    runs
}

#[test]
fn the_pager_gives_the_same_bytes_as_the_kernel() {
    if !pager_runs() {
        return;
    }
    let place = Place::new();
    let file = place.file("data", &pattern((3 << 20) + 123));
    for offset in ["0", "1", "4095", "4096", "1M", "0x2fffff", "3145850"] {
        for length in ["0", "1", "4097", "1.5M", "1T"] {
            let range: [&dyn AsRef<OsStr>; 5] = [&file, &"--offset", &offset, &"--length", &length];
            let by = |engine: &str| command(&range).args(["--engine", engine]).output().unwrap();
            let kernel = by("kernel");
            printed(&kernel, &kernel.stdout);
            let pager = by("pager");
            printed(&pager, &kernel.stdout);
            assert_eq!(err(&pager), "", "nothing to say");
            printed(&by("auto"), &kernel.stdout);
        }
    }
    for offset in ["3145851", "4M", "0xffffffffffffffff"] {
        failed(
            &cat(&[&file, &"--engine", &"pager", &"--offset", &offset]),
            1,
            &["past the end", "3145851 bytes"],
        );
    }
    let empty = place.file("empty", b"");
    printed(&cat(&[&empty, &"--engine", &"pager", &"-v"]), b"");
    failed(
        &cat(&[&empty, &"--engine", &"pager", &"--offset", &"1"]),
        1,
        &["past the end", "0 bytes"],
    );
    let out = place.path("out");
    printed(&cat(&[&file, &"--engine", &"pager", &"--offset", &"1M", &"-o", &out]), b"");
    assert!(fs::read(&out).unwrap() == pattern((3 << 20) + 123)[1 << 20..]);
}

#[test]
fn the_pager_prints_a_file_of_many_budgets_within_its_budget() {
    if !pager_runs() {
        return;
    }
    let place = Place::new();
    let bytes = pattern((20 << 20) + 321);
    let file = place.file("data", &bytes);
    for masked in ["", "-move,-io_uring,-huge"] {
        let mut command = command(&[&file, &"--engine", &"pager", &"--budget", &"4M", &"--json"]);
        let output = command.env("FOLIO_FEATURES", masked).output().unwrap();
        printed(&output, &bytes);
        let json = json(&output);
        assert_eq!((&json["engine"], &json["bytes"]), (&"pager".into(), &bytes.len().into()));
        let count = |name: &str| {
            json["pager"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {json}"))
        };
        assert_eq!(count("budget"), 4 << 20);
        assert!(count("resident_bytes") + count("record_bytes") <= 4 << 20, "{json}");
        // Every page came, and most had to go again; each was read once.
        let pages = (bytes.len() as u64).div_ceil(rustix::param::page_size() as u64);
        assert_eq!(count("pages_read"), pages, "{json}");
        assert!(count("pages_evicted") * 2 > pages, "{json}");
    }
}

#[test]
fn the_pager_needs_neither_memory_nor_time_for_a_hole_of_a_terabyte() {
    if !pager_runs() {
        return;
    }
    let place = Place::new();
    let path = place.path("holes");
    if let Err(error) = File::create(&path).and_then(|file| file.set_len(1 << 40)) {
        return skip(&format!("the file system has no files of a terabyte ({error})"));
    }
    let range: [&dyn AsRef<OsStr>; 5] = [&path, &"--offset", &"1023G", &"--length", &"100"];
    printed(
        &command(&range).args(["--engine", "pager", "--budget", "4M"]).output().unwrap(),
        &[0; 100],
    );
}

#[test]
fn files_that_cannot_be_mapped_are_read_whatever_the_engine() {
    let bytes = pattern(3_000_000);
    for engine in ["auto", "kernel", "pager"] {
        let stdin =
            fed(&mut command(&[&"-", &"--engine", &engine, &"--offset", &"1M", &"-v"]), &bytes);
        printed(&stdin, &bytes[1 << 20..]);
        assert!(err(&stdin).contains("read instead"), "{}", err(&stdin));
        printed(&cat(&[&"/dev/zero", &"--engine", &engine, &"--length", &"5000"]), &[0; 5000]);
        for path in ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            let Ok(there) = fs::read(path) else { continue };
            let output = cat(&[&path, &"--engine", &engine, &"-v"]);
            printed(&output, &there);
            assert!(err(&output).contains("cannot be mapped"), "{}", err(&output));
        }
    }
}

#[test]
fn the_pager_prints_a_block_device() {
    if !pager_runs() {
        return;
    }
    let place = Place::new();
    let bytes = pattern(1 << 20);
    let image = place.file("image", &bytes);
    let line = "device=$(losetup --show -rf \"$1\") || exit 77
        \"$FOLIO\" cat \"$device\" --engine pager --offset 4097 --length 100000 --json; status=$?
        losetup -d \"$device\"; exit $status";
    let output = shell(line, &[&image]);
    if matches!(output.status.code(), Some(77 | 127)) {
        return skip(&format!("no loop device ({})", err(&output)));
    }
    printed(&output, &bytes[4097..104_097]);
    assert_eq!(json(&output)["engine"], "pager");
}

/// Lets the pager print a file of 16 MiB within 4 MiB, and calls `change` while it waits for the
/// reader of its output.
fn meanwhile(change: impl FnOnce(&File)) -> Output {
    let place = Place::new();
    let bytes = pattern(16 << 20);
    let file = place.file("data", &bytes);
    // The clock of the file system must have moved on since the file was written, for its times to
    // differ.
    std::thread::sleep(Duration::from_millis(50));
    let mut child = start(&mut command(&[&file, &"--engine", &"pager", &"--budget", &"4M"]));
    let mut stdout = child.stdout.take().unwrap();
    let mut got = vec![0; 100];
    stdout.read_exact(&mut got).unwrap();
    change(&File::options().write(true).open(&file).unwrap());
    stdout.read_to_end(&mut got).unwrap();
    let mut output = child.wait_with_output().unwrap();
    assert!(
        got.len() < bytes.len() && bytes.starts_with(&got),
        "{} bytes: what the file had, or an error",
        got.len()
    );
    output.stdout = got;
    output
}

#[test]
fn a_file_that_is_truncated_under_the_pager_is_an_error_and_no_signal() {
    if !pager_runs() {
        return;
    }
    for left in [0, (1 << 20) + 1, (3 << 20) + 100, 9 << 20, (16 << 20) - 1] {
        let output = meanwhile(|file| file.set_len(left).unwrap());
        let at = format!("offset {} ", output.stdout.len());
        failed(
            &output,
            3,
            &["data", "truncated", &at, &format!("has {left} bytes now"), "remedy: "],
        );
    }
}

#[test]
fn a_file_that_changes_under_the_pager_is_an_error_and_no_mixture() {
    if !pager_runs() {
        return;
    }
    for place in [0, 15 << 20, 20 << 20] {
        let output = meanwhile(|file| file.write_all_at(b"other", place).unwrap());
        let at = format!("offset {} ", output.stdout.len());
        failed(&output, 3, &["data", "changed while", &at, "remedy: "]);
    }
}

#[test]
fn a_closed_pipe_is_quiet_for_the_pager_too() {
    if !pager_runs() {
        return;
    }
    let place = Place::new();
    let file = place.file("data", &pattern(16 << 20));
    let mut child = start(&mut command(&[&file, &"--engine", &"pager"]));
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""));
}

#[test]
fn verbose_counts_the_pagers_work() {
    if !pager_runs() {
        return;
    }
    let place = Place::new();
    let file = place.file("data", &pattern(500_000));
    let output = cat(&[&file, &"--engine", &"pager", &"--budget", &"8M", &"-v"]);
    printed(&output, &pattern(500_000));
    let text = err(&output);
    assert!(
        text.contains("500000 bytes from offset 0 (mapped by the pager; the file has 500000)"),
        "{text}"
    );
    let pages = 500_000_usize.div_ceil(rustix::param::page_size());
    let read = format!("  read       {pages} pages in ");
    for words in [
        "  faults     ",
        "  latency    ",
        &read,
        "  readahead  ",
        "  evicted    ",
        "of a budget of 8.00 MiB",
    ] {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    let kernel = err(&cat(&[&file, &"--engine", &"kernel", &"-v"]));
    assert!(kernel.contains("500000 bytes from offset 0 (mapped by the kernel"), "{kernel}");
    assert_eq!(kernel.lines().count(), 1);
}

#[test]
fn engines_and_budgets_that_make_no_sense() {
    let place = Place::new();
    let file = place.file("data", b"x");
    for engine in [&[][..], &["--engine", "kernel"], &["--engine=auto"]] {
        let output = command(&[&file, &"--budget", &"64M"]).args(engine).output().unwrap();
        failed(&output, 2, &["--budget is for the pager", "remedy: ", "--engine pager"]);
        assert!(output.stdout.is_empty());
    }
    let json = json(&cat(&[&file, &"--budget", &"64M", &"--json"]));
    assert_eq!((&json["kind"], &json["exit_code"]), (&"usage".into(), &2.into()));
    failed(&cat(&[&file, &"--engine", &"disk"]), 2, &["--engine", "auto, kernel, pager"]);
    failed(&cat(&[&file, &"--engine", &"pager", &"--budget", &"64MB"]), 2, &["--budget", "MiB"]);
    failed(&cat(&[&file, &"--engine", &"pager", &"--budget", &"1M"]), 2, &["4 MiB"]);
    let by_pager = || command(&[&file, &"--engine", &"pager"]);
    failed(
        &by_pager().env("FOLIO_FEATURES", "-mov").output().unwrap(),
        2,
        &["FOLIO_FEATURES", "mov", "-move"],
    );
}
