//! Requests to a disk, from the driver's registers to the file.
#![no_main]

use std::cell::RefCell;
use std::fs::File;

use brisk::events::Events;
use brisk::virtio::VirtioDevice;
use brisk::virtio::block::{Block, DiskConfig, MAX_QUEUES};
use brisk_fuzz::{Step, file, memory, run};
use libfuzzer_sys::fuzz_target;

const LEN: u64 = 64 << 10;

struct Disk {
    file: File,
    function: VirtioDevice<Block, MAX_QUEUES>,
}

fn disk(readonly: bool) -> RefCell<Disk> {
    let (file, path) = file(LEN);
    let config = DiskConfig { path, readonly, ..DiskConfig::default() };
    let (model, queues, _) = Block::open_image(&config, 1, Events::device(0)).expect("a disk");
    RefCell::new(Disk { file, function: VirtioDevice::new(model, queues) })
}

thread_local! {
    static DISKS: [RefCell<Disk>; 2] = [disk(false), disk(true)];
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (readonly, steps) = input;
    DISKS.with(|disks| {
        let disk = &mut *disks[usize::from(readonly)].borrow_mut();
        run(&mut disk.function, &memory(), &steps);
        let meta = disk.file.metadata().expect("metadata");
        assert_eq!(meta.len(), LEN, "the disk has another size");
        if readonly {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(meta.blocks(), 0, "a write to a disk that is read only");
        }
    });
});
