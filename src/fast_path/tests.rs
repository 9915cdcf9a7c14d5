//! The fast way and the bus give the same bytes.

use super::*;
use crate::cli::{self, Command};
use crate::interrupts::Interrupts;
use crate::kvm::{System, Vm};
use crate::measure::boot_timer::BootTimer;
use crate::measure::exit_stats::ExitStats;
use crate::measure::trace::Trace;
use crate::uart::Uart;
use crate::virtio::Devices;
use vm_memory::{GuestAddress, GuestMemoryMmap};

fn bus(vm: &'static Vm) -> Bus {
    let words = "--kernel none --serial null --console null --transport pci-ports";
    let Ok(Command::Run(config)) = cli::parse(words.split(' ').map(Into::into).collect()) else {
        panic!("the command line")
    };
    let config: &'static _ = Box::leak(config);
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    Bus {
        vm,
        interrupts: Interrupts::new(vm, 0, 5),
        serial: Uart::open(&config.serial),
        virtio: Devices::open(config, &memory, vm, 0, 1 << 32).unwrap(),
        timer: BootTimer::start(config),
        stats: ExitStats::start(config),
        exit_status: Default::default(),
        notify: Default::default(),
        generation: Default::default(),
        trace: Trace::start(config),
        snapshot_at: Default::default(),
        // SAFETY: null is no page.
        ring: unsafe { crate::coalesced::Ring::new(std::ptr::null_mut()) },
    }
}

/// Enough for this: Marsaglia's xorshift.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn both_ways_give_the_same_bytes() {
    let vm: &'static Vm = Box::leak(Box::new(System::open().unwrap().create_vm().unwrap()));
    let (mut fast, mut slow) = (bus(vm), bus(vm));
    let ports: Vec<u16> = (0x3f8..0x400).chain(0xcf8..0xd00).chain([0x80, 0x81, 0x604]).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut differing = 0;
    for _ in 0..200_000 {
        let port = ports[next(&mut state) as usize % ports.len()];
        let width = [1, 2, 4][next(&mut state) as usize % 3];
        let count = if next(&mut state).is_multiple_of(8) { 3 } else { 1 };
        let mut data = [0; 12];
        for (to, from) in data.iter_mut().zip(next(&mut state).to_le_bytes()) {
            *to = from;
        }
        // An address that is enabled, on bus 0, mostly at a function that is there.
        if port == 0xcf8 && width == 4 && !next(&mut state).is_multiple_of(4) {
            let at = next(&mut state) as u32;
            data[..4].copy_from_slice(&(0x8000_0000 | at & 0x1fc).to_le_bytes());
        }
        let len = usize::from(width) * count;
        if next(&mut state).is_multiple_of(2) {
            let end = fast.fast_out(port, width, &data[..len]);
            assert_eq!(end, slow.pio_out(port, width, &data[..len]));
        } else {
            let (mut one, mut other) = (data, data);
            let end = fast.fast_in(port, width, &mut one[..len]);
            assert_eq!(end, slow.pio_in(port, width, &mut other[..len]));
            assert_eq!(one, other, "port {port:#x}, {count} of {width} bytes");
            differing += usize::from(one[..len].iter().any(|&byte| byte != 0xff && byte != 0));
        }
    }
    assert!(differing > 1_000, "{differing} with values");
}
