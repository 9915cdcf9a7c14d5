//! A Linux that is saved, and goes on as often as one likes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::common::state::Clocks;
use super::common::{Running, brisk, key, run, wait_for};
use super::terminals::{OnTerminal, resize, settings, terminal};
use super::{Guest, artifact};

/// The code at which the guests are saved, when the console has printed what they said: on another CPU,
/// that comes later.
pub const READY: &str = "drain,out=80:a0";

/// Saves `guest`, which says `before` before and `after` afterwards, when it writes the code.
#[track_caller]
pub fn save(guest: &Guest) -> String {
    save_at(guest, "0xa0")
}

/// The same with another code.
#[track_caller]
pub fn save_at(guest: &Guest, code: &str) -> String {
    let dir = guest.scratch.path("snapshot");
    let flag = format!("path={},at={code}", dir.display());
    let ended = run(guest.command().args(["--snapshot", &flag])).silent().with_status(0);
    let text = guest.output();
    assert!(text.contains("brisk-init: before"), "{ended:#?}\n{text}");
    assert!(!text.contains("brisk-init: after"), "{text}");
    dir.to_str().expect("a path in UTF-8").to_owned()
}

/// Restores it with the console in another file; what it says from there on.
#[track_caller]
pub fn restore(guest: &Guest, dir: &str, device: &str, more: &[&str]) -> String {
    let mut command: Command = brisk();
    let output = key("file", guest.scratch.path("again"));
    command.args(["--restore", dir, device, &output]).args(more);
    run(&mut command).silent().with_status(0);
    let text = guest.scratch.text("again");
    assert!(text.contains("brisk-init: after"), "{text}");
    assert!(!text.contains("brisk-init: before"), "{text}");
    text
}

/// The line that has what is in this boot's memory only.
pub fn nonce(text: &str) -> String {
    let is_id = |line: &&str| line.len() == 36 && line.matches('-').count() == 4;
    text.lines().map(str::trim).find(is_id).expect("a boot id").to_owned()
}

pub const ID: &str = "cat=/proc/sys/kernel/random/boot_id";

#[test]
fn the_same_guest_goes_on_twice() {
    // Read once before, so that the number is made then.
    let guest = Guest::doing(&format!("{ID},say=before,{READY},{ID},say=after"));
    let dir = save(&guest);
    let before = nonce(&guest.output());
    for _ in 0..2 {
        let text = restore(&guest, &dir, "--serial", &[]);
        assert_eq!(nonce(&text), before, "not the same guest");
    }
}

/// The first number of /proc/uptime.
pub fn uptime(text: &str) -> f64 {
    let is_uptime = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        words.len() == 2 && words.iter().all(|word| word.parse::<f64>().is_ok())
    };
    let line = text.lines().map(str::trim).find(is_uptime).expect("an uptime");
    line.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn time_never_runs_backwards() {
    let guest =
        Guest::doing(&format!("cat=/proc/uptime,say=before,{READY},cat=/proc/uptime,say=after"));
    let dir = save(&guest);
    let before = uptime(&guest.output());
    for _ in 0..2 {
        let after = uptime(&restore(&guest, &dir, "--serial", &[]));
        assert!(after >= before, "{before} s, then {after}");
    }
}

/// The TSC and KVM's clock agree on how much, or Linux' watchdog would call the TSC unstable.
#[test]
fn time_goes_on_by_what_has_passed() {
    const A_WHILE: Duration = Duration::from_secs(2);
    let doing = format!("cat=/proc/uptime,say=before,{READY},cat=/proc/uptime,out=80:a1,say=after");
    let guest = Guest::doing(&doing);
    let dir = save(&guest);
    std::thread::sleep(A_WHILE);
    let second = guest.scratch.path("second");
    let flag = format!("path={},at=0xa1,then=go-on", second.display());
    let text = restore(&guest, &dir, "--serial", &["--snapshot", &flag]);
    let (before, after) = (uptime(&guest.output()), uptime(&text));
    assert!(after - before >= A_WHILE.as_secs_f64(), "{before} s, then {after}");
    let [before, after] = [Path::new(&dir), &second].map(Clocks::of);
    assert!(before.is_real, "KVM does not know the real time");
    let (clock, tsc) = (after.clock - before.clock, after.tsc - before.tsc);
    assert!(clock >= A_WHILE, "{clock:?}");
    assert!(clock.abs_diff(tsc) < A_WHILE / 2, "the clock {clock:?}, the TSC {tsc:?}");
}

#[test]
fn a_run_that_records_and_one_with_what_it_recorded() {
    let guest = Guest::doing(&format!("{ID},say=before,{READY},{ID},touch=1,out=80:a1,say=after"));
    let dir = save(&guest);
    let before = nonce(&guest.output());
    let record = format!("source_url=file://{dir},record=0xa1");
    for from in [&record, &dir, &dir] {
        assert_eq!(nonce(&restore(&guest, from, "--serial", &[])), before, "not the same guest");
    }
    let set = std::fs::metadata(format!("{dir}/working-set")).unwrap();
    // The pass over 1 MiB is in it, and not all of the guest.
    assert!((1 << 20..32 << 20).contains(&set.len()), "{} bytes", set.len());
}

#[test]
fn a_snapshot_of_a_restored_guest() {
    let doing = format!("{ID},say=before,{READY},touch=8,out=80:a1,{ID},say=after");
    let guest = Guest::doing(&doing);
    let dir = save(&guest);
    let second = guest.scratch.path("second");
    let flag = format!("path={},at=0xa1", second.display());
    let output = key("file", guest.scratch.path("between"));
    let mut command = brisk();
    command.args(["--restore", &dir, "--serial", &output, "--snapshot", &flag]);
    run(&mut command).silent().with_status(0);
    let between = guest.scratch.text("between");
    assert!(between.contains("touched") && !between.contains("after"), "{between}");
    let text = restore(&guest, second.to_str().expect("UTF-8"), "--serial", &[]);
    assert_eq!(nonce(&text), nonce(&guest.output()), "not the same guest");
}

const UUID: &str = "cat=/proc/sys/kernel/random/uuid";

/// Three clones have other numbers than the first and one another; what each says is `told`.
#[track_caller]
fn another_number_in_each_clone(guest: &Guest, device: &str, told: &str) {
    let dir = save(guest);
    let mut numbers = vec![nonce(&guest.output())];
    for _ in 0..3 {
        let text = restore(guest, &dir, device, &[]);
        assert!(text.contains(told), "{text}");
        numbers.push(nonce(&text));
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "{numbers:?}");
}

/// Linux is told by ACPI that it is another, and its worker, which has time to while memory is touched,
/// makes its random numbers anew. In that time they may become others by themselves, so the log has to say
/// why they did.
#[test]
fn clones_have_random_numbers_of_their_own() {
    let mut guest = Guest::doing(&format!("{UUID},say=before,{READY},touch=16,{UUID},say=after"));
    guest.cmdline = guest.cmdline.replace("quiet", "loglevel=6");
    let told = "random: crng reseeded due to virtual machine fork";
    another_number_in_each_clone(&guest, "--serial", told);
}

/// A guest of the tuned kernel, which has no UART.
#[cfg(feature = "console")]
pub fn tuned(kernel: &str, doing: &str, flags: &[&str]) -> Guest {
    let mut guest = Guest::doing(doing);
    guest.kernel = artifact(kernel);
    guest.cmdline = guest.cmdline.replace("ttyS0", "hvc0");
    guest.serial = "off".to_owned();
    let console = key("file", guest.scratch.path("serial"));
    guest.with(&["--console", &console]).with(flags)
}

/// By the first thing that they do.
#[cfg(feature = "console")]
#[test]
fn clones_of_the_tuned_kernel_have_them_at_once() {
    let doing = format!("{UUID},say=before,{READY},{UUID},cat=/proc/interrupts,say=after");
    another_number_in_each_clone(&tuned("BRISK_MICRO", &doing, &[]), "--console", "vmgenid");
}

/// A disk that is written to before and after, by the queue that both have.
#[cfg(all(feature = "block", feature = "pmem", feature = "console"))]
fn disk_and_pmem(transport: &[&str], engine: &str) {
    let doing = format!(
        "write=/dev/vda:one,say=before,{READY},cat=/proc/meminfo,write=/dev/vda:two,say=after"
    );
    let mut guest = Guest::from_root("/dev/pmem0 ro", transport);
    guest.cmdline = format!("console=hvc0 quiet root=/dev/pmem0 ro brisk.say brisk.do={doing}");
    guest.serial = "off".to_owned();
    let disk = guest.scratch.file("disk", vec![0; 1 << 20]);
    let disk = format!("path={}{engine}", disk.display());
    let console = key("file", guest.scratch.path("serial"));
    let root = format!("file={},discard_writes=on", artifact("BRISK_DISK_EXT4").display());
    guest = guest.with(&["--disk", &disk, "--pmem", &root, "--console", &console]);
    let dir = save(&guest);
    let start = |path: &str| std::fs::read(guest.scratch.path(path)).unwrap()[..3].to_vec();
    assert_eq!(start("disk"), b"one");
    let text = restore(&guest, &dir, "--console", &[]);
    assert!(text.contains("MemTotal"), "{text}");
    assert_eq!(start("disk"), b"two");
    // It is not what it was.
    let mut command = brisk();
    command.args(["--restore", &dir, "--console", "null"]);
    let ended = run(&mut command).with_status(1);
    assert!(ended.stderr.contains("images=any"), "{ended:#?}");
    let any = format!("source_url=file://{dir},images=any");
    restore(&guest, &any, "--console", &[]);
}

#[cfg(all(feature = "block", feature = "pmem", feature = "console"))]
#[test]
fn devices_over_mmio() {
    disk_and_pmem(&[], "");
}

#[cfg(all(feature = "block", feature = "pmem", feature = "console", feature = "pci"))]
#[test]
fn devices_over_pci() {
    disk_and_pmem(
        &["--transport", "pci"],
        if cfg!(feature = "io-uring") { ",engine=io_uring" } else { "" },
    );
}

/// A shell on a terminal, saved while it runs a command that prints `records out`; its directory.
#[cfg(any(feature = "console", feature = "serial"))]
fn shell_on_a_terminal(guest: &Guest) -> String {
    let dir = guest.scratch.path("snapshot");
    let mut command = guest.command();
    command.arg("--snapshot").arg(format!("path={},at=0xa0", dir.display()));
    let (ours, theirs) = terminal(81, 23);
    let before = settings(&theirs);
    let mut on = OnTerminal::start(command, ours, &theirs);
    on.shows("# ");
    on.types("printf '\\240' | dd of=/dev/port bs=1 seek=128\n");
    assert_eq!(on.end(), Some(0));
    assert_eq!(settings(&theirs), before, "not restored behind the snapshot");
    dir.to_str().expect("a path in UTF-8").to_owned()
}

/// It goes on upon a terminal of 97 columns and 31 rows, which is raw while `doing` asks it something, and is
/// put back. What was shown.
#[cfg(any(feature = "console", feature = "serial"))]
fn goes_on_upon_another_terminal(
    dir: &str,
    doing: impl FnOnce(&mut OnTerminal, &OwnedFd),
) -> String {
    let (ours, theirs) = terminal(97, 31);
    let before = settings(&theirs);
    let mut command = brisk();
    command.args(["--restore", dir]);
    let mut on = OnTerminal::start(command, ours.try_clone().expect("dup"), &theirs);
    on.shows("records out");
    assert_ne!(settings(&theirs), before, "not raw");
    doing(&mut on, &ours);
    let shown = on.screen();
    on.types("\x01x");
    assert_eq!(on.end(), Some(0));
    assert_eq!(settings(&theirs), before, "not restored");
    shown
}

/// The same, and it is made one of 103 columns and 37 rows; what the shell is asked before and after that, and
/// answers.
#[cfg(any(feature = "console", feature = "serial"))]
fn is_resized(dir: &str, asked: [(&str, &str); 2]) -> String {
    goes_on_upon_another_terminal(dir, |on, ours| {
        on.answers(asked[0].0, asked[0].1);
        resize(ours, 103, 37);
        on.answers(asked[1].0, asked[1].1);
        on.interrupts_a_program();
    })
}

/// A clone's terminal has a size of its own, and none where it has no terminal.
#[cfg(feature = "console")]
#[test]
fn a_terminal_of_another_size_or_none() {
    let mut guest = Guest::doing("shell");
    guest.initramfs = Some(artifact("BRISK_SHELL_INITRAMFS"));
    guest.cmdline = guest.cmdline.replace("ttyS0", "hvc0");
    guest.serial = "off".to_owned();
    let guest = guest.with(&["--console", "tty"]);
    let dir = shell_on_a_terminal(&guest);
    is_resized(&dir, [("stty size", "31 97"), ("stty size", "37 103")]);
    let mut command = brisk();
    let output = key("file", guest.scratch.path("again"));
    command.args(["--restore", &dir, "--console", &output]);
    let mut running = Running::start(&mut command);
    wait_for("what comes behind the code", || guest.scratch.text("again").contains("records out"));
    assert!(running.runs());
    running.signal(libc::SIGTERM);
    running.end().silent().with_status(0);
}

/// A guest whose shell is on a serial line, and where it was saved.
#[cfg(feature = "serial")]
fn shell_on_a_serial_line() -> (Guest, String) {
    let mut guest = Guest::doing("shell");
    guest.initramfs = Some(artifact("BRISK_SHELL_INITRAMFS"));
    guest.serial = "tty".to_owned();
    let dir = shell_on_a_terminal(&guest);
    (guest, dir)
}

/// A serial line has no word for a size: its terminal may change, and the guest is told of none.
#[cfg(feature = "serial")]
#[test]
fn a_serial_terminal_of_another_size() {
    let (_guest, dir) = shell_on_a_serial_line();
    let asked =
        [("stty size; echo one $((40+4))", "one 44"), ("stty size; echo two $((60+6))", "two 66")];
    let shown = is_resized(&dir, asked);
    assert!(!shown.contains("31 97") && !shown.contains("37 103"), "{shown}");
}

/// What programs get, by the function of the kernel's that getrandom(2) has too.
#[cfg(feature = "serial")]
#[test]
fn clones_read_random_bytes_of_their_own() {
    let (_guest, dir) = shell_on_a_serial_line();
    let read = || {
        let shown = goes_on_upon_another_terminal(&dir, |on, _| {
            on.answers("head -c 16 /dev/urandom | md5sum; echo read $((20+1))", "read 21");
        });
        let is_sum = |word: &&str| word.len() == 32 && word.chars().all(|c| c.is_ascii_hexdigit());
        let sum = shown.split_whitespace().find(is_sum);
        sum.unwrap_or_else(|| panic!("no sum: {shown}")).to_owned()
    };
    assert_ne!(read(), read());
}
