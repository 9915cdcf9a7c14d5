//! What the guest reads as memory is at all times what a read of the register would say.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::cli::{self, Command};
#[cfg(feature = "pmem")]
use crate::events::Events;
use crate::interrupts::Signal;
use crate::kvm::System;
#[cfg(feature = "pmem")]
use crate::virtio::failing::failing;

const RAM: usize = 1 << 20;

/// A file of so many bytes, all zero.
fn file_of(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    file
}

/// A console and a disk, reached by windows.
fn devices(image: &tempfile::NamedTempFile) -> Devices {
    devices_for(image, 1)
}

fn devices_for(image: &tempfile::NamedTempFile, cpus: u8) -> Devices {
    devices_with(image, cpus, "")
}

fn devices_with(image: &tempfile::NamedTempFile, cpus: u8, more: &str) -> Devices {
    let vm: &'static Vm = Box::leak(Box::new(System::open().unwrap().create_vm().unwrap()));
    let path = image.path().display();
    let words = format!("--kernel none --console null --disk path={path}{more} --cpus boot={cpus}");
    let words: Vec<String> = words.split(' ').map(String::from).collect();
    let Ok(Command::Run(config)) = cli::parse(words.iter().map(Into::into).collect()) else {
        panic!("the command line")
    };
    crate::inputs::forget();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let mut devices = Devices::open(Box::leak(config), &memory, vm, 0, 1 << 32).unwrap();
    devices.make_readable(vm, 5).unwrap();
    devices
}

/// Compares each word of each window.
fn compare(devices: &mut Devices) {
    for index in 0..devices.slots.len() {
        let registers = devices.shown.as_ref().unwrap().window(index).unwrap();
        for (at, shown) in (0..).step_by(4).zip(registers) {
            let mut data = [0; 4];
            let offset = index as u64 * u64::from(layout::VIRTIO_MMIO_SIZE) + at;
            assert!(devices.read(offset, &mut data).claimed());
            let shown = shown.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(shown, u32::from_le_bytes(data), "device {index}, register {at:#x}");
        }
    }
}

fn set(devices: &mut Devices, offset: u64, value: u32, signals: &mut u32) {
    let mut sink = |_: Signal| *signals += 1;
    let access = devices.write(offset, &value.to_le_bytes(), &mut sink);
    if let Access::Notified(job) = access {
        let _ = devices.finish(job.run(), &mut sink);
    }
}

/// With a queue of 16 in each of the areas that a driver gives it.
fn start(devices: &mut Devices, window: u64, signals: &mut u32) {
    let mut set = |at: u64, value: u32| set(devices, window + at, value, signals);
    [0, 1, 3].into_iter().for_each(|status| set(0x70, status));
    for (at, value) in [(0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0), (0x38, 16)] {
        set(at, value);
    }
    for (at, area) in [(0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000)] {
        set(at, area);
    }
    [(0x44, 1), (0x70, 15)].into_iter().for_each(|(at, value)| set(at, value));
}

const DISK: u64 = layout::VIRTIO_MMIO_SIZE as u64;

/// A request is done: the reason is there before the interrupt is, and gone when it is acknowledged.
#[test]
fn a_reason_for_an_interrupt_comes_and_goes() {
    let image = file_of(64 << 10);
    let mut devices = devices(&image);
    let mut signals = 0;
    start(&mut devices, DISK, &mut signals);
    compare(&mut devices);
    // A flush: a header and a status.
    let chain = [0x8000u64, 16 | 1 << 32 | 1 << 48, 0x9000, 1 | 2 << 32];
    devices.memory.write_obj(chain, GuestAddress(0x1000)).unwrap();
    devices.memory.write_obj([4u64, 0], GuestAddress(0x8000)).unwrap();
    devices.memory.write_obj([0u16, 1, 0], GuestAddress(0x2000)).unwrap();
    let registers = devices.shown.as_ref().unwrap().window(1).unwrap();
    let reason = || registers[0x60 / 4].load(std::sync::atomic::Ordering::Relaxed);
    let mut sink = |_: Signal| assert_eq!(reason(), 1, "not told before the interrupt");
    let access = devices.write(DISK + 0x50, &[0; 4], &mut sink);
    if let Access::Notified(job) = access {
        let _ = devices.finish(job.run(), &mut sink);
    }
    assert_eq!(reason(), 1);
    compare(&mut devices);
    set(&mut devices, DISK + 0x64, 1, &mut signals);
    assert_eq!(reason(), 0);
    compare(&mut devices);
}

/// What is on its way to the disk arrives while no vCPU runs, and the driver is told.
#[cfg(feature = "io-uring")]
#[test]
fn what_is_on_its_way_arrives_before_a_guest_stands_still() {
    arrives(|devices, signals| devices.quiesce(&mut |_: Signal| *signals += 1));
}

/// The same where a signal kept it from arriving then: it is in no snapshot.
#[cfg(all(feature = "io-uring", feature = "snapshot"))]
#[test]
fn what_is_on_its_way_arrives_before_a_snapshot() {
    arrives(|devices, signals| {
        let mut to = crate::snapshot::parts::Writer::default();
        devices.save(&mut to, &mut |_: Signal| *signals += 1);
    });
}

#[cfg(feature = "io-uring")]
fn arrives(settle: impl FnOnce(&mut Devices, &mut u32)) {
    let image = tempfile::NamedTempFile::new().unwrap();
    // Of a hole nothing has to be read.
    std::os::unix::fs::FileExt::write_all_at(image.as_file(), &[7; 64 << 10], 0).unwrap();
    image.as_file().sync_all().unwrap();
    let mut devices = devices_with(&image, 1, ",engine=io_uring,direct=on");
    let mut signals = 0;
    start(&mut devices, DISK, &mut signals);
    // Five reads of a page each.
    for request in 0..5u64 {
        let (next, at) = (3 * request + 1, 0x1000 + 48 * request);
        let chain =
            [0x8000, 16 | 1 << 32 | next << 48, 0x1_0000, 4096 | 3 << 32 | (next + 1) << 48];
        devices.memory.write_obj(chain, GuestAddress(at)).unwrap();
        devices.memory.write_obj([0x9000, 1 | 2u64 << 32], GuestAddress(at + 32)).unwrap();
        let head = GuestAddress(0x2004 + 2 * request);
        devices.memory.write_obj(3 * request as u16, head).unwrap();
    }
    devices.memory.write_obj([0u16, 5], GuestAddress(0x2000)).unwrap();
    set(&mut devices, DISK + 0x50, 0, &mut signals);
    let used = |devices: &Devices| devices.memory.read_obj::<u16>(GuestAddress(0x3002)).unwrap();
    let before = used(&devices);
    settle(&mut devices, &mut signals);
    assert_eq!(used(&devices), 5, "{before} were done at once");
    assert!(signals > 0);
    compare(&mut devices);
}

/// The only CPU is interrupted by one pin, but by a disk, which has its own; several have one for each device.
#[cfg(all(feature = "smp", feature = "rng"))]
#[test]
fn interrupts_are_apart_where_they_are_many_or_there_are_cpus_for_them() {
    let image = file_of(64 << 10);
    for (cpus, gsis) in [(1, [5, 6, 5]), (2, [5, 6, 7])] {
        let mut devices = devices_with(&image, cpus, " --rng src=/dev/zero");
        let windows = devices.windows();
        assert_eq!(windows.len(), gsis.len());
        for (index, gsi) in gsis.into_iter().enumerate() {
            start(&mut devices, index as u64 * DISK, &mut 0);
            let mut signals = Vec::new();
            devices.config_changed(index, &mut |signal: Signal| signals.push(signal));
            assert_eq!(signals, [Signal::Gsi(gsi)], "{cpus} CPUs");
            assert_eq!(windows[index].gsi, u32::from(gsi));
        }
    }
}

/// The driver is told of a new configuration, and reads it and its generation.
#[test]
fn a_change_of_the_configuration_is_seen() {
    let image = file_of(64 << 10);
    let mut devices = devices(&image);
    for (generation, wanted) in [(1, 0), (2, 1)] {
        let mut signals = 0;
        devices.config_changed(0, &mut |_: Signal| signals += 1);
        assert_eq!(signals, wanted);
        let registers = devices.shown.as_ref().unwrap().window(0).unwrap();
        assert_eq!(registers[0xfc / 4].load(std::sync::atomic::Ordering::Relaxed), generation);
        compare(&mut devices);
        start(&mut devices, 0, &mut signals);
    }
}

/// Among devices of which only one can.
#[test]
#[cfg(feature = "pmem")]
fn memory_that_a_device_repaired_is_touched_again() {
    let image = file_of(2 << 20);
    let sparse = file_of(2 << 20);
    let more = format!(" --pmem file={}", sparse.path().display());
    let mut devices = devices_with(&image, 1, &more);
    let mut poll = |events| devices.poll(events, &mut |_: Signal| ()).repaired;
    assert!(!poll(Events::CONSOLE) && !poll(Events::MEMORY), "there is room");
    let full = || poll(Events::MEMORY);
    assert!(failing(libc::SYS_madvise, libc::EFAULT, full));
}

#[test]
fn each_device_has_a_window() {
    let image = file_of(64 << 10);
    let windows = devices(&image).windows();
    let bases: Vec<u64> = windows.iter().map(|window| window.base).collect();
    assert_eq!(bases, [layout::VIRTIO_MMIO_BASE, layout::VIRTIO_MMIO_BASE + DISK]);
}

/// What these are, the kernel finds without being told.
#[test]
fn a_console_and_a_disk_add_no_parameter() {
    let words = ["--kernel", "none", "--console", "null", "--disk", "path=none"];
    let Ok(Command::Run(config)) = cli::parse(words.iter().map(Into::into).collect()) else {
        panic!("the command line")
    };
    let mut words = Vec::new();
    config.devices.add_parameters(&mut words);
    assert!(words.is_empty(), "{words:?}");
}

/// An image that changed since is known by what was saved of it.
#[test]
#[cfg(all(feature = "pmem", feature = "snapshot"))]
fn each_image_is_saved_with_its_device() {
    use crate::snapshot::parts::{Kind, Parts, Writer};
    let image = file_of(2 << 20);
    let pmem = file_of(2 << 20);
    let mut devices = devices_with(&image, 1, &format!(" --pmem file={}", pmem.path().display()));
    let mut to = Writer::default();
    devices.save(&mut to, &mut |_: Signal| ());
    let file = to.finish();
    let parts = Parts::parse(&file).unwrap();
    let saved = |index| parts.get(Kind::Image, index).is_ok();
    assert_eq!([0, 1, 2].map(saved), [false, true, true]);
}

/// A snapshot saves what is nowhere but in this process.
#[test]
#[cfg(all(feature = "pmem", feature = "snapshot"))]
fn what_is_written_and_not_kept_is_private() {
    for (more, wanted) in [("", 0), (",discard_writes=on", 1)] {
        let (image, pmem) = (file_of(2 << 20), file_of(4 << 20));
        let more = format!(" --pmem file={}{more}", pmem.path().display());
        let private = devices_with(&image, 1, &more).private();
        assert_eq!(private.len(), wanted);
        for (index, start, len) in private {
            assert_eq!((index, len), (2, 4 << 20));
            assert!(start > 0 && start.is_multiple_of(4096), "{start:#x}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_writes_leave_memory_right(
        writes in proptest::collection::vec(
            (0..3u64, prop_oneof![0..0x108u64, (0..0x30u64).prop_map(|at| at * 4)], any::<u32>(), 0..6u8),
            0..60,
        ),
    ) {
        let image = file_of(64 << 10);
        let mut devices = devices(&image);
        let mut signals = 0;
        for (device, offset, value, kind) in writes {
            let window = device * DISK;
            match kind {
                0 => start(&mut devices, window, &mut signals),
                // Values that mean something.
                1..4 => set(&mut devices, window + offset, value & 0xf, &mut signals),
                _ => set(&mut devices, window + offset, value, &mut signals),
            }
            compare(&mut devices);
        }
    }
}
