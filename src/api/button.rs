//! The power button: ACPI's, an interrupt of the generic event device (ACPI 6.5, 5.6.9). A machine has
//! it, and the pin of the IOAPIC that it needs, only where a client may press it.

use crate::machine::Machine;

/// The interrupt, where the machine has a button.
#[derive(Clone, Copy, Default)]
pub struct Button(pub(super) Option<u32>);

impl Button {
    /// Presses it.
    ///
    /// # Errors
    /// Nobody would hear.
    pub fn press(self, machine: &Machine) -> Result<(), &'static str> {
        let Some(gsi) = self.0 else {
            return Err(
                "vm.power-button: the machine was started without ACPI, or without a client",
            );
        };
        if machine.press(gsi as u8) {
            return Ok(());
        }
        Err("vm.power-button: the guest's kernel has no ACPI, or is not that far yet")
    }
}
