//! Imports point down a list of layers.

use crate::Violation;
use crate::circles::is_root_of;
use crate::imports::imports;
use crate::tree::{LIBRARY, Tree};

/// The layers of the library, the highest first. A folder or a file may import the entries below
/// its own, the files of its own entry, and the `mod.rs` of the folders that it lies in. The
/// longest entry that begins a path counts.
const LAYERS: &[&str] = &[
    "lib.rs",
    "shm/mod.rs",
    "shm/channel/",
    "shm/log/",
    "shm/ring/",
    "shm/sync/",
    "shm/segment/mod.rs",
    "shm/segment/options.rs",
    "shm/segment/open.rs",
    "shm/segment/registry.rs",
    "shm/value/",
    "shm/wait/",
    "shm/segment/",
    "shm/sync/lock_word.rs",
    "shm/value/share.rs",
    "shm/sys/",
    "pager/mod.rs",
    "pager/handles/",
    "pager/object/",
    "pager/at_exit.rs",
    "pager/driver/",
    "pager/",
    "pager/features/",
    "pager/store/",
    "pager/core/",
    "pager/sys/",
    "source/",
    "map/",
    "residency.rs",
    "access/",
    "raw.rs",
    "region/",
    "faults.rs",
    "error/",
    "sys/",
    "flags.rs",
    "advice.rs",
    "prot.rs",
    "page.rs",
];

fn layer(path: &str) -> Option<usize> {
    let fits = |&(_, entry): &(usize, &&str)| {
        path == *entry || (entry.ends_with('/') && path.starts_with(*entry))
    };
    LAYERS.iter().enumerate().filter(fits).max_by_key(|(_, entry)| entry.len()).map(|(at, _)| at)
}

pub(crate) fn upward_imports(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, imported) in imports(tree) {
        for other in imported {
            if let (Some(own), Some(other_layer)) = (layer(path), layer(other))
                && other_layer < own
                && !is_root_of(other, path)
            {
                found.push(Violation {
                    path: format!("{LIBRARY}{path}"),
                    line: 0,
                    text: format!("{} is above {}: {other}", LAYERS[other_layer], LAYERS[own]),
                });
            }
        }
    }
    found
}

pub(crate) fn files_without_layer(tree: &Tree) -> Vec<Violation> {
    let paths = tree.library().map(|file| file.path.as_str());
    let without = paths.filter(|path| layer(&path[LIBRARY.len()..]).is_none());
    without
        .map(|path| Violation { path: path.to_owned(), line: 0, text: "no layer".to_owned() })
        .collect()
}
