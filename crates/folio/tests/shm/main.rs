//! Shared memory between processes: real processes, real kills.

#[path = "../common/mod.rs"]
mod common;

mod examples;
mod executor;
mod future_kills;
mod futures;
mod hostile;
mod kills;
mod leftovers;
mod locks;
mod names;
mod reasons;
mod segments;
mod torn_pair;
