//! What disk and pmem images have in common: opening, locking, checking.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use brisk_boot::format::{self, Format};

use crate::cli::words::os_string;
use crate::error::{Error, Result};
use crate::inputs::Id;

mod lock;

/// `_IO(0x12, 94)` and `_IO(0x12, 104)` of linux/fs.h.
const BLKROGET: libc::c_ulong = 0x125e;
#[cfg(feature = "block")]
const BLKSSZGET: libc::c_ulong = 0x1268;
/// The size of a sector where the host knows no other.
#[cfg(feature = "block")]
const SECTOR: u32 = 512;

/// How an image is to be opened.
pub struct Wish<'a> {
    /// The flag that names it.
    pub flag: &'static str,
    /// Its path.
    pub path: &'a str,
    /// Whether the guest writes to it.
    pub writes: bool,
    /// Whether past the page cache.
    pub direct: bool,
    /// The key with which it is not written to.
    pub readonly: &'static str,
}

/// An image, open and locked until it is closed.
pub struct Image {
    /// The file or block device.
    pub file: File,
    /// Bytes.
    pub len: u64,
    /// Bytes that the host reads and writes at least: a device's logical sector.
    #[allow(dead_code, reason = "only a disk asks")]
    pub sector: Sector,
    /// Which file it is.
    pub id: Option<Id>,
}

/// Bytes of a sector.
#[cfg(feature = "block")]
pub struct Sector(pub u32);

/// Nobody asks.
#[cfg(not(feature = "block"))]
pub struct Sector;

#[cfg(feature = "block")]
impl Sector {
    fn of(file: &File, block_device: bool) -> io::Result<Sector> {
        Ok(Sector(if block_device { ask(file, BLKSSZGET)? } else { SECTOR }))
    }
}

#[cfg(not(feature = "block"))]
impl Sector {
    #[inline(always)]
    fn of(_: &File, _: bool) -> io::Result<Sector> {
        Ok(Sector)
    }
}

impl Wish<'_> {
    /// Opens the image: a regular file or a block device with something in it, that nobody uses in a
    /// way that does not go with ours.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(&self) -> Result<Image> {
        let Wish { flag, path, writes, readonly, .. } = *self;
        // Without waiting for who writes to a FIFO, which is then refused. O_EXCL means nothing without
        // O_CREAT but for a block device, which must not be mounted, or anybody else's (open(2)).
        let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        if writes {
            flags |= libc::O_EXCL;
        }
        if self.direct {
            flags |= libc::O_DIRECT;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(writes)
            .custom_flags(flags)
            .open(os_string(path))
            .map_err(|error| self.open_error(error))?;
        let failed = |error| Error::of_file(flag, path, error);
        let meta = file.metadata().map_err(failed)?;
        let block_device = meta.file_type().is_block_device();
        if meta.is_dir() {
            return Err(self.wrong("is a directory; give an image file"));
        }
        if !block_device && !meta.is_file() {
            return Err(self.wrong("not a file or block device; give an image file"));
        }
        if block_device && writes && ask(&file, BLKROGET).map_err(failed)? != 0 {
            let text = format!("a read-only device; to use it without writing: {readonly}");
            return Err(self.wrong(&text));
        }
        let sector = Sector::of(&file, block_device).map_err(failed)?;
        let len = if block_device { len(&file).map_err(failed)? } else { meta.len() };
        if len == 0 {
            return Err(self.wrong("is empty; give an image file"));
        }
        self.check_format(&file)?;
        self.lock(&file, &meta)?;
        Ok(Image { file, len, sector, id: Id::of(&meta) })
    }

    /// Refuses what is not raw: to the guest it would be rubbish, and what that writes would ruin it.
    fn check_format(&self, file: &File) -> Result<()> {
        let mut head = [0; HEAD];
        let have = match self.direct {
            true => read_directly(file, &mut head),
            false => file.read_at(&mut head, 0).unwrap_or(0),
        };
        match format::recognise(&head[..have]) {
            Some(Format::Disk(name)) => Err(self.wrong(&format!(
                "is a {name} image, and only raw ones are used; try: qemu-img convert -O raw {} NEW",
                self.path
            ))),
            _ => Ok(()),
        }
    }

    /// For an image that cannot be opened; one that may only be read names the key that helps.
    fn open_error(&self, error: io::Error) -> Error {
        let readonly = self.readonly;
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                self.wrong(&format!("{error}; to use it without writing: {readonly}"))
            }
            io::ErrorKind::IsADirectory => self.wrong("is a directory; give an image file"),
            io::ErrorKind::ResourceBusy => self.wrong(&format!(
                "in use: mounted, or another program's alone; unmount it, or use it without \
                 writing: {readonly}"
            )),
            _ => Error::of_file(self.flag, self.path, error),
        }
    }

    /// Checks that `len` bytes are whole units of `unit`, which truncate(1) calls `name`; `why` says
    /// what it is for, and what else fixes it.
    ///
    /// # Errors
    /// They are not; the message has the command that fixes it.
    pub fn check_units(&self, len: u64, unit: u64, name: &str, why: &str) -> Result<()> {
        if len.is_multiple_of(unit) {
            return Ok(());
        }
        let path = self.path;
        Err(self.wrong(&format!(
            "{len} bytes are not a multiple of {name}{why}; try: truncate -s %{name} {path}"
        )))
    }

    fn wrong(&self, text: &str) -> Error {
        Error::failed(format!("{} {}: {text}", self.flag, self.path))
    }
}

/// Bytes of an image's start that tell what it is.
const HEAD: usize = 512;

/// Fills `head` from a file that is read by whole blocks of a disk only; how much of it is there. By itself, as
/// what it takes of the stack is pages that nobody else would touch.
#[inline(never)]
fn read_directly(file: &File, head: &mut [u8; HEAD]) -> usize {
    #[repr(align(4096))]
    struct Block([u8; 4096]);
    let mut block = Block([0; 4096]);
    let have = file.read_at(&mut block.0, 0).unwrap_or(0);
    head.copy_from_slice(&block.0[..HEAD]);
    have.min(HEAD)
}

/// Bytes of an image now, of a file and a block device alike: a device's are not in its metadata.
///
/// # Errors
/// What the system said.
pub fn len(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// A number that a block device says of itself.
fn ask(file: &File, request: libc::c_ulong) -> io::Result<u32> {
    let mut number = 0u32;
    // SAFETY: both requests write one int.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), request, &mut number) };
    if status == 0 { Ok(number) } else { Err(io::Error::last_os_error()) }
}

/// What a disk says it is: the end of its path.
#[cfg(feature = "block")]
pub fn id(path: &str) -> [u8; 20] {
    let mut id = [0; 20];
    let name = os_string(path.rsplit('/').next().unwrap_or(path));
    for (to, from) in id.iter_mut().zip(name.as_encoded_bytes()) {
        *to = *from;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_the_same_by_whole_blocks() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("image");
        for len in [3, HEAD, 5000] {
            std::fs::write(&path, &b"QFI\xfb".repeat(1250)[..len]).unwrap();
            let file = File::open(&path).unwrap();
            let (mut one, mut other) = ([0; HEAD], [0; HEAD]);
            assert_eq!(read_directly(&file, &mut one), file.read_at(&mut other, 0).unwrap());
            assert_eq!(one, other);
        }
    }
}
