//! Shared memory between processes: real processes, real kills.

#[path = "contract/support.rs"]
mod support;

#[path = "shm/segments.rs"]
mod segments;
#[path = "shm/world.rs"]
mod world;
