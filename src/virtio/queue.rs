//! What a queue's chains hold: buffers, as the host's addresses.

use super::ring::{Buffer, Chain, Queue};
use crate::events;

/// The driver broke the ring's rules in a way that leaves no request to answer (virtio 1.3, 2.1.2).
#[derive(Debug)]
pub struct Broken;

/// A chain's buffers, as the host's addresses. Kept between requests, so that none allocates.
#[derive(Default)]
pub struct Buffers {
    /// Device-readable, in order.
    pub readable: Vec<libc::iovec>,
    /// Device-writable, in order.
    pub writable: Vec<libc::iovec>,
}

// SAFETY: the addresses are of guest memory, which is mapped for as long as the process lives and
// belongs to no thread.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Takes the buffers of `chain`; empty ones are left out.
    ///
    /// # Errors
    /// As [`Chain::walk`], or a readable one follows a writable one (virtio 1.3, 2.7.4.2).
    pub fn collect(&mut self, chain: &Chain<'_>) -> Result<(), Broken> {
        self.readable.clear();
        self.writable.clear();
        chain.walk(|Buffer { writable, bytes }| {
            if writable {
                self.writable.push(bytes);
            } else if self.writable.is_empty() {
                self.readable.push(bytes);
            } else {
                return Err(Broken);
            }
            Ok(())
        })
    }
}

/// Bytes in `buffers`.
#[cfg(any(feature = "block", feature = "pmem"))]
pub fn len(buffers: &[libc::iovec]) -> u64 {
    buffers.iter().map(|buffer| buffer.iov_len as u64).sum()
}

/// Copies the first bytes out of `buffers` and shortens them by as many; how many there were.
#[cfg(any(feature = "block", feature = "pmem", feature = "streams"))]
pub fn take_front(buffers: &mut Vec<libc::iovec>, to: &mut [u8]) -> usize {
    let mut done = 0;
    while done < to.len()
        && let Some(buffer) = buffers.first_mut()
    {
        let count = buffer.iov_len.min(to.len() - done);
        // SAFETY: the buffer was checked to be in RAM by `collect`, and `count` is within both.
        unsafe {
            std::ptr::copy_nonoverlapping(buffer.iov_base.cast(), to[done..].as_mut_ptr(), count);
        }
        done += count;
        advance(buffers, count);
    }
    done
}

/// Copies `from` into the first bytes of `buffers` and shortens them by as many; how many fitted.
pub fn put_front(buffers: &mut Vec<libc::iovec>, from: &[u8]) -> usize {
    let mut done = 0;
    while done < from.len()
        && let Some(buffer) = buffers.first_mut()
    {
        let count = buffer.iov_len.min(from.len() - done);
        // SAFETY: as in `take_front`.
        unsafe {
            std::ptr::copy_nonoverlapping(from[done..].as_ptr(), buffer.iov_base.cast(), count);
        }
        done += count;
        advance(buffers, count);
    }
    done
}

/// Drops the first `count` bytes of `buffers`.
pub fn advance(buffers: &mut Vec<libc::iovec>, mut count: usize) {
    let mut whole = 0;
    for buffer in buffers.iter_mut() {
        if count < buffer.iov_len {
            // SAFETY: stays within the buffer.
            buffer.iov_base = unsafe { buffer.iov_base.cast::<u8>().add(count) }.cast();
            buffer.iov_len -= count;
            break;
        }
        count -= buffer.iov_len;
        whole += 1;
    }
    buffers.drain(..whole);
}

/// Drops all but the first `most` bytes of `buffers`.
#[cfg(feature = "rng")]
pub fn shorten(buffers: &mut Vec<libc::iovec>, mut most: usize) {
    buffers.retain_mut(|buffer| {
        buffer.iov_len = buffer.iov_len.min(most);
        most -= buffer.iov_len;
        buffer.iov_len > 0
    });
}

/// What became of a chain.
#[allow(dead_code, reason = "no device uses all of them, and a build may have one device")]
pub enum Taken {
    /// It goes back with so many bytes written into it.
    Used(u32),
    /// It goes back by [`Queue::give_back`], when it is done.
    Later,
    /// It stays in the queue, and so do those behind it.
    Requeue,
}

/// Calls `each` for every chain, until the queue stays empty with notifications on or a chain is
/// left. True where the driver wants an interrupt.
///
/// # Errors
/// The driver broke the ring.
pub fn drain(
    queue: &mut Queue,
    mut each: impl FnMut(&Chain<'_>) -> Result<Taken, Broken>,
) -> Result<bool, Broken> {
    let mut used = false;
    'all: loop {
        while let Some(chain) = queue.take()? {
            // A driver can put chains into the queue for as long as we take some out, even with one
            // vCPU, by reads from a disk into the ring: whoever wants the VM to end is heard here too.
            if events::stopping() {
                queue.untake();
                break 'all;
            }
            let head = chain.head();
            match each(&chain)? {
                Taken::Used(written) => {
                    queue.give_back(head, written)?;
                    used = true;
                }
                Taken::Later => {}
                Taken::Requeue => {
                    queue.untake();
                    break 'all;
                }
            }
        }
        if !queue.listen() {
            break;
        }
    }
    Ok(used && queue.wants_interrupt())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    /// In a process of its own it would end nothing else: here no other test takes chains.
    #[test]
    fn a_queue_that_never_ends_does_not_keep_the_vm_from_ending() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let mut queue = Queue::new(16, [0, 0x1000, 0x2000], false, &memory).unwrap();
        crate::events::install();
        let mut index = 1u16;
        memory.write_obj(index, GuestAddress(0x1002)).unwrap();
        let mut served = 0;
        let result = drain(&mut queue, |_chain| {
            served += 1;
            assert!(served < 1000, "SIGTERM is not heard");
            if served == 100 {
                // SAFETY: sends a signal to this thread, which has a handler for it.
                unsafe { libc::raise(libc::SIGTERM) };
            }
            // One chain taken, one more to take.
            index = index.wrapping_add(1);
            memory.write_obj(index, GuestAddress(0x1002)).unwrap();
            Ok(Taken::Used(0))
        });
        assert!(result.is_ok());
        assert_eq!((served, queue.positions()), (100, [100, 100]));
    }

    /// A chain that the driver puts into the queue after it was found empty, and before notifications are
    /// on, is announced by nobody: it is looked for once more. Here the used ring's flags, which are
    /// cleared to turn them on, are at once the available ring's index, which that moves from 65,535 on
    /// to 0.
    #[test]
    fn the_ring_is_looked_at_again_once_notifications_are_on() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let mut queue = Queue::new(16, [0, 0x1ffe, 0x2000], false, &memory).unwrap();
        queue.set_positions([u16::MAX, 0]);
        memory.write_obj(u16::MAX, GuestAddress(0x2000)).unwrap();
        let mut served = 0;
        let result = drain(&mut queue, |_chain| {
            served += 1;
            Ok(Taken::Used(0))
        });
        assert!(result.is_ok());
        assert_eq!(served, 1, "what came in between was not seen");
    }

    /// What is taken, put and shortened goes over borders, and what is left begins right behind.
    #[test]
    #[cfg(all(feature = "block", feature = "rng"))]
    fn buffers_are_one_after_the_other() {
        let mut bytes: Vec<u8> = (0..10).collect();
        let start = bytes.as_mut_ptr();
        let lengths = |list: &[libc::iovec]| list.iter().map(|it| it.iov_len).collect::<Vec<_>>();
        // Of 3, 5 and 2 bytes.
        let list = || {
            [(0, 3), (3, 5), (8, 2)]
                .map(|(at, iov_len)| libc::iovec {
                    iov_base: start.wrapping_add(at).cast(),
                    iov_len,
                })
                .to_vec()
        };
        let (mut buffers, mut taken) = (list(), [0; 6]);
        assert_eq!(len(&buffers), 10);
        assert_eq!((take_front(&mut buffers, &mut taken), taken), (6, [0, 1, 2, 3, 4, 5]));
        assert_eq!(lengths(&buffers), [2, 2]);
        let mut more = [0; 6];
        assert_eq!((take_front(&mut buffers, &mut more), more), (4, [6, 7, 8, 9, 0, 0]));
        assert!(buffers.is_empty());
        for (most, left) in
            [(0, &[][..]), (3, &[3]), (4, &[3, 1]), (9, &[3, 5, 1]), (99, &[3, 5, 2])]
        {
            let mut buffers = list();
            shorten(&mut buffers, most);
            assert_eq!(lengths(&buffers), left);
        }
        let mut buffers = list();
        assert_eq!(put_front(&mut buffers, &[20; 9]), 9);
        assert_eq!(lengths(&buffers), [1]);
        assert_eq!(put_front(&mut buffers, &[21; 9]), 1);
        assert_eq!(bytes, [20, 20, 20, 20, 20, 20, 20, 20, 20, 21]);
    }

    /// A descriptor behind the end of an indirect table is none, though it could be read.
    #[test]
    fn an_indirect_table_has_its_end() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        for (next, good) in [(1u64, true), (2, false), (15, false)] {
            let mut queue = Queue::new(16, [0, 0x1000, 0x2000], false, &memory).unwrap();
            memory.write_obj([0x4000u64, 32 | 4 << 32], GuestAddress(0)).unwrap();
            let first = [0x8000u64, 1 | 1 << 32 | next << 48];
            memory.write_obj(first, GuestAddress(0x4000)).unwrap();
            memory.write_obj([0x8000u64, 1], GuestAddress(0x4000 + 16 * next)).unwrap();
            memory.write_obj([0u16, 1, 0], GuestAddress(0x1000)).unwrap();
            let mut buffers = Buffers::default();
            let result = drain(&mut queue, |chain| {
                buffers.collect(chain)?;
                Ok(Taken::Used(0))
            });
            assert_eq!(result.is_ok(), good, "{next}");
        }
    }

    /// As many buffers as the queue has descriptors, and one more, by an indirect table.
    #[test]
    fn a_chain_longer_than_the_queue_is_broken() {
        const TABLE: u64 = 0x4000;
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        for (count, good) in [(15u64, true), (16, true), (17, false), (4000, false)] {
            let mut queue = Queue::new(16, [0, 0x1000, 0x2000], false, &memory).unwrap();
            // VIRTQ_DESC_F_INDIRECT; each of the table's has VIRTQ_DESC_F_NEXT but the last.
            memory.write_obj([TABLE, (count * 16) | (4 << 32)], GuestAddress(0)).unwrap();
            for index in 0..count {
                let next = if index + 1 < count { (1 << 32) | ((index + 1) << 48) } else { 0 };
                let at = GuestAddress(TABLE + index * 16);
                memory.write_obj([0x8_0000u64, 1 | next], at).unwrap();
            }
            memory.write_obj([0u16, 1, 0], GuestAddress(0x1000)).unwrap();
            let mut buffers = Buffers::default();
            let result = drain(&mut queue, |chain| {
                buffers.collect(chain)?;
                Ok(Taken::Used(0))
            });
            assert_eq!(result.is_ok(), good, "{count}");
            assert!(!good || buffers.readable.len() as u64 == count);
            assert!(buffers.readable.capacity() <= 32, "{}", buffers.readable.capacity());
        }
    }
}
