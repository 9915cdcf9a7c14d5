//! What devices do for a driver that keeps to the rules, and how it is told.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;

use super::Lab;
use super::common::kernel::Elf;
use super::common::{Scratch, brisk, key, run, terminal, wait_for};
use super::script::Do::*;
use super::script::{
    AREAS, BARS, DATA, ECAM, Memory, Script, WINDOW, WINDOWS, WRITE, offer, start,
};

/// A request of virtio-blk: header, data and status (virtio 1.3, 5.2.6).
const HEADER: u32 = DATA;
pub const BYTES: u32 = DATA + 0x1000;
pub const STATUS: u32 = DATA + 0x800;
pub const SIZE: u32 = 16;

pub fn lab(script: &Script, memory: Memory) -> Lab {
    let mut elf: Elf = script.elf();
    elf.segments.push(memory.segment());
    Lab { scratch: Scratch::new(), elf }
}

pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

/// Requests of a disk, the `place`th each with a header, a status and 512 bytes of its own.
pub fn request(memory: &mut Memory, place: u32, kind: u32, sector: u32) {
    let (header, status, bytes) = (HEADER + 16 * place, STATUS + place, BYTES + 512 * place);
    memory.put(header, [kind, 0, sector, 0].map(u32::to_le_bytes).as_flattened());
    memory.put(status, &[0xff]);
    let flags = if kind == 0 { WRITE } else { 0 };
    memory.chain(0, &[(header, 16, 0), (bytes, 512, flags), (status, 1, WRITE)]);
}

/// A read and a write, of the page cache and past it, each told by an interrupt.
#[test]
fn a_disk_interrupts_when_a_request_is_done() {
    for more in ["", ",engine=io_uring", ",engine=io_uring,direct=on"] {
        let mut script = Script::default();
        let mut memory = Memory::default();
        script.unmask(2);
        request(&mut memory, 0, 0, 3);
        request(&mut memory, 1, 1, 5);
        memory.put(BYTES + 512, &pattern(512, 9));
        start(&mut script, 0, AREAS, SIZE);
        offer(&mut script, 0, 0, 1);
        script.until_interrupted();
        script.until_used(0, 1);
        // The reason, until it is acknowledged (virtio 1.3, 4.2.2).
        script.add(Show, WINDOWS + 0x60, 4).add(Write32, WINDOWS + 0x64, 1);
        script.add(Show, WINDOWS + 0x60, 4);
        offer(&mut script, 0, 0, 2);
        script.until_used(0, 2);
        script.add(Show, STATUS, 2).add(Show, BYTES, 512).add(Show, AREAS[2] + 4, 16);
        let lab = lab(&script, memory);
        let mut image = pattern(64 << 10, 1);
        let path = lab.scratch.file("disk", &image);
        lab.run(&["--disk", &(key("path", &path) + more)]).silent().with_status(0);
        let used = [0u32, 513, 3, 1].map(u32::to_le_bytes);
        let expected =
            [&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &image[3 * 512..][..512], used.as_flattened()];
        assert!(fs::read(lab.scratch.path("serial")).unwrap() == expected.concat(), "{more}");
        image[5 * 512..][..512].copy_from_slice(&pattern(512, 9));
        assert!(fs::read(path).unwrap() == image, "{more}");
    }
}

/// Configuration space by ports and as memory, and a BAR, each with the values of one disk.
#[test]
#[cfg(all(feature = "pci", feature = "snapshot"))]
fn a_function_is_what_it_is_by_any_way() {
    for transport in ["pci", "pci-ports"] {
        let by_ports = transport == "pci-ports";
        let mut script = Script::default();
        let config = ECAM + 0x1000;
        // Vendor and device, a byte of them, and the command, written and read.
        script.add(Out32, 0xcf8, 0x8000_0100).add(InWords, 0xcfc, 1).add(Show, 0x40_0000, 4);
        script.add(InBytes, 0xcfe, 1).add(Show, 0x40_0000, 1);
        script.add(Out32, 0xcf8, 0x8000_0104).add(Out16, 0xcfc, 4);
        script.add(InBytes, 0xcfc, 1).add(Show, 0x40_0000, 1);
        // Not the bridge's, nor that of a function that is not there.
        script.add(Out32, 0xcf8, 0x8000_0000).add(InWords, 0xcfc, 1).add(Show, 0x40_0000, 4);
        script.add(Out32, 0xcf8, 0x8000_0200).add(InWords, 0xcfc, 1).add(Show, 0x40_0000, 4);
        script.add(Show, config, 4).add(Show, config + 4, 1);
        script.add(Write16, config + 4, 6).add(Show, config + 4, 1);
        // Common configuration (virtio 1.3, 4.1.4.3): the features' upper half, queues, and the status.
        script.add(Write32, BARS, 1);
        script.add(Show, BARS, 4).add(Show, BARS + 4, 1).add(Show, BARS + 0x12, 2);
        script.add(Write8, BARS + 0x14, 3).add(Show, BARS + 0x14, 1);
        // MSI-X: vectors for the configuration and for each queue there is, from 0 on.
        script.add(Show, config + 0x9a, 1).add(Out8, 0x80, 0x11);
        // A write beside the reset control register is none, and PCI's address is not it either.
        script.add(Out16, 0xcf9, 0xffff).add(Out32, 0xcf9, u32::MAX);
        // It goes on as a clone; that PCI is there ACPI's tables say.
        script.add(Show, config, 1).add(Show, config + 4, 1).add(Show, BARS + 0x14, 1);
        let lab = lab(&script, Memory::default());
        let disk = lab.scratch.file("disk", [0; 4096]);
        let dir = lab.scratch.path("snapshot");
        let snapshot = format!("path={},at=0x11", dir.display());
        let disk = key("path", disk);
        let more = ["--transport", transport, "--disk", &disk, "--snapshot", &snapshot];
        lab.run(&more).silent().with_status(0);
        let id = [0xf4, 0x1a, 0x42, 0x10];
        let ports = match by_ports {
            true => [&id[..], &id[2..3], &[4], &[0x36, 0x1b, 0x08, 0x00], &[0xff; 4]].concat(),
            false => vec![0xff; 14],
        };
        let command = if by_ports { 4 } else { 0 };
        let memory = [&id[..], &[command, 6], &[1, 0, 0, 0], &[1], &[1, 0], &[3], &[1]].concat();
        let shown = fs::read(lab.scratch.path("serial")).unwrap();
        assert_eq!(shown, [ports, memory].concat(), "{transport}");
        let memory = fs::read(dir.join("memory")).unwrap();
        assert!(memory.windows(4).any(|word| word == b"MCFG"), "{transport}");
        run(brisk().arg("--restore").arg(&dir)).silent().with_status(0);
        assert_eq!(fs::read(lab.scratch.path("serial")).unwrap(), [0xf4, 6, 3], "{transport}");
    }
}

/// A brisk on a terminal of its own. Killed when dropped.
struct OnTerminal(Child);

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A console on a terminal: what is typed comes in, what is sent is shown, its size is told when it changes,
/// by an interrupt, and Ctrl-A x ends the VM.
#[test]
#[cfg(feature = "console")]
fn a_console_is_a_terminal() {
    let mut script = Script::default();
    let mut memory = Memory::default();
    // Twelve bytes of which three are typed, and those back; then a line of the guest's own.
    let (typed, line) = (DATA, DATA + 0x100);
    memory.chain(0, &[(typed, 2, WRITE), (typed + 2, 10, WRITE)]);
    memory.chain(1, &[(typed, 2, 0), (typed + 2, 1, 0)]);
    memory.chain(1, &[(line, 7, 0)]);
    memory.put(line, b"resized");
    script.unmask(2);
    start(&mut script, 0, AREAS, SIZE);
    // The size it has from the start: columns, rows (virtio 1.3, 5.3.4).
    script.add(Until, WINDOWS + 0x100, 24 << 16 | 80);
    offer(&mut script, 0, 0, 1);
    script.until_used(0, 1);
    script.until_interrupted();
    offer(&mut script, 0, 1, 1);
    script.until_used(1, 1);
    script.add(Write32, WINDOWS + 0x64, 3);
    script.add(Until, WINDOWS + 0x100, 40 << 16 | 132).add(Until, WINDOWS + 0x60, 2);
    script.add(Show, typed, 4).add(Out8, 0x80, 0x42);
    offer(&mut script, 0, 1, 2);
    script.add(Until, DATA + 0x1000, 1);
    let lab = lab(&script, memory);
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: fills two descriptors, which are then owned here.
    let (ours, theirs) = unsafe {
        let (name, settings) = (std::ptr::null_mut(), std::ptr::null());
        assert_eq!(libc::openpty(&mut ours, &mut theirs, name, settings, &size), 0, "a pty");
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let command = lab.command(&["--console", "tty"]);
    let (child, screen) = terminal::start(command, &ours, &theirs);
    let mut child = OnTerminal(child);
    let mut terminal = File::from(ours);
    let shows = |text: &str| {
        let shown = || screen.lock().unwrap().contains(text);
        wait_for(text, shown);
    };
    // When it is raw nobody but the guest echoes.
    wait_for("a raw terminal", || {
        // SAFETY: fills the one structure it is given.
        unsafe {
            let mut termios: libc::termios = std::mem::zeroed();
            libc::tcgetattr(terminal.as_raw_fd(), &mut termios) == 0
                && termios.c_lflag & libc::ICANON == 0
        }
    });
    terminal.write_all(b"a\rc").unwrap();
    shows("a\rc");
    let size = libc::winsize { ws_row: 40, ws_col: 132, ..size };
    // SAFETY: reads the one structure it is given.
    assert_eq!(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
    shows("resized");
    terminal.write_all(b"\x01x").unwrap();
    wait_for("the end", || child.0.try_wait().unwrap().is_some());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    assert_eq!(lab.codes(), [0x42]);
    assert_eq!(fs::read(lab.scratch.path("serial")).unwrap(), b"a\rc\0");
}

/// An image that somebody cuts while the guest uses it: the guest goes on with memory that is nobody's, and
/// what it writes there makes the image no longer again.
#[test]
#[cfg(feature = "pmem")]
fn an_image_that_shrinks_ends_no_guest() {
    // Once with a signal that says so, and once where the guest's access is the first sign.
    for inotify in [true, false] {
        shrinks(inotify);
    }
}

#[cfg(feature = "pmem")]
fn shrinks(inotify: bool) {
    use super::common::Running;
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    use std::os::unix::process::CommandExt;
    let lab = Lab::linux64(super::guests::PMEM);
    let image = lab.scratch.file("image", vec![0x5a; 2 << 20]);
    let mut command = lab.command(&["--pmem", &key("file", &image)]);
    if !inotify {
        let rules = [(libc::SYS_inotify_init1, Vec::new())].into_iter().collect();
        let fail = SeccompAction::Errno(libc::EMFILE as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, fail, TargetArch::x86_64);
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        let apply = move || seccompiler::apply_filter(&program).map_err(std::io::Error::other);
        // SAFETY: system calls only.
        unsafe { command.pre_exec(apply) };
    }
    let mut running = Running::start(&mut command);
    wait_for("the guest", || !lab.serial().is_empty());
    assert!(running.runs());
    assert_eq!(fs::read(&image).unwrap()[1 << 20], 7, "the guest writes to the image");
    File::options().write(true).open(&image).unwrap().set_len(5000).unwrap();
    let ended = running.end().with_status(0);
    assert!(ended.stderr.contains("the image shrank to 5000 bytes"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert_eq!(lab.codes(), [0x5a, 0, 0x5a]);
    assert!(fs::read(image).unwrap() == vec![0x5a; 5000]);
}

/// A driver that wants the serial port's interrupts has an exit for each byte, by which it gets them; one that
/// wants none need not.
#[test]
#[cfg(feature = "coalesced-serial")]
fn who_wants_interrupts_has_exits() {
    let mut script = Script::default();
    for wants in [0, 2, 0] {
        script.add(Out8, 0x3f9, wants);
        script.add(Show, DATA, 100);
    }
    let lab = lab(&script, Memory::default());
    lab.run(&[]).silent().with_status(0);
    let (exits, _) = lab.stats().at("pio_out", 0x3f8);
    assert!(
        (100..120).contains(&exits),
        "{exits} exits for 100 bytes, and twice 100 that need none"
    );
}

/// What waits in the devices is there when a client has the guest stand still.
#[test]
#[cfg(feature = "api")]
fn a_guest_that_stands_still_has_nothing_waiting() {
    use super::common::Running;
    use super::common::client::Client;
    let mut script = Script::default();
    script.unmask(8);
    // No line, so that it is kept.
    script.add(Out8, 0x3f8, b'a'.into()).add(In8, 0x3fd, 0);
    // Until the power button is pressed.
    script.until_interrupted();
    let lab = lab(&script, Memory::default());
    let socket = lab.scratch.path("api");
    let running = Running::start(lab.command(&[]).arg("--api-socket").arg(&socket));
    let mut client = Client::to(&socket);
    wait_for("the guest", || {
        client.put("vm.pause");
        let shown = lab.serial() == "a";
        client.put("vm.resume");
        shown
    });
    // The VM may end before the answer.
    client.send("PUT", "vm.power-button", "");
    running.end().silent().with_status(0);
    assert!(lab.stats().of("interrupted") > 0, "nothing brought it out");
}

/// What a console's slow reader did not take goes on when it has made room, though the guest does nothing.
#[test]
#[cfg(feature = "console")]
fn a_console_goes_on_when_its_reader_does() {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    const CHUNK: usize = 32 << 10;
    let mut script = Script::default();
    let mut memory = Memory::default();
    let bytes = pattern(4 * CHUNK, 3);
    memory.put(DATA, &bytes);
    start(&mut script, 0, AREAS, SIZE);
    for at in 0..4 {
        memory.chain(1, &[(DATA + at * CHUNK as u32, CHUNK as u32, 0)]);
    }
    offer(&mut script, 0, 1, 4);
    script.add(Out8, 0x3f8, b'\n'.into()).add(In8, 0x3fd, 0);
    script.until_used(1, 4);
    let lab = lab(&script, memory);
    let path = lab.scratch.path("fifo");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a terminated path.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let mut reader = open.unwrap();
    let running =
        super::common::Running::start(&mut lab.command(&["--console", &key("file", &path)]));
    wait_for("the guest", || !lab.serial().is_empty());
    let (mut all, mut chunk) = (Vec::new(), vec![0; 4096]);
    wait_for("all of it", || {
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            all.extend_from_slice(&chunk[..count]);
        }
        all.len() >= bytes.len()
    });
    running.end().silent().with_status(0);
    assert!(all == bytes);
}

/// There is room for eight: the last one's window answers, and it is the source of random bytes.
#[test]
fn there_is_room_for_eight() {
    let mut script = Script::default();
    script.add(Show, WINDOWS + 7 * WINDOW, 4).add(Show, WINDOWS + 7 * WINDOW + 8, 1);
    let lab = lab(&script, Memory::default());
    let disks: Vec<String> =
        (0..7).map(|at| key("path", lab.scratch.file(&format!("disk{at}"), [0; 512]))).collect();
    let more: Vec<&str> = ["--disk"].into_iter().chain(disks.iter().map(String::as_str)).collect();
    lab.run(&[&more[..], &["--rng", "src=/dev/urandom"]].concat()).silent().with_status(0);
    assert_eq!(lab.serial(), "virt\x04");
}
