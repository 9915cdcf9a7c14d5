//! The heap of a binary that has its C library in it (`cargo xtask build --static`), in that library's place.
//!
//! On its way to the guest's first instruction brisk asks for a hundred blocks, most of them some ten bytes, and
//! keeps a third. musl's allocator maps memory for each size of them, and looks after what is free there as a
//! program wants that allocates all the time: a twentieth of all that is done until a restored guest runs. This one
//! takes blocks off memory that is there with the program.
//!
//! A block is a power of two bytes. When it is given back, the next one who asks for that size gets it: so there are
//! never more of a size than were once in use together, and who asks and gives back for ever makes nothing grow.
//! What is larger than [`LARGEST`] is the kernel's to give, and goes back to it.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::{self, null_mut};

use crate::threads::Lock;

/// Bytes of the smallest block, and what each address is a multiple of.
const SMALLEST: usize = 16;
/// Bytes of the largest block that is kept.
const LARGEST: usize = 16 << 10;
/// How many sizes are kept.
const SIZES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
/// The host's pages, to which blocks of a page and more are aligned.
const PAGE: usize = 4096;
/// Bytes that are there with the program. A page that nobody touches costs nothing; where it begins other data
/// of the program is, so that is touched anyway.
const FIRST: usize = 128 << 10;
/// Bytes that are mapped each time when all is used up.
const MORE: usize = 256 << 10;

/// Blocks of all kept sizes.
struct Heap {
    /// Of each size, the one that was given back last.
    free: [*mut Free; SIZES],
    /// Between these two no block ever was. Small ones are taken from below, those of a page and more from above:
    /// so both lie close together.
    low: *mut u8,
    high: *mut u8,
}

/// What is in a block that nobody has.
struct Free {
    /// Given back before it.
    next: *mut Free,
}

impl Heap {
    const fn new() -> Heap {
        Heap { free: [null_mut(); SIZES], low: null_mut(), high: null_mut() }
    }

    /// A block of a kept size; null where there is no memory.
    fn take(&mut self, size: usize) -> *mut u8 {
        let first = &mut self.free[index(size)];
        if !first.is_null() {
            let block = *first;
            // SAFETY: what is in the list is the heap's.
            *first = unsafe { (*block).next };
            return block.cast();
        }
        if self.high as usize - (self.low as usize) < size && !self.more() {
            return null_mut();
        }
        if size < PAGE {
            let block = self.low;
            self.low = block.wrapping_add(size);
            block
        } else {
            self.high = self.high.wrapping_sub(size);
            self.high
        }
    }

    /// Keeps a block of that size for the next one who asks.
    ///
    /// # Safety
    /// It is one of [`Heap::take`]'s, which nobody uses any more.
    unsafe fn keep(&mut self, block: *mut u8, size: usize) {
        let (first, block) = (&mut self.free[index(size)], block.cast::<Free>());
        // SAFETY: nobody's, and as large and aligned as the smallest block.
        unsafe { block.write(Free { next: *first }) };
        *first = block;
    }

    /// Whether there is more to take blocks from. What is left of the last, which is less than the largest block,
    /// is used no more.
    #[cold]
    fn more(&mut self) -> bool {
        let (start, bytes) = match self.low.is_null() {
            true => (Heap::first(), FIRST),
            false => (map(MORE), MORE),
        };
        if !start.is_null() {
            let end = start.wrapping_add(bytes);
            (self.low, self.high) = (start, end.wrapping_sub(end as usize % PAGE));
        }
        !start.is_null()
    }

    /// What is there with the program; it is the one heap's that is in use.
    #[cfg(not(test))]
    fn first() -> *mut u8 {
        #[repr(align(16))]
        struct First(UnsafeCell<[u8; FIRST]>);
        // SAFETY: its address is all that is asked for here.
        unsafe impl Sync for First {}
        // Behind all other data, which so shares its pages with the first blocks.
        #[unsafe(link_section = ".bss.heap")]
        static THERE: First = First(UnsafeCell::new([0; FIRST]));
        THERE.0.get().cast()
    }

    /// Each test has heaps of its own.
    #[cfg(test)]
    fn first() -> *mut u8 {
        map(FIRST)
    }
}

/// Which one of the sizes.
fn index(size: usize) -> usize {
    (size / SMALLEST).ilog2() as usize
}

/// Bytes of the block for that: more than [`LARGEST`] where it is not a kept one.
fn size(layout: Layout) -> usize {
    let least = if layout.align() > SMALLEST { PAGE } else { SMALLEST };
    // No layout is so large that this overflows.
    layout.size().max(least).next_power_of_two()
}

/// New memory of the kernel's; null where it has none.
fn map(bytes: usize) -> *mut u8 {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: where the kernel likes.
    match unsafe { libc::mmap(null_mut(), bytes, access, kind, -1, 0) } {
        libc::MAP_FAILED => null_mut(),
        start => start.cast(),
    }
}

/// The heap for all of the process.
pub struct Allocator {
    lock: Lock,
    heap: UnsafeCell<Heap>,
}

// SAFETY: whoever looks into it has the lock.
unsafe impl Sync for Allocator {}

impl Allocator {
    /// An empty heap. A process has one at most.
    #[allow(clippy::new_without_default, reason = "a constant")]
    pub const fn new() -> Allocator {
        Allocator { lock: Lock::new(), heap: UnsafeCell::new(Heap::new()) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Heap) -> T) -> T {
        let _lock = self.lock.lock();
        // SAFETY: the only one, by the lock; `work` allocates nothing.
        work(unsafe { &mut *self.heap.get() })
    }
}

// SAFETY: a block is as long and as aligned as it was asked for, and nobody else's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match size(layout) {
            // Nobody asks for that.
            _ if layout.align() > PAGE => null_mut(),
            kept @ ..=LARGEST => self.with(|heap| heap.take(kept)),
            _ => map(layout.size()),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match size(layout) {
            // SAFETY: by the caller's word it came from `alloc`, and nobody uses it.
            kept @ ..=LARGEST => self.with(|heap| unsafe { heap.keep(block, kept) }),
            // SAFETY: as above; so it has its pages for itself.
            _ => unsafe { _ = libc::munmap(block.cast(), layout.size()) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's word.
        let block = unsafe { self.alloc(layout) };
        // The kernel's is zero, and need not be touched.
        if !block.is_null() && size(layout) <= LARGEST {
            // SAFETY: it is so long.
            unsafe { ptr::write_bytes(block, 0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: by the caller's word.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        if size(wanted) == size(layout) && size(layout) <= LARGEST {
            return block;
        }
        // SAFETY: two blocks, both as long as the shorter of both; the caller's is given back.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(bytes));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// What the heap has taken of its memory.
    fn bounds(allocator: &Allocator) -> (usize, usize) {
        allocator.with(|heap| (heap.low as usize, heap.high as usize))
    }

    #[test]
    fn a_block_is_a_power_of_two() {
        for (bytes, align, wanted) in [
            (1, 1, 16),
            (16, 16, 16),
            (17, 1, 32),
            (4096, 1, 4096),
            (8, 64, 4096),
            (4097, 4096, 8192),
            (LARGEST, 8, LARGEST),
        ] {
            assert_eq!(size(layout(bytes, align)), wanted, "{bytes} {align}");
        }
        assert!(size(layout(LARGEST + 1, 1)) > LARGEST);
        assert!(size(layout(isize::MAX as usize, 1)) > LARGEST);
        assert_eq!((index(16), index(LARGEST)), (0, SIZES - 1));
    }

    proptest! {
        /// Each block holds what was written to it until it is given back, whatever happens to others.
        #[test]
        fn blocks_are_apart(steps in prop::collection::vec(
            (0usize..40, 1usize..40_000, 0u32..13, any::<bool>()), 1..400
        )) {
            let allocator = Allocator::new();
            let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
            let whole = |block: *mut u8, bytes: usize, mark: u8| {
                // SAFETY: the block is so long and all written.
                unsafe { std::slice::from_raw_parts(block, bytes) }.iter().all(|&byte| byte == mark)
            };
            for (step, (at, bytes, align, zeroed)) in steps.into_iter().enumerate() {
                let (mark, wanted) = (step as u8, layout(bytes, 1 << align));
                // SAFETY: each block is given back once, by its layout, and written within it.
                unsafe {
                    if let Some(&(block, old, before)) = live.get(at) {
                        prop_assert!(whole(block, old.size(), before));
                        if zeroed {
                            let grown = layout(bytes, old.align());
                            let block = allocator.realloc(block, old, bytes);
                            prop_assert!(whole(block, bytes.min(old.size()), before));
                            ptr::write_bytes(block, mark, bytes);
                            live[at] = (block, grown, mark);
                        } else {
                            allocator.dealloc(block, old);
                            live.swap_remove(at);
                        }
                        continue;
                    }
                    let block = match zeroed {
                        true => allocator.alloc_zeroed(wanted),
                        false => allocator.alloc(wanted),
                    };
                    prop_assert!(!block.is_null() && (block as usize).is_multiple_of(wanted.align()));
                    prop_assert!(!zeroed || whole(block, bytes, 0));
                    ptr::write_bytes(block, mark, bytes);
                    live.push((block, wanted, mark));
                }
            }
            for (block, layout, mark) in live {
                prop_assert!(whole(block, layout.size(), mark));
                // SAFETY: given back once.
                unsafe { allocator.dealloc(block, layout) };
            }
        }
    }

    #[test]
    fn who_asks_and_gives_back_for_ever_makes_nothing_grow() {
        let allocator = Allocator::new();
        let round = |count: usize| {
            let layouts: Vec<Layout> =
                (0..count).map(|at| layout(1 + at * 337 % 20_000, 8)).collect();
            // SAFETY: each is given back once.
            unsafe {
                let blocks: Vec<*mut u8> = layouts.iter().map(|&l| allocator.alloc(l)).collect();
                blocks.into_iter().zip(layouts).for_each(|(b, l)| allocator.dealloc(b, l));
            }
        };
        round(300);
        let before = bounds(&allocator);
        (0..1000).for_each(|_| round(300));
        assert_eq!(bounds(&allocator), before);
    }

    #[test]
    fn what_is_not_to_be_had_is_null() {
        let allocator = Allocator::new();
        // SAFETY: none is used.
        unsafe {
            assert!(allocator.alloc(layout(1 << 62, 8)).is_null());
            assert!(allocator.alloc_zeroed(layout(1 << 62, 8)).is_null());
            assert!(allocator.alloc(layout(8, 8192)).is_null());
        }
    }

    /// More than is there with the program, in all sizes.
    #[test]
    fn there_is_more_than_the_first() {
        let allocator = Allocator::new();
        for at in 0..4000 {
            let wanted = layout(SMALLEST << (at % SIZES), 8);
            // SAFETY: within the block.
            unsafe {
                let block = allocator.alloc(wanted);
                ptr::write_bytes(block, 1, wanted.size());
                let multiple = if wanted.size() < PAGE { SMALLEST } else { PAGE };
                assert!((block as usize).is_multiple_of(multiple));
            }
        }
    }

    #[cfg(any(feature = "smp", feature = "io-uring", feature = "async-loader", feature = "api"))]
    #[test]
    fn threads_take_turns() {
        static SHARED: Allocator = Allocator::new();
        let work = |mark: u8| {
            move || {
                let mut kept = Vec::new();
                for at in 0..20_000usize {
                    let wanted = layout(1 + at * 31 % 300, 8);
                    // SAFETY: within the block, which is given back once.
                    unsafe {
                        let block = SHARED.alloc(wanted);
                        ptr::write_bytes(block, mark, wanted.size());
                        kept.push((block, wanted));
                        if kept.len() > 50 {
                            let (block, layout) = kept.swap_remove(at % 50);
                            let bytes = std::slice::from_raw_parts(block, layout.size());
                            assert!(bytes.iter().all(|&byte| byte == mark));
                            SHARED.dealloc(block, layout);
                        }
                    }
                }
            }
        };
        let threads: Vec<_> =
            (0..4).map(|mark| crate::threads::start(|| {}, "heap", work(mark)).unwrap()).collect();
        threads.into_iter().for_each(crate::threads::Thread::join);
    }
}
