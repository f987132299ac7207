//! The two cores that the two processes of a side are pinned to.

use anyhow::{Context, Result};
use std::io;

/// Two processors that this process may run on, on different cores where there are such.
pub(super) fn two() -> Result<[usize; 2]> {
    let allowed = allowed()?;
    let first = *allowed.first().context("no processor is allowed")?;
    let others = || allowed.iter().copied().filter(|&other| other != first);
    let second = others().find(|&other| core(other) != core(first)).or_else(|| others().next());
    Ok([first, second.context("two processors are needed, and one is allowed")?])
}

/// The core of a processor, in its package; nothing where the kernel does not tell.
fn core(processor: usize) -> Option<[String; 2]> {
    let told = |what| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{processor}/topology/{what}"))
            .ok()
    };
    Some([told("physical_package_id")?, told("core_id")?])
}

fn allowed() -> Result<Vec<usize>> {
    // SAFETY: a set is an array of words, for which zeros are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes at most so many bytes to `set`.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("sched_getaffinity");
    }
    // SAFETY: every number is below the size of the set.
    let is_in = |&number: &usize| unsafe { libc::CPU_ISSET(number, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_in).collect())
}

/// Pins this thread, and those that it starts.
pub(super) fn pin(processor: usize) -> Result<()> {
    // SAFETY: as in `allowed`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number comes from `allowed`, so it is below the size of the set.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the call reads so many bytes of `set`.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result != 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("cannot pin to processor {processor}"));
    }
    Ok(())
}

/// Has this process go before others. A process that may not goes on as it is.
pub(super) fn hurry() {
    // SAFETY: the calls change nothing but when this process runs, and which terminal it belongs
    // to.
    unsafe {
        // The kernel shares the time out among sessions first.
        libc::setsid();
        libc::setpriority(libc::PRIO_PROCESS, 0, -20);
    }
    drop(std::fs::write("/proc/self/autogroup", "-20"));
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pinned_thread_may_run_on_one_processor_only() {
        std::thread::spawn(|| {
            let Ok([_, second]) = super::two() else { return eprintln!("skipped: one processor") };
            super::pin(second).unwrap();
            assert_eq!(super::allowed().unwrap(), [second]);
            assert!(super::two().is_err());
        })
        .join()
        .unwrap();
    }
}
