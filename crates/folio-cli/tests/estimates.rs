//! `folio cat` of files that have fewer bytes than their file system reports: FUSE file systems
//! often estimate.

#[path = "../../folio/tests/common/fuse_server.rs"]
mod fuse_server;
#[path = "../../folio/tests/common/skip.rs"]
mod skip;

use fuse_server::{FuseServer, Served};
use skip::skip;
use std::process::{Command, Stdio};

fn prints_only_its_bytes(direct_io: bool) {
    let served =
        Served { bytes: b"12345".to_vec(), direct_io, said_size: Some(4096), ..Served::default() };
    let server = match FuseServer::start(served) {
        Ok(server) => server,
        Err(why) => return skip(&why),
    };
    for engine in ["kernel", "pager"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_folio"));
        command.args(["cat", "-v", "--engine", engine]).arg(server.path()).stdin(Stdio::null());
        let output = command.output().expect("folio starts");
        let words = String::from_utf8_lossy(&output.stderr);
        if engine == "pager" && words.contains("userfaultfd") {
            continue;
        }
        assert!(output.status.success(), "{engine}: {words}");
        assert_eq!(output.stdout, b"12345", "{engine}: {words}");
    }
}

#[test]
fn a_direct_file_that_reports_too_many_bytes_is_printed_without_nuls() {
    prints_only_its_bytes(true);
}

#[test]
fn a_cached_file_that_reports_too_many_bytes_is_printed_without_nuls() {
    prints_only_its_bytes(false);
}
