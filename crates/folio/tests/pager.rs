//! The contract of the pager engine: one test a rule, with real files, real faults and a real thread that serves them.

#[path = "contract/support.rs"]
mod support;

#[path = "pager/bounds.rs"]
mod bounds;
#[path = "pager/callers.rs"]
mod callers;
#[path = "pager/changing.rs"]
mod changing;
#[path = "pager/contract.rs"]
mod contract;
#[path = "pager/differential.rs"]
mod differential;
#[path = "pager/dirty.rs"]
mod dirty;
#[path = "pager/engines.rs"]
mod engines;
#[path = "pager/exclusive.rs"]
mod exclusive;
#[path = "pager/exits.rs"]
mod exits;
#[path = "pager/failing.rs"]
mod failing;
#[path = "pager/faulty.rs"]
mod faulty;
#[path = "pager/foreign.rs"]
mod foreign;
#[path = "pager/fork.rs"]
mod fork;
#[path = "pager/given.rs"]
mod given;
#[path = "pager/limits.rs"]
mod limits;
#[path = "pager/locked.rs"]
mod locked;
#[path = "pager/maps.rs"]
mod maps;
#[path = "pager/reasons.rs"]
mod reasons;
#[path = "pager/scans.rs"]
mod scans;
#[path = "pager/scarce.rs"]
mod scarce;
#[path = "pager/signals.rs"]
mod signals;
#[path = "pager/stress.rs"]
mod stress;
#[path = "pager/ways.rs"]
mod ways;
