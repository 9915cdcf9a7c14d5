//! Everything that is in a guest's memory, and in its first CPU's registers, before the first
//! instruction: boot protocols (PVH, 64-bit Linux), memory map, page tables, ACPI tables, and the
//! readers for the kernel files that they start.
//!
//! The crate computes and returns data; it never allocates, opens a file or talks to a hypervisor.
//! [`write()`] fills a slice that is the guest's first MiB and returns the [`Entry`] state.
//!
//! # From a kernel's file to its first instruction
//!
//! ```
//! use brisk_boot::{Machine, Protocol, VirtioMmio, elf, layout};
//!
//! // What of a vmlinux goes where in the guest's memory, and its first instruction.
//! fn load(file: &[u8], ram: &mut [u8]) -> Option<u64> {
//!     let headers = elf::Headers::read(file, file.len() as u64).ok()?;
//!     let table = headers.programs();
//!     let table = file.get(table.start as usize..table.end()? as usize)?;
//!     let image = headers.image(table).ok()?;
//!     for segment in &image.segments {
//!         let from = file.get(segment.offset as usize..)?.get(..segment.file_size as usize)?;
//!         let to = ram.get_mut(segment.paddr as usize..)?.get_mut(..from.len())?;
//!         to.copy_from_slice(from);
//!     }
//!     image.check_entry(image.entry).ok().map(|()| image.entry)
//! }
//! # assert_eq!(load(b"no kernel", &mut []), None);
//!
//! let machine = Machine {
//!     serial: true,
//!     virtio_mmio: &[VirtioMmio { base: layout::VIRTIO_MMIO_BASE, size: 0x1000, gsi: 5 }],
//!     ..Machine::new(128 << 20, b"console=ttyS0 root=/dev/vda")
//! };
//! // The guest's first MiB, all zero. Here a vector; in a hypervisor the guest's own memory.
//! let mut low = vec![0; 1 << 20];
//! let entry = brisk_boot::write(&machine, Protocol::Linux64, 0x20_0000, None, &mut low)?;
//!
//! // The first CPU starts in this state; what is not named in it is zero.
//! assert_eq!((entry.rip, entry.rsi), (0x20_0000, layout::ZERO_PAGE.start));
//! assert_ne!(entry.cr3, 0);
//! assert!(entry.code.long && !entry.data.long);
//! # Ok::<(), brisk_boot::Error>(())
//! ```
//!
//! # With KVM
//!
//! - Each [`Segment`] is a `kvm_segment`: `type` is its `kind`, `s` its `code_or_data`, `db`, `l` and `g` the
//!   three behind, `present` 1 and `dpl` 0. `code` goes to cs, `data` to ds, es, fs, gs and ss, `tss` to tr;
//!   with [`Entry::gdt`] and the control registers they are for KVM_SET_SREGS, `rip`, `rsp`, `rbx`, `rsi` and
//!   `rflags` for KVM_SET_REGS.
//! - Interrupts are wired as the tables say: the IOAPIC at [`layout::IOAPIC_BASE`] has `ioapic_pins` pins from
//!   GSI `ioapic_gsi` on, the UART is GSI [`layout::COM1_GSI`], and each virtio device the `gsi` of its
//!   description, edge triggered. A split irqchip (KVM_CAP_SPLIT_IRQCHIP) has the local APICs in the kernel
//!   and leaves the IOAPIC to `brisk-devices`; its [`layout`] is the machine's memory map.
//! - To power off, the guest writes [`layout::SLEEP_CONTROL_OFF`] to port
//!   [`layout::SLEEP_CONTROL_PORT`].
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod acpi;
pub mod bzimage;
pub mod cmdline;
pub mod elf;
mod entry;
mod error;
pub mod format;
pub mod layout;
mod linux64;
mod low;
mod machine;
mod memmap;
mod mp;
mod pvh;
mod smbios;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_any;

pub use entry::{DescriptorTable, Entry, Segment};
pub use error::Error;
pub use machine::{GenerationId, Machine, PciHost, Range, VirtioMmio, ram, ram_end};
pub use memmap::{MemoryKind, MemoryRegion, memory_map};

/// How the kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's PVH ABI: 32-bit protected mode without paging, `ebx` points to `hvm_start_info`.
    Pvh,
    /// The 64-bit Linux boot protocol (`Documentation/arch/x86/boot.rst`): long mode, `rsi` points
    /// to the zero page.
    Linux64,
}

/// Writes the boot data for `machine` into the guest's first MiB and returns the state in which the
/// first CPU has to start.
///
/// `entry` is the guest-physical address of the first instruction: [`elf::Notes::pvh_entry`] for
/// [`Protocol::Pvh`], [`elf::Image::entry`] for [`Protocol::Linux64`]. `setup_header` is the header
/// of the bzImage that the kernel came in; without one a minimal header is made.
///
/// `low` is guest memory `0..1 MiB`, all zero: only bytes that are not zero are sure to be written,
/// and only inside [`layout::MP_POINTER`], [`layout::GENERATION_ID`], [`layout::RESET_FLAG`],
/// [`layout::TABLES`] and, for Linux64, [`layout::ZERO_PAGE`] and [`layout::PAGE_TABLES`].
///
/// # Errors
/// Any [`Error`]: the description is inconsistent, or the tables do not fit.
pub fn write(
    machine: &Machine<'_>,
    protocol: Protocol,
    entry: u64,
    setup_header: Option<&bzimage::SetupHeader>,
    low: &mut [u8],
) -> Result<Entry, Error> {
    machine.check()?;
    let mut tables = low::Tables::new(low)?;
    if let Some(generation) = &machine.generation_id {
        let place = tables.fixed(layout::GENERATION_ID.start, generation.id.len())?;
        place.copy_from_slice(&generation.id);
    }
    smbios::write(&mut tables)?;
    let rsdp = acpi::write(machine, &mut tables)?;
    mp::write(machine, &mut tables)?;
    let gdt = entry::write_gdt(&mut tables, protocol)?;
    let flag = tables.fixed(layout::RESET_FLAG.start, layout::RESET_FLAG.len as usize)?;
    flag.copy_from_slice(&layout::RESET_FLAG_UNTOUCHED.to_le_bytes());
    let cmdline = tables.push_text(machine.cmdline)?;
    match protocol {
        Protocol::Pvh => pvh::write(machine, entry, rsdp, cmdline, gdt, tables),
        Protocol::Linux64 => {
            linux64::write(machine, entry, setup_header, rsdp, cmdline, gdt, tables)
        }
    }
}
