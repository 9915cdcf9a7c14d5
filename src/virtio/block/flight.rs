//! A request on its way to the file.

/// What a request asks of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// File to guest.
    Read,
    /// Guest to file.
    Write,
    /// Make writes durable.
    Flush,
}

/// A request on its way.
#[cfg_attr(not(feature = "io-uring"), allow(dead_code, reason = "each is done in its exit"))]
pub struct Flight {
    /// The chain's first descriptor.
    pub head: u16,
    /// Which way.
    pub operation: Operation,
    /// The guest's buffers, which stay here until the kernel is done with them.
    pub buffers: Vec<libc::iovec>,
    /// Where in the file.
    pub offset: u64,
    /// Bytes of the chain that the device may write, the status byte being the last.
    pub room: u32,
    /// The status byte.
    pub status: *mut u8,
}

// SAFETY: the addresses are of guest memory, which is mapped for as long as the process lives.
unsafe impl Send for Flight {}
