//! The memory map, the same for PVH and for the zero page.

use crate::{Machine, Range, layout};

/// What a region is for (ACPI 6.5, table 15.2); the numbers are those of E820 and of PVH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// For the guest to use.
    Ram = 1,
    /// Not for the guest to use.
    Reserved = 2,
    /// ACPI tables; RAM once they have been read.
    Acpi = 3,
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Guest-physical addresses.
    pub range: Range,
    /// What it is for.
    pub kind: MemoryKind,
}

/// The memory map: conventional memory, the tables, RAM below and above the hole, and the PCI
/// configuration space, which Linux uses only if it is reserved here.
#[must_use]
pub fn memory_map(machine: &Machine<'_>) -> heapless::Vec<MemoryRegion, 5> {
    let region = |range, kind| Some(MemoryRegion { range, kind });
    let mut ram = machine.ram().into_iter();
    let low = ram.next().unwrap_or_default();
    let from_1m =
        Range { start: layout::HIGH_MEMORY, len: low.len.saturating_sub(layout::HIGH_MEMORY) };
    [
        region(Range { start: 0, len: layout::LOW_MEMORY_END }, MemoryKind::Ram),
        region(layout::TABLES, MemoryKind::Acpi),
        region(from_1m, MemoryKind::Ram),
        machine.pci.and_then(|pci| region(pci.ecam(), MemoryKind::Reserved)),
        ram.next().and_then(|high| region(high, MemoryKind::Ram)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
