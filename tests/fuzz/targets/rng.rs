//! Requests for random bytes, by any driver.
#![no_main]

use std::cell::RefCell;

use brisk::events::Events;
use brisk::virtio::VirtioDevice;
use brisk::virtio::rng::{Rng, RngConfig};
use brisk_devices::virtio::rng;
use brisk_fuzz::{Step, memory, run};
use libfuzzer_sys::fuzz_target;

/// A source that always has bytes, and one that never has.
fn device(src: &str) -> RefCell<VirtioDevice<Rng, 1>> {
    let config = RngConfig { src: src.to_owned() };
    let source = Rng::open_source(&config, Events::device(0)).expect("a source");
    RefCell::new(VirtioDevice::new(rng::Rng, [source]))
}

thread_local! {
    static DEVICES: [RefCell<VirtioDevice<Rng, 1>>; 2] = [device("/dev/urandom"), device("/dev/null")];
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (dry, steps) = input;
    DEVICES.with(|devices| {
        run(&mut *devices[usize::from(dry)].borrow_mut(), &memory(), &steps);
    });
});
