//! Objects that only seem to be files, and code of the same process that opens objects of others.

use crate::common::{
    child_succeeds, disk_dir, file_with, is_root, page, pattern, sealable_memfd, skip,
};
use folio::{Device, Errno, FileMap, FileMapMut, FileMapPrivate, MapOptions, Sealed, SharedMem};
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

fn descriptor(returned: libc::c_long) -> std::io::Result<OwnedFd> {
    if returned < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(returned as i32) })
}

/// Every way to make a file map of it is refused, and so is the safe way to make a device.
#[track_caller]
fn is_no_file(fd: &OwnedFd, offset: u64) {
    let options = MapOptions::new().offset(offset).len(page());
    let errors = [
        options.map(fd).map(drop).unwrap_err(),
        options.map_mut(fd).map(drop).unwrap_err(),
        options.map_private(fd).map(drop).unwrap_err(),
        FileMap::map(fd).unwrap_err(),
        FileMapMut::map(fd).unwrap_err(),
        FileMapPrivate::map(fd).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.errno(), Errno::NODEV, "{error}");
        assert!(error.to_string().contains("Device"), "{error}");
    }
    let error = Device::map(fd, offset, page()).unwrap_err();
    assert_eq!(error.errno(), Errno::PERM, "{error}");
    assert!(error.to_string().contains("map_unchecked"), "{error}");
}

#[test]
fn a_ring_of_io_uring_is_no_file() {
    let mut parameters = [0_u32; 30];
    // SAFETY: the kernel reads and writes one `struct io_uring_params` of 120 bytes.
    match descriptor(unsafe { libc::syscall(425, 8, parameters.as_mut_ptr()) }) {
        Ok(ring) => is_no_file(&ring, 0x1000_0000),
        Err(error) => skip(&format!("no io_uring: {error}")),
    }
}

#[test]
fn a_ring_of_perf_is_no_file() {
    // Software event 2, page faults, of user space only.
    let attributes = [1 | 64_u64 << 32, 2, 1, 8, 0, 1 << 5, 0, 0];
    // SAFETY: the kernel reads the attributes.
    match descriptor(unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0)
    }) {
        Ok(event) => is_no_file(&event, 0),
        Err(error) => skip(&format!("no perf events: {error}")),
    }
}

#[test]
fn an_array_of_bpf_is_no_file() {
    const MAP_CREATE: i32 = 0;
    // Array, 4 bytes a key, a page a value, one entry, BPF_F_MMAPABLE.
    let attributes = [2_u32, 4, page() as u32, 1, 1 << 10];
    // SAFETY: the kernel reads the attributes.
    let made = unsafe {
        libc::syscall(libc::SYS_bpf, MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes))
    };
    match descriptor(made) {
        Ok(array) => is_no_file(&array, 0),
        Err(error) => skip(&format!("no BPF: {error}")),
    }
}

#[test]
fn a_vcpu_of_kvm_is_no_file() {
    let Ok(kvm) = File::options().read(true).write(true).open("/dev/kvm") else {
        return skip("no /dev/kvm");
    };
    let call = |fd: &dyn std::os::fd::AsRawFd, request: libc::c_ulong| {
        // SAFETY: the requests take a number.
        descriptor(unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) }.into())
    };
    match call(&kvm, 0xae01).and_then(|vm| Ok((call(&vm, 0xae41)?, vm))) {
        Ok((cpu, _vm)) => is_no_file(&cpu, 0),
        Err(error) => skip(&format!("no KVM: {error}")),
    }
}

#[test]
fn registers_that_look_like_files_are_no_files() {
    let Ok(devices) = std::fs::read_dir("/sys/bus/pci/devices") else { return skip("no PCI") };
    let open = |path: std::path::PathBuf| File::options().read(true).write(true).open(path).ok();
    let resource = devices
        .flatten()
        .flat_map(|device| (0..6).map(move |bar| device.path().join(format!("resource{bar}"))))
        .find_map(open);
    match resource {
        Some(file) => is_no_file(&file.into(), 0),
        None => skip("no PCI function has memory that this user may open"),
    }
}

#[test]
fn a_descriptor_that_cannot_be_mapped_at_all_gets_the_kernels_answer() {
    // SAFETY: takes no memory.
    let event = descriptor(unsafe { libc::eventfd(0, 0) }.into()).unwrap();
    let error = FileMap::map(&event).unwrap_err();
    assert_eq!(error.errno(), Errno::NODEV);
    assert!(error.to_string().contains("cannot be mapped"), "{error}");
}

#[test]
fn another_object_at_dev_zero_is_not_taken_for_zeros() {
    if !is_root() {
        return skip("needs the right to mount");
    }
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    child_succeeds(|| {
        // SAFETY: changes which mounts this process sees.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return skip("no mount namespace");
        }
        let mount = |source: &std::path::Path, target: &str, flags| {
            use std::os::unix::ffi::OsStrExt;
            let source = std::ffi::CString::new(source.as_os_str().as_bytes()).unwrap();
            let target = std::ffi::CString::new(target).unwrap();
            let none = std::ptr::null();
            // SAFETY: both are names that end with NUL.
            unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()) == 0 }
        };
        if !mount("none".as_ref(), "/", libc::MS_REC | libc::MS_PRIVATE)
            || !mount(&path, "/dev/zero", libc::MS_BIND)
        {
            return skip("may not mount");
        }
        let error = SharedMem::dev_zero(page()).unwrap_err();
        assert_eq!(error.errno(), Errno::NODEV, "{error}");
        assert!(error.to_string().contains("1:5"), "{error}");
    });
}

/// The memfds of this name that this process has, opened anew.
fn found(name: &str) -> Vec<File> {
    let named = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with(name))
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter(named);
    descriptors
        .filter_map(|entry| File::options().read(true).write(true).open(entry.path()).ok())
        .collect()
}

#[test]
fn nobody_changes_the_bytes_that_are_being_filled() {
    child_succeeds(|| {
        let options = MapOptions::new().name("folio-filled");
        let table = options.sealed(2 * page(), |bytes| {
            bytes.fill(1);
            for memfd in found("/memfd:folio-filled") {
                let _ = memfd.write_all_at(&[9; 8], 0);
                let _ = memfd.set_len(0);
            }
            assert!(bytes.iter().all(|&byte| byte == 1), "bytes changed under a slice");
            bytes[0] = 2;
        });
        let table = table.unwrap();
        assert_eq!((table.len(), table[0], table[1], table[2 * page() - 1]), (2 * page(), 2, 1, 1));
    });
}

#[test]
fn a_shared_memfd_is_sealed_against_shrinking_before_it_is_used() {
    child_succeeds(|| {
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    for memfd in found("/memfd:folio-short") {
                        let _ = memfd.set_len(0);
                    }
                }
            });
            let mut made = 0;
            for _ in 0..2000 {
                // The other thread may come before the seal; then there is no map.
                if let Ok(shared) = SharedMem::memfd("folio-short", page()) {
                    assert_eq!(shared.view().unwrap().get(page() - 1), Some(0));
                    made += 1;
                }
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(made > 0);
        });
    });
}

/// A full memfd of 16 pages, out of which two were punched.
fn punched(name: &str) -> File {
    let file = File::from(sealable_memfd(name, 16));
    file.write_all_at(&pattern(16), 0).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 3 * page() as u64, 2 * page() as u64).unwrap();
    assert_eq!(file.metadata().unwrap().blocks() * 512, 14 * page() as u64);
    file
}

#[test]
fn holes_of_received_sealed_memory_are_filled() {
    for read_only in [false, true] {
        let file = punched("folio-holes");
        let sealing = rustix::fs::SealFlags::WRITE
            | rustix::fs::SealFlags::SHRINK
            | rustix::fs::SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&file, sealing).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let sent = if read_only { File::open(path).unwrap() } else { file.try_clone().unwrap() };
        let sealed = Sealed::from_fd(sent).unwrap();
        assert_eq!(
            file.metadata().unwrap().blocks() * 512,
            16 * page() as u64,
            "read-only: {read_only}"
        );
        assert_eq!((sealed[0], sealed[3 * page()]), (pattern(1)[0], 0));
    }
}

#[test]
fn few_holes_of_received_shared_memory_are_filled() {
    let file = punched("folio-holes");
    rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::SHRINK).unwrap();
    let shared = SharedMem::from_fd(file).unwrap();
    let file = File::from(shared.file().unwrap().try_clone_to_owned().unwrap());
    assert_eq!(file.metadata().unwrap().blocks() * 512, 16 * page() as u64);
    assert_eq!(shared.view().unwrap().get(3 * page()), Some(0));
    // A memfd that is mostly hole stays one, unless its space is asked for.
    for (options, blocks) in [(MapOptions::new(), 0), (MapOptions::new().preallocate(), 16)] {
        let file = File::from(sealable_memfd("folio-empty", 16));
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::SHRINK).unwrap();
        let shared = options.shared_from_fd(file.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().blocks() * 512, blocks * page() as u64);
        assert_eq!(shared.view().unwrap().get(15 * page()), Some(0));
    }
}
