//! The kind of access that faulted, as the kernel reports it to the signal handler.
//!
//! Source: Intel SDM 3A, 4.7 (the page fault's error code, in `gregs[REG_ERR]`); Arm ARM, ESR_EL1
//! (in a record of the context, arch/arm64/include/uapi/asm/sigcontext.h).

/// The kind of access that an instruction made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessKind {
    Load,
    Store,
    /// The instruction itself lies on the page: the program ran the page as code.
    Fetch,
    /// The machine does not report the kind.
    #[cfg(any(not(target_arch = "x86_64"), test))]
    Unknown,
}

impl AccessKind {
    /// # Safety
    ///
    /// `context` is the `ucontext_t` that the kernel passed to the handler of a SIGSEGV.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn of(context: *const libc::c_void) -> Self {
        const WRITE: i64 = 1 << 1;
        const FETCH: i64 = 1 << 4;
        // SAFETY: the caller promises that `context` is the kernel's `ucontext_t`.
        let code = unsafe {
            (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_ERR as usize]
        };
        match code {
            code if code & FETCH != 0 => Self::Fetch,
            code if code & WRITE != 0 => Self::Store,
            _ => Self::Load,
        }
    }

    /// # Safety
    ///
    /// `context` is the `ucontext_t` that the kernel passed to the handler of a SIGSEGV.
    #[cfg(target_arch = "aarch64")]
    pub(super) unsafe fn of(context: *const libc::c_void) -> Self {
        const ESR_MAGIC: u32 = 0x4553_5201;
        const RECORDS: usize = 4096;
        const HEADER: usize = 8;
        const RECORD: usize = HEADER + size_of::<u64>();
        // SAFETY: the caller promises that `context` is the kernel's `ucontext_t`. Its records
        // follow `pstate`, at the next multiple of 16, in 4096 bytes; each starts with a magic
        // number and its length.
        unsafe {
            let context = context.cast::<libc::ucontext_t>();
            let after = (&raw const (*context).uc_mcontext.pstate).add(1).cast::<u8>();
            let records = after.map_addr(|address| address.next_multiple_of(16));
            let mut at = 0;
            while at + RECORD <= RECORDS {
                let header = records.add(at).cast::<[u32; 2]>().read_unaligned();
                match header {
                    [ESR_MAGIC, _] => {
                        return Self::of_syndrome(
                            records.add(at + HEADER).cast::<u64>().read_unaligned(),
                        );
                    }
                    [0, _] => break,
                    [_, len] if (len as usize) < HEADER => break,
                    [_, len] => at += len as usize,
                }
            }
        }
        Self::Unknown
    }

    #[cfg(any(target_arch = "aarch64", test))]
    fn of_syndrome(syndrome: u64) -> Self {
        /// The classes of aborts from user space.
        const INSTRUCTION_ABORT: u64 = 0x20;
        const DATA_ABORT: u64 = 0x24;
        const WRITE_NOT_READ: u64 = 1 << 6;
        match syndrome >> 26 & 0x3f {
            INSTRUCTION_ABORT => Self::Fetch,
            DATA_ABORT if syndrome & WRITE_NOT_READ != 0 => Self::Store,
            DATA_ABORT => Self::Load,
            _ => Self::Unknown,
        }
    }

    /// # Safety
    ///
    /// There are no conditions; the function is unsafe because it is so on the other machines.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) unsafe fn of(_: *const libc::c_void) -> Self {
        Self::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::AccessKind;

    #[test]
    fn an_arm_syndrome_distinguishes_loads_stores_and_fetches() {
        assert_eq!(AccessKind::of_syndrome(0x9200_0007), AccessKind::Load);
        assert_eq!(AccessKind::of_syndrome(0x9200_004f), AccessKind::Store);
        assert_eq!(AccessKind::of_syndrome(0x8200_000f), AccessKind::Fetch);
        assert_eq!(AccessKind::of_syndrome(0), AccessKind::Unknown);
    }
}
