//! virtio over PCI (virtio 1.3, 4.1): bus 0 with the host bridge and one function a device (feature
//! `pci`).
//!
//! All are functions of device 0, so that Linux, which looks for each of 32 devices, finds one. It
//! reads their configuration space as memory ([`ecam`]). The ports 0xcf8 to 0xcff answer only where
//! they are asked for: Linux prefers them, and each access by them is two exits.
//!
//! The BARs are assigned before the guest starts, so that it has nothing to assign. An MSI-X message
//! goes to KVM in the exit that causes it: there is no route to set up, so the MSI-X table can be
//! [memory](table) that is looked at when a message is sent.

mod ecam;
mod table;

use brisk_boot::{PciHost, layout};
use brisk_devices::pci::{Address, ConfigPorts, HostBridge};
use brisk_devices::virtio::pci::{self, BAR_SIZE, Effect, VirtioPci};
use vm_memory::GuestMemoryMmap;

use crate::access::End;
use crate::config::{Config, Transport};
use crate::error::Result;
use crate::interrupts::{Signal, Sink};
use crate::kvm::Vm;
#[cfg(feature = "seccomp")]
use crate::seccomp::rule::Rule;
use crate::virtio::table::{Device, each};
use crate::virtio::{Access, Backend, Devices, Reply, VirtioDevice};
use ecam::Readable;
use table::Table;
#[cfg(feature = "snapshot")]
use {
    crate::snapshot::parts::{Kind, Parts, Writer},
    zerocopy::IntoBytes,
};

/// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`: memory that the guest reads instead of
/// leaving comes and goes.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[Rule::ioctl(0x4020_ae46)];

/// Buses that the guest is told of. All but the first are empty, and Linux looks at each for 32
/// devices.
pub const BUSES: u64 = 1;

/// The bus as the guest is told of it.
const HOST: PciHost = PciHost {
    ecam_base: layout::PCI_ECAM_BASE,
    last_bus: (BUSES - 1) as u8,
    mem32: layout::PCI_MEM32,
    mem64: None,
};

/// The bus apart from its devices.
pub struct Pci {
    ports: Option<ConfigPorts>,
    readable: Option<Readable>,
    /// In the order of the devices, whose numbers on the bus are one higher: 0 is the host bridge.
    functions: Vec<Function>,
}

/// A function as the bus has it.
struct Function {
    registers: Box<pci::Function>,
    table: Table,
}

impl Pci {
    /// A function for each of `slots`, their BARs one after the other in the window; none where the
    /// devices are reached otherwise.
    pub(in crate::virtio) fn open(config: &Config, slots: &[Device]) -> Option<Pci> {
        let ports = match config.transport {
            Transport::Mmio => return None,
            transport => transport == Transport::PciPorts,
        };
        let bars = (layout::PCI_MEM32.start..).step_by(BAR_SIZE as usize);
        let functions = slots.iter().zip(bars).map(|(slot, bar)| new_function(slot, bar)).collect();
        Some(Pci { ports: ports.then(ConfigPorts::new), readable: None, functions })
    }

    /// The bus as the guest is told of it.
    pub(in crate::virtio) fn host(&self) -> PciHost {
        HOST
    }

    /// Brings the answer of device `index`, which is `slot`, to its driver.
    pub(in crate::virtio) fn tell(
        &mut self,
        index: usize,
        slot: &Device,
        reply: Reply,
        sink: &mut impl Sink,
    ) {
        if let Some(function) = self.functions.get_mut(index) {
            each!(slot, device => device.tell(function, reply, sink));
        }
    }
}

#[cfg(feature = "snapshot")]
impl Pci {
    /// Saves the functions and the address port.
    pub(in crate::virtio) fn save(&mut self, to: &mut Writer) {
        for (index, port) in self.functions.iter_mut().enumerate() {
            port.table.load(&mut port.registers);
            to.add(Kind::Function, index, port.registers.save().as_bytes());
        }
        if let Some(ports) = &self.ports {
            to.add(Kind::ConfigPorts, 0, &ports.save().to_le_bytes());
        }
    }

    /// Makes new functions, of which nothing is memory yet, what those were.
    ///
    /// # Errors
    /// They were others.
    pub(in crate::virtio) fn restore(&mut self, from: &Parts<'_>) -> Result<()> {
        for (index, port) in self.functions.iter_mut().enumerate() {
            let saved: pci::Saved = from.read(Kind::Function, index)?;
            let restored = port.registers.restore(&saved);
            restored.map_err(|_| from.wrong(Kind::Function, index))?;
        }
        if let Some(ports) = &mut self.ports {
            ports.restore(u32::from_le_bytes(from.read(Kind::ConfigPorts, 0)?));
        }
        Ok(())
    }
}

/// With one vector for the configuration and one a queue: Linux then needs to share none, and each
/// vector more would be a masked entry more for it to mask.
fn new_function(slot: &Device, bar: u64) -> Function {
    let registers: Box<pci::Function> = match each!(slot, device => device.queue_count()) {
        1 => Box::new(VirtioPci::<2>::new(bar)),
        2 => Box::new(VirtioPci::<3>::new(bar)),
        _ => Box::new(VirtioPci::<9>::new(bar)),
    };
    Function { registers, table: Table::new() }
}

/// The number of the function at `address`, counted over all devices of the bus.
fn number(address: Address) -> usize {
    usize::from(address.device) << 3 | usize::from(address.function)
}

impl Devices {
    /// Lets the guest access as memory what can be: MSI-X tables, and configuration space, if it uses
    /// the enhanced one. Takes memory slots of `vm` from `slot` up, one more than there are devices.
    ///
    /// # Errors
    /// KVM did not take the slot.
    pub(in crate::virtio) fn show_functions(&mut self, vm: &'static Vm, slot: u32) -> Result<()> {
        let functions = self.pci.iter_mut().flat_map(|pci| &mut pci.functions);
        for (function, slot) in functions.zip(slot + 1..) {
            function.table.set_place(vm, slot);
        }
        if self.pci.as_ref().is_none_or(|pci| pci.ports.is_some()) {
            return Ok(());
        }
        let count = self.slots.len() + 1;
        let readable = Readable::new(vm, slot, count, |number, at| self.config_word(number, at))?;
        if let Some(pci) = &mut self.pci {
            pci.readable = Some(readable);
        }
        self.show_restored();
        Ok(())
    }

    /// After a restore: what was memory is memory again.
    #[cfg(feature = "snapshot")]
    fn show_restored(&mut self) {
        let Some(Pci { functions, readable, .. }) = &mut self.pci else { return };
        for port in functions {
            if port.registers.uses_window() {
                readable.iter_mut().for_each(Readable::hide);
            } else {
                port.table.show(&port.registers);
            }
        }
    }

    /// Nothing was memory.
    #[cfg(not(feature = "snapshot"))]
    #[inline(always)]
    fn show_restored(&mut self) {}

    /// `in` from port 0xcf8 + `offset`: `data` holds accesses of `width` bytes.
    pub fn ports_in(&mut self, offset: u16, width: u8, data: &mut [u8]) -> Access {
        for access in data.chunks_exact_mut(width.into()) {
            let Some(Pci { ports: Some(ports), .. }) = &self.pci else { return Access::Unclaimed };
            if let Some(address) = ports.read(offset, access) {
                self.config_read(number(address), address.register, access);
            }
        }
        Access::Done
    }

    /// `out` to port 0xcf8 + `offset`: `data` holds accesses of `width` bytes.
    pub fn ports_out(
        &mut self,
        offset: u16,
        width: u8,
        data: &[u8],
        sink: &mut impl Sink,
    ) -> Access {
        let mut end = None;
        for access in data.chunks_exact(width.into()) {
            let Some(Pci { ports: Some(ports), .. }) = &mut self.pci else {
                return Access::Unclaimed;
            };
            if let Some(address) = ports.write(offset, access) {
                end = end.or(self.config_write(address, access, sink));
            }
        }
        Access::done(end)
    }

    /// A read at `offset` into the enhanced configuration space.
    pub fn ecam_read(&mut self, offset: u64, data: &mut [u8]) -> Access {
        if self.pci.is_none() {
            return Access::Unclaimed;
        }
        if let Some(address) = Address::from_ecam(offset) {
            self.config_read(number(address), address.register, data);
        }
        Access::Done
    }

    /// A write at `offset` into the enhanced configuration space.
    pub fn ecam_write(&mut self, offset: u64, data: &[u8], sink: &mut impl Sink) -> Access {
        if self.pci.is_none() {
            return Access::Unclaimed;
        }
        let address = Address::from_ecam(offset);
        Access::done(address.and_then(|address| self.config_write(address, data, sink)))
    }

    /// 32 bits of configuration space.
    fn config_word(&mut self, number: usize, register: u16) -> u32 {
        let mut word = [0; 4];
        self.config_read(number, register, &mut word);
        u32::from_le_bytes(word)
    }

    /// Fills `data`, all ones where no function is.
    fn config_read(&mut self, number: usize, register: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(index) = number.checked_sub(1) else {
            return HostBridge::config_read(register, data);
        };
        if let Some((slot, function, _)) = self.function(index) {
            each!(slot, device => {
                let model = &mut device.model;
                function.registers.config_read(&mut device.common, model, register, data);
            });
        }
    }

    fn config_write(&mut self, address: Address, data: &[u8], sink: &mut impl Sink) -> Option<End> {
        let (number, register) = (number(address), address.register);
        let index = number.checked_sub(1)?;
        let (slot, function, memory) = self.function(index)?;
        function.table.load(&mut function.registers);
        let end = each!(slot, device => {
            let model = &mut device.model;
            let effect = function.registers.config_write(&mut device.common, model, register, data);
            match device.settle(function, effect, memory, sink) {
                // By the window into BAR 0, as no driver does: the bus waits.
                Reply::Notified(queue) => {
                    let reply = device.process(queue);
                    device.tell(function, reply, sink);
                    reply.end()
                }
                reply => reply.end(),
            }
        });
        let uses_window = function.registers.uses_window();
        if uses_window || !function.registers.msix.enabled() {
            function.table.hide(&mut function.registers);
        } else if register & !3 == pci::MSIX_CONTROL {
            function.table.show(&function.registers);
        }
        let word = self.config_word(number, register & !3);
        if let Some(readable) = self.pci.as_mut().and_then(|pci| pci.readable.as_mut()) {
            if uses_window {
                readable.hide();
            }
            readable.set(number, register, word);
        }
        end
    }

    /// A read at an address in the window for BARs; unclaimed where no function has its BAR there.
    pub fn bar_read(&mut self, address: u64, data: &mut [u8]) -> Access {
        let Some(index) = self.at(address) else { return Access::Unclaimed };
        let Some((slot, function, _)) = self.function(index) else { return Access::Unclaimed };
        function.is_accessed(address);
        each!(slot, device => {
            let model = &mut device.model;
            function.registers.bar_read(&mut device.common, model, address % BAR_SIZE, data);
        });
        Access::Done
    }

    /// A write at an address in the window for BARs; unclaimed where no function has its BAR there.
    pub fn bar_write(&mut self, address: u64, data: &[u8], sink: &mut impl Sink) -> Access {
        let Some(index) = self.at(address) else { return Access::Unclaimed };
        let Some((slot, function, memory)) = self.function(index) else { return Access::Unclaimed };
        function.is_accessed(address);
        let reply = each!(slot, device => {
            let model = &mut device.model;
            let offset = address % BAR_SIZE;
            let effect = function.registers.bar_write(&mut device.common, model, offset, data);
            device.settle(function, effect, memory, sink)
        });
        match reply {
            Reply::Notified(queue) => self.notified(index, queue, sink),
            reply => Access::done(reply.end()),
        }
    }

    /// The device whose BAR `address` is in. A BAR that the guest moved over RAM is not seen, since
    /// RAM causes no exit; one out of the window is not either, since only the window is looked up
    /// here; of two at one place the first answers.
    fn at(&self, address: u64) -> Option<usize> {
        let base = address - address % BAR_SIZE;
        let functions = &self.pci.as_ref()?.functions;
        functions.iter().position(|function| function.registers.bar() == Some(base))
    }

    fn function(
        &mut self,
        index: usize,
    ) -> Option<(&mut Device, &mut Function, &'static GuestMemoryMmap)> {
        let Devices { slots, pci, memory, .. } = self;
        Some((slots.get_mut(index)?, pci.as_mut()?.functions.get_mut(index)?, memory))
    }
}

impl Function {
    /// An access to the BAR at `address` that is an exit: to the table, it was on its way before the
    /// table became memory.
    fn is_accessed(&mut self, address: u64) {
        if address % BAR_SIZE >= pci::MSIX_TABLE {
            self.table.hide(&mut self.registers);
        }
    }

    /// Sends what is pending on `vector` and can be sent.
    fn send_pending(&mut self, vector: u16, sink: &mut impl Sink) {
        let msix = &mut self.registers.msix;
        if msix.take_pending(vector)
            && let Some(message) = msix.message(vector)
        {
            sink.signal(Signal::Msi(message));
        }
    }
}

impl<B: Backend, const Q: usize> VirtioDevice<B, Q> {
    /// Does what an access came to; what is left of it is a notification, or the end.
    fn settle(
        &mut self,
        function: &mut Function,
        effect: Effect,
        memory: &GuestMemoryMmap,
        sink: &mut impl Sink,
    ) -> Reply {
        let vectors = match effect {
            Effect::None => return Reply::Nothing,
            // Where a BAR is, each access looks up.
            Effect::BarMoved => {
                function.table.hide(&mut function.registers);
                return Reply::Nothing;
            }
            Effect::Virtio(effect) => {
                let reply = self.apply(effect, memory);
                self.tell(function, reply, sink);
                return reply;
            }
            Effect::Vector(vector) => vector..vector + 1,
            Effect::Vectors => 0..function.registers.msix.vectors(),
        };
        for vector in vectors {
            function.send_pending(vector, sink);
        }
        Reply::Nothing
    }

    /// Sends what the driver is to know as a message, or keeps it pending.
    fn tell(&self, function: &mut Function, reply: Reply, sink: &mut impl Sink) {
        let vector = match reply {
            Reply::Nothing | Reply::Notified(_) | Reply::End(_) => return,
            Reply::Config => function.registers.config_vector(),
            Reply::Queue(index) => {
                self.common.queue(index).map_or(pci::NO_VECTOR, |queue| queue.vector())
            }
        };
        function.table.load(&mut function.registers);
        if let Some(message) = function.registers.msix.raise(vector) {
            sink.signal(Signal::Msi(message));
        } else if function.registers.msix.has_pending() {
            // When the guest unmasks it has to be an exit; it may have done so just now.
            function.table.hide(&mut function.registers);
            function.send_pending(vector, sink);
        }
    }
}

#[cfg(test)]
#[cfg(feature = "console")]
mod tests;
