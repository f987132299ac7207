//! The device alone: reads of single pages by io_uring, 64 at a time, with direct I/O into plain
//! buffers.

use super::uffd::Area;
use crate::data::{page, stamp};
use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const DEPTH: usize = 64;

pub(super) struct Device {
    ring: IoUring,
    file: File,
    buffers: Area,
}

impl Device {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let mut builder = IoUring::builder();
        // The cheapest way there is; older kernels lack it.
        let ring = builder.setup_single_issuer().setup_defer_taskrun().build(DEPTH as u32);
        let ring = ring.or_else(|_| IoUring::new(DEPTH as u32)).context("io_uring")?;
        Ok(Self { ring, file, buffers: Area::new(DEPTH * page(), page())? })
    }

    pub(super) fn read(&mut self, pages: &[u32]) -> Result<()> {
        let size = page();
        let fd = types::Fd(self.file.as_raw_fd());
        let mut free: Vec<usize> = (0..DEPTH).collect();
        let mut wanted = [0; DEPTH];
        let mut pages = pages.iter();
        let mut left = pages.len();
        while left > 0 {
            while let Some(slot) = free.pop() {
                let Some(&number) = pages.next() else { break };
                wanted[slot] = number as usize;
                let buffer = self.buffers.start().wrapping_add(slot * size);
                let read = opcode::Read::new(fd, buffer, size as u32)
                    .offset(u64::from(number) * size as u64)
                    .build()
                    .user_data(slot as u64);
                // SAFETY: the buffer lives as long as the ring, and nobody else uses it until the
                // read is done.
                unsafe { self.ring.submission().push(&read) }.context("the queue is full")?;
            }
            self.ring.submit_and_wait(1)?;
            for done in self.ring.completion() {
                let slot = done.user_data() as usize;
                ensure!(done.result() == size as i32, "a read ended with {}", done.result());
                // SAFETY: the read is done, so the buffer is not being written to.
                let found = unsafe { self.buffers.start().add(slot * size).cast::<u64>().read() };
                ensure!(found == stamp(wanted[slot]), "page {} is another one", wanted[slot]);
                free.push(slot);
                left -= 1;
            }
        }
        Ok(())
    }
}
