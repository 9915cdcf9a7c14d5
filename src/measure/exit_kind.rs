//! Kinds of exits to this process, for what counts and traces them.

/// Kinds of exits to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// `in` from a port
    PioIn,
    /// `out` to a port
    PioOut,
    /// A read of a device's registers
    MmioRead,
    /// A write of a device's registers
    MmioWrite,
    /// A signal
    Interrupted,
}

#[cfg(any(feature = "exit-stats", feature = "trace"))]
impl ExitKind {
    /// As the files name it.
    pub fn name(self) -> &'static str {
        match self {
            ExitKind::PioIn => "pio_in",
            ExitKind::PioOut => "pio_out",
            ExitKind::MmioRead => "mmio_read",
            ExitKind::MmioWrite => "mmio_write",
            ExitKind::Interrupted => "interrupted",
        }
    }
}
