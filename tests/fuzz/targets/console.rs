//! The console: output to a file, and its device's side of the input queue.
#![no_main]

use std::cell::RefCell;

use brisk::config::Output;
use brisk::virtio::VirtioDevice;
use brisk::virtio::console::Console;
use brisk_fuzz::{Step, memory, run};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static FUNCTION: RefCell<VirtioDevice<Console, 2>> = {
        let output = Box::leak(Box::new(Output::File("/dev/null".into())));
        let (model, queues) = Console::to(output);
        brisk::output::open().expect("/dev/null");
        RefCell::new(VirtioDevice::new(model, queues))
    };
}

fuzz_target!(|steps: Vec<Step>| {
    let memory = memory();
    FUNCTION.with_borrow_mut(|function| {
        run(function, &memory, &steps);
        // As after a signal.
        let _ = function.process(0);
        let _ = function.process(1);
    });
});
