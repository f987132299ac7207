//! The allowed uses of a page: the `prot` word of mmap(2).

use bitflags::bitflags;

bitflags! {
    /// The protection of a page: any combination, or [`Prot::NONE`]. Protection is per page and per
    /// process.
    ///
    /// Source: mmap(2), mprotect(2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Prot: i32 {
        /// Pages may be read. On x86 and aarch64 a page that may be written or executed may also be
        /// read.
        const READ = libc::PROT_READ;
        /// Pages may be written. On most machines this grants reading too.
        const WRITE = libc::PROT_WRITE;
        /// Pages may be executed. Refused (EPERM) for a file on a file system mounted `noexec`.
        const EXEC = libc::PROT_EXEC;
        /// Only for mprotect(2): extend the change down to the start of a map made with GROWSDOWN.
        const GROWSDOWN = libc::PROT_GROWSDOWN;
        /// Only for mprotect(2): extend the change up to the end of a map that grows upwards (no
        /// Linux port that folio runs on has one: EINVAL).
        const GROWSUP = libc::PROT_GROWSUP;
        // Bits of later kernels and other machines (BTI, MTE …) pass through untouched.
        const _ = !0;
    }
}

impl Prot {
    /// Pages may not be accessed at all: every access is a SIGSEGV, and an error from a checked
    /// copy.
    pub const NONE: Self = Self::empty();
    /// [`READ`](Self::READ) and [`WRITE`](Self::WRITE).
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);
}

impl std::fmt::Display for Prot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() { f.write_str("NONE") } else { bitflags::parser::to_writer(self, f) }
    }
}
