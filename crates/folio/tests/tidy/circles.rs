//! No files import each other in a circle. A folder's `mod.rs` and its files are one room: between
//! them imports may run both ways.

use crate::Violation;
use crate::imports::imports;
use crate::tree::{LIBRARY, Tree};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn circles(tree: &Tree) -> Vec<Violation> {
    let mut imports = imports(tree);
    for (path, imported) in &mut imports {
        imported.retain(|other| !is_root_of(other, path) && !is_root_of(path, other));
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|&path| (path, reachable(path, &imports))).collect();
    let mut found = Vec::new();
    for (path, reached) in &reach {
        let circle: Vec<&str> = reached
            .iter()
            .copied()
            .filter(|other| *other != *path && reach[other].contains(path))
            .collect();
        if !circle.is_empty() {
            let path = format!("{LIBRARY}{path}");
            found.push(Violation {
                path,
                line: 0,
                text: format!("a circle with {}", circle.join(", ")),
            });
        }
    }
    found
}

/// Whether `root` is the `mod.rs` of a folder that `path` lies in.
pub(crate) fn is_root_of(root: &str, path: &str) -> bool {
    root.strip_suffix("mod.rs").is_some_and(|folder| path.starts_with(folder)) || root == "lib.rs"
}

fn reachable<'a>(from: &str, imports: &BTreeMap<&str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = imports[from].iter().copied().collect();
    while let Some(path) = next.pop() {
        if found.insert(path) {
            next.extend(imports[path].iter().copied());
        }
    }
    found
}
