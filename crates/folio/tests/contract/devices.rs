//! Devices: single loads and stores on the memory of this machine's devices. A test whose device is
//! missing is skipped.

use crate::common::{child_succeeds, disk_dir, file_with, page, pattern, skip};
use folio::{
    Anon, Device, Errno, FaultCause, FileMap, FileMapMut, MapOptions, SharedMem, WriteBack,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn open(path: impl AsRef<Path>) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// A descriptor that a system call returned, or its error.
fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(returned as i32) })
}

// /dev/zero, and rules that any device shows

#[test]
fn a_shared_map_of_dev_zero_is_memory() {
    let device = Device::open("/dev/zero", 2 * page()).unwrap();
    let other = Device::open("/dev/zero", 2 * page()).unwrap();
    assert_eq!(device.load::<u64>(page()).unwrap(), 0);
    device.store(page(), 0x0123_4567_89ab_cdef_u64).unwrap();
    assert_eq!(other.load::<u64>(page()).unwrap(), 0, "each map is a memory of its own");
    child_succeeds(|| {
        assert_eq!(device.load::<u64>(page()).unwrap(), 0x0123_4567_89ab_cdef);
        device.store(page() + 8, 1_u8).unwrap();
    });
    assert_eq!(device.load::<u8>(page() + 8).unwrap(), 1, "shared with children");
}

#[test]
fn each_width_reads_and_writes_exactly_its_bytes() {
    let device = Device::open("/dev/zero", page()).unwrap();
    let bytes = || {
        let mut bytes = [0; 16];
        device.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    device.write_at(&[0xff; 16], 0).unwrap();
    device.store(1, 0x11_u8).unwrap();
    device.store(2, 0x2222_u16).unwrap();
    device.store(4, 0x4444_4444_u32).unwrap();
    device.store(8, 0x8888_8888_8888_8888_u64).unwrap();
    let stored = [
        0xff, 0x11, 0x22, 0x22, 0x44, 0x44, 0x44, 0x44, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88,
        0x88,
    ];
    assert_eq!(bytes(), stored);
    device.store(4, 0_u8).unwrap();
    device.store(10, 0_u16).unwrap();
    device.store(12, 0_u32).unwrap();
    assert_eq!(
        bytes(),
        [0xff, 0x11, 0x22, 0x22, 0, 0x44, 0x44, 0x44, 0x88, 0x88, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(device.load::<u8>(1).unwrap(), 0x11);
    assert_eq!(device.load::<u16>(2).unwrap(), 0x2222);
    assert_eq!(device.load::<u32>(4).unwrap(), u32::from_ne_bytes([0, 0x44, 0x44, 0x44]));
    assert_eq!(device.load::<u64>(8).unwrap(), u64::from_ne_bytes([0x88, 0x88, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn a_misaligned_register_is_refused_with_the_nearest_aligned_ones() {
    let device = Device::open("/dev/zero", page()).unwrap();
    let error = device.load::<u32>(6).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.to_string().contains("use 4 or 8"), "{error}");
    for error in [
        device.load::<u16>(1).err(),
        device.load::<u64>(4).err(),
        device.store(1, 0_u16).err(),
        device.store(2, 0_u32).err(),
        device.store(12, 0_u64).err(),
    ] {
        assert_eq!(error.unwrap().errno(), Errno::INVAL);
    }
    // The register's address counts, not its distance from where the map was asked to start.
    let shifted = Device::map(open("/dev/zero").unwrap(), 2, 16).unwrap();
    shifted.store(2, 0x1111_1111_u32).unwrap();
    assert_eq!(shifted.load::<u32>(0).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_register_outside_the_map_is_refused() {
    let device = Device::open("/dev/zero", page() - 4).unwrap();
    device.load::<u32>(page() - 8).unwrap();
    for offset in [page() - 4, page(), usize::MAX - 3] {
        assert_eq!(device.load::<u32>(offset).unwrap_err().errno(), Errno::INVAL);
        assert_eq!(device.store(offset, 0_u32).unwrap_err().errno(), Errno::INVAL);
    }
    assert_eq!(device.write_at(&[0; 5], page() - 8).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn an_access_that_the_device_refuses_is_an_error() {
    // A file stands for the device: it takes its page away.
    let dir = disk_dir();
    let file = open(file_with(dir.path(), &pattern(2))).unwrap();
    let device = Device::map(&file, 0, 2 * page()).unwrap();
    device.load::<u32>(page()).unwrap();
    file.set_len(1).unwrap();
    let error = device.load::<u32>(page() + 4).unwrap_err();
    let fault = error.fault().unwrap();
    assert_eq!((fault.cause(), fault.range()), (FaultCause::PastEnd, page() + 4..page() + 8));
    assert!(device.store(page(), 0_u64).unwrap_err().fault().is_some());
    assert!(device.read_at(&mut [0; 8], page() - 4).unwrap_err().fault().is_some());
    device.load::<u32>(0).unwrap();
}

#[test]
fn a_device_that_cannot_be_mapped_says_so() {
    let error = Device::open("/dev/null", page()).unwrap_err();
    assert_eq!(error.errno(), Errno::NODEV);
    assert!(error.to_string().contains("/dev/null"), "{error}");
    let error = Device::map(File::open("/dev/zero").unwrap(), 0, page()).unwrap_err();
    assert_eq!(error.errno(), Errno::ACCESS, "open for reading only");
    let error = MapOptions::new().device(open("/dev/zero").unwrap()).unwrap_err();
    assert!(error.to_string().contains("pass `length`"), "{error}");
}

// io_uring

/// `struct io_uring_params`, in 32-bit words.
#[derive(Default)]
#[repr(C)]
struct RingParameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    rest: [u32; 7],
    /// head, tail, mask, entries, flags, dropped, array, and three words for something else.
    sq: [u32; 10],
    /// head, tail, mask, entries, overflow, cqes, flags, and three words for something else.
    cq: [u32; 10],
}

#[test]
fn a_ring_of_io_uring_is_driven_by_loads_and_stores() {
    const SETUP: libc::c_long = 425;
    const ENTER: libc::c_long = 426;
    const SQ_RING: u64 = 0;
    const CQ_RING: u64 = 0x0800_0000;
    const SQES: u64 = 0x1000_0000;
    const GETEVENTS: u32 = 1;
    let mut parameters = RingParameters::default();
    // SAFETY: the kernel reads and writes one `struct io_uring_params`.
    let ring = match descriptor(unsafe { libc::syscall(SETUP, 8, &raw mut parameters) }) {
        Ok(ring) => ring,
        Err(error) => return skip(&format!("no io_uring: {error}")),
    };
    let RingParameters { sq_entries, cq_entries, sq, cq, .. } = parameters;
    let [sq_tail, sq_mask, sq_array] = [sq[1], sq[2], sq[6]].map(|at| at as usize);
    let [cq_head, cq_tail, cq_mask, cqes] = [cq[0], cq[1], cq[2], cq[5]].map(|at| at as usize);
    // SAFETY: the stored requests are NOPs, for which the kernel touches no memory.
    let submissions =
        unsafe { Device::map_unchecked(&ring, SQ_RING, sq_array + 4 * sq_entries as usize) }
            .unwrap();
    // SAFETY: the stored requests are NOPs, for which the kernel touches no memory.
    let completions =
        unsafe { Device::map_unchecked(&ring, CQ_RING, cqes + 16 * cq_entries as usize) }.unwrap();
    // SAFETY: the stored requests are NOPs, for which the kernel touches no memory.
    let entries = unsafe { Device::map_unchecked(&ring, SQES, 64 * sq_entries as usize) }.unwrap();

    assert_eq!((submissions.load::<u32>(sq[3] as usize).unwrap(), sq_entries), (8, 8));
    assert_eq!(submissions.load::<u32>(sq_mask).unwrap(), sq_entries - 1);
    assert_eq!(completions.load::<u32>(cq[3] as usize).unwrap(), cq_entries);
    assert_eq!(completions.load::<u32>(cq_mask).unwrap(), cq_entries - 1);

    for count in 1..=3_u32 {
        // A NOP (all zero) with a mark, in the next place.
        let place = (count - 1) & (sq_entries - 1);
        entries.store(64 * place as usize + 32, 0xf011_0000_u64 + u64::from(count)).unwrap();
        submissions.store(sq_array + 4 * place as usize, place).unwrap();
        submissions.store(sq_tail, count).unwrap();
        // SAFETY: a NOP touches no memory.
        let done = unsafe { libc::syscall(ENTER, ring.as_raw_fd(), 1, 1, GETEVENTS, 0, 0) };
        assert_eq!(done, 1, "{}", io::Error::last_os_error());
        assert_eq!(completions.load::<u32>(cq_tail).unwrap(), count);
        let entry = cqes + 16 * ((count - 1) & (cq_entries - 1)) as usize;
        assert_eq!(
            completions.load::<u64>(entry).unwrap(),
            0xf011_0000 + u64::from(count),
            "the mark"
        );
        assert_eq!(completions.load::<u32>(entry + 8).unwrap(), 0, "the result");
        completions.store(cq_head, count).unwrap();
    }
}

// perf

/// Counts page faults of this thread into a ring of one page, from the next fault on.
fn perf() -> io::Result<OwnedFd> {
    const SOFTWARE: u64 = 1;
    const PAGE_FAULTS: u64 = 2;
    const SAMPLE_ADDRESS: u64 = 1 << 3;
    const EXCLUDE_KERNEL: u64 = 1 << 5;
    const SIZE: u64 = 64;
    // `struct perf_event_attr`, first version: type and size, config, period, sampled values,
    // format of reads, flags, and two words that are zero.
    let attributes =
        [SOFTWARE | SIZE << 32, PAGE_FAULTS, 1, SAMPLE_ADDRESS, 0, EXCLUDE_KERNEL, 0, 0];
    // SAFETY: the kernel reads the attributes.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0) };
    descriptor(fd)
}

#[test]
fn a_ring_of_perf_is_read_and_given_back_by_loads_and_stores() {
    const DATA_HEAD: usize = 1024;
    const DATA_TAIL: usize = 1032;
    const DATA_OFFSET: usize = 1040;
    const DATA_SIZE: usize = 1048;
    const SAMPLE: u32 = 9;
    if cfg!(target_endian = "big") {
        return skip("the attributes are written for little-endian machines");
    }
    let fd = match perf() {
        Ok(fd) => fd,
        Err(error) => return skip(&format!("no perf events: {error}")),
    };
    // SAFETY: the kernel writes records into the ring, and nowhere else.
    let ring = unsafe { Device::map_unchecked(&fd, 0, 2 * page()) }.unwrap();
    assert_eq!(ring.load::<u64>(DATA_OFFSET).unwrap(), page() as u64);
    assert_eq!(ring.load::<u64>(DATA_SIZE).unwrap(), page() as u64);
    let before = ring.load::<u64>(DATA_HEAD).unwrap();
    // One fault in a place of its own.
    let mut anon = Anon::new(page()).unwrap();
    anon[100] = 1;
    let head = ring.load::<u64>(DATA_HEAD).unwrap();
    assert!(head > before, "the fault was counted");
    // Each record: type, two half words of which the second is its size, the address that faulted.
    let mut at = 0;
    let mut found = false;
    while at < head as usize {
        assert_eq!(ring.load::<u32>(page() + at).unwrap(), SAMPLE);
        found |= ring.load::<u64>(page() + at + 8).unwrap() == anon.as_ptr() as u64 + 100;
        at += usize::from(ring.load::<u16>(page() + at + 6).unwrap());
    }
    assert!(found, "with its address");
    ring.store(DATA_TAIL, head).unwrap();
    assert_eq!(ring.load::<u64>(DATA_TAIL).unwrap(), head);
}

#[test]
fn a_device_that_its_driver_keeps_from_children_is_absent_there() {
    let fd = match perf() {
        Ok(fd) => fd,
        Err(error) => return skip(&format!("no perf events: {error}")),
    };
    // SAFETY: the kernel writes records into the ring, and nowhere else.
    let mut ring = Some(unsafe { Device::map_unchecked(&fd, 0, 2 * page()) }.unwrap());
    let address = ring.as_ref().unwrap().as_ptr() as usize;
    child_succeeds(|| {
        // The driver keeps its memory out of children: something else can lie there.
        let own = MapOptions::new().at(address).anon(2 * page()).expect("nothing is mapped there");
        let device = ring.take().unwrap();
        assert_eq!(device.load::<u32>(0).unwrap_err().errno(), Errno::NOMEM);
        assert_eq!(device.store(8, 1_u32).unwrap_err().errno(), Errno::NOMEM);
        drop(device);
        assert!(own.iter().all(|&byte| byte == 0), "and is still there");
    });
    ring.unwrap().load::<u32>(0).unwrap();
}

// KVM

#[cfg(target_arch = "x86_64")]
mod kvm {
    use super::*;

    const CREATE_VM: libc::c_ulong = 0xae01;
    const GET_VCPU_MMAP_SIZE: libc::c_ulong = 0xae04;
    const CREATE_VCPU: libc::c_ulong = 0xae41;
    const SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;
    const RUN: libc::c_ulong = 0xae80;
    const SET_REGS: libc::c_ulong = 0x4090_ae82;
    const GET_SREGS: libc::c_ulong = 0x8138_ae83;
    const SET_SREGS: libc::c_ulong = 0x4138_ae84;

    // Fields of `struct kvm_run`, the page that a vCPU shares.
    const IMMEDIATE_EXIT: usize = 1;
    const EXIT_REASON: usize = 8;
    const IO_SIZE: usize = 33;
    const IO_PORT: usize = 34;
    const IO_DATA_OFFSET: usize = 40;

    const EXIT_IO: u32 = 2;
    const EXIT_HLT: u32 = 5;

    /// Where the guest's code lies, in its memory of one page.
    const START: u64 = 0x1000;

    fn call(fd: &impl AsRawFd, request: libc::c_ulong, argument: usize) -> io::Result<i32> {
        // SAFETY: `argument` is a number, or the address of the memory that the request reads and
        // writes.
        let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
    }

    /// A machine with one vCPU, its shared page, and how many bytes that has.
    struct Machine {
        cpu: OwnedFd,
        shared: Device,
        _vm: OwnedFd,
    }

    /// Makes a machine whose memory is `memory`, one page, with the vCPU at its start in real mode.
    fn machine(memory: &SharedMem) -> io::Result<Machine> {
        let kvm = open("/dev/kvm")?;
        let vm = descriptor(call(&kvm, CREATE_VM, 0)?.into())?;
        // slot, flags, guest address, bytes, host address
        let region = [0_u64, START, page() as u64, memory.as_ptr() as u64];
        call(&vm, SET_USER_MEMORY_REGION, region.as_ptr() as usize)?;
        let cpu = descriptor(call(&vm, CREATE_VCPU, 0)?.into())?;
        let length = call(&kvm, GET_VCPU_MMAP_SIZE, 0)? as usize;
        // Its first segment is the code's: base, limit, selector.
        let mut segments = [0_u8; 0x138];
        call(&cpu, GET_SREGS, segments.as_mut_ptr() as usize)?;
        segments[..8].fill(0);
        segments[12..14].fill(0);
        call(&cpu, SET_SREGS, segments.as_ptr() as usize)?;
        let mut registers = [0_u64; 18];
        let (instruction, flags) = (16, 17);
        registers[instruction] = START;
        registers[flags] = 2;
        call(&cpu, SET_REGS, registers.as_ptr() as usize)?;
        // SAFETY: the tests store nothing there that gives the vCPU memory.
        let shared = unsafe { Device::map_unchecked(&cpu, 0, length) }?;
        Ok(Machine { cpu, shared, _vm: vm })
    }

    #[test]
    fn a_vcpu_says_through_its_shared_page_why_it_stopped() {
        let code = [
            0xb0, 0x2a, // mov al, 42
            0xe6, 0x10, // out 0x10, al
            0xf4, // hlt
        ];
        let memory = SharedMem::anonymous(page()).unwrap();
        memory.write_at(&code, 0).unwrap();
        // In a child, with a limit: a machine without real mode may run for ever.
        child_succeeds(|| {
            // SAFETY: takes and changes no memory.
            unsafe { libc::alarm(20) };
            let machine = match machine(&memory) {
                Ok(machine) => machine,
                Err(error) => return skip(&format!("no KVM: {error}")),
            };
            let Machine { cpu, shared, .. } = &machine;
            if let Err(error) = call(cpu, RUN, 0) {
                return skip(&format!("KVM does not run: {error}"));
            }
            assert_eq!(shared.load::<u32>(EXIT_REASON).unwrap(), EXIT_IO);
            assert_eq!(shared.load::<u8>(IO_SIZE).unwrap(), 1);
            assert_eq!(shared.load::<u16>(IO_PORT).unwrap(), 0x10);
            let data = shared.load::<u64>(IO_DATA_OFFSET).unwrap() as usize;
            assert_eq!(shared.load::<u8>(data).unwrap(), 42, "what the guest put out");
            call(cpu, RUN, 0).unwrap();
            assert_eq!(shared.load::<u32>(EXIT_REASON).unwrap(), EXIT_HLT);
        });
    }

    #[test]
    fn a_vcpu_obeys_stores_to_its_shared_page() {
        let memory = SharedMem::anonymous(page()).unwrap();
        let machine = match machine(&memory) {
            Ok(machine) => machine,
            Err(error) => return skip(&format!("no KVM: {error}")),
        };
        machine.shared.store(IMMEDIATE_EXIT, 1_u8).unwrap();
        let error = call(&machine.cpu, RUN, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "it does not even start");
    }
}

// Block devices

/// A file as a block device, for one test.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?.trim().into();
        output.status.success().then_some(Self { path })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

#[test]
fn a_block_device_is_mapped_as_a_device_and_as_a_file_as_long_as_it_is() {
    let dir = disk_dir();
    let bytes = pattern(16);
    let path = file_with(dir.path(), &bytes);
    let Some(block) = Loop::new(&path) else { return skip("no loop device") };
    {
        // Its size is no field of the inode; folio asks the device.
        let map = FileMap::open(&block.path).unwrap();
        assert!(map.read_vec(..).unwrap() == bytes);
        let device = Device::open(&block.path, 16 * page()).unwrap();
        assert_eq!(device.load::<u8>(page() + 3).unwrap(), bytes[page() + 3]);
        device.store(page(), 0x0102_0304_u32).unwrap();
        assert_eq!(map.read::<u32>(page()).unwrap(), 0x0102_0304, "one page cache for both");
        assert_eq!(device.load::<u64>(16 * page()).unwrap_err().errno(), Errno::INVAL);
        let written = FileMapMut::open(&block.path).unwrap();
        written.sync(.., WriteBack::Wait).unwrap();
    }
    // The file behind the device has the bytes that were written back.
    let mut behind = [0; 4];
    File::open(&path).unwrap().read_exact_at(&mut behind, page() as u64).unwrap();
    assert_eq!(u32::from_ne_bytes(behind), 0x0102_0304);
}

#[test]
fn a_file_of_huge_pages_is_mapped_in_whole_huge_pages() {
    // SAFETY: a name that ends with NUL.
    let created =
        unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB | libc::MFD_HUGE_2MB) };
    let Ok(file) = descriptor(created.into()).map(File::from) else {
        return skip("the kernel has no pages of 2 MiB");
    };
    let huge = 2 << 20;
    file.set_len(2 * huge as u64).unwrap();
    // The pool may be empty: nothing is touched here.
    let options = MapOptions::new().len(page()).flags(folio::MapFlags::NORESERVE);
    let device = options.device(&file).unwrap();
    assert_eq!((device.len(), device.page_size().bytes()), (page(), huge));
    // With another length the kernel refuses to unmap it.
    device.unmap().unwrap();

    let reservation =
        folio::Reservation::aligned(2 * huge, folio::PageSize::new(huge).unwrap()).unwrap();
    let mut behind = MapOptions::new().within(&reservation, huge - page()).anon(page()).unwrap();
    behind[0] = 7;
    // It would end behind this page, and replace that memory.
    let error = options.clone().within(&reservation, 0).device(&file).unwrap_err();
    assert_eq!(error.errno(), Errno::EXIST);
    let error = options.clone().within(&reservation, huge + page()).device(&file).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.to_string().contains("Reservation::aligned"), "{error}");
    assert_eq!(behind[0], 7);
    options.within(&reservation, huge).device(&file).unwrap();
}

// Sockets

#[test]
fn a_socket_without_memory_has_no_map() {
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = OwnedFd::from(socket);
    assert_eq!(Device::map(&socket, 0, page()).unwrap_err().errno(), Errno::NODEV);
}

#[test]
fn the_rings_of_a_socket_are_mapped_by_unsafe_code_only() {
    // SAFETY: socket(2) makes a descriptor.
    let socket = match descriptor(unsafe {
        libc::syscall(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0)
    }) {
        Ok(socket) => socket,
        Err(error) => return skip(&format!("no packet socket: {error}")),
    };
    let ring = libc::tpacket_req {
        tp_block_size: page() as u32,
        tp_block_nr: 1,
        tp_frame_size: page() as u32,
        tp_frame_nr: 1,
    };
    // SAFETY: the kernel reads the struct, whose size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_RX_RING,
            (&raw const ring).cast(),
            size_of_val(&ring) as u32,
        )
    };
    if set != 0 {
        return skip(&format!("no ring of packets: {}", io::Error::last_os_error()));
    }
    let error = Device::map(&socket, 0, page()).unwrap_err();
    assert_eq!(error.errno(), Errno::PERM, "{error}");
    assert!(error.to_string().contains("map_unchecked"), "{error}");
    // SAFETY: a store to this ring tells the kernel to write into the ring, and nothing stores.
    let device = unsafe { Device::map_unchecked(&socket, 0, page()) }.unwrap();
    assert_eq!(device.load::<u64>(0).unwrap(), 0);
}
