//! Values that processes share: the types that may be shared, and references to them.

pub(super) mod read_ref;
pub(super) mod scratch;
pub(super) mod share;
pub(super) mod shared_ref;
