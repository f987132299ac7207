//! The loops over a map's bytes: compiled once, the same for all sides. Each checks the pages'
//! stamps.

use crate::data::{page, stamp};
use anyhow::{Result, ensure};
use std::hint::black_box;

/// The bytes that one read copies.
pub(super) const READ: usize = 4096;

fn check(bytes: &[u8], number: usize) -> Result<()> {
    let found = bytes.first_chunk().map(|first| u64::from_ne_bytes(*first));
    ensure!(found == Some(stamp(number)), "page {number} shows other bytes");
    Ok(())
}

/// Loads the first word of each page.
#[inline(never)]
pub(super) fn touch(bytes: &[u8], pages: &[u32]) -> Result<()> {
    let size = page();
    pages.iter().try_for_each(|&number| check(&bytes[number as usize * size..], number as usize))
}

/// Copies each page. `ahead` is told how far the loop has come.
#[inline(never)]
pub(super) fn read(
    bytes: &[u8],
    pages: &[u32],
    mut ahead: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut buffer = [0_u8; READ];
    for (place, &number) in pages.iter().enumerate() {
        ahead(place)?;
        let start = number as usize * READ;
        buffer.copy_from_slice(&bytes[start..start + READ]);
        check(black_box(&buffer), number as usize)?;
    }
    Ok(())
}

/// Loads every word of pages that start with number `first`.
#[inline(never)]
pub(super) fn scan(bytes: &[u8], first: usize) -> Result<u64> {
    let mut sum = 0_u64;
    for (number, page) in bytes.chunks_exact(page()).enumerate() {
        check(page, first + number)?;
        sum = page
            .as_chunks::<8>()
            .0
            .iter()
            .fold(sum, |sum, &word| sum.wrapping_add(u64::from_ne_bytes(word)));
    }
    Ok(sum)
}

/// Loads single bytes at places that look random. The length is a power of two.
#[inline(never)]
pub(super) fn load(bytes: &[u8], seed: u64, count: usize) -> u64 {
    let mut numbers = crate::data::Numbers(seed);
    let mask = bytes.len() - 1;
    (0..count).fold(0, |sum, _| sum + u64::from(bytes[numbers.next() as usize & mask]))
}
