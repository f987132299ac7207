//! Channels and logs between processes: real processes, real kills. `FOLIO_KILLS` says how many times the kills of a
//! normal run are made.

#[path = "../common/mod.rs"]
mod common;

mod bell;
mod channel;
mod chats;
mod instructions;
mod killing;
mod log;
mod many_senders;
mod networks;
mod polling;
mod sender_bell;
