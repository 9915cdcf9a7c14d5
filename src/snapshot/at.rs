//! When a machine is written.

/// The codes at which something is written, once: what is written has its name, and a guest that writes
/// the code again runs on.
#[derive(Default)]
pub struct At {
    pub(super) saves: Option<u8>,
    pub(super) records: Option<u8>,
    /// Which have come: until the VM is paused, other vCPUs go on, and write codes too.
    pub(super) came: Came,
    /// Once more is not to be had.
    pub(super) written: bool,
}

/// Which of them.
#[derive(Default, Clone, Copy)]
pub(super) struct Came {
    pub(super) saves: bool,
    pub(super) records: bool,
}

impl At {
    /// Whether the VM is to be paused for `code`.
    pub fn comes(&mut self, code: u8) -> bool {
        let is_code = |at: &mut u8| *at == code;
        let saves = self.saves.take_if(is_code).is_some();
        let records = self.records.take_if(is_code).is_some();
        self.came.saves |= saves;
        self.came.records |= records;
        saves || records
    }

    /// Whether one has come, and nothing was written yet.
    #[cfg(feature = "smp")]
    pub fn has_come(&self) -> bool {
        self.came.saves || self.came.records
    }
}
