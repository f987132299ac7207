//! The handlers that the program has for SIGBUS and SIGSEGV: folio calls them as the kernel would,
//! and stays in front of them.

use crate::common::{End, child_succeeds, disk_dir, file_with, in_child, page, pattern, skip};
use folio::FileMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SIGNALS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// A map of four pages of a file that has one page by now.
fn truncated(dir: &std::path::Path) -> FileMap {
    let path = file_with(dir, &pattern(4));
    let map = FileMap::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(page() as u64).unwrap();
    map
}

/// Sends this thread a signal.
fn raise(signal: i32) {
    // SAFETY: sends a signal to this thread.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// Loads from an address at which nothing is.
fn wild_load() {
    let address: *const u8 = std::ptr::without_provenance(8);
    // SAFETY: none; the test tries an undefined access, in a child that it kills.
    std::hint::black_box(unsafe { address.read_volatile() });
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler, and returns the disposition that it replaces.
fn install(signal: i32, handler: Handler, flags: i32) -> libc::sigaction {
    // SAFETY: both structs are valid, and the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        let mut before: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, &raw const action, &raw mut before), 0);
        before
    }
}

/// How often a handler of these tests was called. Each test's child has its own.
static CALLS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn counts(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn exits_with_42(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: ends the process at once, which a handler may.
    unsafe { libc::_exit(42) }
}

// A handler that changes the disposition

#[test]
fn after_a_stray_signal_a_read_past_a_truncation_is_still_an_error() {
    for signal in SIGNALS {
        // Rust's own handler takes itself away and returns.
        child_succeeds(|| {
            let dir = disk_dir();
            let map = truncated(dir.path());
            raise(signal);
            map.read::<u8>(2 * page()).unwrap_err();
            map.guard(|view| view.get(2 * page())).unwrap_err();
        });
    }
}

#[test]
fn a_guard_that_is_open_when_a_stray_signal_comes_still_ends_in_an_error() {
    for signal in SIGNALS {
        child_succeeds(|| {
            let dir = disk_dir();
            let map = truncated(dir.path());
            map.guard(|view| {
                raise(signal);
                view.get(2 * page())
            })
            .unwrap_err();
        });
    }
}

#[test]
fn a_stray_signal_of_one_thread_leaves_the_faults_of_others_errors() {
    for signal in SIGNALS {
        child_succeeds(|| {
            let dir = disk_dir();
            let map = truncated(dir.path());
            let (opened, came) = (Barrier::new(3), Barrier::new(3));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    map.guard(|view| {
                        opened.wait();
                        came.wait();
                        view.get(2 * page())
                    })
                    .unwrap_err();
                });
                scope.spawn(|| {
                    opened.wait();
                    came.wait();
                    map.read::<u8>(3 * page()).unwrap_err();
                });
                opened.wait();
                raise(signal);
                came.wait();
            });
        });
    }
}

#[test]
fn a_handler_that_two_threads_are_in_at_once_leaves_faults_errors() {
    extern "C" fn meets_and_takes_itself_away(
        signal: i32,
        _: *mut libc::siginfo_t,
        _: *mut libc::c_void,
    ) {
        CALLS.fetch_add(1, Ordering::SeqCst);
        while CALLS.load(Ordering::SeqCst) < 2 {
            std::hint::spin_loop();
        }
        // SAFETY: async-signal-safe.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for _ in 0..20 {
        child_succeeds(|| {
            install(libc::SIGBUS, meets_and_takes_itself_away, 0);
            let dir = disk_dir();
            let map = truncated(dir.path());
            folio::faults::install();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| raise(libc::SIGBUS));
                }
            });
            map.read::<u8>(2 * page()).unwrap_err();
        });
    }
}

#[test]
fn a_second_stray_signal_kills_as_it_does_without_folio() {
    for signal in SIGNALS {
        for folio_too in [false, true] {
            let end = in_child(|| {
                // SAFETY: the state of a program whose handler took itself away.
                unsafe { libc::signal(signal, libc::SIG_DFL) };
                install(signal, takes_itself_away, 0);
                if folio_too {
                    folio::faults::install();
                }
                raise(signal);
                raise(signal);
            });
            assert_eq!(end, End::Killed(signal), "with folio: {folio_too}");
        }
    }
}

extern "C" fn takes_itself_away(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[test]
fn the_first_process_of_a_namespace_survives_stray_signals_as_ever() {
    child_succeeds(|| {
        // SAFETY: the next child gets a namespace of its own; no memory changes.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            return skip("a PID namespace cannot be made");
        }
        child_succeeds(|| {
            assert_eq!(std::process::id(), 1);
            let dir = disk_dir();
            let map = truncated(dir.path());
            (0..3).for_each(|_| raise(libc::SIGBUS));
            map.read::<u8>(2 * page()).unwrap_err();
        });
    });
}

#[test]
fn a_wild_load_kills_by_its_own_signal_also_after_a_stray_one() {
    for stray in SIGNALS {
        let end = in_child(|| {
            folio::faults::install();
            raise(stray);
            wild_load();
        });
        assert_eq!(end, End::Killed(libc::SIGSEGV));
    }
}

#[test]
fn a_handler_that_puts_another_in_its_place_is_followed_by_that_one() {
    extern "C" fn hands_over(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        install(signal, exits_with_42, 0);
    }
    let end = in_child(|| {
        install(libc::SIGBUS, hands_over, 0);
        let dir = disk_dir();
        let map = truncated(dir.path());
        folio::faults::install();
        raise(libc::SIGBUS);
        map.read::<u8>(2 * page()).unwrap_err();
        raise(libc::SIGBUS);
    });
    assert_eq!(end, End::Exited(42));
}

/// The handler that [`restores`] found when it was installed.
static BEFORE: AtomicUsize = AtomicUsize::new(0);
static BEFORE_FLAGS: AtomicI32 = AtomicI32::new(0);

/// Puts the handler back that was there before it, and returns: the fault happens again, and is
/// that one's.
extern "C" fn restores(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the struct is valid, and holds the handler that was installed before.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        before.sa_sigaction = BEFORE.load(Ordering::SeqCst);
        before.sa_flags = BEFORE_FLAGS.load(Ordering::SeqCst);
        libc::sigaction(signal, &raw const before, std::ptr::null_mut());
    }
}

fn install_restoring(signal: i32) {
    let before = install(signal, restores, 0);
    BEFORE.store(before.sa_sigaction, Ordering::SeqCst);
    BEFORE_FLAGS.store(before.sa_flags, Ordering::SeqCst);
}

#[test]
fn a_crash_reporter_that_restores_the_handler_before_it_hands_the_fault_on() {
    for folio_before in [true, false] {
        let end = in_child(|| {
            // SAFETY: a child that never ends is a failure, soon.
            unsafe { libc::alarm(20) };
            install(libc::SIGSEGV, exits_with_42, 0);
            if folio_before {
                folio::faults::install();
            }
            install_restoring(libc::SIGSEGV);
            // Puts folio in front of it.
            folio::faults::install();
            wild_load();
        });
        assert_eq!(end, End::Exited(42), "folio before it: {folio_before}");
    }
}

// SA_RESETHAND and the other flags

/// Writes a byte to the pipe, whose descriptor it holds, at each call.
static TOLD: AtomicI32 = AtomicI32::new(-1);

extern "C" fn tells(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: write(2) and _exit(2) are async-signal-safe; the byte outlives the call.
    unsafe {
        libc::write(TOLD.load(Ordering::SeqCst), [1_u8].as_ptr().cast(), 1);
        if CALLS.fetch_add(1, Ordering::SeqCst) == 100 {
            libc::_exit(7);
        }
    }
}

#[test]
fn a_handler_for_one_signal_only_is_called_once() {
    for folio_too in [false, true] {
        for more in [0, libc::SA_NODEFER] {
            for cause in [wild_load, || (0..3).for_each(|_| raise(libc::SIGSEGV))] {
                let (mut told, teller) = std::io::pipe().unwrap();
                let end = in_child(|| {
                    TOLD.store(teller.as_raw_fd(), Ordering::SeqCst);
                    install(libc::SIGSEGV, tells, libc::SA_RESETHAND | more);
                    if folio_too {
                        folio::faults::install();
                    }
                    cause();
                });
                drop(teller);
                let mut calls = Vec::new();
                told.read_to_end(&mut calls).unwrap();
                assert_eq!(
                    (end, calls.len()),
                    (End::Killed(libc::SIGSEGV), 1),
                    "with folio: {folio_too}"
                );
            }
        }
    }
}

#[test]
fn a_handler_for_one_signal_only_is_used_up_for_each_signal_by_itself() {
    child_succeeds(|| {
        for signal in SIGNALS {
            install(signal, counts, libc::SA_RESETHAND);
        }
        folio::faults::install();
        for signal in SIGNALS {
            raise(signal);
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_handler_for_one_signal_that_installs_itself_again_is_called_again() {
    extern "C" fn comes_back(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        CALLS.fetch_add(1, Ordering::SeqCst);
        install(signal, comes_back, libc::SA_RESETHAND);
    }
    child_succeeds(|| {
        install(libc::SIGBUS, comes_back, libc::SA_RESETHAND);
        let dir = disk_dir();
        let map = truncated(dir.path());
        folio::faults::install();
        (0..5).for_each(|_| raise(libc::SIGBUS));
        assert_eq!(CALLS.load(Ordering::SeqCst), 5);
        map.read::<u8>(2 * page()).unwrap_err();
    });
}

#[test]
fn a_handler_that_was_used_up_and_is_installed_again_is_called_again() {
    child_succeeds(|| {
        for _ in 0..20 {
            install(libc::SIGBUS, counts, libc::SA_RESETHAND);
            folio::faults::install();
            raise(libc::SIGBUS);
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 20);
    });
}

#[test]
fn folios_own_faults_do_not_use_a_handler_up() {
    child_succeeds(|| {
        install(libc::SIGBUS, counts, libc::SA_RESETHAND);
        let dir = disk_dir();
        let map = truncated(dir.path());
        folio::faults::install();
        map.read::<u8>(2 * page()).unwrap_err();
        map.guard(|view| view.get(2 * page())).unwrap_err();
        assert_eq!(CALLS.load(Ordering::SeqCst), 0);
        raise(libc::SIGBUS);
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_fault_that_the_program_ignores_kills_it_as_ever() {
    for folio_too in [false, true] {
        let end = in_child(|| {
            // SAFETY: ignores the signal.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_IGN) };
            if folio_too {
                folio::faults::install();
            }
            raise(libc::SIGSEGV);
            wild_load();
        });
        assert_eq!(end, End::Killed(libc::SIGSEGV));
    }
}

/// Exits with 2 on the alternate stack, and with 1 on the thread's own.
extern "C" fn exits_with_its_stack(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: asks for this thread's alternate stack, and ends the process at once.
    unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &raw mut stack);
        let here = (&raw const stack).addr();
        let alternate = (stack.ss_sp.addr()..stack.ss_sp.addr() + stack.ss_size).contains(&here);
        libc::_exit(1 + i32::from(alternate))
    }
}

#[test]
fn a_handler_runs_on_the_stack_that_it_asked_for() {
    for folio_too in [false, true] {
        for (flags, expected) in [(0, 1), (libc::SA_ONSTACK, 2)] {
            let end = in_child(|| {
                install(libc::SIGSEGV, exits_with_its_stack, flags);
                if folio_too {
                    folio::faults::install();
                }
                // A thread that std starts has an alternate stack.
                std::thread::spawn(|| raise(libc::SIGSEGV)).join().unwrap();
            });
            assert_eq!(end, End::Exited(expected), "flags {flags:#x}, with folio: {folio_too}");
        }
    }
}

#[test]
fn a_handler_without_restart_ends_a_blocking_call_of_the_program() {
    for folio_too in [false, true] {
        child_succeeds(|| {
            install(libc::SIGBUS, counts, 0);
            if folio_too {
                folio::faults::install();
            }
            let (reader, _writer) = std::io::pipe().unwrap();
            let ended = AtomicBool::new(false);
            let thread = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // SAFETY: only asks.
                    thread.store(unsafe { libc::pthread_self() } as usize, Ordering::SeqCst);
                    // SAFETY: the buffer has room for the byte.
                    let count =
                        unsafe { libc::read(reader.as_raw_fd(), [0_u8].as_mut_ptr().cast(), 1) };
                    let error = std::io::Error::last_os_error();
                    ended.store(true, Ordering::SeqCst);
                    assert_eq!((count, error.raw_os_error()), (-1, Some(libc::EINTR)));
                });
                let deadline = Instant::now() + Duration::from_secs(20);
                while !ended.load(Ordering::SeqCst) {
                    if Instant::now() > deadline {
                        // The thread would never end.
                        std::process::abort();
                    }
                    let thread = thread.load(Ordering::SeqCst);
                    if thread != 0 {
                        // SAFETY: the thread is joined at the end of the scope only.
                        unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGBUS) };
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        });
    }
}

#[test]
fn a_handler_gets_the_signals_own_information() {
    extern "C" fn exits_with_the_value(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid siginfo, with a value for a queued signal; then ends
        // the process at once.
        unsafe {
            let queued = (*info).si_code == libc::SI_QUEUE && (*info).si_pid() == libc::getpid();
            libc::_exit(if queued { (*info).si_value().sival_ptr.addr() as i32 } else { 1 })
        }
    }
    for folio_too in [false, true] {
        let end = in_child(|| {
            install(libc::SIGBUS, exits_with_the_value, 0);
            if folio_too {
                folio::faults::install();
            }
            let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(77) };
            // SAFETY: sends a signal to this process.
            unsafe { libc::sigqueue(libc::getpid(), libc::SIGBUS, value) };
        });
        assert_eq!(end, End::Exited(77), "with folio: {folio_too}");
    }
}
