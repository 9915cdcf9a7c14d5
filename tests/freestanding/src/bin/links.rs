//! Uses every module of both packages, and ends with status 0 if they work.
#![no_std]
#![no_main]

use core::hint::black_box;

use brisk_boot::{Machine, PciHost, Protocol, Range, VirtioMmio, bzimage, cmdline, elf, format, layout};
use brisk_devices::ioapic::IoApic;
use brisk_devices::pci::{ConfigPorts, HostBridge};
use brisk_devices::serial::Serial;
use brisk_devices::virtio::block::{self, Block};
use brisk_devices::virtio::console::Console;
use brisk_devices::virtio::pci::{Function, VirtioPci};
use brisk_devices::virtio::pmem::Pmem;
use brisk_devices::virtio::rng::Rng;
use brisk_devices::virtio::{Common, Device, mmio};

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    freestanding::exit(100)
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let checks: &[fn() -> bool] = &[boot, kernels, ports, windows, functions];
    for (number, check) in (1..).zip(checks) {
        if !check() {
            freestanding::exit(number);
        }
    }
    freestanding::exit(0)
}

/// Boot data for a machine with everything, by both protocols.
fn boot() -> bool {
    static mut LOW: [u8; 1 << 20] = [0; 1 << 20];
    let mut line = Default::default();
    let Ok(()) = cmdline::with_defaults(black_box(b"quiet"), &["panic=-1"], &mut line) else {
        return false;
    };
    let machine = Machine {
        ram_size: black_box(5 << 30),
        cpus: 2,
        cmdline: &line,
        initramfs: Some(Range { start: 32 << 20, len: 4096 }),
        serial: true,
        virtio_mmio: &[VirtioMmio { base: layout::VIRTIO_MMIO_BASE, size: 0x1000, gsi: 5 }],
        pci: Some(PciHost {
            ecam_base: layout::PCI_ECAM_BASE,
            last_bus: 0,
            mem32: layout::PCI_MEM32,
            mem64: None,
        }),
        ioapic_gsi: 0,
        ioapic_pins: 8,
        generation_id: None,
        power_button: None,
    };
    // SAFETY: one thread, and no other reference.
    let low = unsafe { &mut *(&raw mut LOW) };
    [Protocol::Pvh, Protocol::Linux64].into_iter().all(|protocol| {
        low.fill(0);
        let entry = brisk_boot::write(&machine, protocol, 16 << 20, None, low);
        entry.is_ok_and(|entry| entry.rip == 16 << 20) && low.windows(8).any(|at| at == b"RSD PTR ")
    })
}

/// Kernel files that are none.
fn kernels() -> bool {
    let file = black_box([0; 4096]);
    elf::Headers::read(&file, 4096) == Err(elf::Error::NotElf)
        && format::recognise(&file).is_none()
        && !bzimage::is_bzimage(&file)
        && bzimage::parse(&file, 4096).is_err()
        && elf::Notes::new(&file, 4).pvh_entry().is_none()
}

/// The serial port and the IOAPIC.
fn ports() -> bool {
    let (mut serial, mut ioapic) = (Serial::new(), IoApic::<8>::new(0, 8));
    serial.receive(black_box(b'a'));
    ioapic.write(0, black_box(1));
    ioapic.set_line(4, true);
    serial.read(5) & 1 == 1
        && serial.write(0, b'b') == Some(b'b')
        && ioapic.read(0x10) >> 16 == 7
        && ioapic.deliver().is_none()
}

/// Each device by MMIO.
fn windows() -> bool {
    let disk = Block::new(&block::Options { capacity: black_box(8), ..Default::default() });
    magic(&disk) && magic(&Console::new(Some((80, 25)))) && magic(&Pmem::new(4 << 30, 2 << 20)) && magic(&Rng)
}

fn magic<D: Device>(device: &D) -> bool {
    let mut data = [0; 4];
    mmio::read(&Common::<2>::new(), device, black_box(0), &mut data);
    data == *b"virt"
}

/// PCI's configuration, and a device on it.
fn functions() -> bool {
    let mut common = Common::<1>::new();
    let function: &mut Function = &mut VirtioPci::<2>::new(0xf000_0000);
    let device = Pmem::new(4 << 30, 2 << 20);
    let (mut id, mut bridge) = ([0; 4], [0; 4]);
    function.config_read(&mut common, &device, black_box(0), &mut id);
    HostBridge::config_read(black_box(0), &mut bridge);
    let mut ports = ConfigPorts::new();
    ports.write(0, &black_box(0x8000_0800_u32).to_le_bytes());
    let address = ports.read(4, &mut [0; 4]);
    id[..2] == [0xf4, 0x1a] && bridge != [0xff; 4] && address.is_some_and(|at| at.device == 1)
}
