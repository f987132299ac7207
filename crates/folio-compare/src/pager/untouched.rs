//! `map-1t`: the cost of a map of 1 TiB before any of it is touched: the resident bytes and page
//! tables that a new process has more after it has built a pager and mapped a file of that length,
//! which has no blocks. The peer is a limit.

use super::reads::Mapped;
use super::worker::{Job, Work, Worker};
use super::{Files, folio_side};
use crate::measure::{Cost, Side};
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Context, Result};
use std::path::PathBuf;

pub(super) const LEN: usize = 1 << 40;

/// MiB.
const LIMIT: f64 = 64.0;

struct Untouched {
    file: PathBuf,
    budget: usize,
}

pub(super) fn start(job: &Job) -> Box<dyn Sampler> {
    Box::new(Untouched { file: job.file.clone(), budget: job.budget })
}

impl Sampler for Untouched {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        let before = resident(&std::fs::read_to_string("/proc/self/status")?)?;
        let pager = folio_side::Pager::new(self.budget)?;
        let map = pager.sequential(&self.file)?;
        anyhow::ensure!(map.bytes().len() == LEN, "the map has another length");
        let after = resident(&std::fs::read_to_string("/proc/self/status")?)?;
        Ok(Cost::from(after.saturating_sub(before) as f64 / 1024.0))
    }
}

/// The KiB that a process has in memory and in page tables.
fn resident(status: &str) -> Result<u64> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .with_context(|| format!("/proc/self/status has no {name}"))
    };
    Ok(field("VmRSS")? + field("VmPTE")?)
}

pub(super) fn group<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = Group::new("MiB");
    let (file, path) = files.sparse(LEN as u64)?;
    // A process each time: memory that one has allocated once is not allocated again.
    group.sides.push(Side::new(FOLIO, move || {
        let _open = &file;
        Worker::new(Work::Untouched, path.clone(), LEN, None)?.sample()
    }));
    group.sides.push(Side::new("limit", || Ok(LIMIT)));
    group.pairs = vec![Pair::new("map-1t", "limit").goal(1.0)];
    Ok(group)
}

#[cfg(test)]
mod tests {
    #[test]
    fn page_tables_count() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t 1 kB\nVmPTE:\t      44 kB\n";
        assert_eq!(super::resident(status).unwrap(), 2092);
        assert!(super::resident("Name:\tx\n").is_err());
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(super::resident(&own).unwrap() > 0);
    }
}
