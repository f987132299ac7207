//! The parts of channels and logs alike.

// | file | subject |
// | --- | --- |
// | `body` | how they are made and opened, as segments are |
// | `memory` | the control page and the ring behind an attachment |
// | `word` | the word in front of a message |

pub(super) mod create;
pub(super) mod memory;
pub(super) mod message_header;
