//! virtio-pmem (virtio 1.3, 5.19): a range of guest-physical memory that outlives the guest.

use super::{Device, copy_config};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of queues.
pub const QUEUES: usize = 1;
/// Queue of requests.
pub const REQUESTS: u16 = 0;
/// Linux sends one flush at a time and waits for it.
const QUEUE_SIZE: u16 = 16;

/// Length of a request in bytes, device-readable.
pub const REQUEST_LEN: usize = 4;
/// Length of a response in bytes, device-writable.
pub const RESPONSE_LEN: usize = 4;
/// VIRTIO_PMEM_REQ_TYPE_FLUSH
const TYPE_FLUSH: u32 = 0;

/// Configuration space (virtio 1.3, 5.19.4).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    start: U64,
    size: U64,
}

/// A range of guest-physical memory.
pub struct Pmem {
    config: Config,
}

/// What a driver asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Make everything written to the range so far durable.
    Flush,
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Response {
    /// Done.
    Ok,
    /// The host failed to, or the request was not understood.
    Error,
}

impl Response {
    /// The response as the driver reads it.
    pub fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        match self {
            Self::Ok => [0; RESPONSE_LEN],
            Self::Error => (-1i32).to_le_bytes(),
        }
    }
}

impl Pmem {
    /// The range of `size` bytes from guest-physical `start`. For Linux to map it in 2 MiB steps
    /// both are multiples of 2 MiB.
    pub const fn new(start: u64, size: u64) -> Self {
        Self { config: Config { start: U64::new(start), size: U64::new(size) } }
    }

    /// Takes a request apart: `readable` is its device-readable part, of which a host need copy
    /// only the first [`REQUEST_LEN`] bytes, and `writable_len` the length of the rest in bytes.
    ///
    /// # Errors
    /// [`Response::Error`], to be written back if there is room for it.
    pub fn parse(readable: &[u8], writable_len: u64) -> Result<Request, Response> {
        match Header::ref_from_prefix(readable) {
            Ok((header, _))
                if header.kind.get() == TYPE_FLUSH && writable_len >= RESPONSE_LEN as u64 =>
            {
                Ok(Request::Flush)
            }
            _ => Err(Response::Error),
        }
    }
}

/// struct virtio_pmem_req (virtio 1.3, 5.19.6).
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: U32,
}

impl Device for Pmem {
    const ID: u32 = 27;

    fn queue_max_size(&self, queue: u16) -> u16 {
        if queue == REQUESTS { QUEUE_SIZE } else { 0 }
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        copy_config(self.config.as_bytes(), offset, data);
    }
}

#[cfg(test)]
mod tests;
