//! The process's handler of SIGBUS and SIGSEGV, for programs that have handlers of their own.
//!
//! folio installs its handler when the first file map is made, or on the first checked access or
//! guard, and passes every fault that is not its own to the handler it found, as that handler's
//! flags and mask say. If that handler changes the disposition, folio remembers its choice and puts
//! its own handler back. A program that installs another one later should pass on what it does not
//! know, too.

/// Installs folio's handler now, or puts it back in front of one that was installed since. What it
/// finds is called for every fault that is not folio's.
///
/// Opening a guard does the same. Checked copies only make sure that it was installed once, since
/// they are too short to ask the kernel each time.
pub fn install() {
    crate::sys::signal::ensure();
}
