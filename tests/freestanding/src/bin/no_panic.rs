//! All that a guest can reach of brisk-devices, with inputs that the compiler knows nothing of. The
//! panic handler calls a function that does not exist: if any of this can panic, the program does
//! not link.
#![no_std]
#![no_main]

use core::hint::black_box;

use brisk_devices::ioapic::IoApic;
use brisk_devices::pci::{Address, ConfigPorts, HostBridge};
use brisk_devices::serial::Serial;
use brisk_devices::virtio::block::{self, Block};
use brisk_devices::virtio::console::Console;
use brisk_devices::virtio::pci::{Function, VirtioPci};
use brisk_devices::streams::Frames;
use brisk_devices::virtio::pmem::Pmem;
use brisk_devices::virtio::rng::Rng;
use brisk_devices::virtio::{Common, Device, State, mmio};
use zerocopy::FromZeros;

unsafe extern "C" {
    fn a_guest_can_reach_a_panic() -> !;
}

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never linked.
    unsafe { a_guest_can_reach_a_panic() }
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    legacy(&mut black_box(Serial::new()), &mut black_box(IoApic::new(0, 8)));
    let disk = block::Options { capacity: any(), ..Default::default() };
    let mut disk = Block::new(&black_box(disk));
    virtio(&mut disk);
    requests(&mut disk);
    let mut console = Console::new(black_box(Some((80, 25))));
    virtio(&mut console);
    black_box(console.resize(any(), any()));
    virtio(&mut Pmem::new(any(), any()));
    virtio(&mut Rng);
    configuration();
    streams();
    freestanding::exit(0)
}

/// What a guest sends on a workload's streams.
fn streams() {
    let mut frames = black_box(Frames::new());
    let bytes = black_box([0; 64]);
    let mut rest = black_box(bytes.as_slice());
    while let Some(event) = frames.next(&mut rest) {
        black_box(event);
    }
}

/// What the compiler cannot know.
fn any<T: Default>() -> T {
    black_box(T::default())
}

/// `size` bytes, or any other number of bytes.
fn data(buffer: &mut [u8; 8]) -> &mut [u8] {
    black_box(buffer.as_mut_slice())
}

fn legacy(serial: &mut Serial, ioapic: &mut IoApic<8>) {
    black_box(serial.read(any()));
    black_box(serial.write(any(), any()));
    black_box(serial.receive(any()));
    black_box((serial.irq(), serial.rx_space()));
    black_box(ioapic.read(any()));
    black_box(ioapic.write(any(), any()));
    ioapic.set_line(any(), any());
    ioapic.eoi(any());
    black_box(ioapic.deliver());
    black_box(ioapic.msi(any()));
    black_box((serial.save(), ioapic.save()));
    let _ = black_box((serial.restore(&state()), ioapic.restore(&state())));
}

/// A saved state of which the compiler knows nothing.
fn state<T: FromZeros>() -> T {
    black_box(T::new_zeroed())
}

/// A device on both transports.
fn virtio<D: Device>(device: &mut D) {
    let mut common = black_box(Common::<2>::new());
    // The transports know the number of queues and vectors at run time only.
    let function: &mut Function = &mut black_box(VirtioPci::<3>::new(any()));
    let mut buffer = any();
    let data = data(&mut buffer);
    mmio::read(&common, device, any(), data);
    black_box(mmio::write(&mut common, device, any(), data));
    function.config_read(&mut common, device, any(), data);
    black_box(function.config_write(&mut common, device, any(), data));
    function.bar_read(&mut common, device, any(), data);
    black_box(function.bar_write(&mut common, device, any(), data));
    black_box((function.bar(), function.config_vector()));
    black_box((function.msix.raise(any()), function.msix.take_pending(any())));
    black_box(common.config_changed());
    black_box(common.needs_reset());
    {
        let common: &mut State = &mut common;
        black_box((common.save(device), function.save()));
        let _ = black_box((common.restore(device, &state()), function.restore(&state())));
    }
    if let Some(queue) = common.queue(any()) {
        black_box((queue.desc_table(), queue.avail_ring(), queue.used_ring()));
    }
}

/// Requests in queues.
fn requests(disk: &mut Block) {
    if let Ok(request) = disk.parse(&any(), any(), any()) {
        let _ = black_box(disk.segment(request, &any()));
    }
    black_box(disk.resize(any()));
    let mut buffer = any();
    let _ = black_box(Pmem::parse(data(&mut buffer), any()));
}

/// PCI's configuration mechanisms.
fn configuration() {
    let mut ports = black_box(ConfigPorts::new());
    let mut buffer = any();
    let data = data(&mut buffer);
    black_box(ports.write(any(), data));
    black_box(ports.read(any(), data));
    black_box(Address::from_ecam(any()));
    HostBridge::config_read(any(), data);
}
