//! The process's handler of SIGBUS and SIGSEGV, for programs that have handlers of their own.
//!
//! folio installs its handler when the first file map is made, or on the first checked access or
//! guard. It passes every fault that is not its own to the handler that it found, as that handler's
//! flags and mask say. If that handler changes the disposition, folio remembers its choice and puts
//! its own handler back. A program that installs another handler later should also pass on foreign
//! faults.

/// Installs folio's handler now, or puts it back in front of a handler that was installed since.
/// The handler found there is called for every fault that is not folio's.
///
/// Opening a guard does the same. Checked copies only make sure that it was installed once, since
/// they are too short to ask the kernel each time.
pub fn install() {
    crate::sys::signal::ensure();
}
