//! `folio shm` as a stranger runs it, on segments of this test's own.

use folio::shm::{ChannelOptions, Lifetime, Segment, SegmentOptions};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn folio(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
    command.arg("shm").args(args).env("FOLIO_SHM_DIR", dir).stdin(Stdio::null());
    command.output().expect("folio starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    assert_eq!(err(output), "");
    serde_json::from_slice(&output.stdout).expect("JSON on standard output")
}

/// A segment with a name in the directory, by its path: the environment is all tests' own.
fn make(dir: &Path, name: &str) -> Segment<[u64]> {
    let options = SegmentOptions::new().count(1000).lifetime(Lifetime::Kept);
    options.create_file(dir.join(format!("folio.{name}"))).unwrap()
}

#[test]
fn an_empty_directory_has_nothing_to_list_and_nothing_to_collect() {
    let dir = tempfile::tempdir().unwrap();
    let list = folio(dir.path(), &["ls"]);
    assert!(list.status.success() && out(&list).starts_with("no segments in "), "{}", out(&list));
    assert_eq!(json(&folio(dir.path(), &["ls", "--json"])), Value::Array(Vec::new()));
    assert_eq!(out(&folio(dir.path(), &["gc"])), "nothing is left over\n");
    let none = folio(&dir.path().join("none"), &["ls"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(err(&none).contains("remedy"), "{}", err(&none));
}

#[test]
fn a_segment_in_use_is_listed_with_its_users_and_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let used = make(dir.path(), "used");
    drop(make(dir.path(), "idle"));
    std::fs::write(dir.path().join("folio.bad\u{1b}[31m"), "no segment").unwrap();
    std::fs::write(dir.path().join("somebody-elses"), "").unwrap();
    let list = json(&folio(dir.path(), &["ls", "--json"]));
    let list = list.as_array().unwrap();
    let states: Vec<_> = list.iter().map(|entry| entry["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["damaged", "idle", "in use"]);
    assert_eq!(list[2]["users"], serde_json::json!([std::process::id()]));
    assert_eq!((&list[2]["type"], &list[2]["kind"]), (&"[u64]".into(), &"elements".into()));
    assert!(list[2]["size"].as_u64().unwrap() >= 8000);
    let text = out(&folio(dir.path(), &["ls"]));
    assert!(text.lines().count() == 4 && !text.contains('\u{1b}'), "{text}");

    let remove = folio(dir.path(), &["rm", "idle", "used", "none"]);
    assert_eq!(remove.status.code(), Some(1));
    let said = err(&remove);
    assert!(
        said.contains(&std::process::id().to_string()) && said.contains("no such segment"),
        "{said}"
    );
    let answer = folio(dir.path(), &["rm", "--json", "used"]);
    assert_eq!(answer.status.code(), Some(1));
    assert_eq!(json(&answer)["failed"][0]["name"], "used");
    drop(used);
    let answer = folio(dir.path(), &["rm", "--json", "used", "bad\u{1b}[31m"]);
    // No program can use a name with a control character. Such a file can be removed all the same.
    let both = serde_json::json!(["used", "bad\u{1b}[31m"]);
    assert_eq!(json(&answer)["removed"], both, "{}", out(&answer));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn leavings_of_killed_programs_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join(".folio.half.new-0123456789abcdef");
    std::fs::write(&temporary, [0; 5000]).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&temporary).unwrap().set_modified(old).unwrap();
    drop(make(dir.path(), "idle"));
    let dry = folio(dir.path(), &["gc", "--dry-run"]);
    assert!(out(&dry).starts_with("would remove .folio.half"), "{}", out(&dry));
    assert!(temporary.exists());
    let answer = json(&folio(dir.path(), &["gc", "--json"]));
    assert_eq!(
        (&answer["dry_run"], answer["removed"].as_array().unwrap().len()),
        (&false.into(), 1)
    );
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["folio.idle"]);
}

#[test]
fn bells_are_listed_and_those_of_the_dead_are_collected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("folio.orders");
    let channel = ChannelOptions::new().open_or_create_file(&path).unwrap();
    // As if there had been a party of another network namespace.
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&u64::MAX.to_ne_bytes(), 528).unwrap();
    let mut receiver = channel.receiver().unwrap();
    receiver.poll_fd().unwrap();
    let mut id = [0; 8];
    file.read_exact_at(&mut id, 32).unwrap();
    let dead =
        format!(".folio.bell-{:016x}-00000bad00000001-0000000000000002", u64::from_ne_bytes(id));
    assert!(Command::new("mkfifo").arg(dir.path().join(&dead)).status().unwrap().success());

    let list = json(&folio(dir.path(), &["ls", "--json"]));
    let list = list.as_array().unwrap();
    let fields: Vec<_> = list[0].as_object().unwrap().keys().map(String::as_str).collect();
    let help = out(&folio(dir.path(), &["ls", "--help"]));
    assert!(fields.len() == 13 && fields.iter().all(|field| help.contains(field)), "{fields:?}");
    let bells: Vec<_> = list.iter().filter(|entry| entry["role"] == "notifier").collect();
    assert!(list.len() == 3 && bells.len() == 2 && bells.iter().all(|bell| bell["of"] == "orders"));
    let (living, left) = if bells[0]["name"] == dead.as_str() { (1, 0) } else { (0, 1) };
    assert_eq!(
        (&bells[living]["state"], &bells[left]["state"]),
        (&"in use".into(), &"stale".into())
    );
    assert_eq!(bells[living]["users"], serde_json::json!([std::process::id()]));
    let text = out(&folio(dir.path(), &["ls"]));
    assert_eq!(text.matches("notifier of orders").count(), 2, "{text}");
    assert!(
        text.lines()
            .any(|line| line.starts_with("orders ") && line.ends_with("  channel of one sender")),
        "{text}"
    );

    let answer = json(&folio(dir.path(), &["gc", "--json"]));
    let removed = answer["removed"].as_array().unwrap();
    assert!(removed.len() == 1 && removed[0]["name"] == dead.as_str(), "{answer}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    drop(receiver);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn names_and_directories_that_are_none_are_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("folio.dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("folio.link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("folio.socket")).unwrap();
    let cases = [
        ("socket", "socket"),
        ("nothing", "no such segment"),
        ("dir", "rmdir"),
        ("link", "symbolic link"),
        ("../x", "folio shm ls"),
    ];
    for (name, why) in cases {
        let output = folio(dir.path(), &["rm", name]);
        assert!(
            output.status.code() == Some(1) && err(&output).contains(why),
            "{name}: {}",
            err(&output)
        );
        let report = json(&folio(dir.path(), &["rm", name, "--json"]));
        assert_eq!(
            (&report["failed"][0]["name"], report["removed"].as_array().unwrap().len()),
            (&name.into(), 0)
        );
    }
    drop(socket);
    for none in ["none", "file"] {
        let path = dir.path().join(none);
        if none == "file" {
            std::fs::write(&path, "").unwrap();
        }
        for command in ["ls", "gc"] {
            let output = folio(&path, &[command]);
            let text = err(&output);
            assert!(
                output.status.code() == Some(1) && text.contains("FOLIO_SHM_DIR"),
                "{none} {command}: {text}"
            );
        }
    }
}

#[test]
fn help_has_examples_and_exit_codes_and_bad_usage_is_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["-h"][..], &["ls", "--help"], &["rm", "-h"], &["gc", "-h"]] {
        let help = folio(dir.path(), args);
        let text = out(&help);
        assert!(
            help.status.success() && text.contains("Exit codes") && text.contains("Examples"),
            "{text}"
        );
    }
    for args in [&["rm"][..], &["gc", "board"], &["ls", "-x"]] {
        assert_eq!(folio(dir.path(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn names_that_are_no_utf_8_are_listed_whole_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"na\xffme"[..], b"new\nline"] {
        let name = OsStr::from_bytes(name);
        let file = dir.path().join([OsStr::new("folio."), name].join(OsStr::new("")));
        std::fs::write(&file, "no segment").unwrap();
        let list = json(&folio(dir.path(), &["ls", "--json"]));
        match name.to_str() {
            Some(name) => assert_eq!(list[0]["name"], name),
            None => assert_eq!(list[0]["name_bytes"], serde_json::json!(name.as_bytes())),
        }
        let mut remove = Command::new(env!("CARGO_BIN_EXE_folio"));
        remove
            .args(["shm", "rm", "--json"])
            .arg(name)
            .env("FOLIO_SHM_DIR", dir.path())
            .stdin(Stdio::null());
        let output = remove.output().unwrap();
        assert!(output.status.success(), "{}", err(&output));
        let expected = name.to_str().map_or(serde_json::json!(name.as_bytes()), Value::from);
        assert_eq!(json(&output)["removed"], serde_json::json!([expected]));
        assert!(!file.exists());
    }
}

/// The kernel's own word is in the message, so that an error that is not explained is not without a
/// cause.
#[test]
fn a_refusal_of_the_kernel_is_printed_with_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    // A name that is longer than the kernel takes.
    let long = dir.path().join("x".repeat(300));
    let output = folio(&long, &["ls"]);
    let text = err(&output);
    assert!(output.status.code() == Some(1) && text.contains("(os error 36)"), "{text}");
}
