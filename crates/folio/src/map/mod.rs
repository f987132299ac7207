//! The handles: one type for each answer to "who else can change these bytes?", one file each.
//!
//! | file | subject |
//! | --- | --- |
//! | [`options`] | the one builder |
//! | [`anon`] | [`Anon`]: nobody else; slices |
//! | [`sealed`] | [`Sealed`]: nobody ever again; slices, sendable |
//! | [`unsealed`] | a memfd on its way to be one |
//! | [`file`] | [`FileMap`], [`FileMapMut`], [`FileMapPrivate`]: whoever has the file; checked copies, guards |
//! | [`stable`] | [`Stable`], [`StableMut`]: a file map with the promise that nobody does; slices |
//! | [`shared`] | [`SharedMem`]: the processes it is shared with; atomics, views |
//! | [`device`] | [`Device`]: hardware; single loads and stores |
//! | [`mapping`] | what all of them have: a region, and which of its bytes are shown |
//! | [`handle`] | the calls that all of them have |
//! | [`views`] | views and atomics of regions whose pages stay |
//! | [`settings`] | what is set on a map without bytes, until it has some |
//! | [`scm_rights`] | descriptors over a Unix socket |
//! | [`file_object`] | the object behind a map: opened, measured, its holes filled |
//! | [`fd_ownership`] | which descriptor a map is made from, and whether it keeps it |

mod anon;
mod device;
mod fd_ownership;
mod file;
mod file_object;
mod handle;
mod mapping;
mod options;
pub(crate) mod scm_rights;
mod sealed;
mod settings;
mod shared;
mod stable;
mod unsealed;
mod views;

pub use anon::Anon;
pub use device::{Device, Register};
pub use fd_ownership::MapFile;
pub use file::{
    FileAccess, FileMap, FileMapMut, FileMapPrivate, MappedFile, Private, ReadOnly, ReadWrite,
    WriteAccess,
};
pub use options::MapOptions;
pub use sealed::Sealed;
pub use shared::{Atom, SharedMem};
pub use stable::{Stable, StableMut};
