//! A virtqueue's three areas (virtio 1.3, 2.7) as the host has them.
//!
//! Where they are is looked up once, when the driver hands the queue over: each has to lie whole, and
//! aligned, in one piece of guest memory, and that stays mapped for as long as the process lives. What the
//! driver writes there is read once, and an index is within the queue's size, or an address looked up
//! among the pieces, before anything comes of it.

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use brisk_devices::virtio::{self, F_EVENT_IDX};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::queue::Broken;

/// Bytes of a descriptor (virtio 1.3, 2.7.5).
const DESCRIPTOR: usize = 16;
/// A used ring's element: `id` and `len` (virtio 1.3, 2.7.8).
const USED: usize = 8;
/// Of both rings: `flags`, then `idx`, then the elements.
const INDEX: usize = 2;
const ELEMENTS: usize = 4;

/// VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, VIRTQ_DESC_F_INDIRECT.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Guest memory in one piece.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    len: u64,
    host: *mut u8,
}

/// A queue that the driver has handed over.
pub struct Queue {
    pieces: Box<[Piece]>,
    /// A power of two.
    size: u16,
    event_idx: bool,
    /// Where in the available ring the next chain is taken from.
    next_avail: u16,
    /// The available ring's index as it was read last.
    seen: u16,
    /// Where in the used ring the next chain is put.
    next_used: u16,
    /// Chains used since the driver's wish for interrupts was looked at.
    added: u16,
    /// `size` descriptors; the rings with the event index behind their `size` elements.
    descriptors: *const u8,
    available: *const u8,
    used: *mut u8,
}

// SAFETY: the addresses are of guest memory, which is mapped for as long as the process lives and belongs
// to no thread.
unsafe impl Send for Queue {}

impl Queue {
    /// The queue for a setup that the driver handed over; `None` where its rings are not in guest memory. Once,
    /// not within each kind of device.
    #[inline(never)]
    pub fn start(setup: &virtio::Queue, features: u64, memory: &GuestMemoryMmap) -> Option<Queue> {
        let areas = [setup.desc_table(), setup.avail_ring(), setup.used_ring()];
        Queue::new(setup.size(), areas, features & F_EVENT_IDX != 0, memory)
    }

    /// One of `size` descriptors, with its descriptor table, available and used ring in `areas`.
    pub fn new(
        size: u16,
        areas: [u64; 3],
        event_idx: bool,
        memory: &GuestMemoryMmap,
    ) -> Option<Queue> {
        let pieces: Box<[Piece]> = memory
            .iter()
            .map(|region| {
                let (start, len, host) = (region.start_addr().0, region.len(), region.as_ptr());
                Piece { start, len, host }
            })
            .collect();
        let count = usize::from(size);
        let area = |start, len, align| {
            let host = host(&pieces, start, len as u64)?;
            host.addr().is_multiple_of(align).then_some(host)
        };
        let descriptors = area(areas[0], DESCRIPTOR * count, 16)?;
        let available = area(areas[1], ELEMENTS + 2 * count + 2, 2)?;
        let used = area(areas[2], ELEMENTS + USED * count + 2, 4)?;
        size.is_power_of_two().then_some(Queue {
            pieces,
            size,
            event_idx,
            next_avail: 0,
            seen: 0,
            next_used: 0,
            added: 0,
            descriptors,
            available,
            used,
        })
    }

    /// How many chains the device has taken, and how many it has given back, both modulo 2^16.
    #[cfg(any(test, feature = "snapshot"))]
    pub fn positions(&self) -> [u16; 2] {
        [self.next_avail, self.next_used]
    }

    /// Goes on where another left off.
    pub fn set_positions(&mut self, [next_avail, next_used]: [u16; 2]) {
        (self.next_avail, self.seen, self.next_used) = (next_avail, next_avail, next_used);
    }

    /// Takes the next chain, if the driver has put one there. The ring's index is read again only when all
    /// that were there have been taken.
    ///
    /// # Errors
    /// The index is further ahead than the ring is long.
    pub fn take(&mut self) -> Result<Option<Chain<'_>>, Broken> {
        if self.next_avail == self.seen {
            self.seen = self.half(self.available, INDEX).load(Ordering::Acquire);
            match self.seen.wrapping_sub(self.next_avail) {
                0 => return Ok(None),
                ahead if ahead > self.size => return Err(Broken),
                _ => {}
            }
        }
        let at = ELEMENTS + 2 * self.slot(self.next_avail);
        let head = self.half(self.available, at).load(Ordering::Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(Chain { queue: self, head }))
    }

    /// The chain that was taken last is still there.
    pub fn untake(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Gives chain `head` back with `written` bytes in it.
    ///
    /// # Errors
    /// There is no such descriptor.
    pub fn give_back(&mut self, head: u16, written: u32) -> Result<(), Broken> {
        if head >= self.size {
            return Err(Broken);
        }
        let at = ELEMENTS + USED * self.slot(self.next_used);
        self.word(at).store(head.into(), Ordering::Relaxed);
        self.word(at + 4).store(written, Ordering::Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
        self.added = self.added.wrapping_add(1);
        self.half(self.used, INDEX).store(self.next_used, Ordering::Release);
        Ok(())
    }

    /// Has the driver notify of the next chain that it puts there (virtio 1.3, 2.7.10). True where one came
    /// in between, of which it may not.
    pub fn listen(&mut self) -> bool {
        match self.event_idx {
            true => {
                let at = ELEMENTS + USED * usize::from(self.size);
                self.half(self.used, at).store(self.next_avail, Ordering::Relaxed);
            }
            false => self.half(self.used, 0).store(0, Ordering::Relaxed),
        }
        // The driver writes its index and then reads this.
        fence(Ordering::SeqCst);
        self.half(self.available, INDEX).load(Ordering::Relaxed) != self.next_avail
    }

    /// Whether the driver wants an interrupt for what was given back since this was last asked (virtio 1.3,
    /// 2.7.7.2).
    pub fn wants_interrupt(&mut self) -> bool {
        // The driver writes its wish and then reads the used ring's index.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return true;
        }
        let at = ELEMENTS + 2 * usize::from(self.size);
        let event = self.half(self.available, at).load(Ordering::Relaxed);
        let added = std::mem::take(&mut self.added);
        self.next_used.wrapping_sub(event).wrapping_sub(1) < added
    }

    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    /// Two bytes `at` so many of a ring: all callers' are even, and within what `new` looked up.
    fn half(&self, ring: *const u8, at: usize) -> &AtomicU16 {
        // SAFETY: in guest memory, aligned, and nobody's by a reference; the guest writes it as it likes.
        unsafe { AtomicU16::from_ptr(ring.add(at).cast_mut().cast()) }
    }

    /// Four bytes `at` so many of the used ring, as `half`.
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as in `half`; the ring is aligned to four bytes, and so are its elements.
        unsafe { AtomicU32::from_ptr(self.used.add(at).cast()) }
    }
}

/// Where the host has `len` bytes of guest memory; `None` where they are not all in one piece.
fn host(pieces: &[Piece], start: u64, len: u64) -> Option<*mut u8> {
    pieces.iter().find_map(|piece| {
        let offset = start.checked_sub(piece.start)?;
        let room = piece.len.checked_sub(offset)?;
        // SAFETY: within the piece.
        (len <= room).then(|| unsafe { piece.host.add(offset as usize) })
    })
}

/// A chain that the driver put into a queue.
pub struct Chain<'a> {
    queue: &'a Queue,
    head: u16,
}

/// One of a chain's buffers. It has a byte at least.
pub struct Buffer {
    /// The device may write it; otherwise it may read it.
    pub writable: bool,
    /// Where the host has it.
    pub bytes: libc::iovec,
}

impl Chain<'_> {
    /// The number of its first descriptor, by which it goes back.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Hands `each` buffer over; empty ones are left out. There are at most as many as the queue has
    /// descriptors, by an indirect table too (virtio 1.3, 2.7.4.1 and 2.7.5.3.1). So what is kept for a
    /// chain has a bound.
    ///
    /// # Errors
    /// There are more, or more than 2^32 bytes, one is not in guest memory, or a descriptor or an indirect
    /// table is not where it could be; and what `each` says.
    pub fn walk(&self, mut each: impl FnMut(Buffer) -> Result<(), Broken>) -> Result<(), Broken> {
        let Queue { pieces, size, descriptors, .. } = self.queue;
        let (mut table, mut count) = (*descriptors, u32::from(*size));
        let (mut index, mut left, mut indirect) = (self.head, *size, false);
        let mut total = 0u32;
        loop {
            if u32::from(index) >= count {
                return Err(Broken);
            }
            // SAFETY: the table has `count` descriptors, all in guest memory; a copy, of which nothing
            // changes any more. An indirect table may be anywhere, so it is one of bytes.
            let raw = unsafe {
                table
                    .add(usize::from(index) * DESCRIPTOR)
                    .cast::<[u8; DESCRIPTOR]>()
                    .read_volatile()
            };
            let raw = u128::from_le_bytes(raw);
            let (start, len) = (raw as u64, (raw >> 64) as u32);
            let (flags, next) = ((raw >> 96) as u16, (raw >> 112) as u16);
            if flags & INDIRECT != 0 {
                // Not in another, and of whole descriptors.
                if indirect || !len.is_multiple_of(DESCRIPTOR as u32) {
                    return Err(Broken);
                }
                table = host(pieces, start, len.into()).ok_or(Broken)?;
                (count, index, indirect) = (len / DESCRIPTOR as u32, 0, true);
                continue;
            }
            left = left.checked_sub(1).ok_or(Broken)?;
            total = total.checked_add(len).ok_or(Broken)?;
            if len > 0 {
                let iov_base = host(pieces, start, len.into()).ok_or(Broken)?.cast();
                let bytes = libc::iovec { iov_base, iov_len: len as usize };
                each(Buffer { writable: flags & WRITE != 0, bytes })?;
            }
            if flags & NEXT == 0 {
                return Ok(());
            }
            index = next;
        }
    }
}

#[cfg(test)]
mod tests;
