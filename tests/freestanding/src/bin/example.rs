//! A hypervisor's part around both crates, as short as it gets: boot data into the guest's first MiB, then
//! each exit to its device. There is no guest here: the exits are made up.
#![no_std]
#![no_main]

use brisk_boot::{Machine, Protocol, VirtioMmio, layout};
use brisk_devices::serial::Serial;
use brisk_devices::virtio::{Common, Effect, block, mmio};

static mut LOW: [u8; 1 << 20] = [0; 1 << 20];

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let window = VirtioMmio { base: layout::VIRTIO_MMIO_BASE, size: 0x1000, gsi: 5 };
    let machine = Machine {
        ram_size: 64 << 20,
        cpus: 1,
        cmdline: b"console=ttyS0",
        initramfs: None,
        serial: true,
        virtio_mmio: &[window],
        pci: None,
        ioapic_gsi: 4,
        ioapic_pins: 2,
        generation_id: None,
        power_button: None,
    };
    // SAFETY: one thread, and no other reference.
    let low = unsafe { &mut *(&raw mut LOW) };
    let Ok(entry) = brisk_boot::write(&machine, Protocol::Pvh, 1 << 20, None, low) else { freestanding::exit(1) };
    let (mut uart, mut common) = (Serial::new(), Common::<1>::new());
    let mut disk = block::Block::new(&block::Options { capacity: 8, ..Default::default() });
    let (mut printed, mut id) = (None, [0; 4]);
    for (address, value) in [(u64::from(layout::COM1_PORT), 33), (window.base + 0x70, 3), (window.base + 8, 0)] {
        match address.checked_sub(window.base) {
            None => printed = uart.write(0, value),
            Some(8) => mmio::read(&common, &disk, 8, &mut id),
            Some(at) => match mmio::write(&mut common, &mut disk, at, &[value, 0, 0, 0]) {
                Effect::Activate | Effect::Notify(_) | Effect::Reset | Effect::QueueStop(_) | Effect::None => {}
            },
        }
    }
    let works = entry.rip == 1 << 20 && printed == Some(b'!') && id == [2, 0, 0, 0];
    freestanding::exit(u8::from(!works))
}

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    freestanding::exit(100)
}
