//! The system calls that only the pager makes.
//!
//! | file | subject |
//! | --- | --- |
//! | [`uffd`] | userfaultfd: faults that another thread serves |
//! | [`io_uring`] | io_uring: reads and writes that complete later |
//! | [`discard`] | giving back the pages of many ranges at once |
//! | [`pager_areas`] | the wait-free table of the pagers' areas, and the message that ends a process that touches a lost page |
//! | [`sigsegv_faults`] | faults that come as signals, which another thread serves as well |
//! | [`fault_cell`] | the cell in which one thread waits for such an answer |
//! | [`page_prot`] | the protection of each page of an area whose faults come as signals |
//! | [`fault_access`] | the kind of access that faulted |

pub(crate) mod discard;
mod fault_access;
mod fault_cell;
pub(crate) mod io_uring;
pub(crate) mod page_prot;
pub(crate) mod pager_areas;
pub(crate) mod sigsegv_faults;
pub(crate) mod uffd;

// The loom model of `fault_cell` puts others in their place.
use crate::sys::{atomics, futex};
