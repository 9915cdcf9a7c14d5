//! The way of an access from the vCPU to its device: a `match` on constant ports and windows.

use brisk_boot::layout;

use crate::coalesced::Ring;
use crate::events::Events;
use crate::exit_status::ExitStatus;
use crate::interrupts::{IOAPIC_SIZE, Interrupts, Signal, Sink};
use crate::kvm::Vm;
use crate::measure::boot_timer::{BootTimer, Point};
use crate::measure::exit_kind::ExitKind;
use crate::measure::exit_stats::ExitStats;
use crate::measure::trace::Trace;
use crate::notify::Notify;
use crate::snapshot::at::At;
use crate::snapshot::generation::Generation;
#[cfg(feature = "snapshot")]
use crate::snapshot::parts::{Parts, Writer};
use crate::uart::{self, Uart};
use crate::virtio::{Devices, MAX_VIRTIO, PCI_BUSES, Polled, Served};

pub use crate::access::End;
pub use crate::virtio::Access;

pub(crate) const COM1: u16 = layout::COM1_PORT;
pub(crate) const COM1_END: u16 = COM1 + 7;
const IOAPIC_END: u64 = layout::IOAPIC_BASE + IOAPIC_SIZE - 1;
const VIRTIO_END: u64 =
    layout::VIRTIO_MMIO_BASE + MAX_VIRTIO as u64 * layout::VIRTIO_MMIO_SIZE as u64 - 1;
/// Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2).
pub(crate) const PCI_PORTS: u16 = 0xcf8;
pub(crate) const PCI_PORTS_END: u16 = PCI_PORTS + 7;
const ECAM_END: u64 = layout::PCI_ECAM_BASE + PCI_BUSES * layout::PCI_ECAM_BUS_SIZE - 1;
const BARS: u64 = layout::PCI_MEM32.start;
const BARS_END: u64 = BARS + layout::PCI_MEM32.len - 1;
/// Every device, and what counts and times the accesses to them.
pub struct Bus {
    /// For the ring of what the serial port sends.
    pub(crate) vm: &'static Vm,
    pub(crate) interrupts: Interrupts,
    pub(crate) serial: Option<Uart>,
    pub(crate) virtio: Devices,
    pub(crate) timer: BootTimer,
    pub(crate) stats: ExitStats,
    pub(crate) exit_status: ExitStatus,
    pub(crate) trace: Trace,
    pub(crate) notify: Notify,
    pub(crate) snapshot_at: At,
    #[allow(dead_code, reason = "only a snapshot's clones ask")]
    pub(crate) generation: Generation,
    pub(crate) ring: Ring,
}

impl Bus {
    /// `in`: fills `data`, which holds accesses of `width` bytes each. What no device answers reads
    /// as all ones, like a bus that nobody drives; for a driver that looks for a UART that is not
    /// there this is also "transmitter empty", so it never waits.
    pub fn pio_in(&mut self, port: u16, width: u8, data: &mut [u8]) -> Option<End> {
        data.fill(0xff);
        let access = match port {
            COM1..=COM1_END => match &mut self.serial {
                Some(serial) => {
                    for access in data.chunks_exact_mut(width.into()) {
                        access[0] = serial.read((port - COM1) as u8);
                    }
                    Access::done(self.serial_interrupt())
                }
                None => Access::Unclaimed,
            },
            PCI_PORTS..=PCI_PORTS_END => self.virtio.ports_in(port - PCI_PORTS, width, data),
            // WAK_STS (ACPI 6.5, 4.8.4.2.2): never asleep.
            // There is no keyboard controller, but many guests reset the machine by it, once it says that
            // it takes a command: the second bit is 0.
            layout::SLEEP_CONTROL_PORT
            | layout::SLEEP_STATUS_PORT
            | layout::RESET_PORT
            | layout::KEYBOARD_PORT => {
                data.fill(0);
                Access::Done
            }
            _ => Access::Unclaimed,
        };
        self.count(ExitKind::PioIn, port.into(), access.claimed());
        let _ = width;
        access.end()
    }

    /// `out`: `data` holds accesses of `width` bytes each. What no device takes is lost.
    pub fn pio_out(&mut self, port: u16, width: u8, data: &[u8]) -> Option<End> {
        let access = match port {
            layout::EXIT_STATUS_PORT if ExitStatus::LISTENS => {
                data.last().inspect(|status| self.exit_status.set(**status));
                Access::Done
            }
            layout::BOOT_TIMER_PORT if BootTimer::LISTENS => {
                let codes = data.chunks_exact(width.into()).map(|access| access[0]);
                Access::done(codes.filter_map(|code| self.mark(code)).last())
            }
            COM1..=COM1_END => match &mut self.serial {
                Some(serial) => {
                    for access in data.chunks_exact(width.into()) {
                        serial.write((port - COM1) as u8, access[0]);
                    }
                    let end = self.serial_interrupt();
                    self.coalesce(port);
                    Access::done(end)
                }
                None => Access::Unclaimed,
            },
            layout::RESET_CONTROL_PORT if width == 1 => {
                let resets = data.iter().any(|byte| byte & layout::RESET_CONTROL_CPU != 0);
                Access::done(resets.then_some(End::Reset))
            }
            PCI_PORTS..=PCI_PORTS_END => {
                self.virtio.ports_out(port - PCI_PORTS, width, data, &mut self.interrupts)
            }
            layout::SLEEP_CONTROL_PORT => {
                Access::done(data.contains(&layout::SLEEP_CONTROL_OFF).then_some(End::PowerOff))
            }
            layout::RESET_PORT => {
                Access::done(data.contains(&layout::RESET_VALUE).then_some(End::Reset))
            }
            layout::KEYBOARD_PORT => {
                let mut commands = data.chunks_exact(width.into()).map(|to| to[0]);
                Access::done(commands.any(|it| it == layout::KEYBOARD_RESET).then_some(End::Reset))
            }
            layout::SLEEP_STATUS_PORT => Access::Done,
            _ => Access::Unclaimed,
        };
        self.count(ExitKind::PioOut, port.into(), access.claimed());
        let _ = width;
        access.end()
    }

    /// A read of 1, 2, 4 or 8 bytes where no memory is; all ones where no device is either.
    pub fn mmio_read(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        let access = match address {
            layout::IOAPIC_BASE..=IOAPIC_END => {
                self.interrupts.read(address - layout::IOAPIC_BASE, data);
                Access::Done
            }
            layout::VIRTIO_MMIO_BASE..=VIRTIO_END => {
                self.virtio.read(address - layout::VIRTIO_MMIO_BASE, data)
            }
            BARS..=BARS_END => self.virtio.bar_read(address, data),
            layout::PCI_ECAM_BASE..=ECAM_END => {
                self.virtio.ecam_read(address - layout::PCI_ECAM_BASE, data)
            }
            _ => Access::Unclaimed,
        };
        self.count(ExitKind::MmioRead, address, access.claimed());
    }

    /// A write of 1, 2, 4 or 8 bytes where no memory is. What is left to be done is counted by
    /// [`Self::served`].
    pub fn mmio_write(&mut self, address: u64, data: &[u8]) -> Access {
        let access = match address {
            layout::IOAPIC_BASE..=IOAPIC_END => {
                self.interrupts.write(address - layout::IOAPIC_BASE, data);
                Access::Done
            }
            layout::VIRTIO_MMIO_BASE..=VIRTIO_END => {
                self.virtio.write(address - layout::VIRTIO_MMIO_BASE, data, &mut self.interrupts)
            }
            BARS..=BARS_END => self.virtio.bar_write(address, data, &mut self.interrupts),
            layout::PCI_ECAM_BASE..=ECAM_END => {
                self.virtio.ecam_write(address - layout::PCI_ECAM_BASE, data, &mut self.interrupts)
            }
            _ => Access::Unclaimed,
        };
        if matches!(access, Access::Notified(_)) {
            return access;
        }
        self.count(ExitKind::MmioWrite, address, access.claimed());
        access
    }

    /// A job is done that a write to `address` left, or an event.
    pub fn served(&mut self, done: Served, address: Option<u64>) -> Option<End> {
        let end = self.virtio.finish(done, &mut self.interrupts);
        if let Some(address) = address {
            self.count(ExitKind::MmioWrite, address, true);
        }
        end
    }

    /// Hands each of `events` to the device that it is for.
    pub fn poll(&mut self, events: Events) -> Polled {
        if events.intersects(Events::STOP) {
            return Polled::end(End::Quit);
        }
        if events.intersects(Events::INPUT)
            && let Some(serial) = &mut self.serial
        {
            serial.wake();
            if let Some(end) = self.serial_interrupt() {
                return Polled::end(end);
            }
        }
        self.virtio.poll(events, &mut self.interrupts)
    }

    /// The guest touched memory that the host could not give. False where no device can repair that.
    pub fn repair_memory(&mut self) -> bool {
        self.virtio.poll(Events::MEMORY, &mut self.interrupts).repaired
    }

    /// Finishes what the devices have begun, for a guest of which no vCPU runs.
    pub(crate) fn quiesce(&mut self) {
        self.catch_up();
        if let Some(serial) = &mut self.serial {
            serial.flush();
        }
        self.virtio.quiesce(&mut self.interrupts);
    }

    /// Hands on what waits, and writes the reports.
    pub(crate) fn finish(&mut self) {
        self.catch_up();
        if let Some(serial) = &mut self.serial {
            serial.flush();
        }
        self.virtio.hand_on();
        self.timer.finish();
        self.stats.finish();
        self.trace.finish();
    }

    /// Gives the serial port what KVM kept for it. To be done before anything else after an exit.
    pub(crate) fn catch_up(&mut self) {
        while let Some(byte) = self.ring.pop() {
            if let Some(serial) = &mut self.serial {
                serial.write(0, byte);
            }
        }
    }

    /// After a write to the serial port's `port`: the driver may now want interrupts, or none any more.
    pub(crate) fn coalesce(&mut self, port: u16) {
        if cfg!(feature = "coalesced-serial") && port == COM1 + u16::from(uart::IER) {
            let Some(serial) = &self.serial else { return };
            self.ring.set(!serial.wants_interrupts(), self.vm);
            // Another vCPU may have written in between.
            self.catch_up();
        }
    }

    /// The guest wrote `code` to port 0x80.
    pub(crate) fn mark(&mut self, code: u8) -> Option<End> {
        self.timer.mark(Point::Code(code));
        self.trace.mark(code);
        self.notify.mark(code);
        self.snapshot_at.comes(code).then_some(End::Snapshot)
    }

    /// Saves every device, when what it has on its way is done.
    #[cfg(feature = "snapshot")]
    pub fn save(&mut self, to: &mut Writer) {
        self.catch_up();
        self.virtio.save(to, &mut self.interrupts);
        if let Some(serial) = &mut self.serial {
            serial.save(to);
        }
        self.interrupts.save(to);
    }

    /// Makes these new devices, apart from virtio's, what those were.
    ///
    /// # Errors
    /// They were others.
    #[cfg(feature = "snapshot")]
    pub fn restore(&mut self, from: &Parts<'_>) -> crate::error::Result<()> {
        self.interrupts.restore(from)?;
        self.serial.as_mut().map_or(Ok(()), |serial| serial.restore(from))
    }

    /// Counts an exit for a signal.
    pub fn count_interrupted(&mut self) {
        self.count(ExitKind::Interrupted, 0, true);
    }

    /// Gives the guest the input that waits, now that it may have made room, and raises the
    /// serial port's interrupt where its line has risen.
    pub(crate) fn serial_interrupt(&mut self) -> Option<End> {
        let serial = self.serial.as_mut()?;
        let quit = serial.receive();
        if serial.interrupt() {
            self.interrupts.signal(Signal::Gsi(layout::COM1_GSI as u8));
        }
        quit.then_some(End::Quit)
    }

    pub(crate) fn count(&mut self, kind: ExitKind, address: u64, claimed: bool) {
        self.stats.count(kind, address, claimed);
        self.trace.exit(kind, address);
    }
}
