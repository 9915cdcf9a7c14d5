//! The root of a workload: its image, and over that what can be written to.

use crate::sys::{self, O_CLOEXEC, Path, call, errno, nr};
use crate::workload::Config;

const MS_RDONLY: usize = 1;
const MS_NOSUID: usize = 2;
const MS_REMOUNT: usize = 32;
const MS_MOVE: usize = 8192;
/// A device may appear a little after init has started. First whoever makes it appear is let run; a sleep is
/// as long as a tick of the kernel's, of 4 ms.
const TRIES: usize = 21_000;
const SLEEPS: usize = 20_000;

/// Makes the image the root, and of a bare root what programs expect.
///
/// # Errors
/// What is wrong with the image or the kernel.
pub fn prepare(config: Config) -> Result<(), &'static [u8]> {
    let (device, kind) = (Path::new(config.one(b"root")), Path::new(config.one(b"type")));
    let writable = config.one(b"writable");
    let disk = writable == b"disk";
    let over = disk || writable == b"tmpfs";
    let flags = if writable == b"image" { 0 } else { MS_RDONLY };
    let at: &[u8] = if over { b"/lower\0" } else { b"/root\0" };
    mkdir(at);
    mount_device(device.bytes(), at, kind.bytes(), flags)?;
    if over {
        for directory in [&b"/root\0"[..], b"/rw\0"] {
            mkdir(directory);
        }
        if disk {
            mount_device(b"/dev/vda\0", b"/rw\0", b"ext4\0", 0).map_err(|_| {
                &b"the disk that is to be written to has no ext4 (mkfs.ext4 FILE)"[..]
            })?;
        } else {
            mount(b"tmpfs\0", b"/rw\0", b"tmpfs\0", 0, b"mode=755\0");
        }
        for directory in [&b"/rw/upper\0"[..], b"/rw/work\0"] {
            mkdir(directory);
        }
        let options = b"lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work\0";
        if mount(b"overlay\0", b"/root\0", b"overlay\0", 0, options) != 0 {
            return Err(
                b"the kernel has no overlayfs (CONFIG_OVERLAY_FS), or writable=no is to be given",
            );
        }
    }
    for (from, to) in [
        (&b"/dev\0"[..], &b"/root/dev\0"[..]),
        (b"/proc\0", b"/root/proc\0"),
        (b"/sys\0", b"/root/sys\0"),
    ] {
        mkdir(to);
        if mount(from, to, b"\0", MS_MOVE, b"\0") != 0 {
            return Err(
                b"the image has no directory /dev, /proc or /sys, and cannot be written to",
            );
        }
    }
    chdir(b"/root\0");
    mount(b".\0", b"/\0", b"\0", MS_MOVE, b"\0");
    call(nr::CHROOT, [b".\0".as_ptr() as usize, 0, 0, 0, 0, 0]);
    chdir(b"/\0");
    for (at, kind, options) in [
        (&b"/dev/pts\0"[..], &b"devpts\0"[..], &b"ptmxmode=666\0"[..]),
        (b"/dev/shm\0", b"tmpfs\0", b"mode=1777\0"),
    ] {
        mkdir(at);
        mount(kind, at, kind, MS_NOSUID, options);
    }
    for (to, name) in [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
        (c"pts/ptmx", c"/dev/ptmx"),
    ] {
        call(nr::SYMLINK, [to.as_ptr() as usize, name.as_ptr() as usize, 0, 0, 0, 0]);
    }
    if over {
        mkdir(b"/tmp\0");
        const MODE: usize = 0o1777;
        call(nr::CHMOD, [b"/tmp\0".as_ptr() as usize, MODE, 0, 0, 0, 0]);
    }
    let name = config.one(b"hostname");
    call(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]);
    loopback();
    Ok(())
}

/// Mounts what is on a device, once that is there.
fn mount_device(device: &[u8], at: &[u8], kind: &[u8], flags: usize) -> Result<(), &'static [u8]> {
    let mut tries = TRIES;
    let mut options: &[u8] = b"dax\0";
    loop {
        match mount(device, at, kind, flags, options) {
            0 => return Ok(()),
            errno::NOENT | errno::NXIO if tries > 0 => {
                tries -= 1;
                if tries > SLEEPS {
                    call(nr::SCHED_YIELD, [0; 6]);
                    continue;
                }
                call(nr::NANOSLEEP, [[0_usize, 50_000].as_ptr() as usize, 0, 0, 0, 0, 0]);
            }
            // A disk, and small blocks on a pmem.
            errno::INVAL if options.len() > 1 => options = b"\0",
            errno::NODEV => return Err(b"the kernel does not know the image's file system"),
            errno::NOENT | errno::NXIO => {
                return Err(
                    b"the kernel has no driver for the device of the image (CONFIG_VIRTIO_PMEM, \
                             CONFIG_VIRTIO_BLK, CONFIG_VIRTIO_MMIO)",
                );
            }
            _ => return Err(b"the kernel cannot mount the image"),
        }
    }
}

/// Switches `lo` on, where the kernel has a network.
fn loopback() {
    const AF_INET: usize = 2;
    const SOCK_DGRAM: usize = 2;
    const SIOCSIFFLAGS: usize = 0x8914;
    let socket = call(nr::SOCKET, [AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0, 0]);
    if socket.cast_signed() < 0 {
        return;
    }
    // struct ifreq: the name, then the flags, of which IFF_UP is the first.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = 1;
    call(nr::IOCTL, [socket, SIOCSIFFLAGS, request.as_ptr() as usize, 0, 0, 0]);
    sys::close(socket);
}

/// What was written is on the image or the disk; nothing more gets there.
pub fn close() {
    mount(b"\0", b"/\0", b"\0", MS_REMOUNT | MS_RDONLY, b"\0");
}

/// What is given ends with NUL, here and below.
fn mount(from: &[u8], to: &[u8], kind: &[u8], flags: usize, options: &[u8]) -> isize {
    let [from, to, kind, options] = [from, to, kind, options].map(|text| text.as_ptr() as usize);
    call(nr::MOUNT, [from, to, kind, flags, options, 0]).cast_signed()
}

fn mkdir(path: &[u8]) {
    call(nr::MKDIR, [path.as_ptr() as usize, 0o755, 0, 0, 0, 0]);
}

pub fn chdir(path: &[u8]) -> usize {
    call(nr::CHDIR, [path.as_ptr() as usize, 0, 0, 0, 0, 0])
}
