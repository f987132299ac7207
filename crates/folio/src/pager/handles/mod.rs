//! The handles of the pager's maps: slices, or views where several handles write.
//!
//! | file | subject |
//! | --- | --- |
//! | [`paged`] | [`Paged`]: read-only |
//! | [`paged_mut`] | [`PagedMut`]: one writer |
//! | [`paged_shared`] | [`PagedShared`]: several writers |
//! | [`pinned`] | ranges of those that stay in memory |

mod paged;
mod paged_mut;
mod paged_shared;
mod pinned;

pub use paged::Paged;
pub use paged_mut::PagedMut;
pub use paged_shared::PagedShared;
pub use pinned::{Pinned, PinnedMut, PinnedShared};
