//! The system calls of shared memory only.
//!
//! | file | subject |
//! | --- | --- |
//! | [`notify_socket`] | a descriptor that another process makes readable |
//! | [`fifo`] | a FIFO that does the same where sockets do not reach |
//! | [`unnamed_file`] | files that get their name when they are complete |

pub(crate) mod fifo;
pub(crate) mod notify_socket;
pub(crate) mod unnamed_file;
