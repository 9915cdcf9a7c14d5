//! What a queue gives is what the crate `virtio-queue` gives of the same memory.

use proptest::prelude::*;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::*;

const SIZE: u16 = 8;
const AREAS: [u64; 3] = [0, 0x1000, 0x2000];
/// Two pieces with a hole between.
const PIECE: usize = 0x4000;
const HIGH: u64 = 0x8000;

fn memory() -> GuestMemoryMmap {
    let pieces = [(GuestAddress(0), PIECE), (GuestAddress(HIGH), PIECE)];
    GuestMemoryMmap::from_ranges(&pieces).unwrap()
}

fn theirs(event_idx: bool) -> virtio_queue::Queue {
    let mut queue = virtio_queue::Queue::new(SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(AREAS[0])).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AREAS[1])).unwrap();
    queue.try_set_used_ring_address(GuestAddress(AREAS[2])).unwrap();
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

/// Where ours is, theirs is, and the same bytes are in both rings.
fn same_rings(ours: &GuestMemoryMmap, theirs: &GuestMemoryMmap) {
    let read = |memory: &GuestMemoryMmap| memory.read_obj::<[u64; 16]>(GuestAddress(AREAS[2]));
    assert_eq!(read(ours).unwrap(), read(theirs).unwrap());
}

/// Buffers as (host address, length, writable) of theirs; `None` where there is one without memory.
fn their_buffers(
    chain: virtio_queue::DescriptorChain<&GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
) -> Option<Vec<(usize, usize, bool)>> {
    let mut all = Vec::new();
    for (count, descriptor) in chain.enumerate() {
        let len = descriptor.len() as usize;
        if count == usize::from(SIZE) {
            return None;
        }
        if len > 0 {
            let slice = memory.get_slice(descriptor.addr(), len).ok()?;
            let host = slice.ptr_guard_mut().as_ptr().addr();
            all.push((host, len, descriptor.is_write_only()));
        }
    }
    Some(all)
}

fn our_buffers(chain: &Chain<'_>) -> Option<Vec<(usize, usize, bool)>> {
    let mut all = Vec::new();
    let walked = chain.walk(|Buffer { writable, bytes }| {
        all.push((bytes.iov_base.addr(), bytes.iov_len, writable));
        Ok(())
    });
    walked.ok().map(|()| all)
}

/// Addresses around all borders.
fn address() -> impl Strategy<Value = u64> {
    let near = |at: u64| (0..0x40u64).prop_map(move |more| (at - 0x20).wrapping_add(more));
    prop_oneof![
        4 => 0x3000..0x3800u64,
        1 => near(PIECE as u64),
        1 => near(HIGH),
        1 => near(HIGH + PIECE as u64),
        1 => any::<u64>(),
    ]
}

type Descriptor = (u64, u32, u16, u16);

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let len = prop_oneof![4 => (0..10u32).prop_map(|n| n * 16), 2 => 0..0x60u32, 1 => any::<u32>()];
    let next = prop_oneof![8 => 0..SIZE, 1 => any::<u16>()];
    (address(), len, 0..8u16, next)
}

fn write(memory: &GuestMemoryMmap, table: u64, descriptors: &[Descriptor]) {
    for (at, (address, len, flags, next)) in (table..).step_by(16).zip(descriptors) {
        let rest = u64::from(*len) | u64::from(*flags) << 32 | u64::from(*next) << 48;
        memory.write_obj([*address, rest], GuestAddress(at)).unwrap();
    }
}

proptest! {
    /// What ours takes, theirs takes to be the same. What ours refuses theirs refuses, or cuts short.
    #[test]
    fn chains(
        table in proptest::collection::vec(descriptor(), usize::from(SIZE)),
        indirect in proptest::collection::vec(descriptor(), 10),
        head in 0..SIZE + 2,
    ) {
        let memory = memory();
        write(&memory, AREAS[0], &table);
        write(&memory, 0x3000, &indirect);
        memory.write_obj([0u16, 1, head], GuestAddress(AREAS[1])).unwrap();
        let mut ours = Queue::new(SIZE, AREAS, false, &memory).unwrap();
        let mut theirs = theirs(false);
        let chain = ours.take().unwrap().unwrap();
        let other = theirs.iter(&memory).unwrap().next().unwrap();
        prop_assert_eq!(chain.head(), other.head_index());
        if let Some(buffers) = our_buffers(&chain) {
            prop_assert_eq!(Some(buffers), their_buffers(other, &memory));
        }
    }

    /// A driver that puts chains there and says which interrupts it wants, and a device that takes and gives
    /// back some.
    #[test]
    fn rings(
        event_idx: bool,
        start: u16,
        steps in proptest::collection::vec((0..6u8, any::<u16>()), 0..100),
    ) {
        let memories = [memory(), memory()];
        let mut ours = Queue::new(SIZE, AREAS, event_idx, &memories[0]).unwrap();
        let mut theirs = theirs(event_idx);
        ours.set_positions([start; 2]);
        theirs.set_next_avail(start);
        theirs.set_next_used(start);
        let poke = |at: u64, value: u16| {
            memories.iter().for_each(|memory| {
                memory.write_obj(value, GuestAddress(AREAS[1] + at)).unwrap();
            });
        };
        let mut index = start;
        poke(2, index);
        for (step, value) in steps {
            match step {
                // As many as there is room for, and now and then more.
                0 => {
                    index = index.wrapping_add(if value % 50 == 0 { value } else { value % 4 });
                    poke(2, index);
                }
                1 => poke(4 + 2 * u64::from(value % SIZE), value / 64),
                2 => poke(4 + 2 * u64::from(SIZE), ours.positions()[1].wrapping_add(value % 8).wrapping_sub(4)),
                3 => {
                    let one = ours.take().map(|chain| chain.map(|chain| chain.head()));
                    let other = theirs.iter(&memories[1]);
                    let other = other.map(|mut all| all.next().map(|chain| chain.head_index()));
                    match (one, other) {
                        (Ok(one), Ok(other)) => prop_assert_eq!(one, other),
                        (Err(_), Err(_)) => return Ok(()),
                        // Read anew for each chain, theirs sees an index sooner that cannot be.
                        (Ok(_), Err(_)) => {
                            prop_assert!(index.wrapping_sub(theirs.next_avail()) > SIZE);
                            return Ok(());
                        }
                        (Err(_), Ok(_)) => prop_assert!(false, "refused by ours alone"),
                    }
                }
                4 => {
                    let one = ours.give_back(value % 12, value.into());
                    let other = theirs.add_used(&memories[1], value % 12, value.into());
                    prop_assert_eq!(one.is_ok(), other.is_ok());
                }
                _ => {
                    prop_assert_eq!(ours.listen(), theirs.enable_notification(&memories[1]).unwrap());
                    let other = theirs.needs_notification(&memories[1]).unwrap();
                    prop_assert_eq!(ours.wants_interrupt(), other);
                }
            }
            prop_assert_eq!(ours.positions(), [theirs.next_avail(), theirs.next_used()]);
            same_rings(&memories[0], &memories[1]);
        }
    }

    /// Areas are taken where they lie whole in one piece, and aligned.
    #[test]
    fn areas(at in proptest::array::uniform3(address()), shift in 0..16u32) {
        let memory = memory();
        let size = 1 << shift;
        let queue = Queue::new(size, at, false, &memory);
        let count = u64::from(size);
        let fits = |at: u64, len: u64, align: u64| {
            let end = at.checked_add(len);
            at.is_multiple_of(align)
                && [0, HIGH].iter().any(|piece| {
                    at >= *piece && end.is_some_and(|end| end <= piece + PIECE as u64)
                })
        };
        let lens = [16 * count, 6 + 2 * count, 6 + 8 * count];
        let all = at.iter().zip(lens).zip([16, 2, 4]).all(|((at, len), align)| fits(*at, len, align));
        prop_assert_eq!(queue.is_some(), all);
    }
}

/// A loop has no end, and is found out after as many descriptors as the queue has.
#[test]
fn a_loop_ends() {
    let memory = memory();
    write(&memory, AREAS[0], &[(0x3000, 1, NEXT, 1), (0x3000, 1, NEXT, 0)]);
    memory.write_obj([0u16, 1, 0], GuestAddress(AREAS[1])).unwrap();
    let mut queue = Queue::new(SIZE, AREAS, false, &memory).unwrap();
    let mut count = 0;
    let walked = queue.take().unwrap().unwrap().walk(|_| {
        count += 1;
        Ok(())
    });
    assert!(walked.is_err());
    assert_eq!(count, SIZE);
}

/// No queue without descriptors, or with a number that is no power of two.
#[test]
fn sizes() {
    let memory = memory();
    for (size, good) in [(0, false), (1, true), (3, false), (8, true), (12, false)] {
        assert_eq!(Queue::new(size, AREAS, false, &memory).is_some(), good, "{size}");
    }
}
