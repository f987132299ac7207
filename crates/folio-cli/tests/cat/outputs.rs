//! Where `folio cat` writes: files that are replaced, descriptors, and outputs that are lost.

use crate::skip::skip;
use crate::{FOLIO, Place, cat, command, err, failed, json, pattern, printed, shell, start};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const ACL: &str = "system.posix_acl_access";

/// An ACL (acl(5)) as the kernel takes it: owner rw-, group 99 rw-, the file's own group ---, mask
/// rw-, others ---.
fn acl() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (1_u16, 6_u16, u32::MAX),
        (4, 0, u32::MAX),
        (8, 6, 99),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        bytes.extend(
            tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()),
        );
    }
    bytes
}

fn attribute(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 1024];
    let count = getxattr(path, name, &mut value[..])?;
    value.truncate(count);
    Ok(value)
}

/// Runs shell in a mount name space of its own. `None` where that is not allowed.
fn in_own_mounts(line: &str, args: &[&dyn AsRef<OsStr>]) -> Option<Output> {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &format!("mount --make-rprivate / || exit 77; {line}"), "sh"]);
    command.args(args.iter().map(AsRef::as_ref)).env("FOLIO", FOLIO).stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.code() != Some(77));
    let output =
        output.filter(|output| output.status.success() || !err(output).starts_with("unshare"));
    if output.is_none() {
        skip("mounting is not allowed");
    }
    output
}

#[test]
fn a_replaced_file_keeps_its_acl_and_its_extended_attributes() {
    let place = Place::new();
    let (file, out) = (place.file("data", b"new"), place.file("out", b"before"));
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    if let Err(errno) = setxattr(&out, "user.origin", b"here", XattrFlags::empty()) {
        return skip(&format!("no extended attributes here: {errno}"));
    }
    let has_acl = setxattr(&out, ACL, &acl(), XattrFlags::empty()).is_ok();
    let mode = out.metadata().unwrap().mode();
    printed(&cat(&[&file, &"-o", &out]), b"");
    assert_eq!(fs::read(&out).unwrap(), b"new");
    assert_eq!(attribute(&out, "user.origin").as_deref(), Ok(&b"here"[..]));
    assert_eq!(out.metadata().unwrap().mode(), mode);
    if has_acl {
        assert_eq!(attribute(&out, ACL), Ok(acl()));
    } else {
        skip("no ACLs here");
    }
}

#[test]
fn a_replaced_file_gets_no_acl_that_it_did_not_have() {
    let place = Place::new();
    let (file, out) = (place.file("data", b"new"), place.file("out", b"before"));
    // New files of this directory inherit an ACL.
    if setxattr(place.path("."), "system.posix_acl_default", &acl(), XattrFlags::empty()).is_err() {
        return skip("no ACLs here");
    }
    printed(&cat(&[&file, &"-o", &out]), b"");
    assert_eq!(attribute(&out, ACL), Err(Errno::NODATA));
}

#[test]
fn a_replacement_that_cannot_have_the_owner_is_refused() {
    let place = Place::new();
    let (file, out) = (place.file("data", b"new"), place.file("out", b"before"));
    if chown(&out, Some(12), Some(34)).is_err() {
        return skip("needs root, to give a file away");
    }
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o777)).unwrap();
    let line = "setpriv --reuid 56 --regid 78 --clear-groups \"$FOLIO\" cat \"$1\" -o \"$2\"";
    let copy = place.path("folio");
    fs::copy(FOLIO, &copy).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", line, "sh"]).arg(&file).arg(&out).env("FOLIO", copy);
    let output = command.output().unwrap();
    failed(&output, 1, &["cannot have its owner", "user 12", "> FILE"]);
    assert_eq!(fs::read(&out).unwrap(), b"before");
    // Root gives the new file the same owner.
    printed(&cat(&[&file, &"-o", &out]), b"");
    let metadata = out.metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (12, 34, 0o666));
}

#[test]
fn the_name_of_a_descriptor_is_that_descriptor() {
    let place = Place::new();
    let bytes = pattern(5000);
    let file = place.file("data", &bytes);
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"] {
        let out = place.file("out", b"");
        let before = out.metadata().unwrap().ino();
        // Both write to one open file, one after the other.
        let line = "{ printf first; \"$FOLIO\" cat \"$1\" -o \"$3\"; printf last; } >\"$2\"";
        printed(&shell(line, &[&file, &out, &name]), b"");
        assert_eq!(fs::read(&out).unwrap(), [b"first", &bytes[..], b"last"].concat(), "{name}");
        assert_eq!(out.metadata().unwrap().ino(), before, "{name}");
    }
    for (name, number) in [("/dev/stderr", 2), ("/dev/fd/3", 3)] {
        let out = place.file("out", b"before ");
        let line = format!("\"$FOLIO\" cat \"$1\" --length 5 -o {name} {number}>>\"$2\"");
        printed(&shell(&line, &[&file, &out]), b"");
        assert_eq!(fs::read(&out).unwrap(), [b"before ", &bytes[..5]].concat(), "{name}");
    }
    assert_eq!(place.names(), ["data", "out"]);
}

#[test]
fn a_link_to_a_descriptor_is_that_descriptor() {
    let place = Place::new();
    let (file, out) = (place.file("data", b"bytes"), place.path("out"));
    std::os::unix::fs::symlink("/dev/fd/3", place.path("link")).unwrap();
    printed(
        &shell("cd \"$1\"; \"$FOLIO\" cat \"$2\" -o link 3>out", &[&place.path("."), &file]),
        b"",
    );
    assert_eq!(fs::read(out).unwrap(), b"bytes");
    assert!(place.path("link").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_descriptor_that_is_closed_or_not_for_writing_is_an_error() {
    let place = Place::new();
    let file = place.file("data", b"bytes");
    // The command's own descriptors do not count: the source is open by then.
    let closed = shell("exec \"$FOLIO\" cat \"$1\" -o /dev/fd/3 3>&-", &[&file]);
    failed(&closed, 1, &["/dev/fd/3", "Bad file descriptor", "3>FILE"]);
    let input = shell("exec \"$FOLIO\" cat \"$1\" -o /dev/fd/3 3<\"$1\"", &[&file]);
    failed(&input, 1, &["/dev/fd/3", "for reading only"]);
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

#[test]
fn a_file_that_something_is_mounted_on_is_refused_before_the_work() {
    let place = Place::new();
    let (fifo, out, other) =
        (place.fifo("fifo"), place.file("out", b"before"), place.file("other", b"mounted"));
    // Nothing comes through the FIFO, so work that has begun would wait.
    let line = "mount --bind \"$3\" \"$2\" || exit 77
        exec 3<>\"$1\"; exec timeout 60 \"$FOLIO\" cat \"$1\" -o \"$2\"";
    if let Some(output) = in_own_mounts(line, &[&fifo, &out, &other]) {
        failed(&output, 1, &["mounted on it", "> FILE"]);
        assert_eq!(
            (fs::read(out).unwrap(), fs::read(other).unwrap()),
            (b"before".into(), b"mounted".into())
        );
    }
}

#[test]
fn a_file_that_may_not_be_removed_is_refused_before_the_work() {
    let place = Place::new();
    let out = place.file("out", b"before");
    if chown(&out, Some(12), None).and_then(|()| chown(place.path("."), Some(12), None)).is_err() {
        return skip("needs root, to give a file away");
    }
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
    fs::set_permissions(place.path("."), fs::Permissions::from_mode(0o1777)).unwrap();
    let copy = place.path("folio");
    fs::copy(FOLIO, &copy).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "56", "--regid", "78", "--clear-groups"])
        .arg(copy)
        .args(["cat", "-", "-o"]);
    let mut child = start(command.arg(&out).stdin(Stdio::piped()));
    // Standard input stays open: work that has begun would wait for it.
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    failed(&output, 1, &["sticky bit", "> FILE"]);
    assert_eq!(fs::read(&out).unwrap(), b"before");
}

#[test]
fn a_signal_leaves_no_temporary_file_where_it_has_a_name() {
    let place = Place::new();
    let dir = place.path("out");
    fs::create_dir(&dir).unwrap();
    // Without /proc a file without a name could not get one later.
    let line = "mount -t tmpfs none /proc || exit 77
        for signal in TERM HUP; do
            mkfifo \"$1/in\"
            \"$FOLIO\" cat \"$1/in\" -o \"$1/file\" & child=$!
            exec 3>\"$1/in\"
            echo bytes >&3
            until ls -A \"$1\" | grep -q ^.folio-; do sleep 0.1; done
            kill -$signal $child; wait $child; echo $?
            exec 3>&-; rm \"$1/in\"; ls -A \"$1\"
        done";
    if let Some(output) = in_own_mounts(line, &[&dir]) {
        printed(&output, b"143\n129\n");
    }
}

#[test]
fn a_signal_that_the_starter_ignores_stays_ignored() {
    let place = Place::new();
    let dir = place.path("out");
    fs::create_dir(&dir).unwrap();
    let line = "mount -t tmpfs none /proc || exit 77
        mkfifo \"$1/in\"; trap '' HUP
        \"$FOLIO\" cat \"$1/in\" -o \"$1/file\" & child=$!
        exec 3>\"$1/in\"; echo bytes >&3
        until ls -A \"$1\" | grep -q ^.folio-; do sleep 0.1; done
        kill -HUP $child; sleep 0.2; exec 3>&-; wait $child; echo $?; cat \"$1/file\"";
    if let Some(output) = in_own_mounts(line, &[&dir]) {
        printed(&output, b"0\nbytes\n");
    }
}

#[test]
fn output_that_is_lost_is_an_error() {
    for args in [
        "--help",
        "--version",
        "cat --help",
        "shm --help",
        "doctor",
        "doctor --json",
        "shm ls --json",
    ] {
        let output = shell(&format!("exec \"$FOLIO\" {args} >/dev/full"), &[]);
        failed(&output, 1, &["standard output", "No space left"]);
        let output = shell(&format!("exec \"$FOLIO\" {args} >&-"), &[]);
        failed(&output, 1, &["standard output", "Bad file descriptor", "1>FILE"]);
        // A reader that went away misses nothing.
        let output = shell(&format!("{{ \"$FOLIO\" {args}; echo $? >&2; }} | true"), &[]);
        assert!(
            err(&output).ends_with("0\n") || err(&output).ends_with("1\n"),
            "{args}: {}",
            err(&output)
        );
    }
}

#[test]
fn closed_standard_descriptors_are_errors_where_they_are_needed() {
    let place = Place::new();
    let (file, out) = (place.file("data", b"bytes"), place.path("out"));
    failed(&shell("exec \"$FOLIO\" cat \"$1\" >&-", &[&file]), 1, &["standard output", "1>FILE"]);
    failed(
        &shell("exec \"$FOLIO\" cat - <&-", &[]),
        1,
        &["standard input", "Bad file descriptor", "0<FILE"],
    );
    // Others may be closed.
    printed(&shell("exec \"$FOLIO\" cat \"$1\" <&- 2>&-", &[&file]), b"bytes");
    printed(&shell("exec \"$FOLIO\" cat \"$1\" -o \"$2\" <&- >&- 2>&-", &[&file, &out]), b"");
    assert_eq!(fs::read(out).unwrap(), b"bytes");
}

/// A file of 64 MiB with data at the start, in the middle and, if asked for, at the end.
fn sparse(place: &Place, ends_with_data: bool) -> (std::path::PathBuf, Vec<u8>) {
    const SIZE: usize = 64 << 20;
    let (path, data) = (place.path("sparse"), pattern(100_000));
    let file = File::create(&path).unwrap();
    file.set_len(SIZE as u64).unwrap();
    let mut bytes = vec![0; SIZE];
    let at = [Some(0), Some(40 << 20), ends_with_data.then_some(SIZE - data.len())];
    for at in at.into_iter().flatten() {
        file.write_all_at(&data, at as u64).unwrap();
        bytes[at..at + data.len()].copy_from_slice(&data);
    }
    (path, bytes)
}

#[test]
fn holes_stay_holes() {
    let place = Place::new();
    for ends_with_data in [false, true] {
        let (file, bytes) = sparse(&place, ends_with_data);
        if file.metadata().unwrap().blocks() * 512 > 1 << 20 {
            return skip("no sparse files here");
        }
        let out = place.path("out");
        for engine in ["kernel", "pager"] {
            if engine == "pager" && !crate::pager_runs() {
                continue;
            }
            printed(&cat(&[&file, &"-o", &out, &"--engine", &engine]), b"");
            assert!(fs::read(&out).unwrap() == bytes);
            let taken = out.metadata().unwrap().blocks() * 512;
            assert!(taken < 2 << 20, "{engine}: {taken} bytes of disk");
            // A part that starts and ends within holes.
            let part = (1_000_001, 50_000_000);
            let (offset, length) = (part.0.to_string(), (part.1 - part.0).to_string());
            printed(&cat(&[&file, &"-o", &out, &"--offset", &offset, &"--length", &length]), b"");
            assert!(fs::read(&out).unwrap() == bytes[part.0..part.1]);
        }
    }
}

#[test]
fn a_disk_without_room_is_an_error_before_the_work() {
    let place = Place::new();
    let file = place.file("data", &pattern(2 << 20));
    let (sparse, _) = sparse(&place, true);
    let full = place.path("full");
    fs::create_dir(&full).unwrap();
    let line = "mount -t tmpfs -o size=1m none \"$3\" || exit 77
        echo before >\"$3/out\"
        \"$FOLIO\" cat \"$1\" -o \"$3/out\" --json; echo $?; ls -A \"$3\"; cat \"$3/out\"
        \"$FOLIO\" cat \"$2\" -o \"$3/out\"; echo $?; wc -c <\"$3/out\"";
    if let Some(output) = in_own_mounts(line, &[&file, &sparse, &full]) {
        // Holes need no room.
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "1\nout\nbefore\n0\n67108864\n",
            "{}",
            err(&output)
        );
        let report = json(&output);
        assert_eq!(report["bytes"], 0);
        assert!(
            report["error"].as_str().unwrap().contains("2097152 bytes are to be written"),
            "{report}"
        );
    }
}

#[test]
fn a_name_that_is_no_utf_8_is_whole_in_json() {
    let place = Place::new();
    let name = place.path(OsStr::from_bytes(b"na\xffme"));
    fs::write(&name, b"bytes").unwrap();
    let report = json(&command(&[&name, &"--json"]).output().unwrap());
    assert_eq!(report["source_bytes"], serde_json::json!(name.as_os_str().as_bytes()));
    let plain = place.file("plain\n", b"bytes");
    let report = json(&cat(&[&plain, &"--json"]));
    assert_eq!((report["source"].as_str(), report.get("source_bytes")), (plain.to_str(), None));
}

#[test]
fn an_interrupt_ends_the_command_at_once() {
    let mut child = start(command(&[&"-", &"-o", &"/dev/null"]).stdin(Stdio::piped()));
    child.stdin.as_mut().unwrap().write_all(b"bytes").unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}
