//! virtio-blk's host side (feature `block`): one request, one call to the kernel, straight between
//! the file and the guest's pages.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use brisk_devices::virtio::block::{self, Options, Request, Segment, Status};
use virtio_queue::Queue;
#[cfg(feature = "io-uring")]
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

#[cfg(feature = "io-uring")]
mod uring;

#[cfg(all(feature = "io-uring", feature = "seccomp"))]
pub(crate) use self::uring::RULES as RING_RULES;
#[cfg(feature = "io-uring")]
use self::uring::{Engine, Flight, Kind};
#[cfg(feature = "io-uring")]
use super::Polled;
use super::queue::{self, Broken, Buffers, Taken};
use super::{Backend, Halt};
use crate::config::DiskConfig;
#[cfg(feature = "io-uring")]
use crate::error::Error;
use crate::error::Result;
use crate::events::Events;
use crate::image::{self, Image, Wish};
use crate::inputs::Id;
#[cfg(feature = "seccomp")]
use crate::seccomp::Rule;

/// The most queues that a disk can have. All are moved under the devices' one lock: they spare the
/// guest's CPUs from waiting for one another, not ours.
pub const MAX_QUEUES: usize = if cfg!(feature = "smp") { 8 } else { 1 };

/// What a disk asks of the kernel while the guest runs. By F_SETFL it goes on without O_DIRECT.
#[cfg(feature = "seccomp")]
pub(crate) const RULES: &[Rule] = &[
    Rule::call(libc::SYS_preadv),
    Rule::call(libc::SYS_pwritev),
    Rule::call(libc::SYS_fdatasync),
    Rule::call(libc::SYS_fallocate),
    Rule::fcntl(libc::F_GETFL),
    Rule::fcntl(libc::F_SETFL),
];

/// Zeroes for what the file system cannot make by itself, as a disk past the page cache wants them.
#[derive(Clone)]
#[repr(align(4096))]
#[allow(dead_code, reason = "the kernel reads it")]
struct Zeroes([u8; 4096]);
/// Bytes of zeroes that are written at once. Not a constant of so many, which would be in the binary.
const ZEROES: u64 = 64 << 10;

/// A raw image as a disk.
pub struct Block {
    /// Which file the image is.
    pub(super) file_id: Option<Id>,
    model: block::Block,
    disk: Disk,
    buffers: Buffers,
    #[cfg(feature = "io-uring")]
    engines: Vec<Engine>,
}

/// The image.
pub(super) struct Disk {
    pub(super) file: File,
    pub(super) direct: bool,
    /// The driver will never flush: each write is durable before it is done.
    pub(super) write_through: bool,
}

impl Block {
    /// Opens and locks the image; the disk has a queue for each of `cpus`, as far as there are, and
    /// `_event` says that requests are done.
    ///
    /// # Errors
    /// The image cannot be used.
    pub fn open(config: &DiskConfig, cpus: u8, _event: Events) -> Result<Block> {
        let path = &config.path;
        let wish = Wish {
            flag: "--disk",
            path,
            writes: !config.readonly,
            direct: config.direct,
            readonly: "readonly=on",
        };
        let Image { file, len, sector, id: file_id } = wish.open()?;
        wish.check_units(len, block::SECTOR, "512", "")?;
        let options = Options {
            capacity: len / block::SECTOR,
            readonly: config.readonly,
            block_size: sector,
            physical_block_size: sector.max(4096),
            discard: true,
            write_zeroes: true,
            queues: u16::from(cpus).min(MAX_QUEUES as u16),
            id: image::id(path),
            ..Options::default()
        };
        let disk = Disk { file, direct: config.direct, write_through: false };
        Ok(Block {
            file_id,
            model: block::Block::new(&options),
            #[cfg(feature = "io-uring")]
            engines: open_engines(config, &options, &disk, _event)?,
            disk,
            buffers: Buffers::default(),
        })
    }
}

#[cfg(feature = "io-uring")]
fn open_engines(
    config: &DiskConfig,
    options: &Options,
    disk: &Disk,
    event: Events,
) -> Result<Vec<Engine>> {
    let count = if config.io_uring { options.queues } else { 0 };
    let failed = |error| {
        Error::Failed(format!(
            "--disk {}: io_uring: {error}; use engine=sync, or allow it: sysctl \
             kernel.io_uring_disabled=0",
            config.path
        ))
    };
    (0..count).map(|_| Engine::new(options.queue_size, disk, event).map_err(failed)).collect()
}

impl Backend<MAX_QUEUES> for Block {
    type Model = block::Block;

    fn model(&mut self) -> &mut block::Block {
        &mut self.model
    }

    fn activate(&mut self, features: u64) {
        self.disk.write_through = block::Block::write_through(features);
    }

    fn process(
        &mut self,
        _index: u16,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
    ) -> std::result::Result<bool, Halt> {
        #[cfg(feature = "io-uring")]
        let Self { model, disk, buffers, engines, .. } = self;
        #[cfg(feature = "io-uring")]
        let mut engine = engines.get_mut(usize::from(_index));
        #[cfg(not(feature = "io-uring"))]
        let Self { model, disk, buffers, .. } = self;
        let interrupt = queue::drain(queue, memory, |chain| {
            #[cfg(feature = "io-uring")]
            let head = chain.head_index();
            buffers.collect(chain, memory)?;
            // The status is the last byte that the device may write, wherever the driver put the
            // borders between buffers (virtio 1.3, 2.7.4).
            let Some(last) = buffers.writable.last_mut() else { return Err(Broken) };
            last.iov_len -= 1;
            // SAFETY: the last byte of a buffer that `collect` checked; empty ones are left out.
            let status = unsafe { last.iov_base.cast::<u8>().add(last.iov_len) };
            // The status comes after all of the data, used or not.
            let room = (queue::len(&buffers.writable) + 1).min(u64::from(u32::MAX)) as u32;
            let result = match parse(model, buffers) {
                #[cfg(feature = "io-uring")]
                Ok(request)
                    if let Some(engine) = &mut engine
                        && let Some((kind, offset, list)) = for_ring(request, buffers) =>
                {
                    let offset = offset + engine.at_once(disk, kind, list, offset);
                    if kind == Kind::Flush || !list.is_empty() {
                        let buffers = std::mem::take(list);
                        let flight = Flight { head, kind, buffers, offset, room, status };
                        engine.push(flight).map_err(|_| Broken)?;
                        return Ok(Taken::Later);
                    }
                    Ok(())
                }
                Ok(request) => execute(model, disk, request, buffers),
                Err(code) => Err(code),
            };
            let code = result.err().unwrap_or(Status::Ok);
            // SAFETY: see above.
            unsafe { status.write_volatile(code as u8) };
            Ok(Taken::Used(room))
        })?;
        #[cfg(feature = "io-uring")]
        if let Some(engine) = engine {
            return Ok(finish_flights(engine, disk, queue, memory, interrupt)?);
        }
        Ok(interrupt)
    }

    #[cfg(feature = "io-uring")]
    fn poll(&mut self, _events: Events) -> Polled {
        let done = |(index, engine): (usize, &Engine)| u32::from(engine.done()) << index;
        let queues = self.engines.iter().enumerate().map(done).sum();
        Polled { queues, ..Polled::default() }
    }

    #[cfg(feature = "io-uring")]
    fn stop(&mut self) {
        for engine in &mut self.engines {
            engine.stop(&self.disk);
        }
    }
}

/// Submits what was taken, and gives back what is done. True where the driver wants an interrupt.
#[cfg(feature = "io-uring")]
fn finish_flights(
    engine: &mut Engine,
    disk: &Disk,
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    interrupt: bool,
) -> std::result::Result<bool, Broken> {
    let mut used = false;
    let mut result = Ok(());
    engine.run(disk, |head, written| {
        used = true;
        if result.is_ok() {
            result = queue::finish(queue, memory, head, written);
        }
    });
    result?;
    Ok(interrupt || (used && queue.needs_notification(memory).map_err(|_| Broken)?))
}

/// What of a request the ring can do, where in the file, and with which buffers; the rest is done in
/// the exit.
#[cfg(feature = "io-uring")]
fn for_ring(request: Request, buffers: &mut Buffers) -> Option<(Kind, u64, &mut Vec<libc::iovec>)> {
    let (kind, offset, list) = match request {
        Request::In(range) => (Kind::Read, range.offset, &mut buffers.writable),
        Request::Out(range) => (Kind::Write, range.offset, &mut buffers.readable),
        Request::Flush => (Kind::Flush, 0, &mut buffers.readable),
        _ => return None,
    };
    list.retain(|buffer| buffer.iov_len > 0);
    // A list longer than the kernel takes goes the other way, in parts.
    (list.len() <= libc::UIO_MAXIOV as usize).then_some((kind, offset, list))
}

/// Takes the header off a request whose status byte is no longer in `buffers`.
fn parse(model: &block::Block, buffers: &mut Buffers) -> std::result::Result<Request, Status> {
    let mut header = [0; block::HEADER_LEN];
    if queue::take_front(&mut buffers.readable, &mut header) < header.len() {
        return Err(Status::IoErr);
    }
    model.parse(&header, queue::len(&buffers.readable), queue::len(&buffers.writable))
}

/// Does one request, of which only data is left in `buffers`.
fn execute(
    model: &block::Block,
    disk: &Disk,
    request: Request,
    buffers: &mut Buffers,
) -> std::result::Result<(), Status> {
    let done = match request {
        Request::In(range) => disk.transfer(&mut buffers.writable, range.offset, libc::preadv),
        Request::Out(range) => disk
            .transfer(&mut buffers.readable, range.offset, libc::pwritev)
            .and_then(|()| if disk.write_through { disk.file.sync_data() } else { Ok(()) }),
        Request::Flush => disk.file.sync_data(),
        Request::GetId => {
            queue::put_front(&mut buffers.writable, model.id());
            Ok(())
        }
        Request::Discard(count) | Request::WriteZeroes(count) => {
            let mut segments = Vec::with_capacity(count as usize);
            for _ in 0..count {
                let mut bytes = [0; block::SEGMENT_LEN];
                queue::take_front(&mut buffers.readable, &mut bytes);
                segments.push(model.segment(request, &bytes)?);
            }
            let discard = matches!(request, Request::Discard(_));
            segments.iter().try_for_each(|segment| disk.clear(segment, discard))
        }
    };
    done.map_err(|error| {
        log::debug!("--disk: {error}");
        Status::IoErr
    })
}

type Vectored =
    unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t) -> isize;

impl Disk {
    /// Moves all of `buffers` from or to the file at `offset`. The file's end, where an image shrank
    /// under us, is an error.
    pub(super) fn transfer(
        &self,
        buffers: &mut Vec<libc::iovec>,
        mut offset: u64,
        call: Vectored,
    ) -> io::Result<()> {
        buffers.retain(|buffer| buffer.iov_len > 0);
        while !buffers.is_empty() {
            let count = buffers.len().min(libc::UIO_MAXIOV as usize) as libc::c_int;
            // SAFETY: `collect` checked each buffer to be in guest memory, which stays mapped.
            let moved =
                unsafe { call(self.file.as_raw_fd(), buffers.as_ptr(), count, offset as i64) };
            match moved {
                0 => return Err(io::Error::other("the image is shorter than it was")),
                1.. => {
                    queue::advance(buffers, moved as usize);
                    offset += moved as u64;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    match error.raw_os_error() {
                        Some(libc::EINTR) => {}
                        // Buffers that are not aligned as O_DIRECT wants them.
                        Some(libc::EINVAL) if self.direct => self.through_cache()?,
                        _ => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on without O_DIRECT: the guest asked for what the host's disk cannot do directly.
    fn through_cache(&self) -> io::Result<()> {
        // SAFETY: changes a flag of our own descriptor.
        unsafe {
            let flags = libc::fcntl(self.file.as_raw_fd(), libc::F_GETFL);
            if flags & libc::O_DIRECT == 0 {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            libc::fcntl(self.file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT);
        }
        log::warn!("--disk direct=on: the guest's buffers are not aligned for it; goes on without");
        Ok(())
    }

    /// Discards or zeroes a range by the cheapest way that the file system knows.
    fn clear(&self, segment: &Segment, discard: bool) -> io::Result<()> {
        let (offset, len) = (segment.range.offset, segment.range.len);
        if len == 0 {
            return Ok(());
        }
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let mode = if discard || segment.unmap { punch } else { zero };
        match self.fallocate(mode, offset, len) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                // A discard is a hint (virtio 1.3, 5.2.6.2); zeroes are a promise.
                if discard { Ok(()) } else { self.write_zeroes(offset, len) }
            }
            result => result,
        }
    }

    fn fallocate(&self, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
        loop {
            // SAFETY: plain numbers; the range was checked to be within the disk.
            let status =
                unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as i64, len as i64) };
            if status == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn write_zeroes(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        let pages = len.min(ZEROES).div_ceil(size_of::<Zeroes>() as u64) as usize;
        let mut zeroes = vec![Zeroes([0; 4096]); pages];
        while len > 0 {
            let (count, iov_base) = (len.min(ZEROES), zeroes.as_mut_ptr().cast());
            let mut buffers = vec![libc::iovec { iov_base, iov_len: count as usize }];
            self.transfer(&mut buffers, offset, libc::pwritev)?;
            offset += count;
            len -= count;
        }
        Ok(())
    }
}
