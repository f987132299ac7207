//! Both engines behind one face, so that a rule of mmap(2) is one test: the kernel's maps are the
//! oracle, the pager's must do as they do.

use crate::given::{MIB, pager};
use folio::source::LocalFile;
use folio::{
    Advice, FileMap, FileMapMut, FileMapPrivate, Fork, MapOptions, Paged, PagedMut, PagedShared,
    Pager, Result, WriteBack,
};
use std::fs::File;
use std::io;
use std::ops::Range;

/// The engine that maps a file.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    /// mmap(2).
    Kernel,
    /// A pager, whose shared maps have one handle.
    Pager(Pager),
    /// A pager, whose shared maps have any number of handles.
    Handles(Pager),
}

/// An engine's name in messages, and how to make one.
type Kind = (&'static str, fn() -> Engine);

/// How a file is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Shared,
    Private,
}

pub(crate) const EVERY_ACCESS: [Access; 3] = [Access::Read, Access::Shared, Access::Private];

/// The side on which a rule was broken.
struct Side(&'static str);

impl Drop for Side {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("broken by {}", self.0);
        }
    }
}

/// Holds every engine to a rule.
pub(crate) fn every_engine(rule: impl Fn(&Engine)) {
    every_kind(|make| rule(&make()));
}

/// The same, where the rule makes the engine itself: in a child.
pub(crate) fn every_kind(rule: impl Fn(fn() -> Engine)) {
    for (name, make) in Engine::KINDS {
        let _side = Side(name);
        rule(make);
    }
}

impl Engine {
    const KINDS: [Kind; 3] = [
        ("the kernel engine", || Self::Kernel),
        ("the pager", || Self::Pager(pager(4 * MIB))),
        ("the pager's shared handles", || Self::Handles(pager(4 * MIB))),
    ];

    /// Maps all of a file.
    pub(crate) fn map(&self, file: File, access: Access) -> io::Result<Box<dyn Map>> {
        let source = LocalFile::from_file;
        Ok(match (self, access) {
            // A pager's maps are never inherited.
            (Self::Kernel, Access::Read) => Box::new(kernel().map(file)?),
            (Self::Kernel, Access::Shared) => {
                Box::new(Writable { file: file.try_clone()?, map: kernel().map_mut(file)? })
            }
            (Self::Kernel, Access::Private) => Box::new(kernel().map_private(file)?),
            (Self::Pager(pager) | Self::Handles(pager), Access::Read) => {
                Box::new(pager.map(source(file)?)?)
            }
            (Self::Pager(pager) | Self::Handles(pager), Access::Private) => {
                Box::new(pager.map_private(source(file)?)?)
            }
            (Self::Pager(pager), Access::Shared) => Box::new(pager.map_mut(source(file)?)?),
            (Self::Handles(pager), Access::Shared) => Box::new(pager.map_shared(source(file)?)?),
        })
    }

    /// Whether a map can set its file's length.
    pub(crate) fn resizes(&self) -> bool {
        !matches!(self, Self::Handles(_))
    }

    /// Whether a file can have several shared writable maps at once.
    pub(crate) fn shares(&self) -> bool {
        !matches!(self, Self::Pager(_))
    }
}

fn kernel() -> MapOptions {
    MapOptions::new().fork(Fork::Absent)
}

/// A mapped file, by either engine. Maps that cannot be stored to have no stores: [`Map::write_at`]
/// panics.
pub(crate) trait Map: Send {
    fn len(&self) -> usize;
    fn address(&self) -> *const u8;
    fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()>;
    fn write_at(&mut self, bytes: &[u8], offset: usize) -> Result<()>;
    fn sync(&self, range: Range<usize>, how: WriteBack) -> Result<()>;
    fn advise(&self, range: Range<usize>, advice: Advice) -> Result<()>;

    /// Sets the length of the map and of its file.
    fn resize(&mut self, len: usize) -> Result<()>;

    /// By read_at, which must succeed.
    fn read(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0x5A; range.len()];
        self.read_at(&mut bytes, range.start).unwrap();
        bytes
    }

    fn read_all(&self) -> Vec<u8> {
        self.read(0..self.len())
    }

    /// By a plain load, which faults. `offset`: inside the map's last page.
    fn load(&self, offset: usize) -> u8 {
        // SAFETY: a page of the map; only this test stores to it meanwhile.
        unsafe { self.address().add(offset).read_volatile() }
    }

    /// By a plain store.
    fn store(&mut self, offset: usize, byte: u8) {
        // SAFETY: a page of the map, which may be stored to and of which nobody has a reference.
        unsafe { self.address().cast_mut().add(offset).write_volatile(byte) }
    }
}

/// The calls that have the same name everywhere.
macro_rules! same_calls {
    () => {
        fn len(&self) -> usize {
            self.len()
        }

        fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
            self.read_at(buffer, offset)
        }

        fn advise(&self, range: Range<usize>, advice: Advice) -> Result<()> {
            self.advise(range, advice)
        }
    };
}

macro_rules! read_only {
    ($($map:ty)*) => {$(
        impl Map for $map {
            same_calls!();

            fn address(&self) -> *const u8 {
                self.as_ptr()
            }

            fn write_at(&mut self, _: &[u8], _: usize) -> Result<()> {
                unreachable!("a read-only map has no stores")
            }

            fn sync(&self, _: Range<usize>, _: WriteBack) -> Result<()> {
                Ok(())
            }

            fn resize(&mut self, _: usize) -> Result<()> {
                unreachable!("a read-only map leaves its file as it is")
            }
        }
    )*};
}

read_only!(FileMap Paged);

impl Map for FileMapPrivate {
    same_calls!();

    fn address(&self) -> *const u8 {
        self.as_ptr()
    }

    fn write_at(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        Self::write_at(self, bytes, offset)
    }

    fn sync(&self, range: Range<usize>, how: WriteBack) -> Result<()> {
        self.sync(range, how)
    }

    fn resize(&mut self, _: usize) -> Result<()> {
        unreachable!("a private map leaves its file as it is")
    }
}

/// The kernel's shared map, and the file, to set its length.
struct Writable {
    map: FileMapMut,
    file: File,
}

impl Map for Writable {
    fn len(&self) -> usize {
        self.map.len()
    }

    fn address(&self) -> *const u8 {
        self.map.as_ptr()
    }

    fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.map.read_at(buffer, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        self.map.write_at(bytes, offset)
    }

    fn sync(&self, range: Range<usize>, how: WriteBack) -> Result<()> {
        self.map.sync(range, how)
    }

    fn advise(&self, range: Range<usize>, advice: Advice) -> Result<()> {
        self.map.advise(range, advice)
    }

    fn resize(&mut self, len: usize) -> Result<()> {
        self.file.set_len(len as u64).unwrap();
        self.map.resize(len)
    }
}

impl Map for PagedMut {
    same_calls!();

    fn address(&self) -> *const u8 {
        self.as_ptr()
    }

    fn write_at(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        self.write_at(bytes, offset)
    }

    fn sync(&self, range: Range<usize>, how: WriteBack) -> Result<()> {
        self.sync(range, how)
    }

    fn resize(&mut self, len: usize) -> Result<()> {
        self.resize(len)
    }

    fn store(&mut self, offset: usize, byte: u8) {
        // SAFETY: a page of the map, which this handle alone stores to.
        unsafe { self.as_mut_ptr().add(offset).write_volatile(byte) }
    }
}

impl Map for PagedShared {
    same_calls!();

    fn address(&self) -> *const u8 {
        self.view().unwrap().as_ptr()
    }

    fn write_at(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        Self::write_at(self, bytes, offset)
    }

    fn sync(&self, range: Range<usize>, how: WriteBack) -> Result<()> {
        self.sync(range, how)
    }

    fn resize(&mut self, len: usize) -> Result<()> {
        unreachable!("other handles may use what a shorter map lacks: {len}")
    }
}
