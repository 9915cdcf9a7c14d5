//! Any order of registers, rings and memory; after each a reset brings the device back.

use brisk::virtio::Backend;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::{DATA, Driver, RAM, areas};
use crate::hostile::Works;
use crate::pmem::Flusher;
use crate::rng::{self, Entropy};
use crate::{block, console, pmem};

#[derive(Clone, Debug)]
enum Step {
    Start(u64),
    Register(u64, u32),
    Write(u64, u64, usize),
    Describe(u16, u16, u64, u32, u16, u16),
    Offer(u16, u16),
    Notify(u16),
    Poke(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![
        4 => 0..RAM,
        2 => Just(DATA),
        1 => RAM - 64..RAM + 64,
        1 => (0..0x1000u64).prop_map(|offset| pmem::WINDOW + offset),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => 0..600u32, 1 => Just(512), 1 => any::<u32>()];
    let value = prop_oneof![0..16u32, any::<u32>()];
    prop_oneof![
        2 => any::<u64>().prop_map(Step::Start),
        2 => (0..0x40u64, value).prop_map(|(register, value)| Step::Register(register * 4, value)),
        1 => (0..0x1000u64, any::<u64>(), 0..4usize)
            .prop_map(|(offset, value, width)| Step::Write(offset, value, 1 << width)),
        8 => (0..2u16, 0..16u16, address.clone(), len, 0..8u16, 0..17u16)
            .prop_map(|(q, index, at, len, flags, next)| {
                Step::Describe(q, index, at, len, flags, next)
            }),
        6 => (0..2u16, 0..17u16).prop_map(|(queue, head)| Step::Offer(queue, head)),
        4 => (0..3u16).prop_map(Step::Notify),
        2 => (address, any::<u64>()).prop_map(|(at, value)| Step::Poke(at, value)),
    ]
}

fn take<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>, step: &Step) {
    match *step {
        Step::Start(features) => driver.start(features | 1 << 32),
        Step::Register(offset, value) => drop(driver.set(offset, value)),
        Step::Write(offset, value, len) => {
            driver.write(offset, &value.to_le_bytes()[..len]);
        }
        Step::Describe(queue, index, address, len, flags, next) => {
            driver.describe(areas(queue)[0], index, address, len, flags, next);
        }
        Step::Offer(queue, head) => driver.offer(queue, head),
        Step::Notify(queue) => drop(driver.notify(queue)),
        Step::Poke(address, value) => {
            let _ = driver.memory.write_obj(value, GuestAddress(address));
        }
    }
}

fn survives<B: Backend, const Q: usize>(driver: &mut Driver<B, Q>, steps: &[Step])
where
    Driver<B, Q>: Works,
{
    driver.start(u64::MAX);
    for step in steps {
        take(driver, step);
    }
    driver.works();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_disk_survives_any_driver(steps in prop::collection::vec(step(), 0..80)) {
        let (mut disk, file, _dir) = block::disk(64 << 10, false);
        survives(&mut disk, &steps);
        prop_assert_eq!(file.metadata().unwrap().len(), 64 << 10);
    }

    #[cfg(feature = "io-uring")]
    #[test]
    fn a_disk_by_io_uring_survives_any_driver(steps in prop::collection::vec(step(), 0..80)) {
        let (mut disk, file, _dir) = block::ring_disk(64 << 10);
        survives(&mut disk, &steps);
        prop_assert_eq!(file.metadata().unwrap().len(), 64 << 10);
    }

    #[test]
    fn a_pmem_survives_any_driver(steps in prop::collection::vec(step(), 0..80)) {
        let (_file, config, _dir) = pmem::image(2 << 20);
        survives(&mut Flusher::new(pmem::parts(&config)), &steps);
    }

    #[test]
    fn an_rng_survives_any_driver(steps in prop::collection::vec(step(), 0..80)) {
        survives(&mut Entropy::new(rng::rng("/dev/urandom")), &steps);
    }

    #[test]
    fn a_console_survives_any_driver(steps in prop::collection::vec(step(), 0..80)) {
        survives(&mut console::console(std::path::Path::new("/dev/null")), &steps);
    }
}
