//! Files of a FUSE server of the tests' own, whose answers can be slow, stuck, or untrue.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/fuse_server.rs"]
mod fuse_server;

mod estimates;
mod slow;
