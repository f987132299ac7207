//! Channels and logs between processes: real processes, real kills.

#[path = "../common/mod.rs"]
mod common;

mod bell;
mod channel;
mod chats;
mod instructions;
mod log;
mod many_senders;
mod networks;
mod payload;
mod polling;
mod sender_bell;
