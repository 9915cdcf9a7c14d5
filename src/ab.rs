//! The platform with one thing otherwise, for comparison only: `--ab` (feature `ab-platform`), measured
//! by `cargo xtask bench --scenario platform`.

use kvm_bindings::CpuId;

use crate::error::{Error, Result};

/// Pins of a PC's IOAPIC (82093AA 3.2.2).
pub const PC_PINS: u8 = 24;
/// KVM_FEATURE_NOP_IO_DELAY (Documentation/virt/kvm/x86/cpuid.rst), leaf 0x40000001 eax.
const NOP_IO_DELAY: u32 = 1 << 1;

/// What is otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ab {
    /// Nothing.
    #[default]
    Nothing,
    /// The command line without the default that starts with this.
    Without(String),
    /// An IOAPIC with a PC's 24 pins.
    Ioapic24,
    /// Timers without TSC_DEADLINE: Linux measures the rate of the APIC's.
    NoTscDeadline,
    /// Linux waits after an access to a port by a write to port 0x80.
    IoDelay,
    /// IA32_ARCH_CAPABILITIES, which KVM has for AMD too.
    ArchCapabilities,
    /// A second level of topology for a single CPU.
    CoreLevel,
    /// As many leaves as a recent CPU of Intel's has, most of them empty.
    EmptyLeaves,
}

impl Ab {
    /// Parses the flag's value.
    ///
    /// # Errors
    /// An unknown one.
    pub fn parse(text: &str) -> Result<Ab> {
        if let Some(word) = text.strip_prefix("without=") {
            return Ok(Ab::Without(word.to_owned()));
        }
        Ok(match text {
            "ioapic-24" => Ab::Ioapic24,
            "no-tsc-deadline" => Ab::NoTscDeadline,
            "io-delay" => Ab::IoDelay,
            "arch-capabilities" => Ab::ArchCapabilities,
            "core-level" => Ab::CoreLevel,
            "empty-leaves" => Ab::EmptyLeaves,
            _ => return Err(Error::Usage(format!("--ab {text}: there is no such variant"))),
        })
    }

    /// Whether `word` stays among the command line's defaults.
    pub fn keeps(&self, word: &str) -> bool {
        !matches!(self, Ab::Without(start) if word.starts_with(start))
    }

    /// GSI of the IOAPIC's first pin, and the number of pins.
    pub fn pins(&self, needed: (u8, u8)) -> (u8, u8) {
        if *self == Ab::Ioapic24 { (0, PC_PINS) } else { needed }
    }

    /// Changes what a vCPU says of itself.
    pub fn change_cpuid(&self, cpuid: &mut CpuId) {
        for entry in cpuid.as_mut_slice() {
            match (self, entry.function, entry.index) {
                (Ab::NoTscDeadline, 0x1, _) => entry.ecx &= !(1 << 24),
                (Ab::IoDelay, 0x4000_0001, _) => entry.eax &= !NOP_IO_DELAY,
                (Ab::ArchCapabilities, 0x7, 0) => entry.edx |= 1 << 29,
                // One CPU, of the type "core".
                (Ab::CoreLevel, 0xb, 1) => (entry.ebx, entry.ecx) = (1, 2 << 8 | 1),
                (Ab::EmptyLeaves, 0, _) => entry.eax = 0x1f,
                (Ab::EmptyLeaves, 0x8000_0000, _) => entry.eax = 0x8000_0022,
                _ => {}
            }
        }
    }
}
