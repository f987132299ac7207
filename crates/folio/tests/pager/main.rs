//! The contract of the pager engine: one test a rule, with real files, real faults and a real
//! thread that serves them.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod callers;
mod changing;
mod contract;
mod differential;
mod dirty;
mod engines;
mod exclusive;
mod exits;
mod failing;
mod faulty;
mod foreign;
mod fork;
mod given;
mod limits;
mod locked;
mod maps;
mod reasons;
mod scans;
mod scarce;
mod signals;
mod stress;
mod ways;
