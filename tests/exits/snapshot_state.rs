//! That all of a vCPU's state is in a snapshot, and in a clone; that state and memory go together.

use std::fs;

use super::common::state::{MSRS, part, words};
use super::common::{brisk, run};
use super::snapshot::Saved;
use super::{Lab, guests};

/// Parts of a vCPU's.
const MP_STATE: u32 = 17;
const REGS: u32 = 18;
const SREGS: u32 = 19;
const XSAVE: u32 = 20;
const XCRS: u32 = 21;
const DEBUG_REGS: u32 = 22;
const LAPIC: u32 = 23;
const EVENTS: u32 = 24;

/// What counts while the guest does nothing.
const TSC: u64 = 0x10;
const TSC_DEADLINE: u64 = 0x6e0;
/// `struct kvm_sregs`: `tr.type`, and its bit that says busy.
const TR_TYPE: usize = 6 * 24 + 14;
const TSS_BUSY: u8 = 2;
/// `KVM_CPUID_FEATURES`' bits and the registers they are for, with what the guest writes.
const KVM_MSRS: [(u32, u64, u64); 5] = [
    (3, 0x4b56_4d01, 0x10_3001),
    (4, 0x4b56_4d02, 0x10_3041),
    (5, 0x4b56_4d03, 0x10_3081),
    (6, 0x4b56_4d04, 0x10_30c1),
    (14, 0x4b56_4d06, 0x46),
];

/// Model-specific registers, without those that count.
fn msrs(state: &[u8]) -> Vec<(u64, u64)> {
    let pairs = words(state, MSRS);
    let pairs = pairs.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    pairs.filter(|(msr, _)| ![TSC, TSC_DEADLINE].contains(msr)).collect()
}

/// A clone is saved again by the next instruction but one: what of its state is not as it was, its vCPU
/// was not given.
#[test]
fn all_of_a_cpu_comes_back() {
    let lab = Lab::linux64(guests::saved::FULL);
    let [first, second] = ["first", "second"].map(|name| lab.scratch.path(name));
    let flag = format!("path={},at=0x11", first.display());
    lab.run(&["--snapshot", &flag]).silent().with_status(0);
    let flag = format!("path={},at=0x22", second.display());
    let mut command = brisk();
    command.arg("--restore").arg(&first).args(["--snapshot", &flag]);
    run(&mut command).silent().with_status(0);
    let [first, second] = [first, second].map(|dir| fs::read(dir.join("state")).unwrap());

    // What the guest has put there is there.
    assert_eq!(words(&first, DEBUG_REGS)[..4], [0x6000, 0x6010, 0x6020, 0x6030]);
    assert_eq!(words(&first, DEBUG_REGS)[5], 0x455, "DR7");
    assert_eq!(words(&first, XCRS)[2], 3, "XCR0");
    let bytes = |kind, at: usize| {
        let part = &first[part(&first, kind, 0)];
        u32::from_le_bytes(part[at..at + 4].try_into().unwrap())
    };
    assert_eq!(bytes(XSAVE, 160 + 5 * 16), 0x5eed_0005, "XMM5");
    assert_eq!([0x80, 0x320].map(|at| bytes(LAPIC, at)), [0x30, 0x1_0045], "TPR, LVT");
    assert_eq!(bytes(EVENTS, 12).to_le_bytes()[2], 1, "NMIs are masked");
    let own = msrs(&first);
    assert!(own.contains(&(0x176, 0x5eed_0176)), "{own:x?}");
    // RBX has what KVM offers.
    let offered = words(&first, REGS)[1];
    for (bit, msr, value) in KVM_MSRS.into_iter().filter(|(bit, ..)| offered >> bit & 1 != 0) {
        assert!(own.contains(&(msr, value)), "bit {bit}: {own:x?}");
    }

    // A clone on a CPU of AMD's is given an available TSS for a busy one. KVM says busy again; a host that
    // emulates it says what it was given.
    let sregs = [&first, &second].map(|state| {
        let mut sregs = state[part(state, SREGS, 0)].to_vec();
        sregs[TR_TYPE] |= TSS_BUSY;
        sregs
    });
    assert_eq!(sregs[0], sregs[1], "part {SREGS}");
    for kind in [MP_STATE, XSAVE, XCRS, DEBUG_REGS, EVENTS] {
        assert!(words(&first, kind) == words(&second, kind), "part {kind}");
    }
    assert!(first[part(&first, LAPIC, 0)] == second[part(&second, LAPIC, 0)], "the APIC");
    assert_eq!(own, msrs(&second));
    // Two instructions on: of RAX a byte.
    let [mut before, mut after] = [&first, &second].map(|state| words(state, REGS));
    assert_eq!([before[0], after[0]].map(|rax| rax & 0xff), [0x11, 0x22]);
    assert_eq!(after[16], before[16] + 4, "RIP");
    for regs in [&mut before, &mut after] {
        (regs[0], regs[16]) = (0, 0);
    }
    assert_eq!(before, after);
}

/// The same guest, as long: only who ran it tells them apart.
#[test]
fn the_memory_of_another_run_is_refused() {
    let [one, other] = [(); 2].map(|()| Saved::new());
    let [memory, others] = [&one, &other].map(|saved| saved.dir.join("memory"));
    let len = |path| fs::metadata(path).unwrap().len();
    assert_eq!(len(&memory), len(&others));
    let own = fs::read(&memory).unwrap();
    fs::copy(others, &memory).unwrap();
    one.is_refused(&["--restore", "memory is not of this snapshot", "take the snapshot anew"]);
    fs::write(&memory, own).unwrap();
    run(&mut one.restore()).silent().with_status(0);
    assert_eq!(one.codes(), [0x22, 0x33]);
}
