//! Scans: how many bytes of a source are read, of those that are there.

use crate::common::within;
use crate::given::{MIB, includes, pager};
use folio::Advice;
use folio::source::Function;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

const LEN: usize = 128 * MIB;
/// Threads that read the same bytes wait for each other after so many.
const STEP: usize = 512 << 10;

/// A source that counts the bytes that are read of it.
fn counting(count: &Arc<AtomicU64>) -> Function {
    let count = Arc::clone(count);
    Function::new("counted", LEN as u64, move |offset, buffer: &mut [u8]| {
        count.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        for (page, bytes) in (offset / 4096..).zip(buffer.chunks_mut(4096)) {
            bytes.fill(page as u8);
        }
        Ok(())
    })
}

/// Reads a byte of each page; a slow reader also works on the page.
fn read(bytes: &[u8], first: usize, backwards: bool, slow: bool) {
    let pages = bytes.len() / 4096;
    for n in 0..pages {
        let page = if backwards { pages - 1 - n } else { n };
        assert_eq!(bytes[page * 4096], (first / 4096 + page) as u8);
        if slow {
            let sum: u32 =
                bytes[page * 4096..][..4096].iter().step_by(4).map(|&byte| u32::from(byte)).sum();
            std::hint::black_box(sum);
        }
    }
}

fn assert_read_once(story: &str, budget: usize, advice: Option<Advice>, scan: impl FnOnce(&[u8])) {
    let count = Arc::default();
    let pager = pager(budget);
    let map = pager.map(counting(&count)).unwrap();
    if let Some(advice) = advice {
        map.advise(.., advice).unwrap();
    }
    let state = || format!("{story}: {:?}", pager.stats());
    within(Duration::from_secs(300), state, || scan(&map));
    let (read, there) = (count.load(Ordering::Relaxed), LEN as u64);
    assert!(read * 100 <= there * 102, "{read} bytes read of {there}: {story}");
}

#[test]
fn a_scan_by_one_thread_reads_its_data_once() {
    for case in (0..16).filter(|&case| includes(case)) {
        let is_set = |bit: usize| case >> bit & 1 == 1;
        let budget = if is_set(3) { 32 } else { 8 };
        let (backwards, slow) = (is_set(2), is_set(0));
        let advice = is_set(1).then_some(Advice::Sequential);
        let story = format!("{budget} MiB, backwards {backwards}, {advice:?}, slow {slow}");
        assert_read_once(&story, budget * MIB, advice, |bytes| read(bytes, 0, backwards, slow));
    }
}

#[test]
fn threads_that_scan_a_part_each_read_the_data_once() {
    for (case, (budget, threads)) in [(8, 2), (8, 8), (32, 4), (64, 8)].into_iter().enumerate() {
        for backwards in [false, true] {
            if !includes(2 * case + usize::from(backwards)) {
                continue;
            }
            let story = format!("{budget} MiB, {threads} threads, backwards {backwards}");
            assert_read_once(&story, budget * MIB, None, |bytes| {
                let part = bytes.len() / threads;
                std::thread::scope(|scope| {
                    for (n, bytes) in bytes.chunks(part).enumerate() {
                        scope.spawn(move || read(bytes, n * part, backwards, n % 2 == 0));
                    }
                });
            });
        }
    }
}

#[test]
fn threads_that_scan_the_same_data_together_read_it_once() {
    for (_, threads) in [8, 2].into_iter().enumerate().filter(|(case, _)| includes(*case)) {
        assert_read_once(&format!("{threads} threads"), 8 * MIB, None, |bytes| {
            let together = Barrier::new(threads);
            std::thread::scope(|scope| {
                for n in 0..threads {
                    let together = &together;
                    scope.spawn(move || {
                        for (step, bytes) in bytes.chunks(STEP).enumerate() {
                            read(bytes, step * STEP, false, n % 2 == 0);
                            together.wait();
                        }
                    });
                }
            });
        });
    }
}
