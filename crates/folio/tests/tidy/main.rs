//! The tree is kept tidy by a test: layers, names, words and line lengths.
//!
//! Each rule yields its violations, and has none.

mod circles;
mod imports;
mod layers;
mod names;
mod prose;
mod tree;

use tree::Tree;

/// One violation of a rule.
struct Violation {
    path: String,
    /// The line, from 1; 0 where the whole file is meant.
    line: usize,
    text: String,
}

/// Fails if `violations` of a rule exist.
fn check(violations: Vec<Violation>) {
    let lines: Vec<String> = violations
        .into_iter()
        .map(|Violation { path, line, text }| format!("{path}:{line}: {text}"))
        .collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn prose_wraps_at_100_columns() {
    check(prose::long_lines(&Tree::read()));
}

#[test]
fn prose_has_no_banned_words() {
    check(prose::banned_words(&Tree::read()));
}

#[test]
fn prose_has_no_clause_headed_by_what_or_who() {
    check(prose::headless_clauses(&Tree::read()));
}

#[test]
fn no_two_types_share_a_name() {
    check(names::shared_type_names(&Tree::read()));
}

#[test]
fn no_file_has_a_banned_name() {
    check(names::banned_file_names(&Tree::read()));
}

#[test]
fn each_folder_has_its_root_in_mod_rs() {
    check(names::roots_beside_their_folder(&Tree::read()));
}

#[test]
fn test_names_have_at_most_75_characters() {
    check(names::long_test_names(&Tree::read()));
}

#[test]
fn dead_code_is_not_allowed() {
    check(names::allowed_dead_code(&Tree::read()));
}

#[test]
fn imports_point_down() {
    check(layers::upward_imports(&Tree::read()));
}

#[test]
fn each_file_of_the_library_stands_in_a_layer() {
    check(layers::files_without_layer(&Tree::read()));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    check(circles::circles(&Tree::read()));
}

#[test]
fn the_list_of_modules_in_the_documents_equals_the_tree() {
    check(names::module_list(&Tree::read()));
}

#[test]
fn each_environment_variable_is_described() {
    check(names::variables(&Tree::read()));
}
