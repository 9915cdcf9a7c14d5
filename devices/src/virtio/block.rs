//! virtio-blk (virtio 1.3, 5.2): the configuration, and requests taken apart and checked.
//!
//! A request is a chain of a 16-byte header, data, and one status byte. The host copies the header
//! out, counts the data bytes that the device may read and write, and gets a [`Request`] whose
//! range lies inside the disk, or the [`Status`] to answer with.

use super::{Device, copy_config};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in a sector, the unit of every sector number here.
pub const SECTOR: u64 = 512;
/// Length of a request's header in bytes, device-readable.
pub const HEADER_LEN: usize = 16;
/// Length of a segment of a discard or write-zeroes request in bytes, device-readable.
pub const SEGMENT_LEN: usize = 16;
/// Length of the disk's identification in bytes.
pub const ID_LEN: usize = 20;

// Feature bits (virtio 1.3, 5.2.3).
const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

// Request types (virtio 1.3, 5.2.6).
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
const FLAG_UNMAP: u32 = 1;

/// What a disk is, as the host says.
#[derive(Clone)]
pub struct Options {
    /// Sectors on the disk.
    pub capacity: u64,
    /// Refuse everything that writes.
    pub readonly: bool,
    /// Logical block size in bytes, a power of two from 512; requests may still be smaller.
    pub block_size: u32,
    /// Physical block size in bytes, a power of two from `block_size`.
    pub physical_block_size: u32,
    /// Most bytes in a segment of a request, 0 for no limit.
    pub size_max: u32,
    /// Most segments in a request, 0 for no limit; at most `queue_size - 2` to fit without indirect
    /// descriptors.
    pub seg_max: u32,
    /// Descriptors in each queue, a power of two up to 32768.
    pub queue_size: u16,
    /// Queues, at least 1 and at most what the disk's [`Common`](super::Common) has.
    pub queues: u16,
    /// Whether the host can discard ranges.
    pub discard: bool,
    /// Whether the host can write zeroes without data from the guest.
    pub write_zeroes: bool,
    /// The disk's identification, padded with zeroes.
    pub id: [u8; ID_LEN],
}

impl Default for Options {
    /// An empty disk with 512-byte blocks and one queue of 256 descriptors.
    fn default() -> Self {
        Self {
            capacity: 0,
            readonly: false,
            block_size: 512,
            physical_block_size: 512,
            size_max: 0,
            seg_max: 254,
            queue_size: 256,
            queues: 1,
            discard: false,
            write_zeroes: false,
            id: [0; ID_LEN],
        }
    }
}

/// Most sectors in one segment of a discard or write-zeroes request: 64 MiB.
const MAX_SEGMENT_SECTORS: u32 = 1 << 17;
/// Most segments in such a request, so that all of one come to 1 GiB at most: one request does not hold
/// the host for long, be it that each segment is the same.
const MAX_SEGMENTS: u64 = 16;

/// Configuration space (virtio 1.3, 5.2.4) up to the write-zeroes fields.
#[derive(Clone, IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    geometry: [u8; 4],
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

/// A disk.
#[derive(Clone)]
pub struct Block {
    config: Config,
    features: u64,
    queue_size: u16,
    id: [u8; ID_LEN],
}

/// The status byte that ends a request (virtio 1.3, 5.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The host failed, or the request breaks the rules.
    IoErr = 1,
    /// This disk does not do that.
    Unsupported = 2,
}

/// A range of bytes that lies inside the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte, a multiple of [`SECTOR`].
    pub offset: u64,
    /// Bytes, a multiple of [`SECTOR`], possibly 0.
    pub len: u64,
}

/// What a driver asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Read this range into the device-writable data, which it fills.
    In(Range),
    /// Write this range from the device-readable data, which has its length.
    Out(Range),
    /// Make every completed write durable.
    Flush,
    /// Put [`Block::id`] into the first [`ID_LEN`] bytes of the device-writable data.
    GetId,
    /// The device-readable data are this many segments of [`SEGMENT_LEN`] bytes, each to be given
    /// to [`Block::segment`] before any is acted on.
    Discard(u32),
    /// As `Discard`.
    WriteZeroes(u32),
}

/// A checked segment of a discard or write-zeroes request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// What to discard or to zero.
    pub range: Range,
    /// Write zeroes only: the range may also be deallocated.
    pub unmap: bool,
}

/// struct virtio_blk_req's first fields (virtio 1.3, 5.2.6).
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: U32,
    reserved: U32,
    sector: U64,
}

/// struct virtio_blk_discard_write_zeroes (virtio 1.3, 5.2.6).
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawSegment {
    sector: U64,
    num_sectors: U32,
    flags: U32,
}

impl Block {
    /// A disk as `options` says.
    pub fn new(options: &Options) -> Self {
        let when = |on: bool, feature| if on { feature } else { 0 };
        let features = F_FLUSH
            | F_BLK_SIZE
            | F_TOPOLOGY
            | when(options.readonly, F_RO)
            | when(options.size_max != 0, F_SIZE_MAX)
            | when(options.seg_max != 0, F_SEG_MAX)
            | when(options.queues > 1, F_MQ)
            | when(options.discard && !options.readonly, F_DISCARD)
            | when(options.write_zeroes && !options.readonly, F_WRITE_ZEROES);
        let blocks = options.physical_block_size.checked_div(options.block_size).unwrap_or(1);
        let config = Config {
            // So that a sector inside the disk has a byte offset in 64 bits.
            capacity: U64::new(options.capacity.min(u64::MAX / SECTOR)),
            size_max: U32::new(options.size_max),
            seg_max: U32::new(options.seg_max),
            geometry: [0; 4],
            blk_size: U32::new(options.block_size),
            physical_block_exp: blocks.checked_ilog2().unwrap_or(0) as u8,
            alignment_offset: 0,
            min_io_size: U16::new(blocks.clamp(1, u16::MAX.into()) as u16),
            // 0: no size is better than the minimum.
            opt_io_size: U32::new(0),
            // Read only with VIRTIO_BLK_F_CONFIG_WCE, which is not offered.
            writeback: 0,
            unused0: 0,
            num_queues: U16::new(options.queues),
            max_discard_sectors: U32::new(MAX_SEGMENT_SECTORS),
            max_discard_seg: U32::new(MAX_SEGMENTS as u32),
            discard_sector_alignment: U32::new(options.block_size >> SECTOR.trailing_zeros()),
            max_write_zeroes_sectors: U32::new(MAX_SEGMENT_SECTORS),
            max_write_zeroes_seg: U32::new(MAX_SEGMENTS as u32),
            write_zeroes_may_unmap: options.discard.into(),
            unused1: [0; 3],
        };
        Self { config, features, queue_size: options.queue_size, id: options.id }
    }

    /// The disk's identification.
    pub fn id(&self) -> &[u8; ID_LEN] {
        &self.id
    }

    /// Sectors on the disk.
    pub fn capacity(&self) -> u64 {
        self.config.capacity.get()
    }

    /// The disk's size has changed. Returns true if that is news for the driver: then call
    /// [`State::config_changed`](super::State::config_changed).
    #[must_use]
    pub fn resize(&mut self, capacity: u64) -> bool {
        let capacity = U64::new(capacity.min(u64::MAX / SECTOR));
        core::mem::replace(&mut self.config.capacity, capacity) != capacity
    }

    /// Whether each write has to be durable before it completes, since the driver, by the
    /// `features` that it chose, will never flush (virtio 1.3, 5.2.5).
    pub fn write_through(features: u64) -> bool {
        features & F_FLUSH == 0
    }

    /// Takes a request apart. `readable` counts the device-readable data bytes after the header,
    /// `writable` the device-writable ones before the status byte.
    ///
    /// # Errors
    /// The status to answer with: [`Status::Unsupported`] for a type that this disk does not do,
    /// [`Status::IoErr`] for a range outside the disk, a write to a read-only disk, or data of the
    /// wrong length or direction.
    pub fn parse(
        &self,
        header: &[u8; HEADER_LEN],
        readable: u64,
        writable: u64,
    ) -> Result<Request, Status> {
        let header: &Header = zerocopy::transmute_ref!(header);
        let sector = header.sector.get();
        match header.kind.get() {
            T_IN if readable == 0 => Ok(Request::In(self.range(sector, writable)?)),
            T_OUT if writable == 0 && !self.has(F_RO) => {
                Ok(Request::Out(self.range(sector, readable)?))
            }
            T_FLUSH => Ok(Request::Flush),
            T_GET_ID if writable >= ID_LEN as u64 => Ok(Request::GetId),
            T_DISCARD if self.has(F_DISCARD) => Ok(Request::Discard(segments(readable)?)),
            T_WRITE_ZEROES if self.has(F_WRITE_ZEROES) => {
                Ok(Request::WriteZeroes(segments(readable)?))
            }
            T_IN | T_OUT | T_GET_ID => Err(Status::IoErr),
            T_DISCARD | T_WRITE_ZEROES if self.has(F_RO) => Err(Status::IoErr),
            _ => Err(Status::Unsupported),
        }
    }

    /// Checks a segment of `request`, which is [`Request::Discard`] or [`Request::WriteZeroes`].
    ///
    /// # Errors
    /// The status to answer with: [`Status::Unsupported`] for a flag that does not belong there,
    /// [`Status::IoErr`] for a range outside the disk or longer than announced.
    pub fn segment(&self, request: Request, bytes: &[u8; SEGMENT_LEN]) -> Result<Segment, Status> {
        let segment: &RawSegment = zerocopy::transmute_ref!(bytes);
        let flags = segment.flags.get();
        let known = if matches!(request, Request::WriteZeroes(_)) { FLAG_UNMAP } else { 0 };
        if flags & !known != 0 {
            return Err(Status::Unsupported);
        }
        let sectors = segment.num_sectors.get();
        if sectors > MAX_SEGMENT_SECTORS {
            return Err(Status::IoErr);
        }
        let range = self.range(segment.sector.get(), u64::from(sectors).saturating_mul(SECTOR))?;
        Ok(Segment { range, unmap: flags != 0 })
    }

    /// The range of `len` bytes from `sector`, if it lies inside the disk.
    fn range(&self, sector: u64, len: u64) -> Result<Range, Status> {
        let left = self.capacity().checked_sub(sector).ok_or(Status::IoErr)?;
        if !len.is_multiple_of(SECTOR) || len >> SECTOR.trailing_zeros() > left {
            return Err(Status::IoErr);
        }
        // No sector up to the capacity overflows: see `new`.
        Ok(Range { offset: sector.saturating_mul(SECTOR), len })
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

/// How many segments `len` bytes are.
fn segments(len: u64) -> Result<u32, Status> {
    const LEN: u64 = SEGMENT_LEN as u64;
    match len / LEN {
        count @ 1..=MAX_SEGMENTS if len.is_multiple_of(LEN) => Ok(count as u32),
        _ => Err(Status::IoErr),
    }
}

impl Device for Block {
    const ID: u32 = 2;

    fn queue_max_size(&self, queue: u16) -> u16 {
        if queue < self.config.num_queues.get() { self.queue_size } else { 0 }
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u32, data: &mut [u8]) {
        copy_config(self.config.as_bytes(), offset, data);
    }
}

#[cfg(test)]
mod tests;
