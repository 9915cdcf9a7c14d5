//! The walk of a queue, whose rings and descriptors change while they are read.
#![no_main]

use brisk::virtio::queue::{self, Buffers, Taken};
use brisk::virtio::{Backend, Halt, Queue, VirtioDevice};
use brisk_devices::virtio::Device;
use brisk_fuzz::{HIGH, RAM, Step, change, memory, run};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// What happens while a chain is in the device's hands: a change of memory, and the device's
/// answer.
type During = (Step, Option<Option<u32>>);

/// The driver's part of a device with two queues.
struct Model;

impl Device for Model {
    const ID: u32 = 42;

    fn queue_max_size(&self, queue: u16) -> u16 {
        [256, 16].get(usize::from(queue)).copied().unwrap_or(0)
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u32, _data: &mut [u8]) {}
}

struct Walker {
    during: Vec<During>,
    buffers: Buffers,
    memory: GuestMemoryMmap,
}

impl Backend for Walker {
    type Model = Model;

    fn process(&mut self, queue: &mut Queue) -> Result<bool, Halt> {
        let Self { during, buffers, memory } = self;
        let interrupt = queue::drain(queue, |chain| {
            let Some((step, answer)) = during.pop() else { return Ok(Taken::Requeue) };
            buffers.collect(chain)?;
            let all = buffers.readable.iter().chain(&buffers.writable);
            assert!(all.clone().all(|buffer| in_ram(memory, buffer)), "a buffer outside RAM");
            assert!(all.map(|buffer| buffer.iov_len as u64).sum::<u64>() <= u32::MAX.into());
            let mut bytes = [0; 40];
            let before = queue::len(&buffers.readable);
            let taken = queue::take_front(&mut buffers.readable, &mut bytes);
            assert_eq!(queue::len(&buffers.readable) + taken as u64, before);
            change(memory, &step);
            queue::put_front(&mut buffers.writable, &bytes);
            Ok(match answer {
                Some(Some(written)) => Taken::Used(written),
                Some(None) => Taken::Later,
                None => Taken::Requeue,
            })
        })?;
        Ok(interrupt)
    }
}

/// Whether a buffer lies in one of the two pieces.
fn in_ram(memory: &GuestMemoryMmap, buffer: &libc::iovec) -> bool {
    let start = buffer.iov_base as usize;
    [0, HIGH].into_iter().any(|piece| {
        let host = memory.get_host_address(GuestAddress(piece)).expect("RAM") as usize;
        start >= host && buffer.iov_len > 0 && start + buffer.iov_len <= host + RAM
    })
}

fuzz_target!(|input: (Vec<Step>, Vec<During>)| {
    let (steps, during) = input;
    // Each queue has every other of them.
    let (first, second) =
        during.into_iter().enumerate().partition::<Vec<_>, _>(|(at, _)| at % 2 == 0);
    let memory = memory();
    let walkers = [first, second].map(|during| Walker {
        during: during.into_iter().map(|(_, during)| during).collect(),
        buffers: Buffers::default(),
        memory: memory.clone(),
    });
    run::<_, 2>(&mut VirtioDevice::new(Model, walkers), &memory, &steps);
});
