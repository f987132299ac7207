//! The tree is kept tidy by a test: layers, names, words and line lengths.
//!
//! Each rule yields its violations by file. `allowed.txt` lists how many each file may still have.
//! A file with more fails the test; so does a file with fewer, since the list may only shrink.

mod circles;
mod imports;
mod layers;
mod names;
mod prose;
mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use tree::Tree;

/// One violation of a rule.
struct Violation {
    path: String,
    /// The line, from 1; 0 where the whole file is meant.
    line: usize,
    text: String,
}

/// How many violations of `rule` each file may have.
fn allowed(rule: &str) -> BTreeMap<String, usize> {
    include_str!("allowed.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (of, path, count) = (words.next()?, words.next()?, words.next()?);
            (of == rule).then(|| (path.to_owned(), count.parse().expect("allowed.txt: a count")))
        })
        .collect()
}

/// Fails if a file has more or fewer violations of `rule` than `allowed.txt` says.
fn check(rule: &str, violations: Vec<Violation>) {
    let mut found: BTreeMap<String, Vec<Violation>> = BTreeMap::new();
    for violation in violations {
        found.entry(violation.path.clone()).or_default().push(violation);
    }
    let mut allowed = allowed(rule);
    let mut report = String::new();
    for (path, violations) in &found {
        let may = allowed.remove(path).unwrap_or(0);
        if violations.len() != may {
            let _ = writeln!(report, "{rule} {path} {} (allowed: {may})", violations.len());
            for violation in violations {
                let _ = writeln!(report, "    {path}:{}: {}", violation.line, violation.text);
            }
        }
    }
    for (path, may) in allowed {
        let _ =
            writeln!(report, "{rule} {path} 0 (allowed: {may}): remove the line from allowed.txt");
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn prose_wraps_at_100_columns() {
    check("wrap", prose::long_lines(&Tree::read()));
}

#[test]
fn prose_has_no_banned_words() {
    check("word", prose::banned_words(&Tree::read()));
}

#[test]
fn prose_has_no_clause_headed_by_what_or_who() {
    check("clause", prose::headless_clauses(&Tree::read()));
}

#[test]
fn no_two_types_share_a_name() {
    check("type", names::shared_type_names(&Tree::read()));
}

#[test]
fn no_file_has_a_banned_name() {
    check("file", names::banned_file_names(&Tree::read()));
}

#[test]
fn each_folder_has_its_root_in_mod_rs() {
    check("root", names::roots_beside_their_folder(&Tree::read()));
}

#[test]
fn test_names_have_at_most_75_characters() {
    check("test-name", names::long_test_names(&Tree::read()));
}

#[test]
fn dead_code_is_not_allowed() {
    check("dead-code", names::allowed_dead_code(&Tree::read()));
}

#[test]
fn imports_point_down() {
    check("layer", layers::upward_imports(&Tree::read()));
}

#[test]
fn each_file_of_the_library_stands_in_a_layer() {
    check("layered", layers::files_without_layer(&Tree::read()));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    check("circle", circles::circles(&Tree::read()));
}

#[test]
fn the_list_of_modules_in_the_documents_equals_the_tree() {
    check("modules", names::module_list(&Tree::read()));
}

#[test]
fn each_environment_variable_is_described() {
    check("variable", names::variables(&Tree::read()));
}
