//! A file system that is written to all the time, for who stops the machine meanwhile.

use crate::sys::{self, Path, call, cut, nr, write_or_error};
use crate::verbs::say;

/// Its files, and the bytes of each, all of one value.
const FILES: u8 = 8;
const BLOCK: [u8; 4096] = [0; 4096];
const BLOCKS: usize = 16;
const O_WRONLY_CREAT_TRUNC: usize = 0o1101;

/// `DEVICE:DIRECTORY`: mounts the ext4 of one at the other, which is made.
pub fn mount(argument: &[u8]) {
    let (device, directory) = cut(argument, b':');
    let (device, directory) = (Path::new(device), Path::new(directory));
    let [from, to] = [&device, &directory].map(|path| path.bytes().as_ptr() as usize);
    call(nr::MKDIR, [to, 0o755, 0, 0, 0, 0]);
    if call(nr::MOUNT, [from, to, c"ext4".as_ptr() as usize, 0, 0, 0]) != 0 {
        say(b"not mounted");
    }
}

/// Another process writes files in `directory`, again and again, until [`stop`].
pub fn load(directory: &[u8]) {
    if call(nr::FORK, [0; 6]) == 0 {
        let mut block = BLOCK;
        for round in 0_u8.. {
            block.fill(round);
            if write(directory, b'a' + round % FILES, &block).is_none() {
                say(b"load: cannot write");
                sys::exit(1);
            }
        }
    }
}

/// The file `name`, anew; every other one is on the disk before this is back.
fn write(directory: &[u8], name: u8, block: &[u8]) -> Option<()> {
    let path = Path::join(directory, &[name])?;
    let file =
        call(nr::OPEN, [path.bytes().as_ptr() as usize, O_WRONLY_CREAT_TRUNC, 0o644, 0, 0, 0]);
    for _ in 0..BLOCKS {
        (write_or_error(file, block) == block.len().cast_signed()).then_some(())?;
    }
    if name % 2 == 0 {
        (call(nr::FSYNC, [file, 0, 0, 0, 0, 0]) == 0).then_some(())?;
    }
    sys::close(file);
    Some(())
}

/// Ends what was started, and unmounts `directory`.
pub fn stop(directory: &[u8]) {
    const SIGKILL: usize = 9;
    call(nr::KILL, [usize::MAX, SIGKILL, 0, 0, 0, 0]);
    while call(nr::WAIT4, [usize::MAX, 0, 0, 0, 0, 0]).cast_signed() > 0 {}
    let directory = Path::new(directory);
    if call(nr::UMOUNT2, [directory.bytes().as_ptr() as usize, 0, 0, 0, 0, 0]) != 0 {
        say(b"not unmounted");
    }
}
