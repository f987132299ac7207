//! Text that others choose (names of files and of memory, words of a source) steers no terminal on
//! which a message is shown.

use crate::common::{End, disk_dir, in_child, page, pattern, sealable_memfd};
use folio::source::Function;
use folio::{Error, FileMap, Pager, SharedMem};
use std::io::Read;
use std::os::fd::AsRawFd;

const NAME: &str = "a\u{1b}[2J\u{7}b";
const SHOWN: &str = r"a\u{1b}[2J\u{7}b";

#[track_caller]
fn assert_plain(text: &str) {
    assert!(text.contains(SHOWN) && !text.contains(char::is_control), "{text:?}");
}

fn failing() -> Function {
    Function::new(NAME, page() as u64, |_, _: &mut [u8]| {
        Err(std::io::Error::other(format!("no {NAME}")))
    })
}

fn pager() -> Pager {
    Pager::builder().budget(4 << 20).build().unwrap()
}

#[test]
fn the_name_of_received_memory_is_escaped_in_errors() {
    let error: Error = SharedMem::from_fd(sealable_memfd(NAME, 0)).unwrap_err();
    assert_plain(&error.to_string());
}

#[test]
fn the_name_of_a_file_is_escaped_in_errors() {
    let dir = disk_dir();
    let path = dir.path().join(NAME);
    assert_plain(&FileMap::open(&path).unwrap_err().to_string());
    std::fs::write(&path, pattern(2)).unwrap();
    let map = FileMap::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    let error = map.read::<u8>(page()).unwrap_err();
    assert_plain(&error.to_string());
    assert!(error.fault().unwrap().object().ends_with(NAME), "the object itself is as it is");
}

#[test]
fn the_words_of_a_source_are_escaped_in_errors() {
    let error = pager().map(failing()).unwrap().read_at(&mut [0], 0).unwrap_err();
    let text = error.to_string();
    assert_plain(&text);
    assert!(text.contains(&format!("no {SHOWN}")), "{text:?}");
}

#[test]
fn the_words_of_a_source_are_escaped_in_the_message_of_a_lost_page() {
    let (mut messages, writer) = std::io::pipe().unwrap();
    let end = in_child(|| {
        assert_eq!(
            // SAFETY: replaces the child's descriptor of messages.
            unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) },
            libc::STDERR_FILENO
        );
        std::hint::black_box(pager().map(failing()).unwrap()[0]);
    });
    drop(writer);
    let mut text = String::new();
    messages.read_to_string(&mut text).unwrap();
    assert_eq!(end, End::Killed(libc::SIGBUS), "{text}");
    assert_plain(text.trim_end());
    assert!(text.contains(&format!("no {SHOWN}")), "{text:?}");
}
