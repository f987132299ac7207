//! `scan-amplification`: how many bytes a scan reads of its source, over the bytes that are there.
//! The source counts them, so no time is measured. The reader is slower than the source, and the
//! data is 32 times the budget. The peer is a limit.

use super::reads::Mapped;
use super::{Files, folio_side, loops};
use crate::measure::{Cost, Side};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::Result;
use std::thread;

const LEN: usize = 256 << 20;
const BUDGET: usize = 8 << 20;
/// Each scans a part of its own.
const THREADS: usize = 4;

/// Once, and the readahead of streams behind their ends.
const LIMIT: f64 = 1.0;

fn sample() -> Result<Cost> {
    let pager = folio_side::Pager::new(BUDGET)?;
    let (map, read) = pager.counted(LEN)?;
    thread::scope(|scope| {
        let scans: Vec<_> = map
            .bytes()
            .chunks(LEN / THREADS)
            .zip((0..).step_by(LEN / THREADS / loops::READ))
            .map(|(part, first)| scope.spawn(move || loops::scan(part, first)))
            .collect();
        scans.into_iter().try_for_each(|scan| scan.join().expect("a scan does not panic").map(drop))
    })?;
    #[allow(clippy::cast_precision_loss, reason = "counts of bytes")]
    Ok(Cost::from(read() as f64 / LEN as f64))
}

#[expect(clippy::unnecessary_wraps, reason = "as the other groups, which make files")]
pub(super) fn group<'a>(_: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = Group::new("times");
    group.sides.push(Side::new(FOLIO, sample));
    group.sides.push(Side::new("limit", || Ok(LIMIT)));
    group.pairs = vec![Pair::new("scan-amplification", "limit").goal(1.02)];
    Ok(group)
}
