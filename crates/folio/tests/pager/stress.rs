//! Real threads under a budget of a sixteenth of the data, and direct I/O into maps: nothing is
//! lost.

use crate::common::effort::scaled;
use crate::common::random::Random;
use crate::common::{disk_dir, skip};
use crate::given::{MIB, pattern, skip_in_first_way};
use folio::source::{LocalFile, Memory};
use folio::{Advice, Delivery, PagedMut, Pager, PagerReport, WriteBack};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BUDGET: usize = 4 * MIB;
const DATA: usize = 16 * BUDGET;
const PAGE: usize = 4_096;

/// Runs until its holder drops it, also in a panic.
struct Running<'a>(&'a AtomicBool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn pager() -> Pager {
    // Write-back in the background too, all the time.
    Pager::builder().budget(BUDGET).write_back_after(Duration::from_millis(5)).build().unwrap()
}

#[test]
fn readers_see_the_sources_bytes_while_pages_are_evicted_under_them() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let bytes = pattern(DATA);
    fs::write(&path, &bytes).unwrap();
    let pager = pager();
    let map = pager.map(LocalFile::open(&path).unwrap()).unwrap();
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (map, bytes, running) = (&map, &bytes, &running);
        let _ended = Running(running);
        scope.spawn(move || {
            let mut random = Random(1_000);
            while running.load(Ordering::SeqCst) {
                map.advise(random.range(DATA, 8 * MIB), Advice::Cold).unwrap();
                map.prefetch(&[random.range(DATA, MIB)]).unwrap();
            }
        });
        let readers: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn(move || {
                    let mut random = Random(seed);
                    for step in 0..scaled(600) {
                        let range = random.range(DATA, 200_000);
                        if step % 3 == 0 {
                            let mut copy = vec![0; range.len()];
                            map.read_at(&mut copy, range.start).unwrap();
                            assert!(copy == bytes[range.clone()], "read_at {range:?}");
                        } else {
                            assert!(map[range.clone()] == bytes[range.clone()], "{range:?}");
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let stats = pager.stats().unwrap();
    assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
}

#[test]
fn writers_of_ranges_of_their_own_lose_nothing_to_write_back_and_eviction() {
    const WRITERS: usize = 4;
    const EACH: usize = DATA / WRITERS;
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, vec![0; DATA]).unwrap();
    let pager = pager();
    let map = pager.map_shared(LocalFile::open_writable(&path).unwrap()).unwrap();
    let running = AtomicBool::new(true);
    let written: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let (map, running) = (&map, &running);
        let _ended = Running(running);
        scope.spawn(move || {
            let mut random = Random(2_000);
            while running.load(Ordering::SeqCst) {
                map.advise(random.range(DATA, 8 * MIB), Advice::Cold).unwrap();
            }
        });
        scope.spawn(move || {
            let mut random = Random(3_000);
            while running.load(Ordering::SeqCst) {
                map.sync(random.range(DATA, 4 * MIB), WriteBack::Wait).unwrap();
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let map = map.clone();
                scope.spawn(move || {
                    let mut random = Random(writer as u64);
                    let view = map.view().unwrap();
                    // Every eighth byte counter of the range, as it should be.
                    let mut want = vec![0_u64; EACH / 512];
                    for step in 1..scaled(8_000) {
                        let n = random.below(want.len());
                        let at = writer * EACH + n * 512;
                        assert_eq!(
                            view.read::<u64>(at).unwrap(),
                            want[n],
                            "writer {writer}, byte {at}"
                        );
                        want[n] = (writer as u64) << 32 | step;
                        view.write(at, &want[n]).unwrap();
                    }
                    want
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    map.sync(.., WriteBack::Wait).unwrap();
    let bytes = fs::read(&path).unwrap();
    for (n, want) in written.iter().flatten().enumerate() {
        assert_eq!(bytes[n * 512..n * 512 + 8], want.to_ne_bytes(), "byte {} of the file", n * 512);
    }
    let stats = pager.stats().unwrap();
    assert!(stats.pages_evicted > 0 && stats.pages_written > 0, "{stats:?}");
}

#[test]
fn private_writers_lose_nothing_to_the_spill_file() {
    let pager = pager();
    let mut map = pager.map_private(Memory::from(vec![0; DATA])).unwrap();
    std::thread::scope(|scope| {
        for (writer, part) in map.chunks_mut(DATA / 4).enumerate() {
            scope.spawn(move || {
                let mut random = Random(writer as u64);
                let mut want = vec![0_u64; part.len() / PAGE];
                for step in 1..scaled(6_000) {
                    let n = random.below(want.len());
                    let word: &mut [u8; 8] =
                        (&mut part[n * PAGE..n * PAGE + 8]).try_into().unwrap();
                    assert_eq!(u64::from_ne_bytes(*word), want[n], "writer {writer}, page {n}");
                    want[n] = step;
                    *word = step.to_ne_bytes();
                }
                for (n, want) in want.iter().enumerate() {
                    assert_eq!(
                        part[n * PAGE..n * PAGE + 8],
                        want.to_ne_bytes(),
                        "page {n} at the end"
                    );
                }
            });
        }
    });
    assert!(pager.stats().unwrap().pages_spilled > 0);
}

/// A file that is read past the page cache, straight into whose buffer it is.
fn direct(path: &std::path::Path) -> Option<File> {
    File::options().read(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

/// Whether system calls may touch a map's missing pages, and whether its pages are moved out before
/// they are written.
fn moves() -> Result<bool, &'static str> {
    let report = PagerReport::now().unwrap();
    let used = |name| {
        report.capabilities.iter().any(|capability| capability.name == name && capability.used)
    };
    match report.written_delivery {
        Delivery::Syscall | Delivery::Device => Ok(used("move")),
        _ => Err("system calls on missing pages are EFAULT with this delivery"),
    }
}

/// read(2) into a part of a map.
fn read_into(file: &File, from: usize, part: &mut [u8]) {
    // SAFETY: the kernel writes into the slice, which is borrowed mutably.
    let got = unsafe {
        libc::pread(file.as_raw_fd(), part.as_mut_ptr().cast(), part.len(), from as libc::off_t)
    };
    assert_eq!(got, part.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Threads that read random pages of a file straight into their parts of the map, and check that
/// they are there later.
fn read_directly_into(map: &mut PagedMut, file: &File, bytes: &[u8], want: &mut [u8]) {
    const PARTS: usize = 2;
    let len = map.len() / PARTS;
    std::thread::scope(|scope| {
        for (seed, (part, want)) in map.chunks_mut(len).zip(want.chunks_mut(len)).enumerate() {
            scope.spawn(move || {
                let mut random = Random(seed as u64);
                for _ in 0..scaled(1_500) {
                    let pages = 1 + random.below(8);
                    let at = random.below(part.len() / PAGE - pages) * PAGE;
                    let from = random.below(bytes.len() / PAGE - pages) * PAGE;
                    let range = at..at + pages * PAGE;
                    read_into(file, from, &mut part[range.clone()]);
                    want[range.clone()].copy_from_slice(&bytes[from..from + pages * PAGE]);
                    let check = random.below(part.len() / PAGE) * PAGE;
                    let check = check..check + PAGE;
                    assert!(part[check.clone()] == want[check.clone()], "{check:?} of part {seed}");
                }
            });
        }
    });
}

#[test]
fn direct_reads_into_a_map_are_not_lost_to_write_back_and_eviction() {
    match moves() {
        Err(why) => return skip_in_first_way(why),
        Ok(false) => {
            return skip_in_first_way("without UFFDIO_MOVE direct I/O is for pinned ranges");
        }
        Ok(true) => {}
    }
    let dir = disk_dir();
    let (from, path) = (dir.path().join("from"), dir.path().join("file"));
    let mut bytes = vec![0; 8 * MIB];
    Random(4).fill(&mut bytes);
    fs::write(&from, &bytes).unwrap();
    File::open(&from).unwrap().sync_all().unwrap();
    let mut want = pattern(DATA);
    fs::write(&path, &want).unwrap();
    let Some(file) = direct(&from) else { return skip("the disk takes no direct I/O") };
    let pager = pager();
    let mut map = pager.map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    read_directly_into(&mut map, &file, &bytes, &mut want);
    let stats = pager.stats().unwrap();
    assert!(stats.pages_evicted > 0 && stats.pages_written > 0, "{stats:?}");
    assert!(map[..] == want[..], "in the map");
    map.close().unwrap();
    assert!(fs::read(&path).unwrap() == want, "in the file");
}

#[test]
fn direct_reads_into_a_private_map_are_not_lost_to_the_spill_file() {
    match moves() {
        Err(why) => return skip_in_first_way(why),
        Ok(false) => {
            return skip_in_first_way("without UFFDIO_MOVE direct I/O is for pinned ranges");
        }
        Ok(true) => {}
    }
    let dir = disk_dir();
    let from = dir.path().join("from");
    let mut bytes = vec![0; 8 * MIB];
    Random(4).fill(&mut bytes);
    fs::write(&from, &bytes).unwrap();
    let Some(file) = direct(&from) else { return skip("the disk takes no direct I/O") };
    let mut want = pattern(DATA);
    let pager = pager();
    let mut map = pager.map_private(Memory::from(want.clone())).unwrap();
    read_directly_into(&mut map, &file, &bytes, &mut want);
    assert!(map[..] == want[..]);
    assert!(pager.stats().unwrap().pages_spilled > 0);
}

/// Direct reads into pinned ranges of a map, and the bytes of the map and the file after them.
/// `syncs`: the ranges are written back meanwhile.
fn direct_reads_into_pins(pager: &Pager, syncs: bool) {
    let dir = disk_dir();
    let (from, path) = (dir.path().join("from"), dir.path().join("file"));
    let mut bytes = vec![0; 8 * MIB];
    Random(4).fill(&mut bytes);
    fs::write(&from, &bytes).unwrap();
    let mut want = pattern(DATA);
    fs::write(&path, &want).unwrap();
    let Some(file) = direct(&from) else { return skip("the disk takes no direct I/O") };
    let mut map = pager.map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    let mut random = Random(6);
    for _ in 0..scaled(300) {
        let pages = 1 + random.below(16);
        let at = random.below(DATA / PAGE - pages) * PAGE;
        let source = random.below(bytes.len() / PAGE - pages) * PAGE;
        let (range, len) = (at..at + pages * PAGE, pages * PAGE);
        let mut pinned = map.pin_mut(range.clone()).unwrap();
        let to = pinned.as_mut_ptr() as usize;
        let running = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let (pinned, running) = (&pinned, &running);
            let _ended = Running(running);
            scope.spawn(move || {
                while syncs && running.load(Ordering::SeqCst) {
                    // Bytes that the device writes after this are written back later.
                    pinned.sync(WriteBack::Wait).unwrap();
                }
            });
            // SAFETY: the pinned bytes of the map; nobody looks at them before the call is over.
            let got =
                unsafe { libc::pread(file.as_raw_fd(), to as *mut _, len, source as libc::off_t) };
            assert_eq!(got, len as isize, "{}", std::io::Error::last_os_error());
        });
        drop(pinned);
        want[range].copy_from_slice(&bytes[source..source + len]);
    }
    assert!(map[..] == want[..], "in the map");
    map.close().unwrap();
    assert!(fs::read(&path).unwrap() == want, "in the file");
}

#[test]
fn direct_reads_into_pinned_ranges_reach_the_file() {
    direct_reads_into_pins(&pager(), false);
}

#[test]
fn direct_reads_into_pinned_ranges_reach_the_file_while_they_are_synced() {
    direct_reads_into_pins(&pager(), true);
}

/// A pager without some features, or with one delivery of faults.
fn limited(features: &str, delivery: &str) -> Option<Pager> {
    let builder = Pager::builder().budget(BUDGET).write_back_after(Duration::from_millis(5));
    builder.features(features).delivery(delivery).build().ok()
}

#[test]
fn direct_reads_into_pinned_ranges_reach_the_file_without_move() {
    let Some(pager) = limited("-move", "") else { return skip("no such delivery") };
    direct_reads_into_pins(&pager, false);
}

#[test]
fn direct_reads_into_pins_reach_the_file_during_a_sync_without_move() {
    let Some(pager) = limited("-move", "") else { return skip("no such delivery") };
    direct_reads_into_pins(&pager, true);
}

#[test]
fn direct_reads_into_pinned_ranges_work_where_faults_are_of_user_code_only() {
    let Some(pager) = limited("", "user-mode-only") else { return skip("no such delivery") };
    direct_reads_into_pins(&pager, false);
}

#[test]
fn direct_reads_into_pinned_ranges_work_where_faults_are_signals() {
    let Some(pager) = limited("", "signal") else { return skip("no such delivery") };
    direct_reads_into_pins(&pager, false);
}

#[test]
fn system_calls_take_pinned_ranges_with_every_delivery() {
    let dir = disk_dir();
    let bytes = pattern(DATA);
    fs::write(dir.path().join("file"), &bytes).unwrap();
    let map = pager().map(LocalFile::open(dir.path().join("file")).unwrap()).unwrap();
    let copy = File::create_new(dir.path().join("copy")).unwrap();
    for at in (0..DATA).step_by(MIB) {
        let pinned = map.pin(at..at + MIB).unwrap();
        copy.write_all_at(&pinned, at as u64).unwrap();
    }
    assert!(fs::read(dir.path().join("copy")).unwrap() == bytes);
}

#[test]
fn maps_come_and_go_while_others_are_used() {
    let pager = pager();
    let bytes = pattern(MIB);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (pager, bytes) = (&pager, &bytes);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..scaled(60) {
                    let map = pager.map(Memory::from(bytes.clone())).unwrap();
                    map.prefetch(&[random.range(MIB, MIB)]).unwrap();
                    let range = random.range(MIB, MIB);
                    assert!(map[range.clone()] == bytes[range]);
                    if random.below(2) == 0 {
                        // Gone while it is read ahead.
                        map.prefetch(std::slice::from_ref(&(0..MIB))).unwrap();
                    }
                }
            });
        }
    });
    // Every map is gone, and so are its pages.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while pager.stats().unwrap().resident_bytes > 0 {
        assert!(std::time::Instant::now() < end, "{:?}", pager.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn system_calls_store_into_pinned_shared_maps_with_every_delivery() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let bytes = pattern(64 * PAGE);
    for delivery in ["syscall", "user-mode-only", "signal"] {
        let Some(pager) = limited("", delivery) else { continue };
        fs::write(&path, vec![0; 64 * PAGE]).unwrap();
        let map = pager.map_shared(LocalFile::open_writable(&path).unwrap()).unwrap();
        let mut source = std::io::Cursor::new(bytes.clone());
        let pinned = map.pin(8 * PAGE..).unwrap();
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || std::io::copy(&mut source, &mut writer).unwrap());
            let view = pinned.view().unwrap();
            let mut done = 0;
            while done < view.len() {
                // SAFETY: inside the pinned bytes, which nobody reads meanwhile.
                let got = unsafe {
                    let to = view.as_ptr().cast_mut().add(done);
                    libc::read(reader.as_raw_fd(), to.cast(), view.len() - done)
                };
                assert!(got > 0, "{delivery}: {}", std::io::Error::last_os_error());
                done += got as usize;
            }
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        });
        pinned.sync(WriteBack::Wait).unwrap();
        drop(pinned);
        assert!(fs::read(&path).unwrap()[8 * PAGE..] == bytes[..56 * PAGE], "{delivery}");
    }
}
