//! Snapshots of guests of a few instructions: where they go on, and what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::common::kernel::Code;
use super::common::state::{Clocks, HEADER, MSRS, TSC_RATE, part, words};
use super::common::{Ended, Scratch, brisk, codes, run, wait_for};
use super::{Lab, guests};

/// A guest that writes 0x11, 0x22 and 0x33 to port 0x80, saved after the first.
pub struct Saved {
    pub lab: Lab,
    pub dir: PathBuf,
}

impl Saved {
    #[track_caller]
    pub fn new() -> Saved {
        let saved = Saved::after(guests::TO_TIMER, "at=0x11");
        assert_eq!(saved.lab.codes(), [0x11]);
        saved
    }

    #[track_caller]
    fn after(guest: Code, when: &str) -> Saved {
        let lab = Lab::new(guest);
        let dir = lab.scratch.path("snapshot");
        let flag = format!("path={},{when}", dir.display());
        lab.run(&["--snapshot", &flag]).silent().with_status(0);
        Saved { lab, dir }
    }

    pub fn restore(&self) -> Command {
        let mut command = brisk();
        command.arg("--restore").arg(&self.dir);
        command.arg("--boot-log").arg(self.lab.scratch.path("again"));
        command
    }

    pub fn codes(&self) -> Vec<u8> {
        codes(self.lab.scratch.path("again"))
    }

    /// Restoring fails with a line that has all of `parts`, and nothing runs.
    #[track_caller]
    pub fn is_refused(&self, parts: &[&str]) -> Ended {
        let ended = run(&mut self.restore()).with_status(1);
        for part in parts {
            assert!(ended.stderr.contains(part), "{part}: {ended:#?}");
        }
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:#?}");
        ended
    }
}

/// What is beside the snapshot that should not be.
pub fn partial(scratch: &Scratch) -> Vec<String> {
    scratch.names().into_iter().filter(|name| name.contains("partial")).collect()
}

#[test]
fn a_guest_goes_on_behind_its_code_as_often_as_one_likes() {
    let saved = Saved::new();
    for _ in 0..3 {
        run(&mut saved.restore()).silent().with_status(0);
        assert_eq!(saved.codes(), [0x22, 0x33]);
    }
    // The flag as Cloud Hypervisor has it.
    let mut command = brisk();
    command.arg("--restore").arg(format!("source_url=file://{}", saved.dir.display()));
    command.arg("--boot-log").arg(saved.lab.scratch.path("again"));
    run(&mut command).silent().with_status(0);
    assert_eq!(saved.codes(), [0x22, 0x33]);
    // What a guest's memory is in is its user's alone, and holes are holes.
    for name in ["state", "memory"] {
        let meta = fs::metadata(saved.dir.join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        assert!(meta.blocks() * 512 < 1 << 20, "{name}: {} blocks", meta.blocks());
    }
}

#[test]
fn a_guest_can_run_on_after_it_was_saved() {
    let saved = Saved::after(guests::TO_TIMER, "at=17,then=go-on");
    assert_eq!(saved.lab.codes(), [0x11, 0x22, 0x33]);
    run(&mut saved.restore()).silent().with_status(0);
    assert_eq!(saved.codes(), [0x22, 0x33]);
}

#[test]
fn the_first_time_counts() {
    let saved = Saved::after(guests::saved::AGAIN, "at=0x11,then=go-on");
    assert_eq!(saved.lab.codes(), [0x11, 0x11, 0x11, 0x22]);
    run(&mut saved.restore()).silent().with_status(0);
    assert_eq!(saved.codes(), [0x11, 0x11, 0x22]);
}

#[test]
fn a_snapshot_of_a_restored_guest() {
    // The page that is read last is not touched in between: it is in the first snapshot only.
    let saved = Saved::after(guests::saved::REMEMBER, "at=0x11");
    let second = saved.lab.scratch.path("second");
    let flag = format!("path={},at=0x22", second.display());
    run(saved.restore().args(["--snapshot", &flag])).silent().with_status(0);
    assert_eq!(saved.codes(), [0x22]);
    let again = Saved { lab: Lab::new(guests::TO_TIMER), dir: second };
    run(&mut again.restore()).silent().with_status(0);
    assert_eq!(again.codes(), [0x77]);
}

/// Who never may be a snapshot has no id: the bytes are zero.
#[test]
fn clones_have_generation_ids_of_their_own() {
    let alone = Lab::new(guests::saved::GENERATION);
    alone.run_to_the_end();
    assert_eq!(alone.codes(), [0x11, 0, 0, 0, 0]);
    let saved = Saved::after(guests::saved::GENERATION, "at=0x11");
    let memory = fs::read(saved.dir.join("memory")).unwrap();
    let mut ids = vec![memory[0x20..0x24].to_vec()];
    for _ in 0..2 {
        run(&mut saved.restore()).silent().with_status(0);
        ids.push(saved.codes());
    }
    ids.push(vec![0; 4]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:x?}");
}

#[test]
fn a_run_records_what_later_ones_have_at_once() {
    let saved = Saved::after(guests::saved::INCREMENT, "at=0x11");
    let set = saved.dir.join("working-set");
    let source = format!("source_url=file://{}", saved.dir.display());
    let record = |more: &str| {
        let mut command = brisk();
        command.arg("--restore").arg(format!("{source}{more}"));
        command.arg("--boot-log").arg(saved.lab.scratch.path("again"));
        run(&mut command).silent().with_status(0);
        assert_eq!(saved.codes(), [0x78, 0x33]);
    };
    // A code that never comes: nothing stays.
    record(",record=0x99");
    let names = || {
        let files = fs::read_dir(&saved.dir).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    wait_for("the half of a working set to go", || names() == ["memory", "state"]);
    record(",record=0x33");
    assert_eq!(names(), ["memory", "state", "working-set"]);
    let first = fs::read(&set).unwrap();
    assert_eq!(fs::metadata(&set).unwrap().permissions().mode() & 0o777, 0o600);
    // What it has in it is what was saved, not what the run made of it.
    for _ in 0..2 {
        record("");
    }
    // And anew.
    record(",record=0x33");
    assert_eq!(fs::read(&set).unwrap(), first, "not the same pages");
    // One that is no good is no harm, and said.
    fs::write(&set, &first[..first.len() / 2]).unwrap();
    record("");
    fs::write(&set, b"brisksnp").unwrap();
    let ended = run(&mut saved.restore()).with_status(0);
    assert_eq!(saved.codes(), [0x78, 0x33]);
    let said = ended.stderr.contains("record it anew");
    assert!(said || !cfg!(feature = "logging"), "{ended:#?}");
}

#[test]
fn every_length_and_flipped_bits_of_a_state_are_refused() {
    let saved = Saved::new();
    let file = saved.dir.join("state");
    let state = fs::read(&file).unwrap();
    for len in [0, 1, 7, 8, 31, 32, 100, state.len() / 2, state.len() - 1] {
        fs::write(&file, &state[..len]).unwrap();
        saved.is_refused(&["--restore", "cut", "; take the snapshot anew"]);
    }
    for at in [32, 48, state.len() / 2, state.len() - 1] {
        let mut changed = state.clone();
        changed[at] ^= 0x10;
        fs::write(&file, &changed).unwrap();
        saved.is_refused(&["--restore", "checksum", "; take the snapshot anew"]);
    }
    for (at, what) in [(0, "not a snapshot"), (8, "version")] {
        let mut changed = state.clone();
        changed[at] ^= 0x10;
        fs::write(&file, &changed).unwrap();
        saved.is_refused(&["--restore", what, "; take the snapshot anew"]);
    }
    // Of another size than its own command line says.
    let mut changed = state.clone();
    edit(&mut changed, SHAPE, |shape| shape[3] ^= 1);
    fs::write(&file, &changed).unwrap();
    saved.is_refused(&["--restore", "part 2", "; take the snapshot anew"]);
    fs::write(&file, &state).unwrap();
    run(&mut saved.restore()).silent().with_status(0);
}

/// Changes part `kind` of vCPU 0 in a state file, and makes its checksum right.
fn edit(state: &mut [u8], kind: u32, change: impl FnOnce(&mut [u8])) {
    let part = part(state, kind, 0);
    change(&mut state[part]);
    let checksum = brisk::snapshot::parts::checksum(&state[HEADER..]);
    state[16..24].copy_from_slice(&checksum.to_le_bytes());
}

/// The machine's memory and CPUs.
const SHAPE: u32 = 2;
/// Parts of a vCPU's.
const CPUID: u32 = 16;
const SUPPORTED: u32 = 27;
/// `struct kvm_cpuid_entry2`: its bytes, and where its ecx is.
const ENTRY: usize = 40;
const ECX: usize = 20;

#[test]
fn a_cpu_that_lacks_what_the_guest_was_shown_is_refused() {
    let saved = Saved::new();
    let file = saved.dir.join("state");
    let state = fs::read(&file).unwrap();
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut changed = state.clone();
        for kind in [CPUID, SUPPORTED] {
            edit(&mut changed, kind, |entries| entries.chunks_exact_mut(ENTRY).for_each(change));
        }
        fs::write(&file, changed).unwrap();
    };
    // Bit 16 of ecx is reserved, so no CPU has it.
    with(&|entry| {
        if entry[..4] == [1, 0, 0, 0] {
            entry[ECX + 2] |= 1;
        }
    });
    saved.is_refused(&["--restore", "leaf 0x1.0 ecx bit 16", "on a host like"]);
    with(&|entry| {
        if entry[..4] == [0; 4] {
            entry[ECX] ^= 1;
        }
    });
    saved.is_refused(&["--restore", "another vendor"]);
    // Less than there is does no harm.
    with(&|entry| {
        if entry[..4] == [1, 0, 0, 0] {
            entry[ECX] &= !1;
        }
    });
    run(&mut saved.restore()).silent().with_status(0);
}

/// A clone is not given Hyper-V's registers, for which KVM would keep what only Windows needs, nor has the
/// host's log a line about DEBUGCTL for each.
#[test]
fn registers_that_nobody_used_are_left_alone() {
    let state = fs::read(Saved::new().dir.join("state")).unwrap();
    let msrs: Vec<u64> = words(&state, MSRS).into_iter().step_by(2).collect();
    assert_eq!(msrs.first(), Some(&0x10), "the TSC: {msrs:x?}");
    assert!(!msrs.contains(&0x1d9), "{msrs:x?}");
    assert!(!msrs.iter().any(|msr| (0x4000_0000..0x4000_0200).contains(msr)), "{msrs:x?}");
}

/// Linux takes a TSC for broken that says another time than KVM's clock.
#[test]
fn the_tsc_goes_on_as_the_clock_does() {
    const A_WHILE: Duration = Duration::from_secs(1);
    let saved = Saved::new();
    std::thread::sleep(A_WHILE);
    let second = saved.lab.scratch.path("second");
    let flag = format!("path={},at=0x22", second.display());
    run(saved.restore().args(["--snapshot", &flag])).silent().with_status(0);
    let [before, after] = [&saved.dir, &second].map(|dir| Clocks::of(dir));
    let (clock, tsc) = (after.clock - before.clock, after.tsc - before.tsc);
    assert!(clock.abs_diff(tsc) < A_WHILE / 2, "the clock {clock:?}, the TSC {tsc:?}");
    // Where KVM cannot tell how much real time has passed, both stood still.
    assert_eq!(clock > A_WHILE, before.is_real, "{clock:?}");
}

#[test]
fn a_tsc_of_another_rate_is_scaled_or_refused() {
    const KVM_CHECK_EXTENSION: libc::c_ulong = 0xae03;
    const KVM_CAP_TSC_CONTROL: libc::c_ulong = 60;
    let saved = Saved::new();
    let file = saved.dir.join("state");
    let mut state = fs::read(&file).unwrap();
    let mut rate = 0;
    edit(&mut state, TSC_RATE, |bytes| {
        rate = u32::from_le_bytes(bytes.try_into().unwrap());
        bytes.copy_from_slice(&(rate / 2).to_le_bytes());
    });
    assert!(rate > 100_000, "{rate} kHz");
    fs::write(&file, &state).unwrap();
    let kvm = fs::File::open("/dev/kvm").unwrap();
    let kvm = std::os::fd::AsRawFd::as_raw_fd(&kvm);
    // SAFETY: asks for a number.
    let scales = unsafe { libc::ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) } > 0;
    if scales {
        run(&mut saved.restore()).silent().with_status(0);
        assert_eq!(saved.codes(), [0x22, 0x33]);
    } else {
        saved.is_refused(&["--restore", "TSC", "cannot scale"]);
    }
    // What a clock drifts is none.
    edit(&mut state, TSC_RATE, |bytes| bytes.copy_from_slice(&(rate - rate / 8000).to_le_bytes()));
    fs::write(&file, &state).unwrap();
    run(&mut saved.restore()).silent().with_status(0);
}

/// A CPU that got its INIT and not yet its SIPI is in no state that KVM could be given.
#[cfg(feature = "smp")]
#[test]
fn a_cpu_that_is_just_being_started_is_no_snapshot() {
    let lab = Lab::new(guests::saved::INIT_ONLY);
    let dir = lab.scratch.path("snapshot");
    let flag = format!("path={},at=0x11", dir.display());
    let ended = lab.run(&["--cpus", "boot=2", "--snapshot", &flag]).with_status(1);
    assert!(ended.stderr.contains("vCPU 1 is just being started"), "{ended:#?}");
    wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
    assert!(!dir.exists());
    // One that was to run on does.
    let flag = format!("{flag},then=go-on");
    let ended = lab.run(&["--cpus", "boot=2", "--snapshot", &flag]).with_status(0);
    assert!(
        ended.stderr.contains("just being started; try again; the guest runs on"),
        "{ended:#?}"
    );
    assert_eq!(lab.codes(), [0x11]);
    wait_for("the half of a snapshot to go", || partial(&lab.scratch).is_empty());
    assert!(!dir.exists());
}

#[test]
fn memory_that_is_cut_or_gone_is_refused() {
    let saved = Saved::new();
    let memory = saved.dir.join("memory");
    let len = fs::metadata(&memory).unwrap().len();
    fs::File::options().write(true).open(&memory).unwrap().set_len(len - 4096).unwrap();
    saved.is_refused(&["--restore", "memory", "take the snapshot anew"]);
    fs::remove_file(&memory).unwrap();
    saved.is_refused(&["--restore", "memory", "No such file"]);
}

/// In the place of each of a snapshot's files: nobody is waited for.
#[test]
fn a_fifo_is_no_snapshot() {
    let saved = Saved::new();
    for name in ["memory", "state"] {
        let [file, away] = [name, "away"].map(|name| saved.dir.join(name));
        fs::rename(&file, &away).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        saved.is_refused(&["--restore", "take the snapshot anew"]);
        fs::rename(&away, &file).unwrap();
    }
    let set = saved.dir.join("working-set");
    assert!(Command::new("mkfifo").arg(&set).status().unwrap().success());
    run(&mut saved.restore()).with_status(0);
    assert_eq!(saved.codes(), [0x22, 0x33]);
}

#[test]
fn what_the_machine_is_cannot_be_another() {
    let saved = Saved::new();
    for flag in [["--memory", "size=32M"], ["--cpus", "boot=1"], ["--kernel", "/dev/null"]] {
        let ended = run(saved.restore().args(flag)).with_status(2);
        assert!(ended.stderr.contains(flag[0]), "{ended:#?}");
    }
}

#[test]
fn wrong_values_say_so() {
    for (value, part) in [
        ("path=x", "at=CODE"),
        ("at=0x60", "path=DIR"),
        ("path=x,at=256", "a byte"),
        ("path=x,at=0x60,then=stop", "exit or go-on"),
        ("path=x,at=0x60,to=y", "unknown key"),
    ] {
        let ended = run(brisk().args(["--kernel", "/dev/null", "--snapshot", value]));
        let ended = ended.with_status(2);
        assert!(ended.stderr.contains(part), "{value}: {ended:#?}");
    }
}
