//! A hypervisor's part around both crates, as short as it gets: boot data into the guest's first MiB, then
//! each exit to its device. There is no guest here: the exits are made up.
#![no_std]
#![no_main]

use brisk_boot::{Machine, Protocol, VirtioMmio, layout};
use brisk_devices::serial::Serial;
use brisk_devices::virtio::{Common, block, mmio};

static mut LOW: [u8; 1 << 20] = [0; 1 << 20];

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let window = VirtioMmio { base: layout::VIRTIO_MMIO_BASE, size: 0x1000, gsi: 5 };
    let machine = Machine { serial: true, virtio_mmio: &[window], ..Machine::new(64 << 20, b"console=ttyS0") };
    // SAFETY: one thread, and no other reference.
    let low = unsafe { &mut *(&raw mut LOW) };
    let Ok(entry) = brisk_boot::write(&machine, Protocol::Pvh, 1 << 20, None, low) else { freestanding::exit(1) };
    let (mut uart, mut common) = (Serial::new(), Common::<1>::new());
    let mut disk = block::Block::new(&block::Options { capacity: 8, ..Default::default() });
    let (mut printed, mut id, com1) = (None, [0; 4], u64::from(layout::COM1_PORT));
    for (address, value) in [(com1, b'!'), (window.base + 0x70, 3), (window.base + 8, 0)] {
        match address.checked_sub(window.base) {
            None => printed = uart.write(0, value),
            Some(8) => mmio::read(&common, &disk, 8, &mut id),
            // What the effect asks for, such as a look into a queue, is done here.
            Some(at) => drop(mmio::write(&mut common, &mut disk, at, &[value, 0, 0, 0])),
        }
    }
    freestanding::exit(u8::from(entry.rip != 1 << 20 || printed != Some(b'!') || id != [2, 0, 0, 0]))
}

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    freestanding::exit(100)
}
