//! The files of the repository, and the lines of each that are code or prose.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository.
pub(crate) struct File {
    /// From the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All `.rs`, `.md` and `.toml` files of the repository.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

/// The source files of the library.
pub(crate) const LIBRARY: &str = "crates/folio/src/";

impl Tree {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root.join(&folder)).expect("a folder of the repository") {
                let entry = entry.expect("an entry of a folder of the repository");
                let name = entry.file_name().into_string().expect("a name in UTF-8");
                let path = folder.join(&name);
                let kind = entry.file_type().expect("the type of an entry");
                if kind.is_dir() && name != "target" && !name.starts_with('.') {
                    folders.push(path);
                } else if kind.is_file() && has_extension(&path, &["rs", "md", "toml"]) {
                    let text = fs::read_to_string(root.join(&path)).expect("a text file");
                    files.push(File { path: path.to_str().expect("UTF-8").to_owned(), text });
                }
            }
        }
        assert!(files.len() > 100, "the tree has only {} files", files.len());
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Self { files }
    }

    /// The Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| has_extension(Path::new(&file.path), &["rs"]))
    }

    /// The Rust files of the library.
    pub(crate) fn library(&self) -> impl Iterator<Item = &File> {
        self.rust().filter(|file| file.path.starts_with(LIBRARY))
    }

    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl File {
    /// The numbered lines, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// The numbered lines of prose: comments of a Rust file, the text of a Markdown file. Code
    /// blocks, tables, lines with an address, and the expected error at the head of a program that
    /// does not compile are no prose.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let rust = has_extension(Path::new(&self.path), &["rs"]);
        if !rust && !has_extension(Path::new(&self.path), &["md"]) {
            return Vec::new();
        }
        let mut in_code = false;
        let mut lines = Vec::new();
        for (number, line) in self.lines() {
            let text = if rust { comment(line) } else { Some(line.trim_start()) };
            let Some(text) = text else {
                in_code = false;
                continue;
            };
            if number == 1 && self.path.contains("/compile_fail/") {
                continue;
            }
            if text.starts_with("```") {
                in_code = !in_code;
            } else if !in_code && !text.starts_with('|') && !text.contains("://") {
                lines.push((number, line));
            }
        }
        lines
    }

    /// The lines before the file's own tests, which end a file of the library.
    pub(crate) fn lines_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
    }
}

/// The text of a line that is a comment only.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = ["//!", "///", "//"].iter().find_map(|start| line.strip_prefix(start))?;
    Some(text.trim_start())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|own| extensions.iter().any(|extension| own == *extension))
}
