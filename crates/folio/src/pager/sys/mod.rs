//! The system calls of the pager only.
//!
//! | file | subject |
//! | --- | --- |
//! | [`uffd`] | userfaultfd: faults that another thread serves |
//! | [`io_uring`] | io_uring: reads and writes that end later |
//! | [`discard`] | giving the pages of many ranges back at once |
//! | [`pager_areas`] | the wait-free table of a pager's areas, and how a process ends that touches a lost page |
//! | [`sigsegv_faults`] | faults that come as signals, and are answered by another thread as well |
//! | [`fault_cell`] | where one thread waits for such an answer |
//! | [`page_prot`] | what a thread may do with each page of an area whose faults come as signals |
//! | [`fault_access`] | what an instruction that faulted tried to do |

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
