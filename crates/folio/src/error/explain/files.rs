//! Calls on files, descriptors and sockets: each errno by the call that answered it.

use super::{Need, Text, fixed, no_memory};
use crate::error::Subject;
use rustix::io::Errno;

pub(super) fn explain(call: &'static str, errno: Errno, subject: &Subject) -> (Text, Text) {
    match (call, errno) {
        // No file was named: the call was about a descriptor that is open.
        ("userfaultfd", Errno::PERM) => fixed(
            "this process may not watch for faults: without CAP_SYS_PTRACE that needs vm.unprivileged_userfaultfd \
             or access to /dev/userfaultfd, and a container's system call filter must allow it",
            "give the process one of these, or choose another delivery (`folio doctor` lists them)",
        ),
        ("sendmsg" | "recvmsg", Errno::PIPE | Errno::CONNRESET) => {
            fixed("the other end of the socket is closed", "connect it anew")
        }
        ("sendmsg" | "recvmsg", Errno::AGAIN) => fixed(
            "the socket does not wait (O_NONBLOCK, or a timeout), and is not ready",
            "wait until it is ready (poll), and call again",
        ),
        ("sendmsg", Errno::TOOMANYREFS) => fixed(
            "too many descriptors are on their way through Unix sockets (RLIMIT_NOFILE limits them)",
            "let the receivers take theirs, or raise the limit (ulimit -n)",
        ),
        ("fcntl", Errno::PERM) => fixed(
            "the descriptor is not open for writing, or the file is sealed against further seals (F_SEAL_SEAL)",
            "add seals where the memfd is made",
        ),
        ("fcntl", Errno::BUSY) => fixed(
            "the memory is still mapped writable, by this process or another, so it cannot be sealed against writing",
            "unmap it everywhere first",
        ),
        ("fcntl", Errno::NOLCK) => fixed(
            "the kernel or the file server has no lock to give",
            "end other lock holders, and try again",
        ),
        ("chmod", Errno::PERM) => fixed(
            "only a file's owner sets its mode, and it can give the file to groups that it is a member of only",
            "ask for a mode and a group that this user can give",
        ),
        ("unlink" | "link", Errno::ACCESS | Errno::PERM) => fixed(
            "this user may not write to the directory, or the directory is sticky and the file is another user's",
            "check the rights of the directory",
        ),
        ("memfd_create", Errno::NOMEM) => fixed(
            "the kernel has no memory for the file itself, or the machine has no huge pages of that size",
            "free memory, or leave the huge pages out",
        ),
        ("memfd_create", Errno::INVAL) => fixed(
            "the name has more than 249 bytes, or this machine has no huge pages of that size",
            "use a shorter name; /sys/kernel/mm/hugepages lists the sizes there are",
        ),
        ("ftruncate", Errno::INVAL) => fixed(
            "the object has no length that can be set, or the file system has no files that long",
            "name a regular file, and a length that its file system can hold",
        ),
        ("ftruncate", Errno::PERM | Errno::ACCESS) => fixed(
            "the file is append-only or sealed against that change (F_SEAL_GROW, F_SEAL_SHRINK), or its descriptor \
             is not open for writing",
            "open the file for writing; F_GET_SEALS shows the seals",
        ),
        ("fallocate", Errno::PERM) => fixed(
            "the file is sealed against growing or against writing",
            "F_GET_SEALS shows the seals; leave the reservation out",
        ),
        ("fallocate", Errno::BADF) => fixed(
            "the descriptor is not open for writing",
            "open the file with read(true).write(true)",
        ),
        ("fsync", Errno::IO) => fixed(
            "the device failed to store a page: stored bytes may be lost",
            "write them again, or treat the file as damaged",
        ),
        ("fsync", Errno::NOSPC | Errno::DQUOT) => fixed(
            "the file system has no room for stored bytes, which may be lost",
            "free space, and write the bytes again",
        ),
        ("read" | "pread", Errno::ISDIR) => fixed("it is a directory", "name a file in it"),
        ("read" | "pread", Errno::AGAIN) => fixed(
            "the descriptor does not wait (O_NONBLOCK), and has no bytes yet",
            "wait until it has some (poll), and call again",
        ),
        ("read" | "pread", Errno::BADF) => {
            fixed("the descriptor is not open for reading", "open it with read(true)")
        }
        ("read" | "pread", Errno::IO) => fixed(
            "the device, or the file's own server, failed to read",
            "check the device; files of /proc give this for ranges that do not exist",
        ),
        // These open a file, and read or write it as a whole.
        ("save" | "load", Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG) => {
            general(call, errno, subject)
        }
        ("open" | "save" | "load", errno) => {
            open(errno).unwrap_or_else(|| general(call, errno, subject))
        }
        _ => general(call, errno, subject),
    }
}

/// open(2): the one call that goes by a path.
fn open(errno: Errno) -> Option<(Text, Text)> {
    Some(match errno {
        Errno::NOENT => fixed("there is no such file", "check the path"),
        Errno::ACCESS | Errno::PERM => fixed(
            "permission to the file or the directory is missing",
            "check the rights of both, and the attributes of the file",
        ),
        Errno::ISDIR => fixed("it is a directory", "name a file in it"),
        Errno::NOTDIR => fixed("a part of the path is no directory", "check the path"),
        Errno::LOOP => fixed("the path leads through too many symbolic links", "check the links"),
        Errno::NAMETOOLONG => fixed(
            "the path, or a name in it, is longer than the file system allows",
            "use a shorter one",
        ),
        Errno::NXIO => fixed(
            "it is a socket, or a device without a driver, or a FIFO that nobody reads",
            "name a file; a socket is connected to, not opened",
        ),
        Errno::ROFS => {
            fixed("the file system is mounted read-only", "open the file for reading only")
        }
        Errno::TXTBSY => fixed(
            "the file is a program that runs, or is in use as swap space, and must not be written to",
            "open it for reading only",
        ),
        Errno::NOSPC | Errno::DQUOT => {
            fixed("the file system has no room for another file", "free space there")
        }
        _ => return None,
    })
}

/// The meaning of an errno that is the same for all calls on files.
fn general(call: &'static str, errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::NOENT => fixed("the file, or the object behind it, does not exist any more", "open it anew"),
        Errno::ACCESS | Errno::PERM => fixed(
            "this process lacks the right to do this with the object",
            "check the object's rights, and those that the descriptor was opened with",
        ),
        Errno::BADF => fixed(
            "the descriptor is not open, or not in a way that allows the call",
            "open it for reading and writing",
        ),
        Errno::MFILE => {
            fixed("the process has as many open files as RLIMIT_NOFILE allows", "close some, or raise it")
        }
        Errno::NFILE => {
            fixed("the machine has as many open files as fs.file-max allows", "close some, or raise it")
        }
        Errno::NOSPC | Errno::DQUOT => (
            match subject.length {
                Some(length) => format!("the file system has no room for the {length} bytes").into(),
                None => "the file system has no room".into(),
            },
            match call {
                "fallocate" => {
                    "free space, or map less; without `reserve` the same would have been a SIGBUS later"
                        .into()
                }
                _ => "free space there".into(),
            },
        ),
        Errno::OPNOTSUPP => {
            fixed("the file system cannot do this", "leave the option out, or use another file system")
        }
        Errno::FBIG => fixed(
            "the file would pass the largest size allowed (RLIMIT_FSIZE, or its file system's)",
            "make it smaller",
        ),
        Errno::NOSYS => {
            fixed("this kernel does not have the call", "leave the option out, or use a newer kernel")
        }
        // These calls ask for no address space: the kernel's own memory is short.
        Errno::NOMEM if subject.length.is_none() => {
            fixed("the kernel has no memory for the call", "free memory, and try again")
        }
        Errno::NOMEM => no_memory(&Need::default()),
        Errno::BUSY => fixed("it is in use in a way that forbids this", "end the other use first"),
        Errno::IO => fixed("the device, or the server of the file system, failed", "check the device"),
        Errno::ROFS => fixed("the file system is mounted read-only", "use another file system"),
        _ => fixed("the kernel gave no more than the error's number", "see the call's manual page"),
    }
}
