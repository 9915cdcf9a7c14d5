//! Requests to a disk, from the driver's registers to the file; by each engine.
#![no_main]

use std::cell::RefCell;
use std::fs::File;

use brisk::events::Events;
use brisk::virtio::VirtioDevice;
use brisk::virtio::block::{Block, DiskConfig, MAX_QUEUES};
use brisk_fuzz::{Step, file, memory, on_disk, reset, run};
use libfuzzer_sys::fuzz_target;

const LEN: u64 = 64 << 10;

struct Disk {
    file: File,
    function: VirtioDevice<Block, MAX_QUEUES>,
}

/// By io_uring past the page cache, from which all would be done at once and nothing on the ring.
fn disk(readonly: bool, io_uring: bool) -> RefCell<Disk> {
    let (file, path) = if io_uring { on_disk(LEN) } else { file(LEN) };
    let config = DiskConfig { path, readonly, direct: io_uring, io_uring };
    let (model, queues, _) = Block::open_image(&config, 2, Events::device(0)).expect("a disk");
    RefCell::new(Disk { file, function: VirtioDevice::new(model, queues) })
}

thread_local! {
    static DISKS: [[RefCell<Disk>; 2]; 2] =
        [false, true].map(|io_uring| [disk(false, io_uring), disk(true, io_uring)]);
}

fuzz_target!(|input: (bool, bool, Vec<Step>)| {
    let (readonly, io_uring, steps) = input;
    DISKS.with(|disks| {
        let disk = &mut *disks[usize::from(io_uring)][usize::from(readonly)].borrow_mut();
        let memory = memory();
        run(&mut disk.function, &memory, &steps);
        // Nothing may be on its way into this memory when it goes.
        reset(&mut disk.function, &memory);
        let meta = disk.file.metadata().expect("metadata");
        assert_eq!(meta.len(), LEN, "the disk has another size");
        if readonly {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(meta.blocks(), 0, "a write to a disk that is read only");
        }
    });
});
