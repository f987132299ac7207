//! The programs that do not compile prove the table of handles: there is no safe way to a slice of
//! memory that others can change.
//!
//! Each file of `compile_fail/` starts with `//! E0308`, the code of the one kind of error it must
//! give: at every line that ends with `//~`, and nowhere else. Without those lines it must compile,
//! so that nothing but them is at fault. A file that starts with `//! compiles` uses the same words
//! where they are allowed: it shows that a word which is refused elsewhere still exists.

use folio::{
    Anon, Device, FileMap, FileMapMut, FileMapPrivate, Region, Sealed, SharedMem, View, ViewMut,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};
use std::borrow::{Borrow, BorrowMut};
use std::fmt::Write;
use std::ops::{Deref, DerefMut, Index, IndexMut};
use std::path::{Path, PathBuf};
use std::process::Command;

// Nobody else can change these: slices, for every parser that takes one.
assert_impl_all!(Anon: Deref<Target = [u8]>, DerefMut, AsRef<[u8]>, AsMut<[u8]>, Into<bytes::Bytes>);
assert_impl_all!(Sealed: Deref<Target = [u8]>, AsRef<[u8]>, Into<bytes::Bytes>);
assert_impl_all!(folio::Stable: Deref<Target = [u8]>, AsRef<[u8]>, Into<bytes::Bytes>);
// Not even the maker of sealed memory can.
assert_not_impl_any!(Sealed: DerefMut, AsMut<[u8]>, BorrowMut<[u8]>, IndexMut<usize>);
assert_not_impl_any!(folio::Stable: DerefMut, AsMut<[u8]>);

/// Others can change these: no way from them to a slice.
macro_rules! no_slices {
    ($($handle:ty)*) => {$(
        assert_not_impl_any!($handle: Deref<Target = [u8]>, DerefMut, AsRef<[u8]>, AsMut<[u8]>, Borrow<[u8]>,
            BorrowMut<[u8]>, Index<usize>, Index<std::ops::RangeFull>, IndexMut<usize>, Into<bytes::Bytes>, Into<Anon>,
            Into<Sealed>, Into<Vec<u8>>, Into<Box<[u8]>>, Into<std::sync::Arc<[u8]>>);
    )*};
}

no_slices! { FileMap FileMapMut FileMapPrivate SharedMem Device Region View<'static> ViewMut<'static> }

// A map may go to another thread; two handles of one map would unmap it twice.
assert_impl_all!(Anon: Send, Sync);
assert_impl_all!(FileMapMut: Send, Sync);
assert_not_impl_any!(Anon: Clone);
assert_not_impl_any!(FileMap: Clone);
assert_not_impl_any!(Sealed: Clone);
assert_not_impl_any!(Region: Clone);
assert_not_impl_any!(SharedMem: Clone);

/// One error of the compiler.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    /// Its code, or its words if it has none.
    code: String,
    line: usize,
}

/// The compiler, and the folio that these tests were built with.
pub(crate) struct Compiler {
    library: PathBuf,
    dependencies: PathBuf,
    out: tempfile::TempDir,
}

impl Compiler {
    /// Finds folio among the files that cargo built. Builds with other features, or of other days,
    /// may lie there too: the newest that the control compiles with is it.
    pub(crate) fn new(control: &Path) -> Self {
        let dependencies = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let entries = std::fs::read_dir(&dependencies).unwrap().map(|entry| entry.unwrap().path());
        let of_folio = |path: &PathBuf| {
            name(path).starts_with("libfolio-") && path.extension() == Some("rlib".as_ref())
        };
        let mut candidates: Vec<_> = entries.filter(of_folio).collect();
        candidates.sort_by_key(|path| path.metadata().and_then(|meta| meta.modified()).unwrap());
        let mut said = String::new();
        while let Some(library) = candidates.pop() {
            let compiler = Self {
                library,
                dependencies: dependencies.clone(),
                out: tempfile::tempdir().unwrap(),
            };
            match compiler.compile(control) {
                Ok(()) => return compiler,
                Err(errors) => {
                    write!(said, "with {}:\n{errors}\n", compiler.library.display()).unwrap();
                }
            }
        }
        panic!(
            "no libfolio-*.rlib in {} compiles {}:\n{said}",
            dependencies.display(),
            control.display()
        );
    }

    /// The compiler's complaints about a file, if any.
    fn compile(&self, source: &Path) -> Result<(), String> {
        self.compile_with(source, &["--emit", "metadata"])
    }

    /// The same, with further arguments: at least the kind of output.
    pub(crate) fn compile_with(&self, source: &Path, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
            .args(["--edition", "2024", "--crate-type", "lib", "--color", "never"])
            .args(arguments)
            .args(["--crate-name", "snippet", "--cap-lints", "allow", "--extern"])
            .arg(format!("folio={}", self.library.display()))
            .args([
                "-L".into(),
                format!("dependency={}", self.dependencies.display()),
                "--out-dir".into(),
            ])
            .arg(self.out.path())
            .arg(source)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }
}

/// The errors in the compiler's output.
fn complaints(said: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        let Some(words) = line.strip_prefix("error") else { continue };
        if words.starts_with(": aborting due to") {
            continue;
        }
        let code = words
            .strip_prefix('[')
            .and_then(|words| words.split_once(']'))
            .map_or(words, |(code, _)| code);
        // ` --> FILE:LINE:COLUMN` follows the words, which may take several lines.
        let place = lines.find_map(|line| line.trim_start().strip_prefix("--> "));
        let line = place.and_then(|place| place.rsplit(':').nth(1)?.parse().ok()).unwrap_or(0);
        complaints.push(Complaint { code: code.to_owned(), line });
    }
    complaints.sort_by_key(|complaint| complaint.line);
    // One line may break a rule twice.
    complaints.dedup();
    complaints
}

/// Snippets, and the code each must give: `compiles` for none.
fn snippets() -> Vec<(PathBuf, String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/compile_fail");
    let mut snippets: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let source = std::fs::read_to_string(&path).unwrap();
            let header =
                source.lines().next().and_then(|line| line.strip_prefix("//! ")).map(str::to_owned);
            let header = header.unwrap_or_else(|| panic!("{} names no error", path.display()));
            (path, header, source)
        })
        .collect();
    snippets.sort();
    snippets
}

pub(crate) fn control() -> PathBuf {
    let control = snippets().into_iter().find(|(_, header, _)| header == "compiles");
    control.expect("a snippet that compiles").0
}

#[test]
fn uses_that_the_table_of_handles_forbids_do_not_compile() {
    let compiler = Compiler::new(&control());
    let mut wrong = String::new();
    let mut refused = 0;
    for (path, header, source) in snippets() {
        let said = compiler.compile(&path).err().unwrap_or_default();
        let marked = source.lines().enumerate().filter(|(_, line)| line.ends_with("//~"));
        let wanted: Vec<_> =
            marked.map(|(index, _)| Complaint { code: header.clone(), line: index + 1 }).collect();
        assert_eq!(
            wanted.is_empty(),
            header == "compiles",
            "{}: mark the lines, or none",
            path.display()
        );
        refused += wanted.len();
        if complaints(&said) != wanted {
            write!(
                wrong,
                "{}: wanted {wanted:?}, but the compiler says:\n{said}\n",
                path.display()
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(refused > 60, "the snippets were not found: {refused} lines");
}

#[test]
fn the_snippets_compile_without_the_lines_that_are_refused() {
    let compiler = Compiler::new(&control());
    let dir = tempfile::tempdir().unwrap();
    let mut all = String::new();
    for (path, _, source) in snippets() {
        let kept: Vec<_> = source.lines().skip(1).filter(|line| !line.ends_with("//~")).collect();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        write!(all, "mod {name} {{\n{}\n}}\n", kept.join("\n")).unwrap();
    }
    let path = dir.path().join("all.rs");
    std::fs::write(&path, &all).unwrap();
    compiler.compile(&path).unwrap_or_else(|said| panic!("{said}"));
}

#[test]
fn the_harness_sees_whether_a_snippet_compiles() {
    let compiler = Compiler::new(&control());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two.rs");
    let good = "pub fn f() -> u8 { 1 }\n";
    std::fs::write(&path, good).unwrap();
    assert_eq!(compiler.compile(&path), Ok(()));
    std::fs::write(
        &path,
        format!("{good}pub fn g() -> u8 {{ \"1\" }}\npub fn h() -> u8 {{ x }}\n"),
    )
    .unwrap();
    let said = compiler.compile(&path).unwrap_err();
    let complaint = |code: &str, line| Complaint { code: code.into(), line };
    assert_eq!(complaints(&said), [complaint("E0308", 2), complaint("E0425", 3)]);
}
