//! Tests that the machine gives no chance to run. They are reported, and counted by `.ci/run`.

use std::io::Write;

/// Reports that a test does not run here, and why. Use: `return skip("needs root")`.
///
/// The line goes to stderr and to the end of the file that `FOLIO_SKIPS` names. With
/// `FOLIO_REQUIRE_ALL=1` the test fails instead.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    let name = format!("{}::{}", binary(), std::thread::current().name().unwrap_or("a test"));
    assert!(
        std::env::var_os("FOLIO_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "FOLIO_REQUIRE_ALL=1, and this test cannot run here: {reason}"
    );
    // Straight to the descriptor: the harness shows the captured output of failed tests only.
    let _ = writeln!(std::io::stderr(), "skipped {name}: {reason}");
    if let Some(path) = std::env::var_os("FOLIO_SKIPS") {
        let mut list = std::fs::File::options().create(true).append(true).open(path).unwrap();
        // One write a line: test binaries that run at the same time append to the same file.
        list.write_all(format!("{name}: {reason}\n").as_bytes()).unwrap();
    }
}

/// The name of this test binary, without the hash that cargo appends.
fn binary() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    stem.rsplit_once('-').map_or(stem.clone(), |(name, _)| name.to_owned())
}
