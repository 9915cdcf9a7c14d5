//! Flushes of a pmem, whose image is there, gone or kept from writes.
#![no_main]

use std::cell::RefCell;

use brisk::events::Events;
use brisk::virtio::pmem::{Pmem, PmemConfig};
use brisk::virtio::{Backend, VirtioDevice};
use brisk_fuzz::{PMEM, Step, file, memory, run};
use libfuzzer_sys::fuzz_target;

fn pmem(discard_writes: bool, shrunk: bool) -> RefCell<VirtioDevice<Pmem, 1>> {
    let (file, path) = file(2 << 20);
    let config = PmemConfig { path, discard_writes, part: None };
    let (mut model, mut pmem, size) = Pmem::map(&config, PMEM).expect("an image");
    assert_eq!(size, 2 << 20);
    if shrunk {
        file.set_len(10).expect("shrinks");
        assert!(pmem.poll(Events::MEMORY, &mut model).repaired);
    }
    RefCell::new(VirtioDevice::new(model, [pmem]))
}

thread_local! {
    static FUNCTIONS: [RefCell<VirtioDevice<Pmem, 1>>; 3] =
        [pmem(false, false), pmem(true, false), pmem(false, true)];
}

fuzz_target!(|input: (u8, Vec<Step>)| {
    let (which, steps) = input;
    FUNCTIONS.with(|functions| {
        run(&mut *functions[usize::from(which % 3)].borrow_mut(), &memory(), &steps);
    });
});
