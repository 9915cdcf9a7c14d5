//! The way of an access from the vCPU to its device: a `match` on constant ports and windows.

use brisk_boot::layout;
use brisk_devices::ioapic::{self, IoApic};

#[cfg(feature = "coalesced-serial")]
use crate::coalesced::Ring;
use crate::kvm::Vm;
#[cfg(feature = "boot-timer")]
use crate::measure::boot_timer::{BootTimer, Point};
use crate::measure::exit_kind::ExitKind;
#[cfg(feature = "exit-stats")]
use crate::measure::exit_stats::ExitStats;
use crate::measure::trace::Trace;
#[cfg(feature = "serial")]
use crate::signals;
#[cfg(feature = "serial")]
use crate::uart::Uart;
#[cfg(feature = "mmio")]
use crate::virtio::{Devices, MAX_VIRTIO, Signal};

/// The most pins that the IOAPIC can have.
pub const MAX_PINS: usize = 16;

#[cfg(feature = "serial")]
pub(crate) const COM1: u16 = layout::COM1_PORT;
#[cfg(feature = "serial")]
pub(crate) const COM1_END: u16 = COM1 + 7;
const IOAPIC_END: u64 = layout::IOAPIC_BASE + ioapic::SIZE - 1;
#[cfg(feature = "mmio")]
const VIRTIO_END: u64 =
    layout::VIRTIO_MMIO_BASE + MAX_VIRTIO as u64 * layout::VIRTIO_MMIO_SIZE as u64 - 1;
/// Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2).
#[cfg(feature = "pci")]
pub(crate) const PCI_PORTS: u16 = 0xcf8;
#[cfg(feature = "pci")]
pub(crate) const PCI_PORTS_END: u16 = PCI_PORTS + 7;
#[cfg(feature = "pci")]
const ECAM_END: u64 = layout::PCI_ECAM_BASE + PCI_BUSES * layout::PCI_ECAM_BUS_SIZE - 1;
#[cfg(feature = "pci")]
const BARS: u64 = layout::PCI_MEM32.start;
#[cfg(feature = "pci")]
const BARS_END: u64 = BARS + layout::PCI_MEM32.len - 1;
/// Buses that the guest is told of. All but the first are empty, and Linux looks at each for 32
/// devices.
#[cfg(feature = "pci")]
pub const PCI_BUSES: u64 = 1;

/// Why the VM ends by the guest's or the user's own wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// ACPI's S5.
    PowerOff,
    /// The reset register.
    Reset,
    /// Ctrl-A x, SIGTERM or SIGINT.
    Quit,
}

/// Every device, and what counts and times the accesses to them.
pub struct Bus {
    /// For interrupt messages.
    pub vm: &'static Vm,
    pub(crate) ioapic: IoApic<MAX_PINS>,
    #[cfg(feature = "serial")]
    pub(crate) serial: Option<Uart>,
    #[cfg(feature = "mmio")]
    pub(crate) virtio: Devices,
    #[cfg(feature = "boot-timer")]
    pub(crate) timer: BootTimer,
    #[cfg(feature = "exit-stats")]
    pub(crate) stats: ExitStats,
    pub(crate) trace: Trace,
    #[cfg(feature = "coalesced-serial")]
    pub(crate) ring: Ring,
}

impl Bus {
    /// `in`: fills `data`, which holds accesses of `width` bytes each. What no device answers reads
    /// as all ones, like a bus that nobody drives; for a driver that looks for a UART that is not
    /// there this is also "transmitter empty", so it never waits.
    pub fn pio_in(&mut self, port: u16, width: u8, data: &mut [u8]) {
        data.fill(0xff);
        let claimed = match port {
            #[cfg(feature = "serial")]
            COM1..=COM1_END => match &mut self.serial {
                Some(serial) => {
                    for access in data.chunks_exact_mut(width.into()) {
                        access[0] = serial.read((port - COM1) as u8);
                    }
                    self.serial_interrupt();
                    true
                }
                None => false,
            },
            #[cfg(feature = "pci")]
            PCI_PORTS..=PCI_PORTS_END => self.virtio.ports_in(port - PCI_PORTS, width, data),
            // WAK_STS (ACPI 6.5, 4.8.4.2.2): never asleep.
            layout::SLEEP_CONTROL_PORT | layout::SLEEP_STATUS_PORT | layout::RESET_PORT => {
                data.fill(0);
                true
            }
            _ => false,
        };
        self.count(ExitKind::PioIn, port.into(), claimed);
        let _ = width;
    }

    /// `out`: `data` holds accesses of `width` bytes each. What no device takes is lost.
    pub fn pio_out(&mut self, port: u16, width: u8, data: &[u8]) -> Option<End> {
        let mut end = None;
        let claimed = match port {
            #[cfg(feature = "boot-timer")]
            layout::BOOT_TIMER_PORT => {
                for access in data.chunks_exact(width.into()) {
                    self.mark(access[0]);
                }
                true
            }
            #[cfg(feature = "serial")]
            COM1..=COM1_END => match &mut self.serial {
                Some(serial) => {
                    for access in data.chunks_exact(width.into()) {
                        serial.write((port - COM1) as u8, access[0]);
                    }
                    self.serial_interrupt();
                    #[cfg(feature = "coalesced-serial")]
                    self.coalesce(port);
                    true
                }
                None => false,
            },
            layout::RESET_CONTROL_PORT if width == 1 => {
                let resets = data.iter().any(|byte| byte & layout::RESET_CONTROL_CPU != 0);
                end = resets.then_some(End::Reset);
                true
            }
            #[cfg(feature = "pci")]
            PCI_PORTS..=PCI_PORTS_END => {
                let Self { virtio, ioapic, vm, .. } = self;
                virtio.ports_out(port - PCI_PORTS, width, data, |to| raise(ioapic, vm, to))
            }
            layout::SLEEP_CONTROL_PORT => {
                end = data.contains(&layout::SLEEP_CONTROL_OFF).then_some(End::PowerOff);
                true
            }
            layout::RESET_PORT => {
                end = data.contains(&layout::RESET_VALUE).then_some(End::Reset);
                true
            }
            layout::SLEEP_STATUS_PORT => true,
            _ => false,
        };
        self.count(ExitKind::PioOut, port.into(), claimed);
        let _ = width;
        end
    }

    /// A read of 1, 2, 4 or 8 bytes where no memory is; all ones where no device is either.
    pub fn mmio_read(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        let claimed = match address {
            layout::IOAPIC_BASE..=IOAPIC_END => {
                let value = self.ioapic.read(address - layout::IOAPIC_BASE).to_le_bytes();
                for (to, from) in data.iter_mut().zip(value.into_iter().chain([0; 4])) {
                    *to = from;
                }
                true
            }
            #[cfg(feature = "mmio")]
            layout::VIRTIO_MMIO_BASE..=VIRTIO_END => {
                self.virtio.read(address - layout::VIRTIO_MMIO_BASE, data)
            }
            #[cfg(feature = "pci")]
            BARS..=BARS_END => self.virtio.bar_read(address, data),
            #[cfg(feature = "pci")]
            layout::PCI_ECAM_BASE..=ECAM_END => {
                self.virtio.ecam_read(address - layout::PCI_ECAM_BASE, data)
            }
            _ => false,
        };
        self.count(ExitKind::MmioRead, address, claimed);
    }

    /// A write of 1, 2, 4 or 8 bytes where no memory is.
    pub fn mmio_write(&mut self, address: u64, data: &[u8]) {
        let claimed = match address {
            layout::IOAPIC_BASE..=IOAPIC_END => {
                let mut value = [0; 4];
                for (to, from) in value.iter_mut().zip(data) {
                    *to = *from;
                }
                self.ioapic.write(address - layout::IOAPIC_BASE, u32::from_le_bytes(value));
                deliver(&mut self.ioapic, self.vm);
                true
            }
            #[cfg(feature = "mmio")]
            layout::VIRTIO_MMIO_BASE..=VIRTIO_END => {
                let Self { virtio, ioapic, vm, .. } = self;
                let offset = address - layout::VIRTIO_MMIO_BASE;
                virtio.write(offset, data, |to| raise(ioapic, vm, to))
            }
            #[cfg(feature = "pci")]
            BARS..=BARS_END => {
                let Self { virtio, ioapic, vm, .. } = self;
                virtio.bar_write(address, data, |to| raise(ioapic, vm, to))
            }
            #[cfg(feature = "pci")]
            layout::PCI_ECAM_BASE..=ECAM_END => {
                let Self { virtio, ioapic, vm, .. } = self;
                let offset = address - layout::PCI_ECAM_BASE;
                virtio.ecam_write(offset, data, |to| raise(ioapic, vm, to))
            }
            _ => false,
        };
        self.count(ExitKind::MmioWrite, address, claimed);
    }

    /// The guest has ended a level-triggered interrupt.
    pub fn eoi(&mut self, vector: u8) {
        self.ioapic.eoi(vector);
        deliver(&mut self.ioapic, self.vm);
    }

    /// A signal may have brought input: takes it. True where the user wants out.
    pub fn input(&mut self) -> bool {
        #[cfg(feature = "pmem")]
        self.virtio.mend_memory();
        #[cfg(feature = "io-uring")]
        {
            let Self { virtio, ioapic, vm, .. } = self;
            virtio.complete(|to| raise(ioapic, vm, to));
        }
        #[cfg(any(feature = "serial", feature = "console"))]
        return self.take_input(crate::signals::take_input());
        #[cfg(not(any(feature = "serial", feature = "console")))]
        false
    }

    #[cfg(any(feature = "serial", feature = "console"))]
    fn take_input(&mut self, woken: bool) -> bool {
        let mut quit = false;
        #[cfg(feature = "serial")]
        if let Some(serial) = &mut self.serial {
            if woken {
                serial.wake();
            }
            quit |= serial.receive();
            self.serial_interrupt();
        }
        #[cfg(feature = "console")]
        {
            let Self { virtio, ioapic, vm, .. } = self;
            quit |= virtio.input(woken, |to| raise(ioapic, vm, to));
        }
        quit
    }

    /// Gives the serial port what KVM kept for it. To be done before anything else after an exit.
    #[cfg(feature = "coalesced-serial")]
    pub(crate) fn catch_up(&mut self) {
        while let Some(byte) = self.ring.pop() {
            if let Some(serial) = &mut self.serial {
                serial.write(0, byte);
            }
        }
    }

    /// After a write to the serial port's `port`: the driver may now want interrupts, or none any more.
    #[cfg(feature = "coalesced-serial")]
    pub(crate) fn coalesce(&mut self, port: u16) {
        if port == COM1 + u16::from(crate::uart::IER) {
            let Some(serial) = &self.serial else { return };
            self.ring.set(!serial.wants_interrupts(), self.vm);
            // Another vCPU may have written in between.
            self.catch_up();
        }
    }

    /// The guest wrote `code` to port 0x80.
    #[cfg(feature = "boot-timer")]
    pub(crate) fn mark(&mut self, code: u8) {
        self.timer.mark(Point::Code(code));
        self.trace.mark(code);
    }

    /// Counts an exit for a signal.
    pub fn count_interrupted(&mut self) {
        self.count(ExitKind::Interrupted, 0, true);
    }

    /// Counts an exit that has no address.
    pub fn count_other(&mut self) {
        self.count(ExitKind::Other, 0, true);
    }

    /// Gives the guest the input that waits, now that it may have made room, and raises the
    /// serial port's interrupt where its line has risen.
    #[cfg(feature = "serial")]
    pub(crate) fn serial_interrupt(&mut self) {
        if let Some(serial) = &mut self.serial {
            if serial.receive() {
                signals::request_stop();
            }
            if serial.interrupt() {
                edge(&mut self.ioapic, self.vm, layout::COM1_GSI as u8);
            }
        }
    }

    pub(crate) fn count(&mut self, kind: ExitKind, address: u64, claimed: bool) {
        #[cfg(feature = "exit-stats")]
        self.stats.count(kind, address, claimed);
        let _ = claimed;
        self.trace.exit(kind, address);
    }
}

/// Brings a device's interrupt to the guest.
#[cfg(feature = "mmio")]
pub(crate) fn raise(ioapic: &mut IoApic<MAX_PINS>, vm: &Vm, signal: Signal) {
    match signal {
        Signal::Gsi(gsi) => edge(ioapic, vm, gsi),
        #[cfg(feature = "pci")]
        Signal::Msi(msi) => vm.signal_msi(msi),
    }
}

/// One edge on `gsi`.
#[cfg(any(feature = "serial", feature = "mmio"))]
fn edge(ioapic: &mut IoApic<MAX_PINS>, vm: &Vm, gsi: u8) {
    ioapic.set_line(gsi, true);
    ioapic.set_line(gsi, false);
    deliver(ioapic, vm);
}

fn deliver(ioapic: &mut IoApic<MAX_PINS>, vm: &Vm) {
    while let Some(msi) = ioapic.deliver() {
        vm.signal_msi(msi);
    }
}
