//! Which descriptor a map is made from, and whether the map keeps it.
//!
//! mmap(2) needs the descriptor for the call only; closing it early leaves the map alone. A map
//! that keeps one can do a little more: tell the file's present length, follow its growth, ask the
//! page cache about it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A file to map: a borrow (the map keeps no descriptor), or an owned descriptor (the map keeps it
/// until it is dropped).
///
/// Borrows: `&File`, `&OwnedFd`, [`BorrowedFd`]. Owned: [`File`], [`OwnedFd`], and
/// [`Arc<File>`](Arc), which many maps can keep at once.
pub trait MapFile: sealed::SealedMapFile {}

pub(crate) mod sealed {
    use super::{Arc, BorrowedFd, File, OwnedFd};

    pub trait SealedMapFile {
        fn descriptor(&self) -> BorrowedFd<'_>;
        fn keep(self) -> FdOwnership;
    }

    /// How much of its descriptor a map keeps.
    #[derive(Debug)]
    pub enum FdOwnership {
        Nothing,
        Owned(OwnedFd),
        Shared(Arc<File>),
    }
}

pub(crate) use sealed::FdOwnership;

impl FdOwnership {
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nothing => None,
            Self::Owned(fd) => Some(fd.as_fd()),
            Self::Shared(file) => Some(file.as_fd()),
        }
    }

    /// The descriptor, if it is the map's alone.
    pub(crate) fn into_descriptor(self) -> Option<OwnedFd> {
        match self {
            Self::Nothing => None,
            Self::Owned(fd) => Some(fd),
            Self::Shared(file) => Arc::into_inner(file).map(OwnedFd::from),
        }
    }
}

macro_rules! map_file {
    ($($type:ty => |$file:ident| $keep:expr;)*) => {$(
        impl MapFile for $type {}
        impl sealed::SealedMapFile for $type {
            fn descriptor(&self) -> BorrowedFd<'_> {
                self.as_fd()
            }

            fn keep(self) -> FdOwnership {
                let $file = self;
                $keep
            }
        }
    )*};
}

map_file! {
    &File => |_file| FdOwnership::Nothing;
    &OwnedFd => |_file| FdOwnership::Nothing;
    BorrowedFd<'_> => |_file| FdOwnership::Nothing;
    File => |file| FdOwnership::Owned(file.into());
    OwnedFd => |file| FdOwnership::Owned(file);
    Arc<File> => |file| FdOwnership::Shared(file);
    &Arc<File> => |file| FdOwnership::Shared(Arc::clone(file));
}
