//! Rules for the names of files, types, tests and variables.

use crate::Violation;
use crate::tree::{LIBRARY, Tree};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// Two types of the library with one name. Associated types are left out: a trait names them.
pub(crate) fn shared_type_names(tree: &Tree) -> Vec<Violation> {
    let defined =
        Regex::new(r"^\s*(pub(\([a-z: ]+\))? )?(unsafe )?(struct|enum|union|trait) ([A-Z]\w*)")
            .expect("types");
    let alias = Regex::new(r"^(pub(\([a-z: ]+\))? )?type ([A-Z]\w*)").expect("aliases");
    let mut places: BTreeMap<&str, Vec<(&str, usize)>> = BTreeMap::new();
    for file in tree.library() {
        for (number, line) in file.lines() {
            let name = defined.captures(line).and_then(|found| found.get(5));
            let name = name.or_else(|| alias.captures(line).and_then(|found| found.get(3)));
            if let Some(name) = name {
                places.entry(name.as_str()).or_default().push((&file.path, number));
            }
        }
    }
    let shared = places.into_iter().filter(|(_, places)| places.len() > 1);
    shared
        .flat_map(|(name, places)| {
            let violation = move |(path, line): (&str, usize)| Violation {
                path: path.to_owned(),
                line,
                text: name.to_owned(),
            };
            places.into_iter().map(violation).collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) fn banned_file_names(tree: &Tree) -> Vec<Violation> {
    let banned = ["utils", "util", "common", "manager", "helpers", "misc"];
    let is_banned = |path: &str| path.split(['/', '.']).any(|part| banned.contains(&part));
    whole(
        tree.library().map(|file| file.path.as_str()).filter(|path| is_banned(path)),
        "a banned name",
    )
}

/// A folder's root is its `mod.rs`.
pub(crate) fn roots_beside_their_folder(tree: &Tree) -> Vec<Violation> {
    let beside = |path: &&str| {
        let folder = format!("{}/", path.trim_end_matches(".rs"));
        tree.library().any(|file| file.path.starts_with(&folder))
    };
    whole(
        tree.library().map(|file| file.path.as_str()).filter(beside),
        "belongs into its folder as mod.rs",
    )
}

pub(crate) fn long_test_names(tree: &Tree) -> Vec<Violation> {
    let function = Regex::new(r"^\s*fn (\w+)\(").expect("functions");
    let mut found = Vec::new();
    for file in tree.rust() {
        let mut is_test = false;
        for (line, text) in file.lines() {
            is_test |= text.trim_start().starts_with("#[test]");
            if let Some(name) = function.captures(text).and_then(|found| found.get(1)) {
                if is_test && name.len() > 75 {
                    found.push(Violation {
                        path: file.path.clone(),
                        line,
                        text: name.as_str().to_owned(),
                    });
                }
                is_test = false;
            }
        }
    }
    found
}

pub(crate) fn allowed_dead_code(tree: &Tree) -> Vec<Violation> {
    let allows =
        |text: &str| text.trim_start().starts_with('#') && text.contains("allow(dead_code");
    let lines =
        tree.library().flat_map(|file| file.lines().map(move |(line, text)| (file, line, text)));
    lines
        .filter(|&(_, _, text)| allows(text))
        .map(|(file, line, text)| Violation {
            path: file.path.clone(),
            line,
            text: text.trim().to_owned(),
        })
        .collect()
}

/// The list of modules in `docs/architecture.md`: one line for each file of the library, as
/// `pager/core/pins.rs — subject`. `pager/core/` stands for the folder's `mod.rs`.
pub(crate) fn module_list(tree: &Tree) -> Vec<Violation> {
    const PAGE: &str = "docs/architecture.md";
    let entry = Regex::new(r"^([a-z0-9_/]+(\.rs)?) — \S").expect("entries");
    let text = tree.get(PAGE).map_or("", |page| page.text.as_str());
    let listed: BTreeSet<String> = text
        .lines()
        .filter_map(|line| Some(entry.captures(line)?.get(1)?.as_str()))
        .map(|path| if path.ends_with('/') { format!("{path}mod.rs") } else { path.to_owned() })
        .collect();
    let present: BTreeSet<String> =
        tree.library().map(|file| file.path[LIBRARY.len()..].to_owned()).collect();
    let missing = present.difference(&listed).map(|path| format!("{path} is not listed"));
    let gone = listed.difference(&present).map(|path| format!("{path} does not exist"));
    missing.chain(gone).map(|text| Violation { path: PAGE.to_owned(), line: 0, text }).collect()
}

/// Every variable of the environment that folio or its tests read stands in `docs/testing.md`.
pub(crate) fn variables(tree: &Tree) -> Vec<Violation> {
    let variable = Regex::new(r#""(FOLIO_[A-Z_]+)""#).expect("variables");
    let page = tree.get("docs/testing.md").map_or("", |page| page.text.as_str());
    let mut found = Vec::new();
    for file in tree.rust() {
        for (line, text) in file.lines() {
            for name in variable.captures_iter(text).filter_map(|found| found.get(1)) {
                if !page.contains(&format!("`{}`", name.as_str())) {
                    found.push(Violation {
                        path: file.path.clone(),
                        line,
                        text: name.as_str().to_owned(),
                    });
                }
            }
        }
    }
    found
}

fn whole<'a>(paths: impl Iterator<Item = &'a str>, text: &str) -> Vec<Violation> {
    paths.map(|path| Violation { path: path.to_owned(), line: 0, text: text.to_owned() }).collect()
}
