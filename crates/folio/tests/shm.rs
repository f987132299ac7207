//! Shared memory between processes: real processes, real kills.

#[path = "contract/support.rs"]
mod support;

#[path = "shm/competing.rs"]
mod competing;
#[path = "shm/examples.rs"]
mod examples;
#[path = "shm/executor.rs"]
mod executor;
#[path = "shm/future_kills.rs"]
mod future_kills;
#[path = "shm/futures.rs"]
mod futures;
#[path = "shm/hostile.rs"]
mod hostile;
#[path = "shm/kills.rs"]
mod kills;
#[path = "shm/leftovers.rs"]
mod leftovers;
#[path = "shm/locks.rs"]
mod locks;
#[path = "shm/names.rs"]
mod names;
#[path = "shm/reasons.rs"]
mod reasons;
#[path = "shm/segments.rs"]
mod segments;
#[path = "shm/steps.rs"]
mod steps;
#[path = "shm/world.rs"]
mod world;
