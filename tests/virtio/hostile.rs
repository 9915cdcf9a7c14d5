//! Drivers that break the rules, each in its own way. The device says NEEDS_RESET where no request
//! can be answered, and after a reset works as if nothing had been.

use brisk::virtio::{Backend, Reply};
use vm_memory::{Bytes, GuestAddress};

use crate::block::{self, Disk};
use crate::console::{self, Terminal};
use crate::driver::{
    DATA, Driver, INDIRECT, NEEDS_RESET, NEXT, RAM, RUNNING, SIZE, STATUS, WRITE, areas,
};
use crate::pmem::{self, Flusher};
use crate::rng::{self, Entropy};

/// What a device does when its driver behaves; fails where it does not work.
pub trait Works {
    /// The queue that a driver gives requests.
    const REQUESTS: u16;
    fn works(&mut self);
}

impl Works for Disk {
    const REQUESTS: u16 = 0;
    fn works(&mut self) {
        self.start(u64::MAX);
        assert_eq!(self.request(block::IN, 0, &[512], true), 0);
    }
}

impl Works for Flusher {
    const REQUESTS: u16 = 0;
    fn works(&mut self) {
        self.start(u64::MAX);
        assert_eq!(self.flush(0), 0);
    }
}

impl Works for Entropy {
    const REQUESTS: u16 = 0;
    fn works(&mut self) {
        self.start(u64::MAX);
        assert_eq!(self.ask(16), 16);
    }
}

impl Works for Terminal {
    const REQUESTS: u16 = console::TX;
    fn works(&mut self) {
        self.start(u64::MAX);
        assert_eq!(self.send(console::TX, &[(DATA, 5, false)]), 0);
    }
}

/// A test for each device.
macro_rules! devices {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            let (mut disk, _file, _dir) = block::disk(64 << 10, false);
            disk.works();
            rules::$name(&mut disk);
            disk.works();
            let (_file, config, _dir) = pmem::image(2 << 20);
            let mut flusher = Flusher::new(pmem::parts(&config));
            flusher.works();
            rules::$name(&mut flusher);
            flusher.works();
            let mut entropy = Entropy::new(rng::rng("/dev/urandom"));
            entropy.works();
            rules::$name(&mut entropy);
            entropy.works();
            let dir = tempfile::tempdir().unwrap();
            let mut terminal = console::console(&dir.path().join("out"));
            terminal.works();
            rules::$name(&mut terminal);
            terminal.works();
        }
    )* };
}

devices! {
    descriptors_in_a_loop
    lengths_of_nothing_and_everything
    addresses_where_no_ram_is
    bad_indirect_tables
    heads_and_chains_that_are_not_there
    an_index_that_ran_ahead
    rings_where_no_ram_is
    rings_on_one_another
    memory_that_changes_while_it_is_read
    a_queue_that_is_not_ready
    a_reset_in_every_state
    every_register_in_every_state
}

#[cfg(feature = "io-uring")]
#[test]
fn memory_that_changes_under_io_uring() {
    let (mut disk, _file, _dir) = block::ring_disk(64 << 10);
    rules::memory_that_changes_while_it_is_read(&mut disk);
    disk.works();
}

mod rules {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    /// A device that is broken says so once, and does nothing more.
    fn broken<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>, why: &str) {
        assert_eq!(driver.status(), RUNNING | NEEDS_RESET, "{why}");
        assert_eq!(driver.get(0x60) & 2, 2, "{why}: no reason for the interrupt");
        for queue in 0..Q as u16 {
            assert!(!driver.notify(queue), "{why}: a broken device works on");
        }
    }

    pub fn descriptors_in_a_loop<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        let table = areas(queue)[0];
        for flags in [NEXT, NEXT | WRITE] {
            for len in [1, 512, 4096] {
                driver.start(u64::MAX);
                driver.describe(table, 0, DATA, len, NEXT, 1);
                driver.describe(table, 1, DATA, len, flags, 2);
                driver.describe(table, 2, DATA, len, flags, 1);
                driver.offer(queue, 0);
                driver.notify(queue);
                // Cut off: a request that has no sense, or none at all.
                assert!(driver.used(queue) == 1 || driver.status() & NEEDS_RESET != 0);
            }
        }
    }

    pub fn lengths_of_nothing_and_everything<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        for write in [false, true] {
            driver.start(u64::MAX);
            driver.queue(queue, 0, &[(DATA, 0, write), (DATA, 0, write)]);
            driver.notify(queue);
            assert!(driver.used(queue) == 1 || driver.status() & NEEDS_RESET != 0);
            for len in [u32::MAX, 1 << 31, (RAM - DATA) as u32 + 1] {
                driver.start(u64::MAX);
                driver.queue(queue, 0, &[(DATA, len, write)]);
                assert!(driver.notify(queue));
                broken(driver, "a length that leaves RAM");
            }
        }
    }

    pub fn addresses_where_no_ram_is<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        let places = [RAM, RAM - 1, 0xd000_0000, 0xfee0_0000, pmem::WINDOW, 1 << 63, u64::MAX];
        for address in places {
            for write in [false, true] {
                driver.start(u64::MAX);
                driver.queue(queue, 0, &[(address, 16, write)]);
                assert!(driver.notify(queue));
                broken(driver, &format!("a buffer at {address:#x}"));
            }
        }
    }

    pub fn bad_indirect_tables<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        let table = DATA + 0x8000;
        let places = [
            (table, 16, "in itself"),
            (table, 0, "empty"),
            (table, 17, "not whole"),
            (RAM, 16, "outside RAM"),
            (u64::MAX - 15, 32, "at the end of all addresses"),
            (table, 0xffff_fff0, "of 4 GiB"),
            (table, 0xffff * 16, "of the most descriptors"),
        ];
        for (address, len, why) in places {
            driver.start(u64::MAX);
            // Every descriptor of it points to the table itself.
            for index in 0..64 {
                driver.describe(table, index, table, 16, INDIRECT | NEXT, index + 1);
            }
            driver.describe(areas(queue)[0], 0, address, len, INDIRECT, 0);
            driver.offer(queue, 0);
            driver.notify(queue);
            assert!(driver.used(queue) == 1 || driver.status() & NEEDS_RESET != 0, "{why}");
        }
    }

    pub fn heads_and_chains_that_are_not_there<B: Backend, const Q: usize>(
        driver: &mut Driver<B, Q>,
    ) where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        for head in [SIZE, SIZE + 1, 0x8000, 0xffff] {
            driver.start(u64::MAX);
            driver.offer(queue, head);
            driver.notify(queue);
            broken(driver, "a head beyond the table");
        }
        driver.start(u64::MAX);
        driver.describe(areas(queue)[0], 0, DATA, 16, NEXT, SIZE);
        driver.offer(queue, 0);
        driver.notify(queue);
        assert!(driver.used(queue) == 1 || driver.status() & NEEDS_RESET != 0);
        // A buffer to read after one to write (virtio 1.3, 2.7.4.2).
        driver.start(u64::MAX);
        driver.queue(queue, 0, &[(DATA, 16, true), (DATA, 16, false)]);
        driver.notify(queue);
        broken(driver, "a buffer to read after one to write");
    }

    pub fn an_index_that_ran_ahead<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        for index in [SIZE + 1, 0x8000, 0xffff] {
            driver.start(u64::MAX);
            driver.memory.write_obj(index, GuestAddress(areas(queue)[1] + 2)).unwrap();
            assert!(driver.notify(queue));
            broken(driver, "an index further ahead than the ring is long");
        }
    }

    pub fn rings_where_no_ram_is<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>) {
        for area in 0..3 {
            for address in [RAM - 16, RAM, 0xd000_0000, pmem::WINDOW, 1 << 62] {
                driver.negotiate(u64::MAX);
                let mut rings = areas(0);
                rings[area] = address;
                driver.hand_over(0, rings);
                driver.set(STATUS, RUNNING);
                broken(driver, "a ring outside RAM");
            }
            // So high that it would wrap: not even taken.
            driver.negotiate(u64::MAX);
            let mut rings = areas(0);
            rings[area] = u64::MAX - 15;
            driver.hand_over(0, rings);
            assert_eq!(driver.get(0x44), 0);
        }
    }

    pub fn rings_on_one_another<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>) {
        let base = DATA;
        for features in [u64::MAX, 1 << 32] {
            for (avail, used) in (0..64).flat_map(|a| (0..32).map(move |u| (a * 2, u * 4))) {
                driver.negotiate(features);
                for queue in 0..Q.min(2) as u16 {
                    driver.put(base, &[0; 0x400]);
                    driver.hand_over(queue, [base, base + avail, base + used]);
                }
                driver.set(STATUS, RUNNING);
                // Numbers that are an index, a head, a length and flags wherever they are read.
                for value in [1u16, 2, SIZE] {
                    for at in (0..0x80).step_by(2) {
                        driver.memory.write_obj(value, GuestAddress(base + at)).unwrap();
                    }
                    for queue in 0..Q.min(2) as u16 {
                        driver.notify(queue);
                    }
                }
            }
        }
    }

    /// Another CPU of the guest's writes to the rings and to a request all the while.
    pub fn memory_that_changes_while_it_is_read<B: Backend, const Q: usize>(
        driver: &mut Driver<B, Q>,
    ) where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        let places = [areas(queue).as_slice(), &[DATA]].concat();
        let (memory, done) = (driver.memory.clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = 1u64;
                while !done.load(Relaxed) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = places[random as usize % 4] + (random >> 8) % 0x40;
                    let value = (random >> 32) as u16 % (2 * SIZE);
                    memory.write_obj(value, GuestAddress(at)).unwrap();
                }
            });
            for _ in 0..1000 {
                if driver.status() != RUNNING {
                    driver.start(u64::MAX);
                }
                driver.queue(queue, 0, &[(DATA, 16, false), (DATA + 0x1000, 513, true)]);
                driver.notify(queue);
            }
            done.store(true, Relaxed);
        });
    }

    pub fn a_queue_that_is_not_ready<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let queue = <Driver<B, Q>>::REQUESTS;
        let request = [(DATA, 16, false), (DATA, 16, true)];
        // Not set up, set up but the device not started, and taken back.
        driver.negotiate(u64::MAX);
        driver.put(areas(queue)[1], &[0; 64]);
        driver.put(areas(queue)[2], &[0; 64]);
        driver.queue(queue, 0, &request);
        assert!(!driver.notify(queue));
        driver.set(STATUS, RUNNING);
        assert!(!driver.notify(queue));
        driver.negotiate(u64::MAX);
        driver.hand_over(queue, areas(queue));
        assert!(!driver.notify(queue));
        assert_eq!(driver.function.process(queue), Reply::Nothing);
        driver.set(STATUS, RUNNING);
        driver.set(0x30, queue.into());
        driver.set(0x44, 0);
        assert!(!driver.notify(queue));
        assert_eq!(driver.function.process(queue), Reply::Nothing);
        assert_eq!(driver.used(queue), 0);
        for other in [Q as u16, 0xff, 0xffff] {
            assert!(!driver.notify(other));
        }
        assert_eq!(driver.status(), RUNNING);
    }

    /// Goes part of the way from a reset to a broken device.
    fn advance<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>, steps: u32) {
        driver.set(STATUS, 0);
        for step in 0..steps {
            match step {
                0 => drop(driver.set(STATUS, 1)),
                1 => drop(driver.set(STATUS, 3)),
                2 => driver.negotiate(u64::MAX),
                3 => driver.hand_over(0, areas(0)),
                4 => drop(driver.set(STATUS, RUNNING)),
                5 => drop(driver.set(0x44, 0)),
                6 => driver.start(u64::MAX),
                7 => driver.offer(0, SIZE),
                8 => drop(driver.notify(0)),
                _ => drop(driver.set(STATUS, 0x80)),
            }
        }
    }
    const STATES: u32 = 11;

    pub fn a_reset_in_every_state<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        for state in 0..STATES {
            advance(driver, state);
            assert!(!driver.set(STATUS, 0));
            assert_eq!(driver.status(), 0);
            assert_eq!(driver.get(0x60), 0, "an interrupt outlived the reset");
            driver.works();
        }
    }

    pub fn every_register_in_every_state<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>)
    where
        Driver<B, Q>: Works,
    {
        let values = [0, 1, 0xff, 0xffff_ffff, 0x1_0000_0000, u64::MAX];
        for state in 0..STATES {
            for offset in (0..0x140).chain([0xffc, 0xfff]) {
                advance(driver, state);
                for (value, len) in values.iter().flat_map(|v| [1, 2, 4, 8].map(|l| (v, l))) {
                    driver.write(offset, &value.to_le_bytes()[..len]);
                    driver.function.read(offset, &mut [0; 8][..len]);
                }
                assert_eq!(driver.get(0), u32::from_le_bytes(*b"virt"));
            }
            driver.works();
        }
    }
}
