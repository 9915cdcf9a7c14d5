//! Whatever a guest does to the bus: no panic, and every way shows the same.

#[cfg(feature = "block")]
mod hostile;

use super::*;
use crate::cli::{self, Command};
use crate::kvm::System;
use vm_memory::GuestAddress;

fn slots(transport: &str, readable: bool) -> (Devices, &'static Vm) {
    slots_with("", transport, readable)
}

fn slots_with(more: &str, transport: &str, readable: bool) -> (Devices, &'static Vm) {
    let vm: &'static Vm = Box::leak(Box::new(System::open().unwrap().create_vm().unwrap()));
    let words = format!("--kernel none --console null{more} --transport {transport}");
    let words: Vec<String> = words.split(' ').map(String::from).collect();
    let Ok(Command::Run(config)) = cli::parse(words.iter().map(Into::into).collect()) else {
        panic!("the command line")
    };
    let config = Box::leak(config);
    crate::inputs::forget();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let mut slots = Devices::open(config, &memory, vm, 0, 1 << 32).unwrap();
    if readable {
        slots.make_readable(vm, 5).unwrap();
    }
    (slots, vm)
}

/// Does what an access left to be done.
fn serve(slots: &mut Devices, access: Access, sink: &mut impl Sink) {
    if let Access::Notified(job) = access {
        let _ = slots.finish(job.run(), sink);
    }
}

/// The console's function, 0:0.1.
const CONSOLE: u64 = 0x1000;
const BAR: u64 = layout::PCI_MEM32.start;

fn read(slots: &mut Devices, offset: u64) -> u32 {
    let mut data = [0; 4];
    assert!(slots.ecam_read(offset, &mut data).claimed());
    u32::from_le_bytes(data)
}

fn write(slots: &mut Devices, offset: u64, value: u32) {
    assert!(slots.ecam_write(offset, &value.to_le_bytes(), &mut |_: Signal| ()).claimed());
}

#[test]
fn a_bridge_a_console_and_nothing_else() {
    let (mut slots, _) = slots("pci", false);
    assert_eq!(read(&mut slots, 0), 0x0008_1b36);
    assert_eq!(read(&mut slots, CONSOLE), 0x1043_1af4);
    for function in 2..256 {
        assert_eq!(read(&mut slots, function << 12), u32::MAX, "function {function}");
    }
    assert!(!slots.ports_in(4, 4, &mut [0; 4]).claimed(), "ports that nobody asked for");
    assert!(!slots.read(0, &mut [0; 4]).claimed(), "no window of registers beside");
}

#[test]
fn a_bar_answers_where_it_is_within_the_window_only() {
    let (mut slots, _) = slots("pci", false);
    let answers = |slots: &mut Devices, at: u64| slots.bar_read(at, &mut [0; 4]).claimed();
    assert!(!answers(&mut slots, BAR), "not decoded yet");
    write(&mut slots, CONSOLE + 4, 2);
    assert!(answers(&mut slots, BAR));
    write(&mut slots, CONSOLE + 0x10, u32::MAX);
    assert_eq!(read(&mut slots, CONSOLE + 0x10), 0xffff_e004, "8 KiB, 64-bit");
    write(&mut slots, CONSOLE + 0x10, BAR as u32 + 0x6000);
    assert!(!answers(&mut slots, BAR));
    assert!(answers(&mut slots, BAR + 0x7ffc));
    for elsewhere in [0, 0xfec0_0000, layout::PCI_ECAM_BASE] {
        write(&mut slots, CONSOLE + 0x10, elsewhere as u32);
        assert!(!answers(&mut slots, BAR) && !answers(&mut slots, BAR + 0x6000));
    }
}

#[test]
fn what_the_guest_reads_as_memory_is_what_an_exit_would_read() {
    let (mut slots, _) = slots("pci", true);
    let compare = |slots: &mut Devices| {
        for register in (0..0x1000).step_by(4) {
            let by_exit = slots.config_word(1, register);
            let readable = slots.pci.as_ref().unwrap().readable.as_ref().unwrap();
            assert_eq!(readable.get(1, register), Some(by_exit), "register {register:#x}");
        }
    };
    compare(&mut slots);
    for (register, value) in
        [(0x10, u32::MAX), (0x14, u32::MAX), (0x10, BAR as u32), (0x14, 0), (4, 6), (0x98, 1 << 31)]
    {
        write(&mut slots, CONSOLE + register, value);
        compare(&mut slots);
    }
    // From here on the window shows registers that change by themselves.
    write(&mut slots, CONSOLE + 0x90, 4);
    let readable = slots.pci.as_ref().unwrap().readable.as_ref().unwrap();
    assert_eq!(readable.get(1, 0), None);
    assert_eq!(read(&mut slots, CONSOLE + 0x94), 0, "device_feature_select");
}

#[test]
fn any_access_of_any_width_anywhere() {
    let (mut slots, _) = slots("pci-ports", true);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let messages = std::cell::Cell::new(0);
    // Every register with every width first, in order, then whatever comes.
    for step in 0..400_000u64 {
        let width = 1usize << (next() % 4);
        let bytes = (if next() % 4 == 0 { next() } else { next() % 16 }).to_le_bytes();
        let mut data = bytes;
        let config = if step < 0x8000 { step & 0x1fff } else { next() & 0x2fff };
        let bar = BAR + next() % 0x3000;
        let signal = &mut |_: Signal| messages.set(messages.get() + 1);
        match next() % 8 {
            0 => drop(slots.ecam_read(config, &mut data[..width])),
            1 => drop(slots.ecam_write(config, &bytes[..width], signal)),
            2 => drop(slots.bar_read(bar, &mut data[..width])),
            3 => drop(slots.ports_in(next() as u16 % 8, width.min(4) as u8, &mut data)),
            4 => drop(slots.ports_out(next() as u16 % 8, width.min(4) as u8, &bytes, signal)),
            // Now and then at its place and decoded, so that the rest is reached too.
            5 if next() % 64 == 0 => {
                write(&mut slots, CONSOLE + 0x10, BAR as u32);
                write(&mut slots, CONSOLE + 0x14, 0);
                write(&mut slots, CONSOLE + 4, 6);
            }
            _ => {
                let access = slots.bar_write(bar, &bytes[..width], signal);
                serve(&mut slots, access, signal);
            }
        }
    }
    assert_eq!(read(&mut slots, CONSOLE), 0x1043_1af4);
}

#[cfg(feature = "smp")]
#[test]
fn two_cpus_at_once() {
    let (slots, _) = slots("pci", true);
    let shared = crate::shared::Shared::new(slots);
    std::thread::scope(|scope| {
        for cpu in 0..2u64 {
            let shared = &shared;
            scope.spawn(move || {
                for step in 0..20_000u64 {
                    let mut slots = shared.lock();
                    let value = (step.wrapping_mul(0x9e37_79b9) >> (cpu * 7)) as u32;
                    write(&mut slots, CONSOLE + (step * 4 + cpu * 16) % 0xa0, value);
                    let bar = BAR + step * 4 % BAR_SIZE;
                    let _ = slots.bar_write(bar, &value.to_le_bytes(), &mut |_: Signal| ());
                    let _ = read(&mut slots, CONSOLE + step % 0x100 / 4 * 4);
                }
            });
        }
    });
    assert_eq!(read(&mut shared.lock(), CONSOLE), 0x1043_1af4);
}
