//! Which files of the library each file imports.

use crate::tree::{File, LIBRARY, Tree};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// The imports of each file, by paths below [`LIBRARY`]. A file's own tests do not count.
pub(crate) fn imports(tree: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let modules: BTreeMap<Vec<&str>, &str> = tree
        .library()
        .map(|file| (module_of(&file.path[LIBRARY.len()..]), &file.path[LIBRARY.len()..]))
        .collect();
    tree.library().map(|file| (&file.path[LIBRARY.len()..], imports_of(file, &modules))).collect()
}

/// `pager/core/mod.rs` is `[pager, core]`.
fn module_of(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib"))) {
        parts.pop();
    }
    parts
}

fn imports_of<'a>(file: &File, modules: &BTreeMap<Vec<&str>, &'a str>) -> BTreeSet<&'a str> {
    if file.path.ends_with("/tests.rs") {
        return BTreeSet::new();
    }
    let own = module_of(&file.path[LIBRARY.len()..]);
    let code: String = file
        .lines_without_tests()
        .map(|(_, line)| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for path in paths(&code) {
        let Some(path) = absolute(&path, &own) else { continue };
        // The longest beginning of the path that is a module; the rest names an item in it.
        let module = (0..=path.len()).rev().find_map(|len| modules.get(&path[..len]));
        if let Some(&module) = module
            && module != &file.path[LIBRARY.len()..]
        {
            found.insert(module);
        }
    }
    found
}

/// All paths that begin with `crate` or `super`, with the groups of `use` spelled out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let start = Regex::new(r"\b(crate|super)\s*::").expect("paths");
    let mut found = Vec::new();
    for at in start.find_iter(code).map(|found| found.start()) {
        spell_out(&code[at..], &[], &mut found);
    }
    found
}

/// Appends the paths at the start of `code`, below `before`. Returns the bytes that they take.
fn spell_out(code: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let mut at = 0;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        let rest = &code[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if word > 0 {
            path.push(rest[..word].to_owned());
            at += word;
            if code[at..].trim_start().starts_with("::") {
                at += code[at..].find("::").expect("just seen") + 2;
                continue;
            }
        } else if rest.starts_with('{') {
            at += 1;
            while !code[at..].trim_start().starts_with('}') && !code[at..].trim().is_empty() {
                at += spell_out(&code[at..], &path, found).max(1);
                let rest = code[at..].trim_start();
                // Behind a name: ` as other`, a comma, or the end of the group.
                let next = rest.find([',', '}']).unwrap_or(0);
                at += code[at..].len() - rest.len() + next;
                at += usize::from(code[at..].starts_with(','));
            }
            return at + 1 + code[at..].len() - code[at..].trim_start().len();
        }
        found.push(path);
        return at;
    }
}

/// The path from the crate's root.
fn absolute<'a>(path: &'a [String], own: &[&'a str]) -> Option<Vec<&'a str>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    let base: Vec<&str> = if ups > 0 {
        own[..own.len().checked_sub(ups)?].to_vec()
    } else if path[0] == "crate" {
        Vec::new()
    } else {
        return None;
    };
    let rest = path[ups.max(1)..].iter().map(String::as_str).filter(|part| *part != "self");
    Some(base.into_iter().chain(rest).collect())
}
