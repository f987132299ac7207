//! Channels and logs between processes: real processes, real kills. `FOLIO_KILLS` says how many times the kills of a
//! normal run are made.

#[path = "contract/support.rs"]
mod support;

#[path = "shm/bell.rs"]
mod bell;
#[path = "shm/channel.rs"]
mod channel;
#[path = "shm/chats.rs"]
mod chats;
#[path = "shm/instructions.rs"]
mod instructions;
#[path = "shm/killing.rs"]
mod killing;
#[path = "shm/log.rs"]
mod log;
#[path = "shm/many_senders.rs"]
mod many_senders;
#[path = "shm/networks.rs"]
mod networks;
#[path = "shm/polling.rs"]
mod polling;
#[path = "shm/sender_bell.rs"]
mod sender_bell;
#[path = "shm/steps.rs"]
mod steps;
#[path = "shm/world.rs"]
#[allow(dead_code)]
mod world;
