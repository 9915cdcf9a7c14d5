//! What ends a guest: signals, crashes, resets, and what looks like one of these and is none.

use super::common::{Running, boot_log, wait_for};
use super::{Lab, guests};

#[test]
fn a_signal_ends_a_guest_that_halted_and_one_that_spins() {
    for guest in [guests::ends::HLT, guests::ends::SPIN] {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            let lab = Lab::new(guest);
            let running = Running::start(&mut lab.command(&[]));
            wait_for("the guest's first line", || lab.serial() == "\n");
            running.signal(signal);
            running.end().silent().with_status(0);
            let (points, _) = boot_log(lab.scratch.path("log"));
            assert_eq!(points.last().map(|point| &*point.name), Some("exit"));
            assert_eq!(lab.stats().at("pio_out", 0x3f8), (1, 0));
        }
    }
}

#[test]
fn a_triple_fault_is_a_crash() {
    let lab = Lab::new(guests::ends::UD2);
    let ended = lab.run(&[]).with_status(3);
    assert!(ended.stderr.contains("the guest crashed: triple fault"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1);
    assert_eq!(lab.stats().userspace_exits(), 0);
}

/// Whoever sees a guest fail and nothing else is told how to see more; who saw something is not.
#[test]
fn a_crash_without_a_word_says_how_to_see_some() {
    let hint = "nothing was shown: add --";
    let ended = Lab::new(guests::ends::UD2).run(&[]).with_status(3);
    assert!(ended.stderr.contains(hint), "{ended:?}");
    let ended = Lab::new(guests::ends::PRINT_AND_UD2).run(&[]).with_status(3);
    assert!(ended.stderr.contains("triple fault\n"), "{ended:?}");
}

#[test]
fn a_breakpoint_without_a_table_is_a_crash() {
    let ended = Lab::new(guests::ends::INT3).run(&[]).with_status(3);
    // An internal error of KVM on PVM, whose emulator knows no int3.
    assert!(ended.stderr.contains("the guest crashed: "), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1);
}

#[test]
fn the_reset_register_ends_the_vm() {
    let lab = Lab::new(guests::ends::RESET);
    lab.run_to_the_end();
    assert_eq!(lab.stats().at("pio_out", 0x604), (1, 0));
}

#[test]
fn the_reset_control_register_ends_the_vm() {
    let lab = Lab::new(guests::ends::RESET_CONTROL);
    lab.run_to_the_end();
    assert_eq!(lab.stats().at("pio_out", 0xcf9), (2, 0));
}

/// As with `reboot=k`, which Firecracker's users give their kernels.
#[test]
fn the_keyboard_controller_resets() {
    let lab = Lab::new(guests::ends::KEYBOARD);
    lab.run_to_the_end();
    // Ready for a command; another command is lost.
    assert_eq!(lab.codes(), [0, 0x81]);
    assert_eq!(lab.stats().at("pio_in", 0x64), (1, 0));
    assert_eq!(lab.stats().at("pio_out", 0x64), (2, 0));
}

/// As with `reboot=t`: who has marked the reset first means it.
#[test]
fn a_triple_fault_may_be_a_reset() {
    Lab::new(guests::ends::TRIPLE_RESET).run_to_the_end();
    let ended = Lab::new(guests::ends::TRIPLE_PANIC).run(&[]).with_status(3);
    assert!(ended.stderr.contains("panicked"), "{ended:?}");
    let lab = Lab::new(guests::ends::TRIPLE_PANIC);
    lab.run(&["--cmdline", "reboot=t,w"]).silent().with_status(0);
}

#[test]
fn a_reset_with_the_mark_of_a_panic_is_a_crash() {
    let lab = Lab::new(guests::ends::PANIC);
    let ended = lab.run(&[]).with_status(3);
    assert!(ended.stderr.contains("panicked"), "{ended:?}");
    // The mark means something else where the user decides how the kernel resets.
    lab.run(&["--cmdline", "reboot=warm"]).silent().with_status(0);
    lab.run(&["--cmdline-exact"]).silent().with_status(0);
}

#[test]
fn only_the_right_values_end_the_vm() {
    let lab = Lab::new(guests::ends::NOT_OFF);
    lab.run_to_the_end();
    assert_eq!(lab.codes(), [0x81]);
    assert_eq!(lab.stats().at("pio_out", 0x600), (3, 0));
    assert_eq!(lab.stats().at("pio_out", 0x604), (1, 0));
    assert_eq!(lab.stats().at("pio_out", 0x601), (1, 0));
}
