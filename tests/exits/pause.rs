//! A machine that is paused: no vCPU moves until it goes on.

use std::thread::sleep;
use std::time::{Duration, Instant};

use brisk::bus::End;
use brisk::cli::{self, Command};
use brisk::machine::Machine;
use brisk::paused::Paused;
use brisk::vcpu::Outcome;
use vm_memory::{Bytes, GuestAddress};

use super::common::kernel::{Code, Elf, bytes};
use super::common::{Scratch, limit};
use super::guests;

/// Where the second vCPU counts; the others behind.
const COUNTERS: u64 = 0x7010;

fn build(scratch: &Scratch, guest: Code, cpus: u8) -> &'static Machine {
    let kernel = scratch.file("kernel", Elf::new(guests::cpus::WAKE_ALL, &bytes(guest)).file());
    let kernel = kernel.to_str().expect("a path in UTF-8");
    let cpus = format!("boot={cpus}");
    let mut words = vec!["--kernel", kernel, "--cpus", &cpus, "--memory", "size=16M"];
    words.extend(["--serial", "off", "--console", "off", "--seccomp", "false"]);
    let words: Vec<String> = words.into_iter().map(String::from).collect();
    let Ok(Command::Run(config)) = cli::parse(words.iter().map(Into::into).collect()) else {
        panic!("the command line")
    };
    Machine::build(Box::leak(config)).expect("a machine")
}

/// What all vCPUs but the first have counted to.
fn counts(paused: &Paused<'_>) -> Vec<u32> {
    (1..paused.vcpus.len() as u64)
        .map(|id| paused.memory.read_obj(GuestAddress(COUNTERS + 4 * (id - 1))).expect("RAM"))
        .collect()
}

/// Pauses until each has counted further than it had in `before`.
fn pause_later<'a>(machine: &'a Machine, before: &[u32]) -> Paused<'a> {
    let since = Instant::now();
    loop {
        let paused = machine.pause();
        if counts(&paused).iter().zip(before).all(|(now, before)| now > before) {
            return paused;
        }
        assert!(since.elapsed() < limit(), "{:?} after {before:?}", counts(&paused));
        paused.resume();
        sleep(Duration::from_millis(1));
    }
}

fn pauses_and_goes_on(guest: Code, cpus: u8) {
    let scratch = Scratch::new();
    let machine = build(&scratch, guest, cpus);
    machine.start().expect("threads");
    // Some threads are not there yet, and no vCPU but the first has been started by the guest.
    let paused = machine.pause();
    let mut before = vec![0; usize::from(cpus) - 1];
    assert_eq!(counts(&paused), before);
    paused.resume();
    for _ in 0..20 {
        // Each time the first goes on behind what it asked for last.
        assert_eq!(machine.enter().expect("KVM"), Outcome::End(End::PowerOff));
        let paused = pause_later(machine, &before);
        before = counts(&paused);
        sleep(Duration::from_millis(5));
        assert_eq!(counts(&paused), before, "a vCPU that is paused counts");
        paused.resume();
    }
    for _ in 0..500 {
        machine.pause().resume();
    }
    // This process may have another machine after this one.
    std::mem::forget(machine.pause());
}

/// One after the other, for each takes the numbers of the process's vCPUs.
#[test]
fn nothing_moves_while_the_machine_is_paused() {
    for guest in [guests::cpus::COUNT, guests::cpus::COUNT_OUT] {
        for cpus in [2, 4] {
            pauses_and_goes_on(guest, cpus);
        }
    }
}
